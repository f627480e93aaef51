"""What training reaches: sentiment accuracy on IMDB over length and units, bits a character of the articles over length, step and units.

    LSTM_JAX_DATA=... python -m bench accuracy --preset quick
    LSTM_JAX_DATA=... python -m bench accuracy --task sentiment --length 20,40,80,160 --units 32..256 --seeds 3
    LSTM_JAX_DATA=... python -m bench accuracy --task generation --length 20,40 --step 1,3,5 --units 64,128 --epochs 2
    LSTM_JAX_DATA=... python -m bench accuracy --task sentiment --peer ours keras_jax --report

A seed of a cell is a fresh process on one core, with as many at a time as there are cores (`--cores 2`: one at a time on both); those that
are there, of the same commit, are skipped. Sentiment trains on all 25,000 reviews and tells the best test accuracy of its epochs, as the
source does; generation holds out the last tenth of the text and tells its bits a character under the best epoch. Time to an accuracy is
that of the epochs up to the first that reaches it, without compilation or evaluation.
"""

import argparse
import os
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from queue import Queue
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from bench import RESULTS, schema, timing
from bench.axes import add_flags
from bench.throughput import commit
from lstm_jax.errors import require
from lstm_jax.sweep import progress
from lstm_jax.sweep.rows import append_rows, read_rows

PATH = RESULTS / "accuracy.jsonl"
REACHED = 0.83
"""Test accuracy that the time is told for."""
REVIEWS = 25_000
"""For training."""
SOURCE = {"sentiment": {"T": 80, "H": 128}, "generation": {"T": 40, "S": 5, "H": 128}}
"""Length, step and units of the source."""
FLAGS = {"T": "--length", "S": "--step", "H": "--units"}
TASK_FLAGS = {"sentiment": FLAGS | {"T": "--maxlen"}, "generation": FLAGS}
PEERS = {
    ("ours", "sentiment"): ["bench.peers.ours_sentiment"],
    ("ours", "generation"): ["bench.peers.ours_generation", "--validation", "0.1"],
    ("keras_jax", "sentiment"): ["bench.peers.keras_sentiment", "--warm-up"],
}
"""What runs a task; a peer other than ours has the source's sizes alone."""


@dataclass(frozen=True)
class Preset:
    """Cells, seeds and epochs where nothing else is asked for."""

    axes: dict[str, dict[str, tuple[int, ...]]]
    seeds: int
    epochs: dict[str, int] = field(default_factory=lambda: {"sentiment": 3, "generation": 2})


PRESETS = {
    "quick": Preset({"sentiment": {"T": (80,), "H": (32, 128)}, "generation": {"T": (40,), "S": (10,), "H": (32, 128)}}, 1),
    "standard": Preset(
        {
            "sentiment": {"T": (20, 40, 80, 160), "H": (16, 32, 64, 128)},
            "generation": {"T": (10, 20, 40, 80), "S": (5, 10, 20), "H": (16, 32, 64, 128)},
        },
        3,
        {"sentiment": 3, "generation": 1},
    ),
}
"""standard took fifty minutes on two cores that did other work at times."""


@dataclass(frozen=True)
class Cell:
    """A task at some sizes: T, H, and S for generation."""

    task: str
    sizes: dict[str, int]

    @property
    def name(self) -> str:
        """As a report tells it."""
        return f"{self.task} " + ", ".join(f"{letter} {size}" for letter, size in self.sizes.items())

    def arguments(self, peer: str, seed: int, epochs: int) -> list[str]:
        """Of `python -m` for a seed."""
        flags = TASK_FLAGS[self.task]
        own = [text for letter, size in self.sizes.items() for text in (flags[letter], str(size))] if peer == "ours" else []
        return [*PEERS[peer, self.task], *own, "--epochs", str(epochs), "--seed", str(seed)]


