"""Tests of `bench duel`: verdicts on made-up rounds, two real processes that take turns, and false alarms. No time is asserted."""

import re
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from rows import ROOT, bench, bench_here, read_lines, write_rows

from bench import cpu, duel, timing, worker
from bench.peers import base
from bench.workloads import workload
from lstm_jax import InputError
from lstm_jax.sweep import stats

pytestmark = pytest.mark.usefixtures("quick_processes")


def _rows(factor: float, rounds: int = 8, work: str = "A", **about: object) -> list[dict]:
    """Return rows of a duel in which the candidate's times are `factor` times the baseline's times, with 2 % noise.

    The speed of the made-up machine changes by up to a factor of two from block to block, for both checkouts alike.
    """
    rng = np.random.default_rng(3)
    found = []
    for number in range(rounds):
        speed = rng.uniform(10, 20, 30)
        for role, times in (("baseline", speed), ("candidate", factor * speed)):
            samples = (times * rng.lognormal(0, 0.02, 30)).tolist()
            row = {"workload": work, "round": number, "role": role, "samples": samples, "cores": 2, "load": 1.0, "cpu": "chip"}
            found.append(row | {"ms_per_step": float(np.median(samples)), "steps_per_block": 1} | about)
    return found


def test_a_tenth_is_seen_on_a_machine_that_changes() -> None:
    """A slowdown by a tenth is found although the speed of the machine changes, and equal times give the verdict "same".

    Too few rounds are refused, because no change could be significant.
    """
    (slower,) = duel.changes(_rows(1.1), 0.02, 0.03)
    assert slower.verdict == "slower"
    assert slower.ratio == pytest.approx(1.1, rel=0.01)
    assert slower.low < slower.ratio < slower.high
    assert [change.verdict for change in duel.changes(_rows(1.0) + _rows(0.9, work="B"), 0.02, 0.03)] == ["same", "faster"]
    with pytest.raises(InputError, match=r"^rounds of A: 6; no 6 pairs can be beyond level 0\.02: give 7 or more$"):
        duel.changes(_rows(1.1, 6), 0.02, 0.03)


def test_rounds_are_enough_for_the_number_of_workloads() -> None:
    """Eight rounds are too few for three workloads, where the limit of a p-value is a third of the level; nine rounds are enough."""
    for rounds in range(2, 13):
        assert duel.smallest_p(rounds) == stats.paired_p(np.full(rounds, 1.5) + np.arange(rounds) / 100)
    three = [row for work in "ABC" for row in _rows(3.0, 8, work)]
    with pytest.raises(InputError) as error:
        duel.changes(three, 0.02, 0.03)
    assert str(error.value) == "rounds of A: 8; no 8 pairs can be beyond level 0.02 in one of 3 workloads: give 9 or more"
    enough = [row for work in "ABC" for row in _rows(3.0, 9, work)]
    assert [change.verdict for change in duel.changes(enough, 0.02, 0.03)] == ["slower"] * 3
    run = bench_here("duel", str(ROOT), "--workload", "A", "B", "A:H=64")  # refused before anything is measured
    assert (run.returncode, run.stderr) == (2, f"bench: {error.value}\n")


