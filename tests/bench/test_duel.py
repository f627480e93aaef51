"""Tests of `bench duel`: verdicts on made-up rounds, and two real processes that take
turns. No time is asserted.
"""

import re

import numpy as np
import pytest
from rows import ROOT, complaint, made, printed, read_lines, run_python, write_rows
from rows import bench_here as bench

from bench import duel
from bench.schema import DUEL
from lstm_jax import InputError


def _rows(factor, rounds=8, work="A", turns=30, **about):
    """Return rows of a duel in which the candidate's times are `factor` times the
    baseline's times, with 2 % noise.

    The speed of the made-up machine changes by up to a factor of two from block to
    block, for both checkouts alike.
    """
    rng, found = np.random.default_rng(3), []
    for number in range(rounds):
        speed = rng.uniform(10, 20, turns)
        for role, times in (("baseline", speed), ("candidate", factor * speed)):
            samples = (times * rng.lognormal(0, 0.02, turns)).tolist()
            found.append(
                made(
                    DUEL,
                    workload=work,
                    round=number,
                    role=role,
                    samples=samples,
                    seconds=0.05,
                )
                | about
            )
    return found


@pytest.mark.parametrize(
    ("works", "rounds", "subject"),
    [("A", 6, r"A: 6; .* give 7"), ("ABC", 8, r"A: 8; .* in one of 3 .* give 9")],
)
def test_too_few_rounds_are_refused(works, rounds, subject):
    """Eight rounds are too few for three workloads, where the limit of a p-value is a
    third of the level; nine rounds are enough.
    """
    few, enough = (
        [row for work in works for row in _rows(3.0, count, work)]
        for count in (rounds, rounds + 1)
    )
    with pytest.raises(InputError, match=f"^rounds of {subject} or more$"):
        duel.changes(few, 0.02, 0.03)
    assert {change.verdict for change in duel.changes(enough, 0.02, 0.03)} == {"slower"}
    # before anything is measured
    assert complaint("duel", ROOT, "--workload", "A", "B", "A:H=64").startswith(
        "bench: rounds of A: 8; "
    )


def test_checkouts_that_run_different_backends_are_refused(path, monkeypatch):
    ran = {"baseline": "hoisted", "candidate": "compiled"}
    rows = [row | {"backend_ran": ran[row["role"]]} for row in _rows(1.0)]
    subject = "backends of A: baseline hoisted, candidate compiled; "
    with pytest.raises(InputError, match=f"^{subject}"):
        duel.changes(rows, 0.02, 0.03)
    monkeypatch.setattr(duel.timing, "run_in_turns", lambda *_: rows[:2])
    assert complaint("duel", ROOT, "--workload", "A", "--results", path).startswith(
        f"bench: {subject}"
    )


@pytest.mark.parametrize(
    ("factor", "verdict", "code"),
    [(1.1, "slower", 1), (1.0, "same", 0), (0.9, "faster", 0)],
)
def test_verdict_and_exit_code_of_the_command(factor, verdict, code, path):
    rows = _rows(
        factor, versions=dict.fromkeys(("baseline", "candidate"), duel.version(ROOT))
    )
    run = bench(
        "duel", ROOT, "--workload", "A", "--report", "--results", write_rows(path, rows)
    )
    assert run.returncode == code, run.stderr
    (expected,) = duel.changes(rows, 0.02, 0.03)
    assert expected.low < expected.ratio < expected.high
    assert expected.ratio == pytest.approx(factor, rel=0.01)
    assert run.stdout.splitlines()[-1] == str(expected)
    assert str(expected).endswith(f": {verdict}")


@pytest.mark.slow
def test_command(path):
    work = "recurrence:H=4,T=3,B=2"
    command = (
        f"duel {ROOT} --workload {work} --rounds 2 --turns 3 --seconds 0.001 "
        f"--level 0.6 --least 9 --results {path}"
    ).split()
    first = run_python(["-m", "bench", *command]).splitlines()
    rows = read_lines(path)
    assert [(row["round"], row["role"], len(row["samples"])) for row in rows] == [
        (n, role, 3) for n in range(2) for role in ("baseline", "candidate")
    ]
    assert first[-1] == str(duel.changes(rows, 0.6, 9.0)[0])
    assert printed(*command) == first[-2:]
    assert read_lines(path) == rows


def test_rounds_of_other_settings_do_not_count(path, monkeypatch):
    """Rows count with the CPU, the turns, the seconds of a block and the version of the
    call.
    """
    here, taken = {"cpu": "chip", "version": "abc"}, []
    row = {"ms_per_step": 1.0, "steps_per_block": 1, "cpu": "name in an old checkout"}

    def take_turns(commands, turns, *_):
        taken.append(commands)
        return [row | {"samples": [float(turns)] * turns}] * 2

    monkeypatch.setattr(duel.timing, "run_in_turns", take_turns)
    monkeypatch.setattr(duel.timing, "require_compiled", lambda folders: None)
    monkeypatch.setattr(duel, "cpu", lambda: here["cpu"])
    monkeypatch.setattr(duel, "version", lambda folder: here["version"])

    def measured(flags):
        taken.clear()
        printed("duel", ROOT, "--workload", "A", "--results", path, *flags.split())
        return len(taken)

    for flags in ("--turns 3", "--turns 4", "--turns 3 --seconds 0.2"):
        assert (measured(flags), measured(flags)) == (8, 0)
    assert measured("--turns 3") == 0
    for name, value in (("cpu", "another"), ("version", "abd")):
        here[name] = value
        assert (measured("--turns 3"), measured("--turns 3")) == (8, 0)
    here["cpu"] = "third"
    assert measured("--report") == 0  # of the newest rounds, which another CPU has run
    found = [
        (row["cpu"], row["versions"]["baseline"], len(row["samples"]), row["seconds"])
        for row in read_lines(path)[::16]
    ]
    chip = [("chip", "abc", 3, 0.05), ("chip", "abc", 4, 0.05), ("chip", "abc", 3, 0.2)]
    assert found == [*chip, ("another", "abc", 3, 0.05), ("another", "abd", 3, 0.05)]


def test_a_folder_that_is_no_checkout(tmp_path):
    with pytest.raises(InputError, match=f"^checkout: {tmp_path}; "):
        duel.version(tmp_path)
    assert re.fullmatch(r"[0-9a-f]{12}(\+[0-9a-f]{8})?", duel.version(ROOT))
