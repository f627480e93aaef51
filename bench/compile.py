"""Seconds from the start of a process's build to the end of its first step, ours and its peers': nothing cached, and the second time.

    python -m bench compile --preset quick
    python -m bench compile --workload A --length 20,80,320 --units 64..256 --peer ours flax_nnx torch_compiled
    python -m bench compile --report

Each pair of fresh processes has a folder of its own for what JAX and PyTorch keep of compiled programs: the first of them finds it empty,
the second as the first left it. Rows that are there already, of the same commit, are skipped. `throughput` checks the peers.
"""

import argparse
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from bench import RESULTS, timing
from bench.axes import add_flags, given, works_of
from bench.peer import PEERS
from bench.sides import Side, installed, side
from bench.throughput import commit
from bench.workloads import Workload
from lstm_jax.sweep import progress
from lstm_jax.sweep.rows import append_rows, read_rows

PATH = RESULTS / "compile.jsonl"
CACHES = ("cold", "warm")
FIGURES = ("build_seconds", "first_step_seconds", "compile_seconds")


@dataclass(frozen=True)
class Preset:
    """What is measured where nothing else is asked for."""

    workloads: tuple[str, ...]
    axes: dict[str, tuple[int, ...]]
    rounds: int


PRESETS = {
    "quick": Preset(("A",), {}, 1),
    "standard": Preset(("A", "B"), {}, 3),
    "full": Preset(("A", "B"), {"T": (20, 80, 320)}, 5),
}


def variables(folder: str) -> dict[str, str]:
    """By which JAX and PyTorch keep everything that they compile in this folder."""
    kept = {"JAX_COMPILATION_CACHE_DIR": f"{folder}/xla", "TORCHINDUCTOR_CACHE_DIR": f"{folder}/inductor"}
    kept |= {"JAX_ENABLE_COMPILATION_CACHE": "true", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    return kept | {"JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0"}


def pair(one: Side, work: Workload) -> list[dict[str, Any]]:
    """Rows of a cold and a warm process; of one that fails a row with "error"."""
    peer, *more = one.arguments()
    module = ["bench.worker", peer, work.name, *more, "--checked", "0", "--seconds", "0.001"]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for cache in CACHES:
            try:
                row = timing.run_module(module, environment=variables(folder))[-1]
                rows.append({"cache": cache} | {name: row[name] for name in (*FIGURES, "cpu", "versions", "backend_ran")})
            except subprocess.CalledProcessError as error:
                rows.append({"cache": cache, "error": f"ended with code {error.returncode}"})
    return rows


def report(rows: Sequence[dict[str, Any]]) -> None:
    """Print a table: medians over rounds."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    heads = ("workload", "side", "build s", "first step s", "compiling s", "second time: build s", "first step s", "rounds")
    for n, head in enumerate(heads):
        table.add_column(head, justify="left" if n < 2 else "right")
    for work, name in dict.fromkeys((row["workload"], row["side"]) for row in rows):
        of = {cache: [row for row in rows if (row["workload"], row["side"], row["cache"]) == (work, name, cache)] for cache in CACHES}
        failed = next((row["error"] for row in of["cold"] if "error" in row), "")
        if failed:
            table.add_row(work, name, f"failed: {failed}")
            continue
        cold, warm = ({figure: _median([row[figure] for row in of[cache]]) for figure in FIGURES} for cache in CACHES)
        told = (*(cold[figure] for figure in FIGURES), warm["build_seconds"], warm["first_step_seconds"])
        table.add_row(work, name, *told, str(len(of["cold"])))
    console = Console()
    (console if console.is_terminal else Console(width=160)).print(table)
    print("build: importing the peer and building the model; compiling: of the first step in XLA's compiler, where JAX runs")


def _median(values: Sequence[float | None]) -> str:
    found = [value for value in values if value is not None]
    return f"{np.median(found):.2f}" if found else ""


def main() -> None:
    """Measure what is missing, and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=list(PRESETS), default="quick")
    parser.add_argument("--workload", nargs="+", help="as for throughput; the preset's if not given")
    parser.add_argument("--peer", nargs="+", default=list(PEERS), metavar="PEER", help="as for throughput; all if not given")
    add_flags(parser)
    parser.add_argument("--rounds", type=int, help="pairs of processes a side; else the preset's")
    parser.add_argument("--report", action="store_true", help="measure nothing")
    parser.add_argument("--commit", default=None, help="whose rows to report; this checkout's if not given")
    parser.add_argument("--results", type=Path, default=PATH)
    options = parser.parse_args()
    preset = PRESETS[options.preset]
    axes = given(options)
    works = works_of(options.workload or preset.workloads, axes if options.workload else preset.axes | axes)
    sides = [side(name) for name in options.peer]
    sides = sides if options.report else installed(sides)
    sha = options.commit or commit()
    rows = [row for row in read_rows(options.results) if row["git"] == sha]
    done = {(row["workload"], row["side"], row["round"]) for row in rows}
    rounds = range(0 if options.report else options.rounds or preset.rounds)
    runs = [(work, n, one) for work in works for n in rounds for one in sides if (work.name, one.name, n) not in done]
    with progress.bar("pairs", len(runs)) as advance:
        for work, number, one in runs:
            about = {"git": sha, "side": one.name, "workload": work.name, "round": number, "cores": timing.CORES, "load": timing.load()}
            new = [about | row for row in pair(one, work)]
            append_rows(options.results, *new)
            rows += new
            told = ", ".join(row.get("error") or f"{row['cache']} {row['first_step_seconds']:.2f} s" for row in new)
            advance(f"{work.name} {one.name} round {number}: first step {told}")
    names = {(work.name, one.name) for work in works for one in sides}
    report([row for row in rows if (row["workload"], row["side"]) in names])
