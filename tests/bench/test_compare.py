"""Tests of `bench compare`: its error rates on random times, its verdicts, rows of
several machines, and exit codes.
"""

import numpy as np
import pytest
from rows import bench_here, complaint, timed, write_rows

from bench import compare
from bench.compare import Change
from lstm_jax.lab.sweep import stats


def _sides(peer, workloads, old, new, factor=3.0):
    """Return `old` baseline rows and `new` candidate rows of each workload. The
    candidate takes `factor` times as long.
    """
    return [
        [
            timed(work, peer, slower * (1 + n / 1000), n)
            for work in workloads
            for n in range(count)
        ]
        for slower, count in ((1.0, old), (factor, new))
    ]


@pytest.mark.parametrize(("slower", "verdict"), [(1.0, "same"), (1.1, "slower")])
def test_noise_is_not_called_a_change_and_a_tenth_is(slower, verdict):
    """Of 100 comparisons of five times with five, with 2 % noise, at least 90 are
    judged right.
    """
    rng, right = np.random.default_rng(1), 0
    for _ in range(100):
        times = [10 * factor * rng.lognormal(0, 0.02, 5) for factor in (1.0, slower)]
        ratio = float(np.median(times[1]) / np.median(times[0]))
        (judged,) = compare.judged(
            [Change("A", "ours", ratio, 0, 0, stats.permutation_p(*times))]
        )
        right += judged.verdict == verdict
    assert right >= 90


def test_changes_by_hand():
    """Workloads and peers that only one of the two sets of rows has are left out."""
    old, new = (
        [
            timed("A", "ours", base + ms, n)
            for n, ms in enumerate((0.0, 0.1, -0.1, 0.2, -0.2))
        ]
        for base in (10, 12)
    )
    (change,) = compare.changes(
        [*old, timed("B", "ours", 1.0)], [*new, timed("A", "haiku", 1.0)]
    )
    assert (change.workload, change.peer, change.verdict) == ("A", "ours", "slower")
    assert change.ratio == pytest.approx(1.2)
    assert 1.15 < change.low < 1.2 < change.high < 1.25
    # 2 of the 252 ways to divide the ten times are as far apart
    assert change.p == pytest.approx(2 / 252)
    assert str(change).endswith(
        f"1.200 times the baseline's time ({change.low:.3f} to "
        f"{change.high:.3f}), p 0.008: slower"
    )


BEYOND = Change("A", "ours", 2, 1, 3, 0.0079, smallest=0.0079)


@pytest.mark.parametrize(
    ("found", "verdicts"),
    [
        ([Change("0", "ours", 1.2, 1.1, 1.3, 0.008)], ["slower"]),
        # Holm's correction
        (
            [
                Change(str(n), "ours", 1.2, 1.1, 1.3, 0.008 if n == 0 else 0.5)
                for n in range(20)
            ],
            ["same"] * 20,
        ),
        ([Change("A", "ours", 1.01, 1.005, 1.015, 0.001)], ["same"]),
        ([Change("A", "ours", 0.8, 0.7, 0.9, 0.001)], ["faster"]),
        # one change is significant, so the limit of the other is the level itself
        (
            [BEYOND, Change("B", "ours", 1, 1, 1, 0.5, smallest=1 / 84)],
            ["slower", "same"],
        ),
        (
            [BEYOND, Change("B", "ours", 1, 1, 1, 0.5, smallest=1 / 35)],
            ["slower", "too few processes"],
        ),
    ],
)
def test_verdicts(found, verdicts):
    assert [change.verdict for change in compare.judged(found, 0.02, 0.03)] == verdicts


def test_two_machines(tmp_path):
    """Rows of two machines give no verdict. A row without the id of a machine is of the
    only machine with its processor.
    """
    first = timed("A", "ours", 1.0)
    second = timed("A", "ours", 2.0, machine="ab12")
    third = timed("A", "ours", 3.0, machine="cd34", cpu="another")
    old = write_rows(tmp_path / "old", [first])
    mixed = write_rows(tmp_path / "mixed", [first, second, third])
    run = bench_here("compare", old, f"{mixed}@ab12")
    assert "1 compared; this project slower in 0" in run.stdout
    run = bench_here("compare", f"{mixed}@ab12", f"{mixed}@cd34")
    ratio, note = run.stdout.splitlines()
    assert (run.returncode, "1.500 times" in ratio) == (0, True)
    names = "another, 2 cores (cd34); chip, 2 cores (ab12)"
    assert note.startswith(
        "baseline on chip, 2 cores (ab12), candidate on another, 2 cores (cd34): "
    )
    for side, subject in (
        (mixed, f"machines of {mixed}: {names}; "),
        (f"{mixed}@ef56", f"machine: ef56; name one of {names}"),
        (write_rows(tmp_path / "new", [timed("B", "ours", 1.0)]), "rows: 1 and 1"),
    ):
        assert complaint("compare", side, old).startswith(f"bench: {subject}")


@pytest.mark.parametrize(
    ("ours", "haiku", "factor", "code", "last"),
    [
        (5, 5, 1.0, 0, "slower in 0"),
        (5, 5, 1.3, 1, "slower in 1: A"),
        (
            1,
            1,
            1.0,
            2,
            "slower in 0; too few processes in 2, where no change can be "
            "found: give 5 or more a side",
        ),
        (
            5,
            3,
            1.0,
            0,
            "slower in 0; too few processes in 1, where no change can be "
            "found: give 5 or more a side",
        ),
    ],
)
def test_exit_codes(ours, haiku, factor, code, last, tmp_path):
    """Too few processes of this project give the exit code 2, and those of a peer do
    not. A torn last line is skipped.
    """
    sides = zip(
        _sides("ours", "A", ours, ours, factor),
        _sides("haiku", "A", haiku, haiku, factor),
        strict=True,
    )
    paths = [
        write_rows(tmp_path / f"{n}.jsonl", [*own, *other])
        for n, (own, other) in enumerate(sides)
    ]
    paths[0].write_text(paths[0].read_text() + '{"torn')
    run = bench_here("compare", *paths)
    assert (run.returncode, run.stdout.splitlines()[-1]) == (
        code,
        f"2 compared; this project {last}",
    )
