"""Tests of the schema of rows: committed rows satisfy it, and an error names the field
of a row that does not fit.
"""

import numpy as np
import pytest
from rows import failed, made, timed, write_rows

from bench import RESULTS, schema, summary, timing
from bench.workloads import workload
from lstm_jax import InputError
from lstm_jax.lab.sweep.rows import read_rows


def test_committed_rows_satisfy_the_schema():
    paths = [path for path in RESULTS.iterdir() if path.is_file()]
    found = {
        row["measurement"] for path in paths for row in read_rows(path, schema.check)
    }
    assert found == {*schema.MEASUREMENTS} - {
        schema.FAILED,
        schema.FIRST_STEP,
        schema.MACHINE,
    }


def test_rows_are_rounded_and_thinned():
    row = schema.make_row(
        "step",
        samples=[3.0, 1.00004, 2.0],
        ms_per_step=15.68624999,
        load=1 / 3,
        versions={"jax": "0.10.2"},
    )
    assert row["samples"] == [1.0, 2.0, 3.0]
    assert (
        row["sample_count"],
        row["measurement"],
        row["ms_per_step"],
        row["load"],
    ) == (3, "step", 15.6862, 0.333333)
    assert row["versions"] == {"jax": "0.10.2"}
    assert schema.thinned(range(100, -1, -1)) == [
        float(n) for n in np.round(np.linspace(0, 100, 20))
    ]
    # the turns of two processes are pairs
    assert schema.make_row("duel", samples=[2.0, 1.0, 3.0])["samples"] == [
        2.0,
        1.0,
        3.0,
    ]


STEP = timed("A", "ours", 1.0)


@pytest.mark.parametrize(
    ("row", "field"),
    [
        (STEP | {"ms_per_step": None}, "ms_per_step: None"),
        (STEP | {"ms_per_step": True}, "ms_per_step: True"),
        (STEP | {"samples": 3}, "samples: 3"),
        (STEP | {"schema": 2}, "schema: 2"),
        (STEP | {"measurement": "beauty"}, "measurement: beauty"),
        (
            {name: value for name, value in STEP.items() if name != "load"},
            "load: missing",
        ),
    ],
)
def test_a_wrong_field(row, field):
    with pytest.raises(InputError, match=f"^here: {field}; "):
        schema.check(row, "here")


def test_rows_of_the_first_digits_of_a_commit(path):
    commits = ("abc1", "abc1+", "abd22", "abc1", "abd2")
    write_rows(path, [made("peak", git=git, number=n) for n, git in enumerate(commits)])

    def numbers(git):
        return [row["number"] for row in schema.rows_of_commit(path, "peak", git=git)]

    for text, found in {
        "abc": [0, 3],
        "abc1": [0, 3],
        "abc+": [1],
        "abc1+": [1],
        "abd22": [2],
        "abd2": [4],
    }.items():
        assert numbers(text) == found
    for text, value in (
        ("e", "none in "),
        ("ab", "those of 3 commits"),
        ("", "those of 3 commits"),
    ):
        with pytest.raises(InputError, match=f"^rows of commit {text}: {value}"):
            numbers(text)


def test_tokens_of_an_evaluation():
    """Old rows of evaluations, whose rate counts the tokens of a single batch, are
    corrected.
    """
    old = timed("evaluation", "ours", 1500.0, tokens_per_second=512 * 80 / 1.5)
    rate = pytest.approx(25_000 * 80 / 1.5)
    assert schema.check(old, "here")["tokens_per_second"] == rate
    assert workload("inference:B=2,T=3").tokens == 6


def test_noise():
    steady = {"samples": [1.0, 1.01, 0.99, 1.0], "load": 2.0, "cores": 2}
    assert timing.noise(steady) == ""
    assert timing.noise(steady | {"samples": [1.0, 1.3, 0.8, 1.2]}).startswith(
        "samples spread"
    )
    assert timing.noise(steady | {"load": 9.0}) == "9.0 processes wanted a core"
    beside = steady | {"probe_gflops": [199.0, 144.2]}
    assert (
        timing.noise(beside, 202.0)
        == "a product ran at 144 GFLOP/s beside it, 202 at best"
    )
    assert (
        timing.noise(beside, 150.0)
        == timing.noise(beside | {"probe_gflops": []}, 202.0)
        == ""
    )


def test_noisy_rows_give_way():
    first, second, error = (
        timed("A", "ours", 2.0, noisy="yes"),
        timed("A", "ours", 1.0),
        failed("A", "ours", "out of memory"),
    )
    for order in ([first, second, error], [second, first], [error, second, first]):
        assert [row["ms_per_step"] for row in summary.kept(order)] == [1.0]
    assert summary.kept([error, first]) == [first]
    assert summary.kept([error]) == [error]
