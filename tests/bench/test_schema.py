"""Tests of the schema of rows: committed rows satisfy it, none is lost, and an error names the field of a row that does not fit."""

from collections import Counter

import numpy as np
import pytest
from rows import failed, timed

from bench import RESULTS, schema, summary, throughput
from bench.workloads import workload
from lstm_jax import InputError
from lstm_jax.sweep.rows import read_rows

COMMITTED = {
    "throughput.jsonl.gz": {"step": 6845, "peak": 93},
    "accuracy.jsonl": {"grid": 306, "seeds": 200, "loss": 40, "held_out": 377, "epoch_time": 20},
    "sampling.jsonl": {"sampling": 200},
    "memory.jsonl": {"step_memory": 16, "run_memory": 3},
    "scaling.jsonl": {"scaling": 168},
    "breakdown.jsonl": {"breakdown": 18},
    "duel.jsonl": {"duel": 160, "false_alarm": 400},
}
"""Smallest number of committed rows for each file and kind of measurement. New measurements add rows."""


def test_no_committed_row_is_lost() -> None:
    assert {path.name for path in RESULTS.iterdir()} == set(COMMITTED)
    for name, counts in COMMITTED.items():
        assert Counter(counts) <= Counter(row["measurement"] for row in read_rows(RESULTS / name, schema.check))
        assert (RESULTS / name).stat().st_size < 900_000


def test_committed_numbers_are_rounded() -> None:
    """Numbers are rounded to six digits. Further digits are below the accuracy of any measurement and would fill a quarter of the file."""
    for row in read_rows(throughput.PATH, lambda row, place: row):
        assert row == (schema.rounded(row) if row["measurement"] == schema.STEP else row)
    kept = schema.make_row(schema.STEP, samples=[1.23456789], ms_per_step=15.68624999, load=1 / 3, versions={"jax": "0.10.2"})
    assert kept["ms_per_step"] == 15.6862
    assert kept["load"] == 0.333333
    assert kept["versions"] == {"jax": "0.10.2"}


def test_committed_samples_are_thinned() -> None:
    """Committed samples are sorted, there are at most `KEPT_SAMPLES`, and their median agrees with `ms_per_step` within 0.1 %."""
    for row in schema.rows_of(throughput.PATH, schema.STEP):
        assert len(row["samples"]) == min(row["sample_count"], schema.KEPT_SAMPLES)
        assert row["samples"] == sorted(row["samples"])
        low, high = np.searchsorted(row["samples"], [row["ms_per_step"] * 0.999, row["ms_per_step"] * 1.001])
        middle = len(row["samples"]) / 2
        assert low <= middle <= high + 1, row["samples"]


def test_thinned() -> None:
    assert schema.thinned([3.0, 1.00004, 2.0]) == [1.0, 2.0, 3.0]
    assert schema.thinned(range(100, -1, -1)) == [float(n) for n in np.round(np.linspace(0, 100, 20))]
    row = schema.make_row("step", samples=[2.0, 1.0, 3.0])
    assert (row["samples"], row["sample_count"], row["measurement"]) == ([1.0, 2.0, 3.0], 3, "step")
    assert schema.make_row("duel", samples=[2.0, 1.0, 3.0])["samples"] == [2.0, 1.0, 3.0]  # the turns of two processes are pairs


def test_a_row_of_accuracy() -> None:
    row = {"schema": 3, "measurement": "grid", "peer": "ours", "git": "abc", "cores": 1, "load": 1.0, "task": "sentiment", "T": 80}
    row |= {"H": 128, "seed": 0, "epochs": 3, "epoch": 1, "seconds": 2.0, "test_accuracy": 0.8}
    assert schema.check(row, "here") == row
    with pytest.raises(InputError, match=r"^here: task: generation; give sentiment with test_accuracy"):
        schema.check(row | {"task": "generation"}, "here")
    with pytest.raises(InputError, match=r"^here: seed: missing; a row of grid has it"):
        schema.check({name: value for name, value in row.items() if name != "seed"}, "here")


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"ms_per_step": None}, "here: ms_per_step: None; give float or int"),
        ({"ms_per_step": True}, "here: ms_per_step: True; give float or int"),
        ({"samples": 3}, "here: samples: 3; give list"),
        ({"schema": 2}, "here: schema: 2; give rows of version 3"),
        ({"measurement": "beauty"}, "here: measurement: beauty; give one of step, failed"),
    ],
)
def test_a_wrong_field(changes: dict, complaint: str) -> None:
    with pytest.raises(InputError) as error:
        schema.check(timed("A", "ours", 1.0) | changes, "here")
    assert str(error.value).startswith(complaint)


