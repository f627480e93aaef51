"""Times of the parts of a training step, measured by XLA's profiler, and lower bounds
of these times, which are called floors.

    # workloads A and B, about a minute on two idle cores
    python -m bench breakdown
    python -m bench breakdown --report

Each part except "XLA" is one kind of call of this project's compiled C++ code. "XLA" is
all other code of the step, and "between" the time of the step minus that of all parts.
The floor of a pass of the LSTM is the time that its matrix products take at the
machine's peak speed. The floor of any other part is the time to copy the smallest
number of bytes that the part must move; without word ids these parts have none. The
peak speeds are measured in the same run.
"""

import os
import re
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np

from bench import RESULTS, commit, make_parser, read_flags, timing, worker
from bench.flops import FLOAT, forward_flops
from bench.schema import BREAKDOWN, Row, rows_of, rows_of_commit
from bench.workloads import Arrays, Workload, make_arrays, workload
from lstm_jax.base.errors import require

PATH = RESULTS / "breakdown.jsonl"
STEPS, ROUNDS = 100, 7
PARTS = {
    "lstm_jax_forward": "LSTM forward",
    "lstm_jax_backward": "LSTM backward",
    "lstm_jax_adam_catch_up": "Adam: rows about to be read",
    "lstm_jax_adam_rows": "Adam: rows with a gradient",
    "lstm_jax_mask": "dropout masks",
}


def floors(
    work: Workload, arrays: Arrays, gemm_gflops: float, copy_gbs: float
) -> dict[str, float]:
    """Return a dict from the name of each part of a training step, such as "LSTM
    forward", to a lower bound of its time in milliseconds.
    """
    products = forward_flops(work)
    recurrent = (products["projection"] + products["recurrence"]) / gemm_gflops / 1e6

    def moved(numbers: float):
        return FLOAT * numbers / copy_gbs / 1e6

    found = {"LSTM forward": recurrent, "LSTM backward": 2 * recurrent}
    if work.words:
        distinct = [
            len(np.unique(batch)) for batch in np.split(arrays.inputs, work.batches)
        ]
        touched = float(np.mean(distinct)) * work.features
        given = work.tokens * work.features
        found |= {
            "Adam: rows about to be read": moved(6 * touched),
            "Adam: rows with a gradient": moved(6 * touched + given),
            "dropout masks": moved(4 * work.batch * (work.features + work.units)),
            "XLA": moved(2 * given),
        }
    return found


def traced(run, folder: Path) -> dict[str, float]:
    """Profile `STEPS` training steps, and return a dict from the name of each XLA
    operation to its milliseconds per step.
    """
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
                # a while loop is not counted, since the operations in its body have
                # events of their own
                if any(
                    name == "hlo_op" for name, _ in event.stats
                ) and not event.name.startswith("while"):
                    times[event.name] += event.duration_ns / 1e6 / STEPS
    return dict(times)


def targets(dump: Path) -> dict[str, str]:
    """Return a dict from the name of each custom call in the compiled training steps to
    its target, such as "lstm_jax_forward".
    """
    (text,) = (
        path.read_text()
        for path in dump.glob("*jit_run_steps*cpu_after_optimizations.txt")
    )
    return dict(
        re.findall(r"%(\S+) = .*custom-call\(.*custom_call_target=\"(\w+)\"", text)
    )


def measure(name: str) -> Row:
    """Measure the time of a training step and of each of its parts in this process, and
    return the fields of the result row.
    """
    with tempfile.TemporaryDirectory() as folder:
        dump, trace = Path(folder) / "dump", Path(folder) / "trace"
        os.environ["XLA_FLAGS"] = (
            f"{os.environ.get('XLA_FLAGS', '')} --xla_dump_to={dump} "
            "--xla_dump_hlo_module_re=.*run_steps.*"
        )
        _, built = worker.build_ours(name)
        built.run(3 * STEPS)
        times = [
            worker.seconds_of(built.run, STEPS) / STEPS * 1e3 for _ in range(ROUNDS)
        ]
        by_target = targets(dump)
        parts: defaultdict[str, float] = defaultdict(float)
        for operation, ms in traced(built.run, trace).items():
            parts[PARTS.get(by_target.get(operation, ""), "XLA")] += ms
    found = {
        "ms_per_step": float(np.median(times)),
        "samples_ms": times,
        "parts_ms": dict(parts),
    }
    return {"git": commit(), "workload": name, "backend_ran": built.backend} | found


def report(row: Row) -> None:
    """Print the time of a training step, then a line for each of its parts with the
    time and the lower bound of the time (floor).
    """
    step, total = row["ms_per_step"], sum(row["parts_ms"].values())
    peaks = f"{row['gemm_gflops']:.0f} GFLOP/s, {row['copy_gbs']:.0f} GB/s"
    print(
        f"\n{row['workload']}, commit {row['git']}: {step:.3f} ms a step; the "
        f"parts sum to {100 * total / step:.1f} % of it; {peaks}"
    )
    for part, ms in sorted(row["parts_ms"].items(), key=lambda pair: -pair[1]):
        floor = row["floors_ms"].get(part)
        print(
            f"  {part:<28} {ms:7.3f} ms, {100 * ms / step:4.1f} %"
            + (f"; floor {floor:.3f}, {ms - floor:.3f} above it" if floor else "")
        )
    print(
        f"  {'between':<28} {step - total:7.3f} ms, "
        f"{100 * (step - total) / step:4.1f} %"
    )


def main() -> None:
    """Measure each workload, unless `--report` is given. Then print the newest result
    of each workload.
    """
    parser = make_parser(__doc__, PATH)
    parser.add_argument("--workload", nargs="+", default=["A", "B"])
    options = read_flags(parser)
    path, sha, names = options.results, options.commit, options.workload

    def measured(item: Row):
        row = timing.run_function("bench.breakdown:measure", name=item["workload"])
        peaks, work = timing.peaks(), workload(item["workload"])
        speeds = {
            name: peaks[f"{name}_{timing.CORES}"]
            for name in ("gemm_gflops", "copy_gbs")
        }
        return [row | {"floors_ms": floors(work, make_arrays(work), **speeds)} | speeds]

    items = [{"workload": name} for name in names]
    timing.measure_missing(
        path,
        BREAKDOWN,
        items,
        measured,
        lambda rows: "measured",
        not options.report,
        lambda row: False,
    )
    newest = {
        row["workload"]: row
        for row in (
            rows_of_commit(path, BREAKDOWN, git=sha)
            if sha
            else rows_of(path, BREAKDOWN)
        )
    }
    for name in names:
        require(
            name in newest,
            "workload",
            name,
            f"measure it first: {path} has rows of {', '.join(newest) or 'none'}",
        )
        report(newest[name])