def test_checkouts_that_run_different_backends_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error is raised if baseline and candidate ran different backends, both for stored rows and for a new round.

    The former name of a backend counts as its current name.
    """
    rows = [row | {"backend_ran": {"baseline": "hoisted", "candidate": "compiled"}[row["role"]]} for row in _rows(1.0)]
    remedy = 'in that without compiled code, run python -c "from lstm_jax.native.packaged import build_packaged; build_packaged()"'
    message = f"backends of A: baseline hoisted, candidate compiled; give two checkouts that run the same one; {remedy}"
    with pytest.raises(InputError) as error:
        duel.changes(rows, 0.02, 0.03)
    assert str(error.value) == message
    monkeypatch.setattr(duel.timing, "run_in_turns", lambda *_: rows[:2])
    with pytest.raises(InputError, match=r"^backends of A: baseline hoisted, candidate compiled; "):
        duel.measure_round(duel.ROLES, workload("A"), {})
    renamed = [row | {"backend_ran": {"baseline": "native", "candidate": "compiled"}[row["role"]]} for row in rows]
    assert duel.changes(renamed, 0.02, 0.03)[0].verdict == "same"


@pytest.mark.parametrize(("factor", "verdict", "code"), [(1.1, "slower", 1), (1.0, "same", 0), (0.9, "faster", 0)])
def test_verdict_and_exit_code_of_the_command(factor: float, verdict: str, code: int, tmp_path: Path) -> None:
    """With --report, the command measures nothing, prints the verdict on made-up rows, and returns the matching exit code."""
    path, versions = tmp_path / "duel.jsonl", dict.fromkeys(("baseline", "candidate"), duel.version(ROOT))
    rows = _rows(factor, schema=3, measurement="duel", versions=versions)
    write_rows(path, rows)
    run = bench_here("duel", str(ROOT), "--workload", "A", "--report", "--results", str(path))
    assert run.returncode == code, run.stderr
    line = run.stdout.splitlines()[-1]
    assert line.startswith("A ")
    assert line.endswith(f": {verdict}")
    (expected,) = duel.changes(rows, 0.02, 0.03)
    assert f"{expected.ratio:.3f} times the baseline's time ({expected.low:.3f} to {expected.high:.3f}), p 0.008" in line or factor == 1.0
    assert expected.ratio == pytest.approx(factor, rel=0.01)


@pytest.mark.slow
def test_turns_of_two_processes() -> None:
    """Each of two processes gives one sample per turn. If a process fails, `run_in_turns` raises an error."""
    work = "recurrence:H=4,T=3,B=2"
    module = ["bench.worker", "ours", work, "--backend", "reference", "--checked", "0", "--seconds", "0.001"]
    rows = timing.run_in_turns([module, [*module, "--slower", "0.1"]], 5)
    assert [len(row["samples"]) for row in rows] == [5, 5]
    assert [row.get("slower") for row in rows] == [None, 0.1]
    with pytest.raises(subprocess.CalledProcessError):
        timing.run_in_turns([module, ["bench.no_such_module"]], 1)


@pytest.mark.slow
def test_command(tmp_path: Path) -> None:
    """The command prints the change over two rounds, does not repeat a round that has rows, and refuses a folder that is no checkout."""
    path, versions = tmp_path / "duel.jsonl", dict.fromkeys(("baseline", "candidate"), duel.version(ROOT))
    about = {"schema": 3, "measurement": "duel", "versions": versions, "cpu": cpu(), "cores": timing.CORES}
    known = [row | {"samples": row["samples"][:3]} for row in _rows(1.0, 1, "recurrence:H=4,T=3,B=2", **about)]
    write_rows(path, known)
    few = ["--workload", "recurrence:H=4,T=3,B=2", "--rounds", "2", "--turns", "3", "--seconds", "0.001", "--level", "0.6"]
    run = bench("duel", str(ROOT), *few, "--results", str(path))
    rows = read_lines(path)
    assert rows[:2] == known
    expected = [(n, role, 3) for n in range(2) for role in ("baseline", "candidate")]
    assert [(row["round"], row["role"], len(row["samples"])) for row in rows] == expected
    (change,) = duel.changes(rows, 0.6, 0.03)
    assert run.stdout.splitlines()[-1] == str(change)
    assert run.returncode == int(change.verdict == "slower"), run.stderr
    again = bench_here("duel", str(ROOT), *few, "--results", str(path))
    assert again.stdout.splitlines() == run.stdout.splitlines()[-2:]
    assert again.returncode == run.returncode
    assert len(path.read_text().splitlines()) == 4
    bad = bench_here("duel", str(tmp_path), *few)
    assert bad.returncode == 2
    assert bad.stderr.strip().startswith(f"bench: checkout: {tmp_path}; name a folder that")
    assert bench_here("duel").stderr == "bench: baseline: none; name a checkout\n"


def test_rounds_of_other_settings_do_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call measures nothing if there are rows with its CPU, number of turns, seconds of a block, and version of the code.

    If no rows have these four values, all rounds are measured. Old rows without the field "seconds" count for any value of --seconds.
    """
    path, asked, here = tmp_path / "rows.jsonl", [], {"cpu": "chip", "version": "abc"}

    def take_turns(commands, turns: int, folders, environment) -> list[dict]:
        asked.append(turns)
        row = {"ms_per_step": 1.0, "steps_per_block": 1, "cpu": "name in an old checkout"}
        return [row | {"samples": [(1 + len(asked) / 1000) * (1 + number) for number in range(turns)]} for _ in commands]

    monkeypatch.setattr(duel.timing, "run_in_turns", take_turns)
    monkeypatch.setattr(duel, "cpu", lambda: here["cpu"])
    monkeypatch.setattr(duel, "version", lambda folder: here["version"])

    def measured(*flags: str) -> int:
        asked.clear()
        run = bench_here("duel", str(ROOT), "--workload", "A", "--results", str(path), *flags)
        assert run.returncode == 0, run.stderr
        assert " 1.000 times the baseline's time" in run.stdout.splitlines()[-1]
        return len(asked)

    assert (measured("--turns", "3"), measured("--turns", "3")) == (8, 0)
    assert (measured("--turns", "4"), measured("--turns", "4"), measured("--turns", "3")) == (8, 0, 0)
    assert measured("--turns", "3", "--seconds", "0.2") == 8
    for name, value in (("cpu", "another"), ("version", "abd")):
        here[name] = value
        assert (measured("--turns", "3"), measured("--turns", "3")) == (8, 0)
    assert measured("--turns", "3", "--seconds", "0.2") == 8
    here["cpu"] = "third"
    assert measured("--report") == 0  # of the newest rounds, which another CPU has run
    rows = read_lines(path)
    found = [(row["cpu"], row["versions"]["baseline"], len(row["samples"]), row["seconds"]) for row in rows[::16]]
    chip, other = [("chip", "abc", 3, 0.05), ("chip", "abc", 4, 0.05), ("chip", "abc", 3, 0.2)], "another"
    assert found == [*chip, (other, "abc", 3, 0.05), (other, "abd", 3, 0.05), (other, "abd", 3, 0.2)]
    old = [{name: value for name, value in row.items() if name != "seconds"} for row in rows if row["seconds"] == 0.2][-16:]
    write_rows(path, old)
    here["cpu"] = other
    assert measured("--turns", "3", "--seconds", "0.7") == 0  # old rows do not tell the seconds


