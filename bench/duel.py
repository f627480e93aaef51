r"""Comparison of the speed of two checkouts of this project, called baseline and
candidate. Their processes run in turns.

    git worktree add ../before HEAD~3
    # commits have no compiled code
    (cd ../before && \
        python -c "from lstm_jax.native.packaged import build_packaged; build_packaged()")
    # compare with this checkout, workloads A and B; two minutes on two cores
    python -m bench duel ../before
    python -m bench duel ../before ../after --workload A:H=256 --rounds 12

Each round starts a fresh process for each checkout. After compilation, one process and
then the other runs one block of training steps, many times, so that a short slowdown of
the machine affects both. The ratio of the round is the median of candidate's time /
baseline's time of these turns. A sign-flip test (Fisher 1935) is applied to the mean
logarithm of the ratios of all rounds, with `--level` and `--least` as in `bench
compare`. A repeated call measures only the rounds that are missing for the same
commits, CPU, number of cores, `--turns` and `--seconds`. With --report, nothing is
measured, and the newest rounds of the commits are reported, whatever these were.

Both checkouts must run the same backend. Whether they compute the same results is not
checked. The exit code is 1 if the candidate is slower on a workload, 2 for bad input,
and otherwise 0.

At commit 82124adcd1aa, equal checkouts were called different in 1 of 20 comparisons,
and a process made 10 % slower was found in 10 of 10.
"""

import argparse
import hashlib
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from bench import RESULTS, add_flags, cpu, groups, make_parser, read_flags, timing
from bench.compare import Change, add_test_flags, fewest, judged
from bench.peers import OURS
from bench.schema import DUEL, Row, Rows
from bench.workloads import read_workloads
from lstm_jax.base.errors import InputError, require
from lstm_jax.lab.sweep import stats

PATH = RESULTS / "duel.jsonl"
ROUNDS, TURNS, BLOCK_SECONDS = 8, 30, 0.05
KEPT = "ms_per_step samples steps_per_block probe_gflops backend_ran"
"""Fields of the rows of `bench.worker` that are kept, separated by blanks."""


def smallest_p(rounds: int) -> float:
    """Return the smallest p-value that `stats.paired_p` can give for the ratios of this
    number of rounds.
    """
    return stats.paired_p(np.linspace(1.5, 1.6, rounds))


def require_rounds(work: str, rounds: int, level: float, tests: int) -> None:
    """Check that there are enough rounds to find a change, that is, that the p-value of
    a test can be as small as level / tests.
    """
    among = f" in one of {tests} workloads" if tests > 1 else ""
    remedy = (
        f"no {rounds} pairs can be beyond level {level}{among}: give "
        f"{fewest(smallest_p, level / tests)}"
    )
    require(smallest_p(rounds) <= level / tests, f"rounds of {work}", rounds, remedy)


def require_one_backend(work: str, rows: Rows) -> None:
    """Check that the two compared checkouts, called baseline and candidate, ran the
    same backend on a workload.
    """
    found = dict.fromkeys(
        (row["role"], row["backend_ran"]) for row in rows if "backend_ran" in row
    )
    require(
        len({backend for _, backend in found}) <= 1,
        f"backends of {work}",
        ", ".join(f"{role} {backend}" for role, backend in found),
        f"give two that run the same one: {timing.BUILD}",
    )


def ratio(baseline: Row, candidate: Row) -> float:
    """Return the median of the time ratio, which is the candidate's time divided by the
    baseline's time, over all turns of one round.
    """
    return float(
        np.median(np.asarray(candidate["samples"]) / np.asarray(baseline["samples"]))
    )


def changes(rows: Rows, level: float, least: float) -> list[Change]:
    """Return the change of the step time from the baseline to the candidate for every
    workload, with a verdict.
    """
    found = []
    by_workload = groups(rows, ["workload"])
    for (work,), own in by_workload.items():
        require_one_backend(work, own)
        rounds = [
            {row["role"]: row for row in pair}
            for pair in groups(own, ["round"]).values()
        ]
        require_rounds(work, len(rounds), level, len(by_workload))
        ratios = [ratio(pair["baseline"], pair["candidate"]) for pair in rounds]
        interval = stats.geometric_mean_interval(ratios)
        p = stats.paired_p(ratios)
        found.append(Change(work, OURS, *interval, p, smallest=smallest_p(len(rounds))))
    return judged(found, level, least)