def cells(tasks: Iterable[str], axes: dict[str, dict[str, tuple[int, ...]]]) -> list[Cell]:
    """Every combination."""
    return [Cell(task, dict(zip(axes[task], values, strict=True))) for task in tasks for values in product(*axes[task].values())]


def wanted(found: Sequence[Cell], peers: Sequence[str], seeds: int) -> Iterator[tuple[Cell, str, int]]:
    """Of a peer other than ours, the source's sizes."""
    for cell, peer, seed in product(found, peers, range(seeds)):
        if (peer, cell.task) in PEERS and (peer == "ours" or cell.sizes == SOURCE[cell.task]):
            yield cell, peer, seed


def key(row: dict[str, Any]) -> tuple:
    """By which a row's process is known."""
    return (row["task"], row["side"], *(row.get(letter) for letter in FLAGS), row["seed"], row["epochs"])


def summary(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """A line for each cell and side, over its seeds: score (accuracy, or bits a character), examples a second, seconds to REACHED."""
    runs: dict[tuple, list[dict[str, Any]]] = {}
    for row in rows:
        if isinstance(row["epoch"], int):
            runs.setdefault(key(row), []).append(row)
    groups: dict[tuple, list[list[dict[str, Any]]]] = {}
    for epochs in runs.values():
        first = epochs[0]
        groups.setdefault((first["task"], first["side"], first["epochs"], *(first.get(letter) for letter in FLAGS)), []).append(epochs)
    lines = []
    for (task, side, planned, *values), found in groups.items():
        name, best = ("test_accuracy", max) if task == "sentiment" else ("validation_bits", min)
        scores = [best(row[name] for row in epochs) for epochs in found]
        line = (
            {"task": task, "side": side, "epochs": planned}
            | dict(zip(FLAGS, values, strict=True))
            | {"seeds": len(found), "scores": scores}
        )
        line["examples_per_second"] = float(np.median([speed(row) for epochs in found for row in epochs]))
        line["epoch_seconds"] = float(np.median([row["seconds"] for epochs in found for row in epochs]))
        line["to_accuracy"] = [seconds_to(epochs) for epochs in found] if task == "sentiment" else []
        lines.append(line)
    return lines


def speed(row: dict[str, Any]) -> float:
    """Examples a second of an epoch."""
    return row.get("examples_per_second") or REVIEWS / row["seconds"]


def seconds_to(epochs: Sequence[dict[str, Any]], accuracy: float = REACHED) -> float:
    """Seconds of training up to the first epoch with that test accuracy; infinity if there is none."""
    spent = 0.0
    for row in sorted(epochs, key=lambda row: row["epoch"]):
        spent += row["seconds"]
        if row["test_accuracy"] >= accuracy:
            return spent
    return float("inf")


def front(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those of a task that no other one of it beats in both score and speed."""

    def gain(line: dict[str, Any]) -> float:
        return float(np.mean(line["scores"])) * (1 if line["task"] == "sentiment" else -1)

    def beaten(line: dict[str, Any]) -> bool:
        others = (one for one in lines if one is not line and one["task"] == line["task"])
        return any(gain(one) >= gain(line) and one["examples_per_second"] > line["examples_per_second"] for one in others)

    return [line for line in lines if not beaten(line)]


def report(rows: Iterable[dict[str, Any]]) -> None:
    """Print a table; * marks the Pareto front of score against speed."""
    lines = summary(rows)
    ahead = front(lines)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for n, head in enumerate(("task", "side", *FLAGS, "seeds", "score", "range", "examples/s", "s an epoch", f"s to {REACHED}")):
        table.add_column(head, justify="left" if n < 2 else "right")
    for line in sorted(lines, key=lambda line: (line["task"], line["side"], *((line[letter] or 0) for letter in FLAGS))):
        scores = line["scores"]
        reached = line["to_accuracy"]
        middle = float(np.median(reached)) if reached else float("nan")
        figures = (f"{np.mean(scores):.4f}{' *' if line in ahead else '  '}", f"{min(scores):.4f} to {max(scores):.4f}")
        speed = (f"{line['examples_per_second']:,.0f}", f"{line['epoch_seconds']:.1f}")
        told = "" if not reached else f"{middle:.1f}" if np.isfinite(middle) else "not reached"
        sizes_told = ("" if line[letter] is None else str(line[letter]) for letter in FLAGS)
        table.add_row(line["task"], line["side"], *sizes_told, str(line["seeds"]), *figures, *speed, told)
    console = Console()
    (console if console.is_terminal else Console(width=160)).print(table)
    print("score: mean over seeds of the best epoch's test accuracy (sentiment) or held-out bits a character (generation)")
    print("*: no other cell of the task is both better and faster")


def main() -> None:
    """Measure what is missing, and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=list(PRESETS), default="quick")
    parser.add_argument("--task", nargs="+", choices=list(SOURCE), default=list(SOURCE))
    parser.add_argument("--peer", nargs="+", choices=sorted({peer for peer, _ in PEERS}), default=["ours"])
    add_flags(parser, ("length", "step", "units"))
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--cores", type=int, default=1, help="of a process; the other cores have processes of their own")
    parser.add_argument("--report", action="store_true", help="measure nothing")
    parser.add_argument("--commit", default=None, help="whose rows to report; this checkout's if not given")
    parser.add_argument("--results", type=Path, default=PATH)
    options = parser.parse_args()
    preset = PRESETS[options.preset]
    given = {letter: getattr(options, flag.strip("-")) for letter, flag in FLAGS.items()}
    axes = {task: {letter: given[letter] or values for letter, values in preset.axes[task].items()} for task in options.task}
    seeds = preset.seeds if options.seeds is None else options.seeds
    require(seeds >= 1, "seeds", seeds, "give 1 or more")
    there = len(os.sched_getaffinity(0))
    require(1 <= options.cores <= there, "cores", options.cores, f"give 1 to {there}")
    sha = options.commit or commit()
    rows = [row for row in read_rows(options.results, schema.check) if row["git"] == sha]
    if not options.report:
        done = {key(row) for row in rows}
        runs = []
        for cell, peer, seed in wanted(cells(options.task, axes), options.peer, seeds):
            epochs = options.epochs or preset.epochs[cell.task]
            known = {"task": cell.task, "side": peer, "seed": seed, "epochs": epochs} | cell.sizes
            runs += [] if key(known) in done else [(cell, known)]
        failed, free = 0, Queue[int]()
        for number in range(there // options.cores):
            free.put(number * options.cores)

        def run(cell: Cell, known: dict[str, Any]) -> list[dict[str, Any]]:
            first, load = free.get(), timing.load()
            try:
                arguments = cell.arguments(known["side"], known["seed"], known["epochs"])
                found = timing.run_module(arguments, options.cores, first=first)
            finally:
                free.put(first)
            about = known | {"git": sha, "cores": options.cores, "load": load}
            return [row | about for row in found if isinstance(row["epoch"], int)]

        with progress.bar("runs", len(runs)) as advance, ThreadPoolExecutor(free.qsize()) as pool:
            under_way = {pool.submit(run, *one): one for one in runs}
            try:
                for done_one in as_completed(under_way):
                    cell, known = under_way[done_one]
                    about = f"{cell.name}, {known['side']}, seed {known['seed']}"
                    try:
                        new = done_one.result()
                    except subprocess.CalledProcessError as error:  # no row: the same command tries it again
                        advance(f"{about}: failed, ended with code {error.returncode}")
                        failed += 1
                        continue
                    # of a process all rows or none: one that was killed is run again
                    append_rows(options.results, *({"schema": schema.VERSION} | row for row in new))
                    rows += new
                    scores = ", ".join(f"{row.get('test_accuracy', row.get('validation_bits')):.4f}" for row in new)
                    advance(f"{about}: {scores}")
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        if failed:
            print(f"{failed} runs failed; what they said stands above, and the same command tries them again")
    report(rows)
