"""Milliseconds a step, ours and its peers', on the source's two tasks and on the recurrence over a grid of sizes.

    python -m bench throughput --preset quick
    python -m bench throughput --workload A B --peer ours ours:recurrent=0 torch_lstm flax_nnx keras_jax --rounds 5 --seconds 3
    python -m bench throughput --workload A --units 32,64,128 --length 20,80
    python -m bench throughput --workload recurrence --peer ours torch_lstm haiku --units 32,64 --length 20,80 --batch 32,128
    python -m bench throughput --workload recurrence --cell gru simple_rnn --peer ours torch_lstm keras_jax --batch 32
    python -m bench throughput --workload A B recurrence --report

A peer may have options: `ours:backend=reference`, `ours:dtype=bfloat16`, and A's rates, `ours:dropout=0:recurrent=0`. Fresh processes on
two cores, the peers of a workload in turn; each is checked against the reference before it is first timed. Rows that are there already, of
the same commit, are skipped; those of peers that failed are tried again. The machine's own peak is measured with each run.

Where there is a GPU, all run on the first one, in float32 without TF32, and the rows have a file of their own.
"""

import argparse
import json
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from bench import RESULTS, device, peak, probe, schema, timing
from bench.axes import add_flags, given, works_of
from bench.peer import PEERS
from bench.sides import BASE, KEY, Side, installed, row_key, side, sides_of
from bench.workloads import LENGTHS, UNITS, WORKLOADS, Workload
from lstm_jax.recurrence import BACKENDS
from lstm_jax.sweep import progress
from lstm_jax.sweep.rows import append_rows, read_rows

PATH = RESULTS / ("throughput_gpu.jsonl" if device.gpu() else "throughput.jsonl")


