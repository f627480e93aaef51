"""Milliseconds a step, ours and its peers', on the source's two tasks and on the recurrence over a grid of sizes.

    python -m bench.throughput --workload A B --peer ours ours:recurrent=0 torch_lstm flax_nnx keras_jax --rounds 5 --seconds 3
    python -m bench.throughput --workload recurrence --peer ours torch_lstm haiku --units 32,64 --length 20,80 --batch 32,128
    python -m bench.throughput --workload A B recurrence --report

A peer may have options: `ours:backend=reference`, and A's rates, `ours:dropout=0:recurrent=0`. Fresh processes on two cores, the peers of a
workload in turn; each is checked against the reference before it is timed. Rows that are there already, of the same commit, are skipped;
those of peers that failed are tried again. The machine's own peak is measured with each run.

Where there is a GPU, all run on the first one, in float32 without TF32, and the rows have a file of their own.
"""

import argparse
import json
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench import device, peak, results, timing
from bench.peer import PEERS
from bench.workloads import BATCH_SIZES, LENGTHS, UNITS, WORKLOADS, Workload, grid, workload

PATH = results.RESULTS / ("throughput_gpu.jsonl" if device.gpu() else "throughput.jsonl")
BASE = "ours"
"""The side that the others are compared with."""


@dataclass(frozen=True)
class Side:
    """A peer and its options; None is the workload's own."""

    name: str
    peer: str
    backend: str | None = None
    dropout: float | None = None
    recurrent: float | None = None

    def arguments(self) -> list[str]:
        """For `bench.worker`."""
        named = {"--backend": self.backend, "--dropout": self.dropout, "--recurrent-dropout": self.recurrent}
        return [self.peer, *(text for name, value in named.items() if value is not None for text in (name, str(value)))]

    def key(self, work: Workload) -> tuple:
        """By which its rows are known."""
        dropout, recurrent = (work.dropout if rate is None else rate for rate in (self.dropout, self.recurrent))
        return (self.peer, work.name, self.backend, dropout, recurrent)


def side(name: str) -> Side:
    """Read a side: PEER[:backend=NAME][:dropout=RATE][:recurrent=RATE].

    Raises:
        ValueError: for an unknown peer or option.
    """
    peer, *options = name.split(":")
    pairs = {option.split("=")[0]: option.partition("=")[2] for option in options}
    if peer not in PEERS or not pairs.keys() <= {"backend", "dropout", "recurrent"}:
        raise ValueError(f"{name}: give one of {', '.join(PEERS)}, with :backend=, :dropout= or :recurrent=")
    rates = {option: float(pairs[option]) for option in ("dropout", "recurrent") if option in pairs}
    return Side(name, peer, pairs.get("backend"), **rates)


def row_key(row: dict[str, Any]) -> tuple:
    """As `Side.key`."""
    return tuple(row[name] for name in ("peer", "workload", "backend", "dropout", "recurrent_dropout"))


def commit() -> str:
    """This checkout's commit as the rows have it, + if its code differs."""
    from lstm_jax.training import run_folder  # `environment` would start JAX here, and a process with its threads is not to fork

    return run_folder._git()


def attempt(one: Side, work: Workload, reference: Path, seconds: float) -> dict[str, Any]:
    """A row of a fresh process; of one that fails, a row with "error"."""
    module = ["bench.worker", *one.arguments(), "--reference", str(reference), "--seconds", str(seconds)]
    module.insert(2, work.name)
    try:
        return timing.run_module(module)[-1]
    except subprocess.CalledProcessError as error:
        lines = [line for line in (error.stdout or "").splitlines() if line.startswith("{")]
        known = dict(zip(("peer", "workload", "backend", "dropout", "recurrent_dropout"), one.key(work), strict=True))
        return known | (json.loads(lines[-1]) if lines else {"error": f"ended with code {error.returncode}"})


def installed(sides: Iterable[Side]) -> list[Side]:
    """Those that can run here; the others are named."""
    found = []
    for one in sides:
        if missing := PEERS[one.peer].missing():
            print(f"{one.name}: skipped, {' and '.join(missing)} is missing", flush=True)
        else:
            found.append(one)
    return found


def sweep(works: Sequence[Workload], sides: Sequence[Side], rounds: int, seconds: float, path: Path, sha: str) -> None:
    """Measure what is missing."""
    done = {(*row_key(row), row["round"]) for row in results.read(path) if row.get("git") == sha and "ms_per_step" in row}
    missing = {work: [(n, s) for n in range(rounds) for s in sides if (*s.key(work), n) not in done] for work in works}
    if not any(missing.values()):
        return
    results.append(path, {"peer": "peak", "git": sha, "cores": timing.CORES, "load": timing.load()} | peak.measure())
    for work, runs in missing.items():
        if not runs:
            continue
        with tempfile.TemporaryDirectory() as folder:
            reference = Path(folder) / "reference.npz"
            timing.run_module(["bench.worker", "ours", work.name, "--backend", "reference", "--write-reference", str(reference)])
            for number, one in runs:
                load = timing.load()
                row = attempt(one, work, reference, seconds)
                results.append(path, {"side": one.name, "round": number, "git": sha, "cores": timing.CORES, "load": load} | row)
                said = row["error"] if "error" in row else f"{row['ms_per_step']:.3f} ms a step"
                print(f"{work.name} {one.name} round {number}: {said}", flush=True)