def test_rows_of_the_first_digits_of_a_commit() -> None:
    """`match_commit` returns the rows of the commit whose first digits are given, and refuses digits with which several commits begin.

    A commit and the same commit with uncommitted changes, marked by "+", count as two commits.
    """
    rows = [{"git": git, "number": n} for n, git in enumerate(("abc1", "abc1+", "abd22", "abc1", "abd2"))]
    found = {
        text: [row["number"] for row in schema.match_commit(rows, text)] for text in ("abc", "abc1", "abc+", "abc1+", "abd22", "abd2", "e")
    }
    assert found == {"abc": [0, 3], "abc1": [0, 3], "abc+": [1], "abc1+": [1], "abd22": [2], "abd2": [4], "e": []}
    for text, shown, commits in (("ab", "ab", "abc1, abd22, abd2"), ("", "no digits", "abc1, abd22, abd2"), ("+", "+", "abc1+")):
        with pytest.raises(InputError) as error:
            schema.match_commit(rows, text)
        assert str(error.value) == f"commit: {shown}; give the digits of one of {commits}"
    with pytest.raises(InputError, match=r"^commit: no digits; give the digits of one of abc\+$"):
        schema.match_commit([{"git": "abc+"}], "")
    assert schema.match_commit([*rows, {"git": ""}], "") == [{"git": ""}]  # measured in a folder without a commit


def test_a_missing_field() -> None:
    row = timed("A", "ours", 1.0)
    del row["load"]
    with pytest.raises(InputError, match=r"^here: load: missing; a row of step has it"):
        schema.check(row, "here")
    with pytest.raises(InputError, match="each an object"):
        schema.check([1], "here")


def test_tokens_of_an_evaluation() -> None:
    """The rate of tokens of an evaluation counts the tokens of all 25,000 reviews.

    Old rows of evaluations, whose rate counts the tokens of a single batch, are corrected. Rows of other workloads are unchanged.
    """
    old = timed("evaluation", "ours", 1500.0, tokens_per_second=512 * 80 / 1.5)
    assert schema.check(old, "here") == old | {"tokens_per_second": pytest.approx(25_000 * 80 / 1.5)}
    for name in ("A", "inference:B=2,T=3"):
        row = timed(name, "ours", 2.0)
        assert schema.check(row, "here") == row
    assert workload("inference:B=2,T=3").tokens == 6
    committed = [row for row in schema.rows_of(throughput.PATH, schema.STEP) if row["kind"] == "evaluation"]
    assert len(committed) >= 68
    for row in committed:
        tokens = 25_000 * 80 if row["workload"] == "evaluation" else workload(row["workload"]).tokens
        assert row["tokens_per_second"] * row["ms_per_step"] / 1000 == pytest.approx(tokens)


def test_noise() -> None:
    steady, noisy = [1.0, 1.01, 0.99, 1.0], [1.0, 1.3, 0.8, 1.2]
    assert throughput.noise({"samples": steady, "load": 2.0, "cores": 2}) == ""
    assert throughput.noise({"samples": noisy, "load": 2.0, "cores": 2}).startswith("samples spread")
    assert throughput.noise({"samples": steady, "load": 9.0, "cores": 2}) == "9.0 processes wanted a core"
    beside = {"samples": steady, "load": 2.0, "cores": 2, "probe_gflops": [199.0, 144.2]}
    assert throughput.noise(beside, 202.0) == "a product ran at 144 GFLOP/s beside it, 202 at best"
    assert throughput.noise(beside, 150.0) == ""
    assert throughput.noise(beside | {"probe_gflops": []}, 202.0) == ""


def test_an_unknown_commit_is_an_error_that_names_those_with_rows() -> None:
    with pytest.raises(InputError, match=r"rows of commit abc: none in .*scaling\.jsonl; name a commit with --commit: c5e447ebe3d5, "):
        schema.rows_of_commit(RESULTS / "scaling.jsonl", schema.SCALING, git="abc")


def test_noisy_rows_give_way() -> None:
    first, second, error = timed("A", "ours", 2.0, noisy="yes"), timed("A", "ours", 1.0), failed("A", "ours", "out of memory")
    for order in ([first, second, error], [second, first], [error, second, first]):
        assert [row["ms_per_step"] for row in summary.kept(order)] == [1.0]
    assert summary.kept([error, first]) == [first]
    assert summary.kept([error]) == [error]
    assert summary.timed([error]) == []