def rows_in(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of a file, each checked.

    Raises:
        InputError: if one is not as `bench.schema` has it.
    """
    return read_rows(path, schema.check)


def _append(path: Path, row: dict[str, Any]) -> None:
    append_rows(path, {"schema": schema.VERSION} | row)


def commit() -> str:
    """This checkout's commit as the rows have it, + if its code differs."""
    from lstm_jax.training import run_folder  # `environment` would start JAX here, and a process with its threads is not to fork

    return run_folder._git()


def attempt(one: Side, work: Workload, checked: float | None, reference: Path, seconds: float) -> dict[str, Any]:
    """A row of a fresh process; of one that fails, a row with "error". checked: how far from the reference it was found, if it was."""
    against = ["--reference", str(reference)] if checked is None else ["--checked", str(checked)]
    module = ["bench.worker", *one.arguments(), *against, "--seconds", str(seconds)]
    module.insert(2, work.name)
    try:
        return timing.run_module(module)[-1]
    except subprocess.CalledProcessError as error:
        lines = [line for line in (error.stdout or "").splitlines() if line.startswith("{")]
        known = dict(zip((*KEY, "dtype", "slower"), one.key(work), strict=True))
        return known | (json.loads(lines[-1]) if lines else {"error": f"ended with code {error.returncode}"})


SPREAD, TRIES = 0.1, 3
"""A row is noisy whose middle half of samples spreads over more than this share of their median; so often it is run again."""


def noise(row: dict[str, Any], fastest: float = 0.0) -> str:
    """Why a row is not to be trusted; empty if it is. fastest: of the probes of this machine, in GFLOP/s."""
    if "samples" not in row:
        return ""
    low, middle, high = np.quantile(row["samples"], [0.25, 0.5, 0.75])
    if (high - low) / middle > SPREAD:
        return f"samples spread over {100 * (high - low) / middle:.0f} % of their median"
    if told := probe.too_slow(row.get("probe_gflops", []), fastest):
        return told
    busy = row["load"] > 2 * row["cores"]
    return f"{row['load']:.1f} processes wanted a core" if busy else ""


def fastest_probe() -> float:
    """The fastest of some products made now, in GFLOP/s; 0 on a GPU, where none is made. Rows that are there may be of another machine."""
    return 0.0 if device.gpu() else max(timing.run_module(["bench.probe"])[-1]["probe_gflops"] for _ in range(3))


def kept(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row of each round of each side: the last one that is not noisy, else the last; a failed one where none was timed."""
    found: dict[tuple, dict[str, Any]] = {}
    for row in rows:
        if row["peer"] == schema.PEAK:
            continue
        key = (row["git"], *row_key(row), row["round"])
        rank = {"error": 0, "noisy": 1}.get(next((name for name in ("error", "noisy") if row.get(name)), ""), 2)
        if key not in found or rank >= found[key]["rank"]:
            found[key] = row | {"rank": rank}
    return [{name: value for name, value in row.items() if name != "rank"} for row in found.values()]


def sweep(works: Sequence[Workload], sides: Sequence[Side], rounds: int, seconds: float, path: Path, sha: str, most: int = TRIES) -> None:
    """Measure what is missing; noisy rows again, each at `most` so often in all."""
    there = [row for row in rows_in(path) if row["git"] == sha and "ms_per_step" in row]
    tries = Counter((*row_key(row), row["round"]) for row in there if row.get("noisy"))
    checked = {row_key(row): row["farthest"] for row in there}
    done = {(*row_key(row), row["round"]) for row in there if not row.get("noisy")}
    done |= {key for key, count in tries.items() if count >= most}
    serve = {work: [one for one in sides if not PEERS[one.peer].lacks(work)] for work in works}
    missing = {work: [(n, s) for n in range(rounds) for s in those if (*s.key(work), n) not in done] for work, those in serve.items()}
    if not any(missing.values()):
        return
    _append(path, {"peer": schema.PEAK, "git": sha, "cores": timing.CORES, "load": timing.load()} | peak.measure())
    fastest = fastest_probe()
    with progress.bar("rows", sum(map(len, missing.values()))) as advance:
        for work, runs in missing.items():
            if not runs:
                continue
            with tempfile.TemporaryDirectory() as folder:
                reference = Path(folder) / "reference.npz"
                if any(one.key(work) not in checked for _, one in runs):
                    timing.run_module(["bench.worker", BASE, work.name, "--backend", "reference", "--write-reference", str(reference)])
                for number, one in runs:
                    key = (*one.key(work), number)
                    row: dict[str, Any] = {}
                    for _ in range(tries[key], most):
                        about = {"side": one.name, "round": number, "git": sha, "cores": timing.CORES, "load": timing.load()}
                        row = about | attempt(one, work, checked.get(one.key(work)), reference, seconds)
                        if "farthest" in row:
                            checked[one.key(work)] = row["farthest"]
                        fastest = max([fastest, *row.get("probe_gflops", [])])
                        row["noisy"] = noise(row, fastest)
                        _append(path, row)
                        if not row["noisy"]:
                            break
                    said = row["error"] if "error" in row else f"{row['ms_per_step']:.3f} ms a step"
                    advance(f"{work.name} {one.name} round {number}: {said}" + (f", noisy: {row['noisy']}" if row["noisy"] else ""))


@dataclass(frozen=True)
class Line:
    """A side on a workload: medians over its processes. ratio: its time over ours, with the 95 % interval, None for ours or without rows of
    ours; error: of a side that has no timed row."""

    work: Workload
    side: str
    processes: int = 0
    ms: float = float("nan")
    tokens_per_second: float = float("nan")
    gflops: float = float("nan")
    gbs: float = float("nan")
    compile_seconds: float | None = None
    memory_mib: float = float("nan")
    ratio: tuple[float, float, float] | None = None
    note: str = ""
    error: str = ""


def summary(works: Sequence[Workload], sides: Sequence[Side], rows: Sequence[dict[str, Any]]) -> list[Line]:
    """A line for each workload and side that has rows; ours first."""
    base = next((one for one in sides if one.name == BASE), side(BASE))
    found, rows = [], kept(rows)
    for work in works:
        of = {one.name: [row for row in rows if row_key(row) == one.key(work)] for one in (base, *sides)}
        timed = {name: [row for row in those if "ms_per_step" in row] for name, those in of.items()}
        alike = {one.name for one in sides if one.name != BASE and one.key(work) == base.key(work)}  # what they change it has not
        for name, those in of.items():
            if name in alike:
                continue
            good = timed[name]
            if not good:
                found += [Line(work, name, error=those[-1]["error"])] if those else []
                continue

            def median(field: str, good=good) -> float:
                return float(np.median([row[field] for row in good]))

            ms = median("ms_per_step")
            compared = name != BASE and timed[BASE]
            mine, base_ms = ([row["ms_per_step"] for row in timed[one]] for one in (name, BASE))
            ratio = timing.ratio_interval(mine, base_ms) if compared else None
            compiling = None if good[-1]["compile_seconds"] is None else median("compile_seconds")
            figures = (ms, median("tokens_per_second"), median("gflops"), median("least_bytes") / ms / 1e6, compiling)
            found.append(Line(work, name, len(good), *figures, median("peak_memory_mib"), ratio, good[-1]["note"]))
    return found


def peaks(rows: Sequence[dict[str, Any]]) -> tuple[float, float]:
    """GFLOP/s of a product and GB/s of a copy, the best that these rows have."""

    def best(name: str) -> float:
        measured = [row for row in rows if row["peer"] == schema.PEAK]
        values = [row.get(f"{name}_{'gpu' if device.gpu() else row['cores']}") for row in measured]
        return max((value for value in values if value is not None), default=float("nan"))

    gemm, copy = best("gemm_gflops"), best("copy_gbs")
    return gemm, copy


def over_sizes(lines: Sequence[Line], kind: str, cell: str = "lstm") -> dict[str, list[tuple[float, float, float]]]:
    """Sides, and their ratios over the sizes that a kind of workload with that cell was measured at, more than one."""
    found: dict[str, list[tuple[float, float, float]]] = {}
    for line in lines:
        if line.ratio and (line.work.kind, line.work.cell) == (kind, cell):
            found.setdefault(line.side, []).append(line.ratio)
    return {name: ratios for name, ratios in found.items() if len(ratios) > 1}


def geometric_mean(ratios: Sequence[tuple[float, float, float]]) -> float:
    """Of the ratios without their intervals."""
    return float(np.exp(np.mean([np.log(ratio) for ratio, _, _ in ratios])))


def report(works: Sequence[Workload], sides: Sequence[Side], path: Path, sha: str) -> None:
    """Print a table, and the geometric mean of the ratios over the grid."""
    rows = [row for row in rows_in(path) if row.get("git") == sha]
    gemm, copy = peaks(rows)
    lines = summary(works, sides, rows)
    what = "a GPU" if device.gpu() else f"{timing.CORES} cores"
    print(f"commit {sha or 'unknown'}; {what}: {gemm:.0f} GFLOP/s of a float32 product, {copy:.1f} GB/s of a copy")
    noisy = sum(bool(row.get("noisy")) for row in kept(rows))
    if noisy:
        print(f"{noisy} rows are noisy (run up to {TRIES} times, by the preset quick once)")
    loads = [row["load"] for row in rows if "ms_per_step" in row]
    if loads:
        print(f"processes that wanted a core in the minute before a row: {min(loads):.1f} to {max(loads):.1f}")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    heads = (
        "workload",
        "side",
        "ms a step",
        f"times {BASE}' (95 %)",
        "tokens/s",
        "% of product",
        "% of copy",
        "compile s",
        "MiB",
        "processes",
    )
    for n, head in enumerate(heads):
        table.add_column(head, justify="left" if n < 2 else "right", overflow="fold")
    notes: dict[str, str] = {}
    for n, line in enumerate(lines):
        work = line.work
        name = work.name if n == 0 or lines[n - 1].work != work else ""
        if line.error:
            table.add_row(name, line.side, f"failed: {line.error}")
            continue
        if line.note:
            notes[line.side] = line.note
        ratio = "" if line.ratio is None else "{:.2f} ({:.2f} to {:.2f})".format(*line.ratio)
        compiling = "" if line.compile_seconds is None else f"{line.compile_seconds:.1f}"
        shares = (f"{100 * line.gflops / gemm:.0f}", f"{100 * line.gbs / copy:.0f}")
        figures = (
            f"{line.ms:.3f}",
            ratio,
            f"{line.tokens_per_second:,.0f}",
            *shares,
            compiling,
            f"{line.memory_mib:.0f}",
            f"{line.processes}",
        )
        table.add_row(name, line.side, *figures)
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)
    console.print(table)
    for name, note in notes.items():
        print(f"{name}: {note}")
    print(f"times {BASE}': its time a step over {BASE}', medians of processes, with a bootstrap interval; above 1 it is slower")
    for cell in dict.fromkeys(line.work.cell for line in lines):
        for name, ratios in over_sizes(lines, "recurrence", cell).items():
            line = f"{geometric_mean(ratios):.2f} times {BASE} in the geometric mean ({min(ratios)[0]:.2f} to {max(ratios)[0]:.2f})"
            slower = sum(low > 1 for _, low, _ in ratios)
            print(f"{name} over {len(ratios)} recurrences of {cell}: {line}; slower in {slower} by the interval's lower end")


@dataclass(frozen=True)
class Preset:
    """What is measured where nothing else is asked for: workloads with their axes, and the peers that are left out. tries: of a process
    whose row is noisy."""

    workloads: dict[str, dict[str, tuple[int, ...]]]
    rounds: int
    seconds: float
    without: tuple[str, ...] = ()
    tries: int = TRIES


EVERY = {"H": UNITS, "T": LENGTHS, "B": (32, 128)}
PRESETS = {
    "quick": Preset({"A": {}, "B": {}}, 2, 0.7, ("torch_compiled", "keras_torch"), 1),
    "standard": Preset({"A": {"H": (32, 64, 128, 256), "T": (20, 40, 80, 160)}, "B": {}}, 3, 1.0),
    "full": Preset({"A": EVERY, "B": EVERY, "recurrence": EVERY, "evaluation": {}}, 5, 3.0),
}
"""quick took 3 min 38 s on two cores and leaves out the peers that are slow to start; one to two rounds of standard took 47 minutes."""


def main() -> None:
    """Measure what is missing, and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=list(PRESETS), default="quick")
    parser.add_argument("--workload", nargs="+", help=f"{', '.join(WORKLOADS)}; with other sizes: A:H=64,B=128; else the preset's")
    parser.add_argument("--peer", nargs="+", metavar="PEER", help=f"{', '.join(PEERS)}; the preset's if not given")
    add_flags(parser)
    parser.add_argument("--cell", nargs="+", default=["lstm"], help="cells of `lstm_jax.cells`; of peers see `bench.peer`")
    parser.add_argument("--backend", nargs="+", help=f"of ours, a side each: {', '.join(BACKENDS)}")
    parser.add_argument("--dtype", nargs="+", default=["float32"], help="of ours, a side each: float32, bfloat16")
    parser.add_argument("--rounds", type=int, help="processes a side; else the preset's")
    parser.add_argument("--seconds", type=float, help="timed in each process; else the preset's")
    parser.add_argument("--report", action="store_true", help="measure nothing")
    parser.add_argument("--commit", default=None, help="whose rows to report; this checkout's if not given")
    parser.add_argument("--results", type=Path, default=PATH)
    options = parser.parse_args()
    preset = PRESETS[options.preset]
    axes = given(options)
    asked = dict.fromkeys(options.workload, axes) if options.workload else {name: own | axes for name, own in preset.workloads.items()}
    works = [work for name, over in asked.items() for work in works_of([name], over, options.cell)]
    sha = options.commit or commit()
    peers = options.peer or [peer for peer in PEERS if peer not in preset.without]
    sides = sides_of(peers, options.backend or [None], options.dtype)
    sides = sides if options.report else installed(sides)
    lacking = (f"{one.name}: left out, {lack}" for work in works for one in sides if (lack := PEERS[one.peer].lacks(work)))
    for line in dict.fromkeys(lacking):
        print(line, flush=True)
    if not options.report:
        rounds, seconds = options.rounds or preset.rounds, options.seconds or preset.seconds
        sweep(works, sides, rounds, seconds, options.results, sha, TRIES if options.workload else preset.tries)
    report(works, sides, options.results, sha)