def measure_rounds(
    options: argparse.Namespace, items: Rows, folders: Mapping[str, Path]
) -> list[Row]:
    """Measure the rounds that have no rows with the settings of this call, unless
    `--report` is given, and return their rows.
    """

    def counts(row: Row):
        settings = row["cpu"], row["cores"], len(row["samples"]), row.get("seconds")
        mine = cpu(), timing.CORES, options.turns, options.seconds
        return options.report or settings == mine

    def measure(item: Row):
        command = ["bench.worker", options.peer, item["workload"]]
        command += ["--checked", "0", "--seconds", str(options.seconds)]
        try:
            rows = timing.run_in_turns(
                [command] * 2, options.turns, list(folders.values()), cache
            )
        except subprocess.CalledProcessError as error:
            remedy = "see its message above; the rounds before it are kept"
            raise InputError(
                "process", f"ended with code {error.returncode}", remedy
            ) from error
        # the name of the CPU is from this process: an old checkout may give another
        # name to the same CPU
        about = {"cpu": cpu(), "seconds": options.seconds}
        found = [
            {name: row[name] for name in KEPT.split() if name in row}
            | about
            | {"role": role}
            for role, row in zip(folders, rows, strict=True)
        ]
        require_one_backend(item["workload"], found)
        return found

    with tempfile.TemporaryDirectory() as folder:
        cache = timing.compilation_cache(folder)
        return timing.measure_missing(
            options.results,
            DUEL,
            items,
            measure,
            lambda rows: f"candidate {ratio(*rows):.3f} times the baseline's time",
            not options.report,
            counts,
        )


def version(folder: Path) -> str:
    """Return the Git commit of a checkout, followed by "+" and a hash of the
    uncommitted changes of its code if there are any.
    """

    def git(*arguments: str):
        return subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            check=False,
        ).stdout

    sha = git("rev-parse", "--short=12", "HEAD").strip()
    require(
        sha and (folder / "bench" / "worker.py").is_file(),
        "checkout",
        folder,
        "name a folder that `git worktree add` or `git clone` made",
    )
    changed = git("diff", "HEAD", "--", "lstm_jax", "bench", ":!bench/results")
    return sha + (
        f"+{hashlib.sha256(changed.encode()).hexdigest()[:8]}" if changed else ""
    )


def duel(options: argparse.Namespace) -> int:
    """Compare the speed of two checkouts, and return the exit code: 1 if the candidate
    is slower on a workload, else 0.
    """
    folders = {
        "baseline": options.baseline.resolve(),
        "candidate": options.candidate.resolve(),
    }
    versions = {name: version(folder) for name, folder in folders.items()}
    about = versions if options.peer == OURS else versions | {"peer": options.peer}
    works = [work.name for work in read_workloads(options.workload, {})]
    # checked before hours are spent on measurements that could not find a change
    for name in works:
        require_rounds(name, options.rounds, options.level, len(works))
    items = [
        {"workload": name, "round": number, "versions": about}
        for number in range(options.rounds)
        for name in works
    ]
    if not options.report:
        timing.require_compiled(list(folders.values()))
    rows = measure_rounds(options, items, folders)
    for name in {*works} - {row["workload"] for row in rows}:
        raise InputError(
            "workload",
            name,
            f"{options.results} has no rounds of it: measure it",
        )
    found = changes(rows, options.level, options.least)
    print(", ".join(f"{name} {versions[name]} in {folders[name]}" for name in folders))
    for change in found:
        print(change)
    return int(any(change.verdict == "slower" for change in found))


def main() -> int:
    """Measure the rounds that have no results yet, unless `--report` is given, print
    the report, and return the exit code.
    """
    parser = make_parser(__doc__, PATH, of_commits=False)
    parser.add_argument("baseline", type=Path, help="a checkout")
    parser.add_argument(
        "candidate",
        type=Path,
        nargs="?",
        default=timing.ROOT,
        help="another checkout; this one if not given",
    )
    parser.add_argument(
        "--workload",
        nargs="+",
        default=["A", "B"],
        help="as for throughput; A and B if not given",
    )
    parser.add_argument(
        "--peer",
        default=OURS,
        help="what both checkouts run, such as ours:dtype=bfloat16",
    )
    add_flags(
        parser, int, rounds="number of rounds", turns="blocks of either in a round"
    )
    add_flags(parser, float, seconds="seconds of a block")
    parser.set_defaults(rounds=ROUNDS, turns=TURNS, seconds=BLOCK_SECONDS)
    add_test_flags(parser)
    return duel(read_flags(parser))
