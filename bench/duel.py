r"""Comparison of the speed of two checkouts of this project, called baseline and
candidate. Their processes run in turns.

    git worktree add ../before HEAD~3
    # commits have no compiled code
    (cd ../before && \
        python -c "from lstm_jax.native.packaged import build_packaged; build_packaged()")
    # compare with this checkout, workloads A and B; two minutes on two cores
    python -m bench duel ../before
    python -m bench duel ../before ../after --workload A:H=256 --rounds 12
    # error rate of this test; 19 minutes on two cores
    python -m bench duel --false-alarms
    python -m bench duel --false-alarms --report

Each round starts a fresh process for each checkout. After compilation, one process and
then the other runs one block of training steps, many times, so that a short slowdown of
the machine affects both. The ratio of the round is the median of candidate's time /
baseline's time of these turns. A sign-flip test (Fisher 1935) is applied to the mean
logarithm of the ratios of all rounds, with `--level` and `--least` as in `bench
compare`. A repeated call measures only the rounds that are missing for the same
commits, CPU, number of cores, `--turns` and `--seconds`. With --report, nothing is
measured, and the most frequent combination of these in the existing rounds is reported.

Both checkouts must run the same backend. Whether they compute the same results is not
checked. The exit code is 1 if the candidate is slower on a workload, 2 for bad input,
and otherwise 0.

With --false-alarms, this checkout is compared with itself twenty times. In the first
ten comparisons, a third process is compared with the same baseline. It is made 10 %
slower: at the end of each block, it waits for a tenth of the time that the steps took.
"""

import argparse
import hashlib
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench import RESULTS, add_flags, commit, cpu, make_parser, read_flags, timing
from bench.compare import LEAST, LEVEL, Change, add_test_flags, fewest, judged
from bench.peers import OURS
from bench.schema import DUEL, FALSE_ALARM, RENAMED, Row, Rows, rows_of, rows_of_commit
from bench.workloads import read_workloads
from lstm_jax.base.errors import InputError, require
from lstm_jax.lab.sweep import stats

PATH = RESULTS / "duel.jsonl"
ROUNDS, TURNS, BLOCK_SECONDS = 8, 30, 0.05
KEPT = "ms_per_step samples steps_per_block probe_gflops backend_ran slower"
"""Fields of the rows of `bench.worker` that are kept, separated by blanks."""
ALIKE, SLOWED, SHARE = 20, 10, 0.1
"""Constants of `--false-alarms`. `ALIKE` is the number of comparisons. In the first
`SLOWED` comparisons, a slower process also runs. `SHARE` is the relative slowdown of
the slower process."""
ROLES = {"baseline": OURS, "candidate": OURS}
SLOWER = {"slower": f"{OURS}:slower={SHARE}"}
Rounds = dict[int, dict[str, Row]]
"""Result rows of a comparison: number of a round -> role -> row."""


def change(work: str, rounds: Rounds, role: str = "candidate") -> Change:
    """Combine the time ratios of all rounds of a comparison into a `Change`. Its
    verdict is a placeholder, which `judged` replaces.
    """
    ratios = [ratio(rows["baseline"], rows[role]) for rows in rounds.values()]
    return Change(
        work,
        OURS,
        *stats.geometric_mean_interval(ratios),
        stats.paired_p(ratios),
        smallest=smallest_p(len(ratios)),
    )


def smallest_p(rounds: int) -> float:
    """Return the smallest p-value that `stats.paired_p` can give for the ratios of this
    number of rounds.
    """
    return stats.paired_p(np.linspace(1.5, 1.6, rounds))


def require_rounds(work: str, rounds: int, level: float, tests: int = 1) -> None:
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
    ran = ((row["role"], row["backend_ran"]) for row in rows if "backend_ran" in row)
    # an old checkout may give a former name
    found = dict.fromkeys(
        (role, RENAMED.get(backend, backend)) for role, backend in ran
    )
    shown = ", ".join(f"{role} {backend}" for role, backend in found)
    require(
        len({backend for _, backend in found}) <= 1,
        f"backends of {work}",
        shown,
        f"give two that run the same one: {timing.BUILD}",
    )


