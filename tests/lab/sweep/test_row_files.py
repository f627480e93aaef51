"""Several processes that append rows to one file at the same time: no row is lost or
torn.
"""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest

from lstm_jax.lab.sweep.rows import append_rows, read_rows

WRITERS = 4


def write(path, writer, count):
    """Append `count` rows of different lengths, one to three rows per call."""
    rows = [
        {"writer": writer, "number": number, "text": "x" * (number * 37 % 9000)}
        for number in range(count)
    ]
    while rows:
        size = 1 + len(rows) % 3
        append_rows(path, *rows[:size])
        rows = rows[size:]


@pytest.mark.slow(keep=1)
@pytest.mark.parametrize(
    ("name", "count"), [("rows.jsonl", 2500), ("rows.jsonl.gz", 40)]
)
def test_four_writers(name, count, tmp_path, capsys):
    """No row is lost if four processes append 10,000 rows to a plain file, or 160 rows
    to a compressed file.

    The compressed file gets fewer rows, because each call of `append_rows` rewrites
    this file as a whole.
    """
    path = tmp_path / name
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__])  # one process imports for all
    with ProcessPoolExecutor(WRITERS, context) as pool:
        for task in [
            pool.submit(write, path, writer, count) for writer in range(WRITERS)
        ]:
            task.result()
    rows = list(read_rows(path))
    assert "torn" not in capsys.readouterr().err
    assert sorted((row["writer"], row["number"]) for row in rows) == [
        (w, n) for w in range(WRITERS) for n in range(count)
    ]
    assert all(len(row["text"]) == row["number"] * 37 % 9000 for row in rows)
    assert [path.name for path in tmp_path.iterdir()] == [name]
