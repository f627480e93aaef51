"""Tests of `bench compare`: its error rates on random times, its verdicts, rows of several machines, and exit codes."""

import json
from pathlib import Path

import numpy as np
import pytest
from rows import bench_here, timed, write_rows

from bench import compare, summary
from lstm_jax import InputError
from lstm_jax.sweep import stats


@pytest.mark.parametrize(("slower", "least", "most"), [(1.0, 0, 10), (1.1, 90, 100)])
def test_noise_is_not_called_a_change_and_a_tenth_is(slower: float, least: int, most: int) -> None:
    """At most 10 of 100 comparisons of equal times find a change, and at least 90 of 100 comparisons find a slowdown by 10 %.

    Each side has the times of five processes, with 2 % noise.
    """
    rng = np.random.default_rng(1)
    called = 0
    for _ in range(100):
        times = [10 * factor * rng.lognormal(0, 0.02, 5) for factor in (1.0, slower)]
        change = compare.Change("A", "ours", float(np.median(times[1]) / np.median(times[0])), 0, 0, stats.permutation_p(*times))
        (judged,) = compare.judged([change])
        called += judged.verdict == ("slower" if slower > 1 else judged.verdict) and judged.verdict != "same"
    assert least <= called <= most


def test_changes_by_hand() -> None:
    """The change is the ratio of the candidate's median time to the baseline's, and lies inside its confidence interval.

    Workloads and peers that only one of the two sets of rows has are left out.
    """
    old = [timed("A", "ours", ms, n) for n, ms in enumerate((10.0, 10.1, 9.9, 10.2, 9.8))] + [timed("B", "ours", 1.0)]
    new = [timed("A", "ours", ms, n) for n, ms in enumerate((12.0, 12.1, 11.9, 12.2, 11.8))] + [timed("A", "haiku", 1.0)]
    (change,) = compare.changes(old, new)
    assert (change.workload, change.peer, change.verdict) == ("A", "ours", "slower")
    assert change.ratio == pytest.approx(1.2)
    assert 1.15 < change.low < 1.2 < change.high < 1.25
    assert change.p == pytest.approx(2 / 252)  # 2 of the 252 ways to divide the ten times are as far apart
    assert str(change).endswith(f"1.200 times the baseline's time ({change.low:.3f} to {change.high:.3f}), p 0.008: slower")


def test_many_workloads_are_allowed_for() -> None:
    """With Holm's correction, a p-value that shows a change in a single comparison shows none among twenty comparisons."""
    found = [compare.Change(str(n), "ours", 1.2, 1.1, 1.3, 0.008 if n == 0 else 0.5) for n in range(20)]
    assert [change.verdict for change in compare.judged(found[:1], 0.02, 0.03)] == ["slower"]
    assert {change.verdict for change in compare.judged(found, 0.02, 0.03)} == {"same"}
    small = [compare.Change("A", "ours", 1.01, 1.005, 1.015, 0.001)]
    assert compare.judged(small, 0.02, 0.03)[0].verdict == "same"
    faster = [compare.Change("A", "ours", 0.8, 0.7, 0.9, 0.001)]
    assert compare.judged(faster, 0.02, 0.03)[0].verdict == "faster"


@pytest.mark.parametrize(("old", "new"), [(1, 5), (2, 2), (3, 3), (5, 4), (4, 5), (5, 5), (8, 8)])
def test_smallest_p(old: int, new: int) -> None:
    """`smallest_p(old, new)` equals the p-value of two samples with `old` and `new` values whose ranges do not overlap."""
    assert compare.smallest_p(old, new) == pytest.approx(stats.permutation_p(np.linspace(1, 1.01, old), np.linspace(9, 9.01, new)))


def _sides(peer: str, workloads: str, old: int, new: int) -> tuple[list[dict], list[dict]]:
    """Return `old` baseline rows and `new` candidate rows of each workload. The candidate takes three times as long."""
    sides = [
        [timed(work, peer, factor * (1 + n / 1000), n) for work in workloads for n in range(count)]
        for factor, count in ((1.0, old), (3.0, new))
    ]
    return sides[0], sides[1]


@pytest.mark.parametrize(
    ("workloads", "old", "new", "verdict"),
    [
        ("A", 1, 1, "too few processes"),
        ("A", 3, 3, "too few processes"),
        ("AB", 2, 2, "too few processes"),
        ("A", 5, 4, "slower"),
        ("AB", 5, 5, "slower"),
        ("AB", 6, 3, "too few processes"),
    ],
)
def test_too_few_processes(workloads: str, old: int, new: int, verdict: str) -> None:
    """With too few processes for any significant change, the verdict is "too few processes", although the times differ threefold.

    With enough processes, the verdict is "slower".
    """
    assert {change.verdict for change in compare.changes(*_sides("ours", workloads, old, new))} == {verdict}


def test_a_change_beyond_noise_leaves_a_larger_limit() -> None:
    """The verdict on a change that is not significant is "too few processes" only if the change could not have been significant.

    Here, the other of two changes is significant. Holm's correction therefore compares the p-value of this change with the level, not with
    half the level. The verdict is "too few processes" if the smallest possible p-value is above the level, and "same" otherwise.
    """
    beyond = compare.Change("A", "ours", 2, 1, 3, 0.0079, smallest=0.0079)
    for smallest, verdict in ((1 / 84, "same"), (1 / 35, "too few processes")):
        found = compare.judged([beyond, compare.Change("B", "ours", 1, 1, 1, 0.5, smallest=smallest)])
        assert [change.verdict for change in found] == ["slower", verdict]