def ratio(baseline: Row, candidate: Row) -> float:
    """Return the median of the time ratio, which is the candidate's time divided by the
    baseline's time, over all turns of one round.
    """
    return float(
        np.median(np.asarray(candidate["samples"]) / np.asarray(baseline["samples"]))
    )


def rounds_of(rows: Rows, group: str) -> dict[Any, Rounds]:
    """Group result rows by the value of a given field, then by round, and then by role."""
    found: dict[Any, Rounds] = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        found[row[group]][row["round"]][row["role"]] = row
    return found


def measure_rounds(
    options: argparse.Namespace,
    measurement: str,
    items: Rows,
    roles: Callable[[Row], Mapping[str, str]],
    folders: Sequence[Path] | None = None,
) -> list[Row]:
    """Measure the rounds that have no rows with the settings of this call, unless
    `--report` is given, and return their rows.

    `roles` returns the candidates of a round, as --peer takes them, by their roles.
    """
    mine = [
        {name: value for name, value in item.items() if name != "round"}
        for item in items
    ]

    def setting(row: Row):
        # old rows have no seconds
        return (
            row["cpu"],
            row["cores"],
            len(row["samples"]),
            row.get("seconds", options.seconds),
        )

    rows = rows_of(options.results, measurement) if options.report else []
    settings = [
        setting(row)
        for row in rows
        if any(item.items() <= row.items() for item in mine)
    ]
    wanted = max(
        reversed(settings),
        key=settings.count,
        default=(cpu(), timing.CORES, options.turns, options.seconds),
    )

    def measure(item: Row):
        names, flags = (
            roles(item),
            [item["workload"], "--checked", "0", "--seconds", str(options.seconds)],
        )
        commands = [["bench.worker", candidate, *flags] for candidate in names.values()]
        try:
            rows = timing.run_in_turns(commands, options.turns, folders, cache)
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
            for role, row in zip(names, rows, strict=True)
        ]
        require_one_backend(item["workload"], found)
        return found

    def describe(rows: Rows):
        return (
            ", ".join(f"{row['role']} {ratio(rows[0], row):.3f}" for row in rows[1:])
            + " times the baseline's time"
        )

    with tempfile.TemporaryDirectory() as folder:
        cache = timing.compilation_cache(folder)
        return timing.measure_missing(
            options.results,
            measurement,
            items,
            measure,
            describe,
            not options.report,
            lambda row: setting(row) == wanted,
        )


def changes(rows: Rows, level: float, least: float) -> list[Change]:
    """Return the change of the step time from the baseline to the candidate for every
    workload, with a verdict.
    """
    by_workload = rounds_of(rows, "workload")
    for work, rounds in by_workload.items():
        require_one_backend(
            work, [row for pair in rounds.values() for row in pair.values()]
        )
        require_rounds(work, len(rounds), level, len(by_workload))
    return judged(
        [change(work, rounds) for work, rounds in by_workload.items()], level, least
    )


def report_false_alarms(rows: Rows, level: float = LEVEL, least: float = LEAST) -> None:
    """Print all comparisons of this checkout with itself, the number of false alarms,
    and how often an artificial slowdown was detected.
    """
    comparisons = rounds_of(rows, "comparison").values()
    found = {
        role: [
            judged([change("A", rounds, role)], level, least)[0]
            for rounds in comparisons
            if all(role in rows for rows in rounds.values())
        ]
        for role in ("candidate", "slower")
    }
    for role, alike in found.items():
        for number, comparison in enumerate(alike):
            print(
                f"{number:>2} {role:<9} {comparison.times}, p "
                f"{comparison.p:.3f}: {comparison.verdict}"
            )
    alarms = sum(
        comparison.verdict in ("faster", "slower") for comparison in found["candidate"]
    )
    detected = sum(comparison.verdict == "slower" for comparison in found["slower"])
    print(f"false alarms in {alarms} of {len(found['candidate'])} comparisons")
    print(
        f"{100 * SHARE:.0f} % slower detected in {detected} of {len(found['slower'])}"
    )


