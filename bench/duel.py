"""Two checkouts of the project in turn: is one faster or slower than the other, beyond noise?

    git worktree add ../before HEAD~3
    python -m bench duel ../before                        # against this checkout, workloads A and B, two minutes on two cores
    python -m bench duel ../before ../after --workload A:H=256 --rounds 12

Each round starts a fresh process of either. Once both are compiled they take turns, a block of some steps each: a machine that is slow for
a second is slow for both. A round's ratio is the median of its blocks' ratios, and the ratios of all rounds go into an exact test of pairs:
how often, of all ways to exchange the two checkouts of a round, the mean logarithm is as far from 0 (Fisher 1935). Beyond noise is as in
`bench.compare`. What they compute is checked by the tests, not here. Exit code 1 if the second one is slower somewhere, 2 for bad input.
"""

import argparse
import hashlib
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench import RESULTS, compare, timing
from bench.axes import works_of
from bench.compile import variables
from bench.sides import BASE, Side
from bench.workloads import Workload
from lstm_jax.errors import InputError, require
from lstm_jax.sweep import progress
from lstm_jax.sweep.rows import append_rows, read_rows

PATH = RESULTS / "duel.jsonl"
ROUNDS, TURNS, BLOCK_SECONDS = 8, 30, 0.05
KEPT = ("ms_per_step", "samples", "steps_per_block", "probe_gflops", "cpu", "slower")


def paired_p(ratios: Sequence[float], seed: int = 0) -> float:
    """How often, of all ways to exchange the sides of a pair, the mean logarithm of the ratios is as far from 0; two-sided."""
    logs = np.log(np.asarray(ratios))
    far = abs(logs.sum()) - 1e-12
    if 2 ** len(logs) <= compare.EXACT:
        signs = 1 - 2 * (np.arange(2 ** len(logs))[:, None] >> np.arange(len(logs)) & 1)
        return float((np.abs(signs @ logs) >= far).mean())
    signs = np.random.default_rng(seed).choice([-1, 1], (compare.EXACT, len(logs)))
    return float(((np.abs(signs @ logs) >= far).sum() + 1) / (compare.EXACT + 1))


def change(work: str, side: str, ratios: Sequence[float], seed: int = 0, draws: int = 10_000) -> compare.Change:
    """Of the rounds' ratios, new over old: geometric mean, its 95 % interval by the percentile bootstrap, and p; without a verdict."""
    logs = np.log(np.asarray(ratios))
    means = np.random.default_rng(seed).choice(logs, (draws, len(logs))).mean(axis=1)
    low, high = np.exp(np.quantile(means, [0.025, 0.975]))
    return compare.Change(work, side, float(np.exp(logs.mean())), float(low), float(high), paired_p(ratios))


def ratio(old: Mapping[str, Any], new: Mapping[str, Any]) -> float:
    """Of two rows of a round: the median over the blocks, each against the one that ran beside it."""
    return float(np.median(np.asarray(new["samples"]) / np.asarray(old["samples"])))


def round_of(
    sides: Mapping[str, Side],
    work: Workload,
    environment: Mapping[str, str],
    folders: Sequence[Path] | None = None,
    turns: int = TURNS,
    seconds: float = BLOCK_SECONDS,
) -> dict[str, dict[str, Any]]:
    """What is kept of a row of each side, by its name.

    Raises:
        InputError: if a process fails; it has said why.
    """
    commands = []
    for one in sides.values():
        peer, *options = one.arguments()
        commands.append(["bench.worker", peer, work.name, *options, "--checked", "0", "--seconds", str(seconds)])
    machine = {"cores": timing.CORES, "load": timing.load()}
    try:
        rows = timing.run_in_turns(commands, turns, folders, environment)
    except subprocess.CalledProcessError as error:
        raise InputError("process", f"ended with code {error.returncode}", "see what it said; the rounds before it are kept") from error
    return {name: machine | {field: row[field] for field in KEPT if field in row} for name, row in zip(sides, rows, strict=True)}


def changes(rows: Iterable[Mapping[str, Any]], level: float, least: float) -> list[compare.Change]:
    """Of every workload, with verdicts.

    Raises:
        InputError: if there are too few rounds for any change to be beyond `level`.
    """
    rounds: dict[str, dict[int, dict[str, Any]]] = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        rounds[row["workload"]][row["round"]][row["side"]] = row
    found = []
    for work, pairs in rounds.items():
        enough = 2 * 0.5 ** len(pairs) <= level
        require(enough, f"rounds of {work}", len(pairs), f"no {len(pairs)} pairs can be beyond level {level}: run more")
        found.append(change(work, BASE, [ratio(pair["old"], pair["new"]) for pair in pairs.values()]))
    return compare.judged(found, level, least)


def version(folder: Path) -> str:
    """Of a checkout: its commit, and a hash of what is changed on it.

    Raises:
        InputError: if it is none.
    """
    there = (folder / "bench" / "worker.py").is_file()
    require(there, "checkout", folder, "name a folder that `git worktree add` or `git clone` made")

    def git(*arguments: str) -> str:
        return subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False).stdout

    changed = git("diff", "HEAD", "--", "lstm_jax", "bench", ":!bench/results")
    return git("rev-parse", "--short=12", "HEAD").strip() + (f"+{hashlib.sha256(changed.encode()).hexdigest()[:8]}" if changed else "")


def main() -> int:
    """Measure what is missing, report, and the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path, help="a checkout")
    parser.add_argument("new", type=Path, nargs="?", default=timing.ROOT, help="another; this one if not given")
    parser.add_argument("--workload", nargs="+", default=["A", "B"], help="as for throughput")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--turns", type=int, default=TURNS, help="blocks of either in a round")
    parser.add_argument("--seconds", type=float, default=BLOCK_SECONDS, help="of a block")
    parser.add_argument("--level", type=float, default=compare.LEVEL, help=f"of the test; {compare.LEVEL} if not given")
    parser.add_argument(
        "--least", type=float, default=compare.LEAST, help=f"the smallest change worth a word; {compare.LEAST} if not given"
    )
    parser.add_argument("--results", type=Path, default=PATH)
    options = parser.parse_args()
    folders = {"old": options.old.resolve(), "new": options.new.resolve()}
    versions = {name: version(folder) for name, folder in folders.items()}
    works = {work.name: work for name in options.workload for work in works_of([name], {})}
    for name, value in (("rounds", options.rounds), ("turns", options.turns)):
        require(value >= 1, name, value, "give 1 or more")
    sides = dict.fromkeys(folders, Side(BASE, BASE))

    def those(row: Mapping[str, Any]) -> bool:
        return row["workload"] in works and row["round"] < options.rounds and row["versions"] == versions

    rows = [row for row in read_rows(options.results) if those(row)]
    done = {(row["workload"], row["round"]) for row in rows}
    runs = [(number, work) for number in range(options.rounds) for work in works.values() if (work.name, number) not in done]
    with tempfile.TemporaryDirectory() as folder, progress.bar("rounds", len(runs)) as advance:
        for number, work in runs:
            found = round_of(sides, work, variables(folder), list(folders.values()), options.turns, options.seconds)
            about = {"workload": work.name, "round": number, "versions": versions}
            new = [about | {"side": name} | row for name, row in found.items()]
            append_rows(options.results, *new)
            rows += new
            advance(f"{work.name}, round {number}: {ratio(found['old'], found['new']):.3f} of the old time")
    judged = changes(rows, options.level, options.least)
    print(f"old {versions['old']} in {folders['old']}, new {versions['new']} in {folders['new']}")
    for one in judged:
        print(compare.told(one))
    return int(any(one.verdict == "slower" for one in judged))