def test_a_folder_without_a_commit(tmp_path: Path) -> None:
    """`duel.version` refuses a folder whose files are in no Git commit. For other folders, it returns 12 digits of the commit.

    The folder is refused outside of a repository, in a repository without a commit, and in a repository whose commit lacks the files.
    """

    def git(*arguments: str) -> None:
        subprocess.run(["git", "-C", str(tmp_path), *arguments], check=True, capture_output=True)

    copy = tmp_path / "copy"
    (copy / "bench").mkdir(parents=True)
    (copy / "bench" / "worker.py").write_text("")
    message = f"checkout: {copy}; name a folder that `git worktree add` or `git clone` made"
    author = ("-c", "user.name=a", "-c", "user.email=a@b")
    for prepare in ((), ("init", "-q"), (*author, "commit", "-q", "--allow-empty", "-m", "first")):
        if prepare:
            git(*prepare)
        with pytest.raises(InputError) as error:
            duel.version(copy)
        assert str(error.value) == message
    git("add", ".")
    git(*author, "commit", "-q", "-m", "second")
    assert re.fullmatch("[0-9a-f]{12}", duel.version(copy))


def test_a_slower_call_waits_for_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """The function that `slowed(run, 0.1)` returns takes 1.1 times as long as `run`.

    On the made-up clock of this test, a step takes one second, and reading the clock takes 0.01 seconds.
    """
    now = [0.0]

    def look() -> float:
        now[0] += 0.01
        return now[0]

    def run(count: int) -> None:
        now[0] += count

    monkeypatch.setattr(base.time, "perf_counter", look)
    for count in (1, 3, 40):
        began = now[0]
        base.slowed(run, 0.1)(count)
        assert abs(now[0] - began - 1.1 * count) < 0.05
    assert base.slowed(run, 0.0) is run


