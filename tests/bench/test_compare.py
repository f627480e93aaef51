"""Comparing rows: the test by hand, A/A and a slowdown drawn many times, several machines, exit codes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rows import ROOT, timed
from scipy import stats

from bench import compare
from lstm_jax import InputError


def test_permutations_by_hand_and_by_scipy() -> None:
    # of six ways to divide 1, 2, 3, 4 two are as far apart as 1, 2 | 3, 4
    assert compare.permutation_p([1, 2], [3, 4]) == pytest.approx(2 / 6)
    assert compare.permutation_p([1, 1], [1, 1]) == 1
    rng = np.random.default_rng(0)
    old, new = rng.lognormal(0, 0.1, 5), rng.lognormal(0.1, 0.1, 6)
    peer = stats.permutation_test((np.log(old), np.log(new)), lambda a, b, axis: a.mean(axis) - b.mean(axis), n_resamples=np.inf)
    assert compare.permutation_p(list(old), list(new)) == pytest.approx(peer.pvalue)
    many = rng.lognormal(0, 0.1, 30), rng.lognormal(0.05, 0.1, 30)  # more ways than are looked at
    assert compare.permutation_p(*map(list, many)) == pytest.approx(stats.ttest_ind(*map(np.log, many)).pvalue, abs=0.02)


@pytest.mark.parametrize(("slower", "least", "most"), [(1.0, 0, 10), (1.1, 90, 100)])
def test_noise_is_not_called_a_change_and_a_tenth_is(slower: float, least: int, most: int) -> None:
    """Of 100 comparisons of five processes a side whose times spread by 2 %."""
    rng = np.random.default_rng(1)
    called = 0
    for _ in range(100):
        old, new = (10 * factor * rng.lognormal(0, 0.02, 5) for factor in (1.0, slower))
        rows = [[timed("A", "ours", ms, n) for n, ms in enumerate(side)] for side in (old, new)]
        (change,) = compare.changes(*rows)
        called += change.verdict == ("slower" if slower > 1 else change.verdict) and change.verdict != "same"
    assert least <= called <= most


def test_many_workloads_are_allowed_for() -> None:
    """Holm: the same p is enough among one and not among twenty."""
    found = [compare.Change(str(n), "ours", 1.2, 1.1, 1.3, 0.008 if n == 0 else 0.5) for n in range(20)]
    assert [change.verdict for change in compare.judged(found[:1], 0.02, 0.03)] == ["slower"]
    assert {change.verdict for change in compare.judged(found, 0.02, 0.03)} == {"same"}
    small = [compare.Change("A", "ours", 1.01, 1.005, 1.015, 0.001)]
    assert compare.judged(small, 0.02, 0.03)[0].verdict == "same"
    faster = [compare.Change("A", "ours", 0.8, 0.7, 0.9, 0.001)]
    assert compare.judged(faster, 0.02, 0.03)[0].verdict == "faster"


def test_what_cannot_be_compared() -> None:
    here, there = [timed("A", "ours", 1.0)], [timed("A", "ours", 1.0, cpu="another")]
    with pytest.raises(InputError, match=r"^machines: another, .* and chip, .*; compare rows of one machine$"):
        compare.changes(here, there)
    with pytest.raises(InputError, match="in common"):
        compare.changes(here, [timed("B", "ours", 1.0)])


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench", "compare", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)})


def test_exit_codes(tmp_path: Path) -> None:
    files = {}
    for name, factor in {"old": 1.0, "same": 1.001, "slow": 1.3}.items():
        files[name] = tmp_path / f"{name}.jsonl"
        rows = [timed("A", side, factor * ms * (1 + n / 1000), n) for side, ms in (("ours", 6.0), ("haiku", 9.0)) for n in range(5)]
        files[name].write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"torn')
    run = _run(str(files["old"]), str(files["same"]))
    assert run.returncode == 0, run.stderr
    assert "line 11: torn, passed over" in run.stderr
    assert "2 compared; this project slower in 0" in run.stdout
    run = _run(str(files["old"]), str(files["slow"]))
    assert run.returncode == 1
    assert "2 compared; this project slower in 1: A" in run.stdout
    run = _run(str(files["old"]), "none")
    assert run.returncode == 2
    assert run.stderr.splitlines()[-1] == "bench: rows: none; give a file of rows, or a commit that throughput.jsonl has timed rows of"
