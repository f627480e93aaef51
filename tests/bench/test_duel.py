"""Two checkouts in turn: the test of pairs by hand and by scipy, what is made of rounds, and two real processes. No time is asserted."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rows import ROOT
from scipy import stats

from bench import duel, timing
from lstm_jax import InputError


def test_pairs_by_hand_and_by_scipy() -> None:
    # of eight ways to exchange the sides of three rounds, two are as far from no change
    assert duel.paired_p([1.1, 1.1, 1.1]) == pytest.approx(2 / 8)
    assert duel.paired_p([1, 1]) == 1
    rng = np.random.default_rng(0)
    logs = rng.normal(0.05, 0.05, 9)
    peer = stats.permutation_test((logs,), lambda a, axis: a.mean(axis), n_resamples=np.inf, permutation_type="samples")
    assert duel.paired_p(list(np.exp(logs))) == pytest.approx(peer.pvalue)
    many = rng.normal(0.01, 0.05, 40)  # more ways than are looked at
    assert duel.paired_p(list(np.exp(many))) == pytest.approx(stats.ttest_1samp(many, 0).pvalue, abs=0.02)


pytestmark = pytest.mark.usefixtures("quick_processes")


def _rows(factor: float, rounds: int = 8, work: str = "A") -> list[dict]:
    """Of a machine whose speed changes from block to block, by up to two times, and noise of 2 % besides."""
    rng = np.random.default_rng(3)
    found = []
    for number in range(rounds):
        speed = rng.uniform(10, 20, 30)
        for side, times in (("old", speed), ("new", factor * speed)):
            samples = (times * rng.lognormal(0, 0.02, 30)).tolist()
            found.append({"workload": work, "round": number, "side": side, "samples": samples})
    return found


def test_a_tenth_is_seen_on_a_machine_that_changes() -> None:
    """And what is the same is the same; too few rounds are refused, since none of their changes could be beyond noise."""
    (slower,) = duel.changes(_rows(1.1), 0.02, 0.03)
    assert slower.verdict == "slower"
    assert slower.ratio == pytest.approx(1.1, rel=0.01)
    assert slower.low < slower.ratio < slower.high
    assert [one.verdict for one in duel.changes(_rows(1.0) + _rows(0.9, work="B"), 0.02, 0.03)] == ["same", "faster"]
    with pytest.raises(InputError, match=r"^rounds of A: 6; no 6 pairs can be beyond level 0.02: run more$"):
        duel.changes(_rows(1.1, 6), 0.02, 0.03)


def test_turns_of_two_processes() -> None:
    """Each has a sample a turn, and a process that fails is not waited for."""
    work = "recurrence:H=4,T=3,B=2"
    module = ["bench.worker", "ours", work, "--backend", "reference", "--checked", "0", "--seconds", "0.001"]
    rows = timing.run_in_turns([module, [*module, "--slower", "0.1"]], 5)
    assert [len(row["samples"]) for row in rows] == [5, 5]
    assert [row.get("slower") for row in rows] == [None, 0.1]
    with pytest.raises(subprocess.CalledProcessError):
        timing.run_in_turns([module, ["bench.no_such_module"]], 1)


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench", "duel", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)})


def test_command(tmp_path: Path) -> None:
    """Rounds that are there are not run again; a folder that is no checkout is refused."""
    path = tmp_path / "duel.jsonl"
    few = ["--workload", "recurrence:H=4,T=3,B=2", "--rounds", "2", "--turns", "3", "--seconds", "0.001", "--level", "0.6"]
    run = _run(str(ROOT), *few, "--results", str(path))
    assert run.returncode in (0, 1), run.stderr  # noise may say anything of two rounds
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(row["round"], row["side"], len(row["samples"])) for row in rows] == [(n, s, 3) for n in range(2) for s in ("old", "new")]
    again = _run(str(ROOT), *few, "--results", str(path))
    assert again.stdout.splitlines()[-2:] == run.stdout.splitlines()[-2:]
    assert len(path.read_text().splitlines()) == 4
    bad = _run(str(tmp_path), *few)
    assert bad.returncode == 2
    assert bad.stderr.strip().startswith(f"bench: checkout: {tmp_path}; name a folder that")