@pytest.mark.parametrize("text", ["A", "recurrence", "forward", "inference"])
def test_the_slowdown_reaches_every_workload(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """For each kind of workload, a worker with the option `slower` times the function that `slowed` returns."""
    timed = []

    def measure(run: Callable[[int], None], seconds: float, block_seconds: float) -> tuple[int, list[float]]:
        timed.append(run)
        return 1, [1.0]

    def run(count: int) -> None:
        pass

    built = base.Built(run, lambda: np.zeros(1), dict, "keras", ["cpu:test"])
    monkeypatch.setattr(worker, "build", lambda *_: built)
    monkeypatch.setattr(worker, "measure", measure)
    monkeypatch.setattr(worker.machine, "probe", lambda: 1.0)
    for share in (0.0, 0.1):
        worker.timed_row("ours", workload(text), base.Options(slower=share), None, 0.0, 0.1)
    plain, slower = timed
    assert plain is run
    assert slower is not run
    assert slower.__qualname__.startswith("slowed")


def test_false_alarms_by_hand(capsys: pytest.CaptureFixture[str]) -> None:
    """The report counts the false alarms and the detected slowdowns in two made-up comparisons.

    In the first comparison, the candidate has the baseline's speed, and a third process is 10 % slower. The second comparison has no such
    process. Its candidate is 10 % faster than the baseline, which counts as a false alarm.
    """
    speeds = np.linspace(1, 2, 8)  # a machine that gets slower
    factors = {(0, "baseline"): 1.0, (0, "candidate"): 1.0, (0, "slower"): 1.1, (1, "baseline"): 1.0, (1, "candidate"): 0.9}
    rows: list[Mapping] = [
        {
            "comparison": number,
            "role": role,
            "round": place,
            "samples": [factor * speed * (1 + 0.001 * place * (role == "candidate"))] * 3,
        }
        for (number, role), factor in factors.items()
        for place, speed in enumerate(speeds)
    ]
    found = duel.false_alarms(rows)
    assert [change.verdict for change in found["candidate"]] == ["same", "faster"]
    assert [change.verdict for change in found["slower"]] == ["slower"]
    duel.report_false_alarms(rows)
    assert "false alarms in 1 of 2 comparisons\n10 % slower detected in 1 of 1\n" in capsys.readouterr().out
    duel.report_false_alarms(rows, least=0.2)
    assert "false alarms in 0 of 2 comparisons\n10 % slower detected in 0 of 1\n" in capsys.readouterr().out


def test_flags_of_false_alarms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The values of --rounds, --turns, --seconds, --level and --least are used, and more than one workload is refused."""
    asked = []

    def measured(roles, work, environment, folders, turns: int, seconds: float) -> list[dict]:
        asked.append((work.name, folders, turns, seconds))
        factors = {"baseline": 1.0, "candidate": 1.0 + len(asked) % 2 / 1000, "slower": 1.1}
        about = {"workload": work.name, "cores": 2, "load": 1.0, "cpu": "chip", "steps_per_block": 1}
        return [about | {"role": role, "ms_per_step": factors[role], "samples": [factors[role]] * turns} for role in roles]

    monkeypatch.setattr(duel, "measure_round", measured)
    monkeypatch.setattr(duel, "cpu", lambda: "chip")
    monkeypatch.setattr(duel, "ALIKE", 2)
    path = tmp_path / "rows.jsonl"
    arguments = ["duel", "--false-alarms", "--workload", "B", "--rounds", "3", "--turns", "2", "--seconds", "0.5", "--results", str(path)]
    run = bench_here(*arguments, "--level", "0.3")
    assert run.stdout.splitlines()[-2:] == ["false alarms in 0 of 2 comparisons", "10 % slower detected in 2 of 2"], run.stderr
    assert asked == [("B", None, 2, 0.5)] * 6
    assert duel.SLOWER["slower"].arguments() == ["ours", "--slower", "0.1"]
    strict = bench_here(*arguments)
    assert strict.stderr == "bench: rounds of B: 3; no 3 pairs can be beyond level 0.02: give 7 or more\n"
    assert bench_here(*arguments, "--level", "0.3", "--least", "0.2").stdout.endswith("10 % slower detected in 0 of 2\n")
    both = bench_here("duel", "--false-alarms", "--workload", "A", "B")
    assert (both.returncode, both.stderr) == (2, "bench: workload: A B; give one with --false-alarms\n")


def test_committed_false_alarms() -> None:
    run = bench_here("duel", "--false-alarms", "--report", "--commit", "82124adcd1aa")
    assert run.stdout.splitlines()[-2:] == ["false alarms in 1 of 20 comparisons", "10 % slower detected in 10 of 10"]
