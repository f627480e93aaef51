"""What a training step is made of: its parts' times by XLA's own profiler beside the step's, and for each part a floor.

    python -m bench breakdown                      # A and B, about a minute on two quiet cores
    python -m bench breakdown --report

A part is a call of compiled code, or all that XLA compiled itself ("XLA"); "between" is what the step takes beyond their sum. A floor
is what its products take at the peak of XLA's product, or its least bytes at the speed of a copy, both measured in the same run.
"""

import argparse
import json
import os
import re
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from bench import RESULTS, peak, timing
from bench.flops import FLOAT, forward_flops
from bench.throughput import commit
from bench.workloads import Arrays, Workload, make_arrays, workload
from lstm_jax.sweep.rows import append_rows, read_rows

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
    """Milliseconds that a part takes at least."""
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
    """Milliseconds a step of each operation of XLA's."""
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
                # a loop's own time is that of what runs in it
                if any(name == "hlo_op" for name, _ in event.stats) and not event.name.startswith("while"):
                    times[event.name] += event.duration_ns / 1e6 / STEPS
    return dict(times)


def targets(dump: Path) -> dict[str, str]:
    """Operation -> the function that it calls, by XLA's dump of the compiled steps."""
    (text,) = (path.read_text() for path in dump.glob("*jit_run_steps*cpu_after_optimizations.txt"))
    return dict(re.findall(r"%(\S+) = .*custom-call\(.*custom_call_target=\"(\w+)\"", text))


def measure(name: str) -> dict[str, Any]:
    """A row; in a process of its own, since XLA reads its flags once."""
    with tempfile.TemporaryDirectory() as folder:
        dump, trace = Path(folder) / "dump", Path(folder) / "trace"
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_dump_to={dump} --xla_dump_hlo_module_re=.*run_steps.*"
        from bench.peer import Options
        from bench.peers import ours

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
    return {"git": commit(), "workload": name, "backend": built.backend} | found


def with_floors(row: dict[str, Any]) -> dict[str, Any]:
    """The row with what the machine can do, measured now, and the floors by that."""
    work, measured = workload(row["workload"]), peak.measure()
    gflops, copy_gbs = measured[f"gemm_gflops_{timing.CORES}"], measured[f"copy_gbs_{timing.CORES}"]
    return row | {"floors_ms": floors(work, make_arrays(work), gflops, copy_gbs), "gemm_gflops": gflops, "copy_gbs": copy_gbs}


def report(row: dict[str, Any]) -> None:
    """A line a part."""
    step, total = row["ms_per_step"], sum(row["parts_ms"].values())
    peaks = f"{row['gemm_gflops']:.0f} GFLOP/s, {row['copy_gbs']:.0f} GB/s"
    print(f"\n{row['workload']}, commit {row['git']}: {step:.3f} ms a step; its parts add up to {100 * total / step:.1f} % of it; {peaks}")
    for part, ms in sorted(row["parts_ms"].items(), key=lambda pair: -pair[1]):
        floor = row["floors_ms"].get(part)
        print(f"  {part:<28} {ms:7.3f} ms, {100 * ms / step:4.1f} %" + (f"; floor {floor:.3f}, {ms - floor:.3f} above it" if floor else ""))
    print(f"  {'between':<28} {step - total:7.3f} ms, {100 * (step - total) / step:4.1f} %")


def main() -> None:
    """Measure, or report the last row of each workload."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", nargs="+", default=["A", "B"])
    parser.add_argument("--report", action="store_true")
    parser.add_argument("--one", action="store_true", help="measure one workload in this process, and print its row")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.workload[0])))
        return
    for name in options.workload:
        if not options.report:
            row = with_floors(timing.run_module(["bench", "breakdown", "--one", "--workload", name])[-1])
            append_rows(PATH, {"cores": timing.CORES, "load": timing.load()} | row)
        rows = [row for row in read_rows(PATH) if row["workload"] == name]
        if rows:
            report(rows[-1])