def version(folder: Path) -> str:
    """Return the Git commit of a checkout, followed by "+" and a hash of the
    uncommitted changes of its code if there are any.
    """
    worker = Path("bench", "worker.py")

    def git(*arguments: str):
        return subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            check=False,
        ).stdout

    found, sha = (
        (folder / worker).is_file(),
        git("rev-parse", "--short=12", "HEAD").strip(),
    )
    # a copy in a folder of another repository has the commit of that repository, which
    # does not track it
    tracked = found and sha != "" and git("ls-files", "--", str(worker)) != ""
    require(
        tracked,
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
    versions = {name: version(folder) for name, folder in folders.items()} | (
        {} if options.peer == OURS else {"peer": options.peer}
    )
    works = [work.name for work in read_workloads(options.workload or ["A", "B"], {})]
    # checked before hours are spent on measurements that could not find a change
    for name in works:
        require_rounds(name, options.rounds, options.level, len(works))
    items = [
        {"workload": name, "round": number, "versions": versions}
        for number in range(options.rounds)
        for name in works
    ]
    if not options.report:
        timing.require_compiled(list(folders.values()))
    roles = dict.fromkeys(folders, str(options.peer))
    mine = measure_rounds(
        options, DUEL, items, lambda item: roles, list(folders.values())
    )
    for name in {*works} - {row["workload"] for row in mine}:
        raise InputError(
            "workload",
            name,
            f"{options.results} has no rounds of it with the CPU and flags of "
            "the others: measure it",
        )
    verdicts = changes(mine, options.level, options.least)
    print(", ".join(f"{name} {versions[name]} in {folders[name]}" for name in folders))
    for found in verdicts:
        print(found)
    return int(any(found.verdict == "slower" for found in verdicts))


def measure_false_alarms(options: argparse.Namespace) -> None:
    """Compare this checkout with itself several times, and print the number of false
    alarms (comparisons that found a change).
    """
    sha = options.commit or commit()
    names = [work.name for work in read_workloads(options.workload or ["A"], {})]
    require(
        len(names) == 1, "workload", " ".join(names), "give one with --false-alarms"
    )
    require_rounds(names[0], options.rounds, options.level)
    about = {"workload": names[0], "git": sha}
    items = [
        {"comparison": comparison, "round": number} | about
        for comparison in range(ALIKE)
        for number in range(options.rounds)
    ]
    rows = measure_rounds(
        options,
        FALSE_ALARM,
        items,
        lambda item: ROLES | (SLOWER if item["comparison"] < SLOWED else {}),
    )
    # complains of a commit without rows
    rows_of_commit(options.results, FALSE_ALARM, git=sha)
    report_false_alarms(rows, options.level, options.least)


def main() -> int:
    """Measure the rounds that have no results yet, unless `--report` is given, print
    the report, and return the exit code.
    """
    parser = make_parser(__doc__, PATH)
    parser.add_argument("baseline", type=Path, nargs="?", help="a checkout")
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
        help="as for throughput; A and B if not given, with --false-alarms A",
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
    add_flags(parser, bool, false_alarms="measure the error rate of the test")
    parser.set_defaults(rounds=ROUNDS, turns=TURNS, seconds=BLOCK_SECONDS)
    add_test_flags(parser)
    options = read_flags(parser)
    if options.false_alarms:
        measure_false_alarms(options)
        return 0
    require(options.baseline is not None, "baseline", "none", "name a checkout")
    return duel(options)