def test_summary_of_too_few_processes(tmp_path: Path) -> None:
    """The summary counts comparisons with too few processes, and one process on each side gives no confidence interval.

    The exit code is 2 if a comparison of this project has too few processes. It is 0 if only a comparison of a peer has too few.
    """
    paths = [tmp_path / "old.jsonl", tmp_path / "new.jsonl"]

    def compared(ours: int, haiku: int) -> tuple[int, list[str]]:
        for path, own, other in zip(paths, _sides("ours", "A", ours, ours), _sides("haiku", "A", haiku, haiku), strict=True):
            path.write_text("".join(json.dumps(row | {"ms_per_step": 1.0 + row["round"] / 1000}) + "\n" for row in own + other))
        run = bench_here("compare", *map(str, paths))
        return run.returncode, run.stdout.splitlines()

    code, (own, other, last) = compared(1, 1)
    assert code == 2
    assert own.endswith(" 1.000 times the baseline's time, p 1.000: too few processes")
    assert other.endswith(" 1.000 times the baseline's time, p 1.000: too few processes")
    few = "where no change can be found: give 5 or more a side"
    assert last == f"2 compared; this project slower in 0; too few processes in 2, {few}"
    code, (*_, last) = compared(5, 3)
    assert (code, last) == (0, f"2 compared; this project slower in 0; too few processes in 1, {few}")


def test_rows_that_cannot_be_compared() -> None:
    here, there = [timed("A", "ours", 1.0)], [timed("A", "ours", 1.0, cpu="another")]
    with pytest.raises(InputError, match=r"^machines: another, .* and chip, .*; compare rows of one machine$"):
        compare.changes(here, there)
    with pytest.raises(InputError, match="in common"):
        compare.changes(here, [timed("B", "ours", 1.0)])


def test_devices_of_one_machine() -> None:
    """Rows that ran on one CPU device and rows that ran on two CPU devices count as rows of one machine.

    An error is raised if rows of a CPU are compared with rows of a GPU, or rows of one GPU with rows of two GPUs.
    """
    rows = [timed("A", "ours", 1.0), timed("A", "ours:backend=reference", 1.0, backend="reference", devices=["cpu:cpu"] * 2)]
    assert [change.ratio for change in compare.changes(rows, rows)] == [1.0, 1.0]
    with pytest.raises(InputError, match=r"^machines: chip, 2 cores, cpu:cpu and chip, 2 cores, gpu:H100; compare rows of one machine$"):
        compare.changes(rows, [timed("A", "ours", 1.0, devices=["gpu:H100"])])
    with pytest.raises(InputError, match=r"^machines: chip, 2 cores, gpu:H100 and chip, 2 cores, gpu:H100, gpu:H100; compare rows of one"):
        compare.changes([timed("A", "ours", 1.0, devices=["gpu:H100"])], [timed("A", "ours", 1.0, devices=["gpu:H100"] * 2)])


def test_a_commit_without_its_uncommitted_version(tmp_path: Path) -> None:
    """`timed_rows` and `of_commit` return, for the commit "abc", no rows of "abc+", that is, of "abc" with uncommitted changes.

    For "abc+", the functions return no rows of "abc". An empty text raises an error.
    """
    path = tmp_path / "rows.jsonl"
    both = [timed("A", "ours", ms, n, git) for git, ms in (("abc", 10.0), ("abc+", 7.0)) for n in range(3)]
    write_rows(path, both)
    for text, ms in (("abc", 10.0), ("ab", 10.0), ("abc+", 7.0)):
        assert [row["ms_per_step"] for row in compare.timed_rows(text, path)] == [ms] * 3
        rows, (line,) = summary.of_commit(path, text)
        assert (len(rows), line.processes, line.ms) == (3, 3, ms)
    for call in (lambda: compare.timed_rows("", path), lambda: summary.of_commit(path, "")):
        with pytest.raises(InputError, match=r"^commit: no digits; give the digits of one of abc$"):
            call()


def test_exit_codes(tmp_path: Path) -> None:
    files = {}
    for name, factor in {"old": 1.0, "same": 1.001, "slow": 1.3}.items():
        files[name] = tmp_path / f"{name}.jsonl"
        rows = [timed("A", peer, factor * ms * (1 + n / 1000), n) for peer, ms in (("ours", 6.0), ("haiku", 9.0)) for n in range(5)]
        files[name].write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"torn')
    run = bench_here("compare", str(files["old"]), str(files["same"]))
    assert run.returncode == 0, run.stderr
    assert "line 11: torn, skipped" in run.stderr
    assert "2 compared; this project slower in 0" in run.stdout
    run = bench_here("compare", str(files["old"]), str(files["slow"]))
    assert run.returncode == 1
    assert "2 compared; this project slower in 1: A" in run.stdout
    run = bench_here("compare", str(files["old"]), "none")
    assert run.returncode == 2
    assert run.stderr.splitlines()[-1] == "bench: rows: none; give a file of rows, or a commit that throughput.jsonl.gz has timed rows of"