def report(works: Sequence[Workload], sides: Sequence[Side], path: Path, sha: str) -> None:
    """Print each workload's medians and ratios, and the geometric mean of the ratios over the grid."""
    rows = [row for row in results.read(path) if row.get("git") == sha]
    where = "gpu" if device.gpu() else str(timing.CORES)
    peaks = {name: [row[name] for row in rows if name in row] for name in (f"gemm_gflops_{where}", f"copy_gbs_{where}")}
    gemm, copy = (max(values) if values else float("nan") for values in peaks.values())
    what = "a GPU" if device.gpu() else f"{timing.CORES} cores"
    print(f"commit {sha or 'unknown'}; {what}: {gemm:.0f} GFLOP/s of a float32 product, {copy:.1f} GB/s of a copy")
    loads = [row["load"] for row in rows if "ms_per_step" in row]
    if loads:
        print(f"processes that wanted a core in the minute before a row: {min(loads):.1f} to {max(loads):.1f}")
    base = next((one for one in sides if one.name == BASE), side(BASE))
    over_grid: dict[str, list[tuple[float, float]]] = {}
    for work in works:
        found = {one.name: [row for row in rows if row["peer"] != "peak" and row_key(row) == one.key(work)] for one in (base, *sides)}
        times = {name: [row["ms_per_step"] for row in kept if "ms_per_step" in row] for name, kept in found.items()}
        if not any(found.values()):
            continue
        print(f"\n{work.name}: B {work.batch}, T {work.length}, H {work.units}, E {work.features}")
        for name, kept in found.items():
            good = [row for row in kept if "ms_per_step" in row]
            if not good:
                print(f"  {name:<28} {'failed: ' + kept[-1]['error'] if kept else 'no rows'}")
                continue
            share, moved = (float(np.median([row[field] for row in good])) for field in ("gflops", "least_bytes"))
            median = float(np.median(times[name]))
            line = f"  {name:<28} {median:9.3f} ms, {len(good)} processes, {100 * share / gemm:3.0f} % of the product's peak, "
            line += f"{moved / median / 1e6 / copy * 100:3.0f} % of the copy's"
            if name != BASE and times[BASE]:
                ratio, low, high = timing.ratio_interval(times[name], times[BASE])
                line += f"; {ratio:.2f} times {BASE} ({low:.2f} to {high:.2f})"
                if work.kind == "recurrence":
                    over_grid.setdefault(name, []).append((ratio, low))
            print(line + (f"; {good[-1]['note']}" if good[-1]["note"] else ""))
    for name, ratios in over_grid.items():
        mean = float(np.exp(np.mean([np.log(ratio) for ratio, _ in ratios])))
        line = f"{mean:.2f} times {BASE} in the geometric mean ({min(ratios)[0]:.2f} to {max(ratios)[0]:.2f})"
        print(f"\n{name} over {len(ratios)} recurrences: {line}; slower in {sum(low > 1 for _, low in ratios)} by the interval's lower end")


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def main() -> None:
    """Measure what is missing, and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", nargs="+", default=["A", "B"], help=f"{', '.join(WORKLOADS)}; with other sizes: A:H=64,B=128")
    parser.add_argument("--peer", nargs="+", type=side, default=[side(name) for name in PEERS])
    parser.add_argument("--units", type=_numbers, default=UNITS, help="of the recurrence")
    parser.add_argument("--length", type=_numbers, default=LENGTHS, help="of the recurrence")
    parser.add_argument("--batch", type=_numbers, default=BATCH_SIZES, help="of the recurrence")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="timed in each process")
    parser.add_argument("--report", action="store_true", help="measure nothing")
    parser.add_argument("--commit", default=None, help="whose rows to report; this checkout's if not given")
    parser.add_argument("--results", type=Path, default=PATH)
    options = parser.parse_args()
    works: list[Workload] = []
    for name in options.workload:
        works += list(grid(options.units, options.length, options.batch)) if name == "recurrence" else [workload(name)]
    sha = options.commit or commit()
    sides = options.peer if options.report else installed(options.peer)
    if not options.report:
        sweep(works, sides, options.rounds, options.seconds, options.results, sha)
    report(works, sides, options.results, sha)


if __name__ == "__main__":
    main()
