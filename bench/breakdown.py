"""Time of each part of a training step by XLA's profiler, beside the time of the whole step and a lower bound (floor) of each part.

    python -m bench breakdown                      # A and B, about a minute on two quiet cores
    python -m bench breakdown --report

A part is a call of this project's compiled code, or everything that XLA compiled itself (the part "XLA"); "between" is the rest of the
step. The floor of a part of the LSTM is the time of its matrix products at the peak speed of a product. The floor of another part is the
time to move the fewest bytes that it needs at the speed of a copy. Both speeds are measured in the same run.
"""

import json
import os
import re
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from bench import RESULTS, commit, make_parser, timing
from bench.flops import FLOAT, forward_flops
from bench.schema import BREAKDOWN, check, make_row, rows_of
from bench.workloads import Arrays, Workload, make_arrays, workload
from lstm_jax.sweep.missing import run_missing

PATH = RESULTS / "breakdown.jsonl"
STEPS, ROUNDS = 100, 7
PARTS = {
    "lstm_jax_forward": "LSTM forward",
    "lstm_jax_backward": "LSTM backward",
    "lstm_jax_adam_catch_up": "Adam: rows about to be read",
    "lstm_jax_adam_rows": "Adam: rows with a gradient",
    "lstm_jax_adam": "Adam: kernels",
    "lstm_jax_mask": "dropout masks",
}


def floors(work: Workload, arrays: Arrays, gflops: float, copy_gbs: float) -> dict[str, float]:
    """Return the lower bound of the milliseconds of each part of a step.

    Args:
        work: workload.
        arrays: arrays of the workload; the word ids determine the number of table rows that a batch reads.
        gflops: peak speed of a float32 matrix product, in GFLOP/s.
        copy_gbs: speed of a copy, in GB/s.
    """
    products = forward_flops(work)
    recurrent = (products["projection"] + products["recurrence"]) / gflops / 1e6

    def moved(numbers: float) -> float:
        return FLOAT * numbers / copy_gbs / 1e6

    kernels = 4 * work.units * (work.units + work.features)
    found = {"LSTM forward": recurrent, "LSTM backward": 2 * recurrent, "Adam: kernels": moved(7 * kernels)}
    if work.words:
        batches = np.split(arrays.inputs, work.batches)
        rows = float(np.mean([len(np.unique(batch)) for batch in batches])) * work.features
        given = work.batch * work.length * work.features
        masks = 4 * work.batch * (work.features + work.units)
        found |= {"Adam: rows about to be read": moved(6 * rows), "Adam: rows with a gradient": moved(6 * rows + given)}
        found |= {"dropout masks": moved(masks), "XLA": moved(2 * given)}
    return found


def traced(run: Any, folder: Path) -> dict[str, float]:
    """Return the milliseconds per step of each XLA operation by its name, from a trace of `run(STEPS)` that is written to `folder`."""
    import jax
    from jax.profiler import ProfileData, ProfileOptions

    quiet = ProfileOptions()
    quiet.python_tracer_level = 0
    with jax.profiler.trace(str(folder), profiler_options=quiet):
        run(STEPS)
    times: defaultdict[str, float] = defaultdict(float)
    (found,) = folder.glob("**/*.xplane.pb")
    for plane in ProfileData.from_file(str(found)).planes:
        for line in plane.lines:
            for event in line.events:
                # a while loop is left out: the operations in it are events of their own
                if any(name == "hlo_op" for name, _ in event.stats) and not event.name.startswith("while"):
                    times[event.name] += event.duration_ns / 1e6 / STEPS
    return dict(times)


def targets(dump: Path) -> dict[str, str]:
    """Return the custom-call target of each XLA operation that has one, from XLA's dump of the compiled steps."""
    (text,) = (path.read_text() for path in dump.glob("*jit_run_steps*cpu_after_optimizations.txt"))
    return dict(re.findall(r"%(\S+) = .*custom-call\(.*custom_call_target=\"(\w+)\"", text))


def measure(name: str) -> dict[str, Any]:
    """Measure a workload in this process and return the row; XLA reads `XLA_FLAGS` only once, so this must be a fresh process."""
    with tempfile.TemporaryDirectory() as folder:
        dump, trace = Path(folder) / "dump", Path(folder) / "trace"
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_dump_to={dump} --xla_dump_hlo_module_re=.*run_steps.*"
        from bench.peers import ours
        from bench.peers.base import Options

        work = workload(name)
        arrays = make_arrays(work)
        built = ours.build(work, arrays, Options(None, work.dropout, work.dropout))
        built.run(3 * STEPS)
        times = []
        for _ in range(ROUNDS):
            began = time.perf_counter()
            built.run(STEPS)
            times.append((time.perf_counter() - began) / STEPS * 1e3)
        by_target = targets(dump)
        parts: defaultdict[str, float] = defaultdict(float)
        for operation, ms in traced(built.run, trace).items():
            parts[PARTS.get(by_target.get(operation, ""), "XLA")] += ms
    found = {"ms_per_step": float(np.median(times)), "samples_ms": times, "parts_ms": dict(parts)}
    return {"git": commit(), "workload": name, "backend_ran": built.backend} | found


def with_floors(row: dict[str, Any]) -> dict[str, Any]:
    """Measure the FLOP/s of a matrix product and the bytes/s of a copy; return the row with both and with the least time of each part."""
    work, measured = workload(row["workload"]), timing.peaks()
    gflops, copy_gbs = measured[f"gemm_gflops_{timing.CORES}"], measured[f"copy_gbs_{timing.CORES}"]
    return row | {"floors_ms": floors(work, make_arrays(work), gflops, copy_gbs), "gemm_gflops": gflops, "copy_gbs": copy_gbs}


def report(row: dict[str, Any]) -> None:
    """Print the time of the step, then a line with the time and the floor of each part."""
    step, total = row["ms_per_step"], sum(row["parts_ms"].values())
    peaks = f"{row['gemm_gflops']:.0f} GFLOP/s, {row['copy_gbs']:.0f} GB/s"
    print(f"\n{row['workload']}, commit {row['git']}: {step:.3f} ms a step; the parts sum to {100 * total / step:.1f} % of it; {peaks}")
    for part, ms in sorted(row["parts_ms"].items(), key=lambda pair: -pair[1]):
        floor = row["floors_ms"].get(part)
        print(f"  {part:<28} {ms:7.3f} ms, {100 * ms / step:4.1f} %" + (f"; floor {floor:.3f}, {ms - floor:.3f} above it" if floor else ""))
    print(f"  {'between':<28} {step - total:7.3f} ms, {100 * (step - total) / step:4.1f} %")


def main() -> None:
    """Measure each workload unless `--report` is given, and print the last row of each workload."""
    parser = make_parser(__doc__, PATH)
    parser.add_argument("--workload", nargs="+", default=["A", "B"])
    parser.add_argument("--one", action="store_true", help="measure one workload in this process, and print its row")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.workload[0])))
        return

    def row_of(name: str) -> list[dict[str, Any]]:
        row = with_floors(timing.run_module(["bench", "breakdown", "--one", "--workload", name])[-1])
        return [make_row(BREAKDOWN, cores=timing.CORES, load=timing.load(), **row)]

    wanted = {} if options.report else {name: name for name in options.workload}
    run_missing(options.results, wanted, lambda row: None, row_of, "workloads", lambda name, rows: f"{name}: measured", check)
    for name in options.workload:
        rows = [row for row in rows_of(options.results, BREAKDOWN, git=options.commit) if row["workload"] == name]
        if rows:
            report(rows[-1])
