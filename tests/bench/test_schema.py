"""The schema of rows: what is committed keeps to it, older rows are read, what does not fit is named."""

import pytest
from rows import timed

from bench import RESULTS, accuracy, schema, throughput
from lstm_jax import InputError
from lstm_jax.sweep.rows import read_rows


def test_committed_rows_keep_to_it() -> None:
    paths = sorted(RESULTS.glob("throughput*.jsonl"))
    kinds = {schema.kind_of(row) for path in paths for row in throughput.rows_in(path)}
    assert {schema.TIMED, schema.PEAK} <= kinds
    trained = list(read_rows(accuracy.PATH, schema.check))
    assert {schema.kind_of(row) for row in trained} == {schema.TRAINED}


def test_a_row_of_accuracy() -> None:
    row = {"peer": "lstm_jax", "git": "abc", "cores": 1, "load": 1.0, "side": "ours", "task": "sentiment", "T": 80, "H": 128, "seed": 0}
    row |= {"epochs": 3, "epoch": 1, "seconds": 2.0, "test_accuracy": 0.8}
    assert schema.check(row, "here") == row | {"schema": schema.VERSION}
    with pytest.raises(InputError, match=r"^here: task: generation; give sentiment with test_accuracy"):
        schema.check(row | {"task": "generation"}, "here")
    with pytest.raises(InputError, match=r"^here: seed: missing; a row of kind trained"):
        schema.check({name: value for name, value in row.items() if name != "seed"}, "here")


def test_older_rows_are_read() -> None:
    row = timed("A", "ours", 1.0)
    old = {name: value for name, value in row.items() if name not in ("schema", "noisy")}
    assert schema.check(old, "here")["schema"] == schema.VERSION


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"ms_per_step": None}, "here: ms_per_step: None; give float or int"),
        ({"ms_per_step": True}, "here: ms_per_step: True; give float or int"),
        ({"samples": 3}, "here: samples: 3; give list"),
        ({"schema": 99}, "here: schema: 99; give rows of versions 1 to 2, or a newer bench"),
    ],
)
def test_what_does_not_fit(changes: dict, complaint: str) -> None:
    with pytest.raises(InputError) as error:
        schema.check(timed("A", "ours", 1.0) | changes, "here")
    assert str(error.value).startswith(complaint)


def test_what_is_missing() -> None:
    row = timed("A", "ours", 1.0)
    del row["load"]
    with pytest.raises(InputError, match=r"^here: load: missing; a row of kind timed has it"):
        schema.check(row, "here")
    with pytest.raises(InputError, match="each an object"):
        schema.check([1], "here")


def test_noisy_rows_give_way() -> None:
    steady, noisy = [1.0, 1.01, 0.99, 1.0], [1.0, 1.3, 0.8, 1.2]
    assert throughput.noise({"samples": steady, "load": 2.0, "cores": 2}) == ""
    assert throughput.noise({"samples": noisy, "load": 2.0, "cores": 2}).startswith("samples spread")
    assert throughput.noise({"samples": steady, "load": 9.0, "cores": 2}) == "9.0 processes wanted a core"
    beside = {"samples": steady, "load": 2.0, "cores": 2, "probe_gflops": [199.0, 144.2]}
    assert throughput.noise(beside, 202.0) == "a product ran at 144 GFLOP/s beside it, 202 at best"
    assert throughput.noise(beside, 150.0) == ""
    assert throughput.noise(beside | {"probe_gflops": []}, 202.0) == ""
    first, second = timed("A", "ours", 2.0, noisy="yes"), timed("A", "ours", 1.0)
    failed = {name: first[name] for name in ("peer", "side", "git", "round", "workload", "backend", "dropout", "recurrent_dropout")}
    failed |= {"error": "out of memory"}
    for order in ([first, second, failed], [second, first], [failed, second, first]):
        assert [row["ms_per_step"] for row in throughput.kept(order)] == [1.0]
    assert throughput.kept([failed, first])[0]["ms_per_step"] == 2.0
    assert throughput.kept([failed]) == [failed]
