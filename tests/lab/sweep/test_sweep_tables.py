"""Tables of the rows of a sweep: if the names of columns collide, prefixes keep their
values apart.
"""

import csv

from lstm_jax.lab import sweep


def row(number, config, result):
    ended = (
        {"status": "failed", "error": "no"}
        if result is None
        else {"status": "done", "result": result}
    )
    return {"id": str(number), "config": config, "seconds": 0.5} | ended


def test_names_that_collide(tmp_path):
    """A field or a result with the name of another column gets a prefix, which is
    repeated until no other column has the name.
    """
    result = {
        "error": 1,
        "result.error": 2,
        "config.id": 3,
        "rate": 4,
        "model": {"depth": 5},
    }
    rows = [
        row(1, {"id": 5, "seconds": 6, "rate": 0.1, "model": {"depth": 1}}, result),
        row(2, {}, {"seconds": 7}),
        row(3, {"rate": 8}, None),
    ]
    names, lines = sweep.table(rows)
    fields = ["config.id", "config.seconds", "rate", "model.depth"]
    results = [
        "result.result.error",
        "result.error",
        "result.config.id",
        "result.rate",
        "result.model.depth",
        "result.seconds",
    ]
    assert names == ["id", "status", *fields, *results, "error", "seconds"]
    assert lines == [
        ["1", "done", 5, 6, 0.1, 1, 1, 2, 3, 4, 5, "", "", 0.5],
        ["2", "done", *[""] * 9, 7, "", 0.5],
        ["3", "failed", "", "", 8, *[""] * 7, "no", 0.5],
    ]
    sweep.write_table(rows, tmp_path / "table.csv")
    written = list(csv.reader((tmp_path / "table.csv").read_text().splitlines()))
    assert written == [names, *([str(value) for value in line] for line in lines)]
