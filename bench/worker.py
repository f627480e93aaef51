"""Benchmark process of one library (peer) on one workload. The process times the
library, and prints a result row as a JSON line.

    python -m bench.worker ours A --write-reference a.npz
    python -m bench.worker torch_lstm A --reference a.npz --seconds 5
    # relative error that an earlier process found
    python -m bench.worker torch_lstm A --checked 1.3e-6

With --write-reference, nothing is timed, and the results of one step of our backend
`reference` are written to a file. With --reference, the results are compared with those
in such a file, and the largest relative error is the "distance" of the row. If the
library fails, the JSON line has the field "error", and the exit code is 1.
"""

import argparse
import json
import math
import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from bench import add_flags, flops, hardware, make_parser, timing
from bench.peers import OURS, PEERS, Candidate, read_candidate
from bench.peers.base import Built, Options, Run
from bench.schema import Row
from bench.workloads import Arrays, Workload, make_arrays, workload

TOLERANCE = {"float32": 1e-4, "bfloat16": 0.05, "int8": 0.1}
"""Largest accepted error of an array for each dtype of the computation, relative to the
largest absolute entry of the reference array."""
BLOCKS = 50


def build(peer: str, work: Workload, arrays: Arrays, options: Options) -> Built:
    """Build a workload with a benchmarked library, and return it."""
    os.environ.update(PEERS[peer].environment)
    built = import_module(f"bench.peers.{PEERS[peer].module}").build(
        work, arrays, options
    )
    lacks = (
        "no recurrent dropout"
        if options.recurrent_dropout and not PEERS[peer].recurrent_dropout
        else ""
    )
    return replace(built, note=", ".join(filter(None, (lacks, built.note))))


def build_ours(name: str, **given) -> tuple[Workload, Built]:
    """Build a workload with this project in this process. `given` are fields of
    `Options`.
    """
    work = workload(name)
    return work, build(
        OURS, work, make_arrays(work), Candidate(OURS, OURS, given).options(work)
    )


def distances(
    work: Workload,
    built: Built,
    reference: Mapping[str, np.ndarray],
    dtype: str = "float32",
) -> dict[str, float]:
    """Compare the results of a library with the reference results, and return a dict
    from the name of each array to its relative error.
    """
    form = "gradients" if work.layer_alone else built.adam
    wanted = {
        name.split("/", 1)[1]: reference[name]
        for name in reference
        if name.startswith(f"{form}/")
    }
    wanted["outputs"] = reference["outputs"]
    found = built.after_one_step() | {"outputs": built.outputs()}
    if found.keys() != wanted.keys():
        raise ValueError(f"arrays {sorted(found)} instead of {sorted(wanted)}")
    result = {}
    for name, want in wanted.items():
        got = np.asarray(found[name])
        if got.shape != want.shape:
            raise ValueError(f"{name}: shape {got.shape} instead of {want.shape}")
        gaps = np.abs(got - want)
        if name in built.excluded:
            gaps = gaps[~built.excluded[name]]
        result[name] = float(gaps.max() / np.abs(want).max())
        if not result[name] <= TOLERANCE[dtype]:  # true for NaN too
            raise ValueError(
                f"{name}: {result[name]:.2g} of its largest entry away from "
                "the reference"
            )
    return result


def seconds_of(run: Run, count: int) -> float:
    """Return the seconds that `count` steps take."""
    began = perf_counter()
    run(count)
    return perf_counter() - began


def steps_per_block(run: Run, least: float) -> int:
    """Return a number of steps that together take about `least` seconds, and not less
    than 80 % of it.
    """
    count = 1
    while (took := seconds_of(run, count)) < 0.8 * least:
        count = max(count + 1, min(10 * count, math.ceil(count * least / took)))
    if count > 1:
        seconds_of(run, count)  # warm-up: a block of this length that is not timed
    return count


def measure(
    run: Run, seconds: float, block_seconds: float, turns: bool = False
) -> tuple[int, list[float]]:
    """Time blocks of steps one after the other for a given number of seconds, or one of
    this length for each line of standard input.
    """
    count = steps_per_block(
        run, max(block_seconds, seconds if turns else seconds / BLOCKS)
    )
    samples, end = [], perf_counter() + seconds
    while not samples or turns or perf_counter() < end:
        if turns:
            print(timing.TURN, flush=True)
            if not sys.stdin.readline():
                break
        samples.append(float(f"{1000 * seconds_of(run, count) / count:.6g}"))
    return count, samples


def first_step(built: Built) -> dict[str, float | None]:
    """Run the first step of a workload, and return its duration and the time spent in
    XLA's compiler.
    """
    jax: Any = sys.modules.get("jax")
    compiling: list[float] = []
    if jax is not None:

        def note(event: str, duration: float, **_):
            if event == "/jax/core/compile/backend_compile_duration":
                compiling.append(duration)

        jax.monitoring.register_event_duration_secs_listener(note)
    took = seconds_of(built.run, 1)
    return {
        "first_step_seconds": took,
        "compile_seconds": sum(compiling) if compiling else None,
    }


def peak_mib() -> float:
    """Return the peak resident memory of this process in MiB."""
    # the peak of `getrusage` begins with the memory of the parent process
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def probe() -> list[float]:
    """Return the speed of the CPU beside a measurement, or nothing on a GPU."""
    return [] if hardware.gpu() else [hardware.probe()]


def timed_row(candidate: Candidate, work: Workload, flags: argparse.Namespace) -> Row:
    """Build a workload with a library, check its results, time it, and return fields of
    the result row (`bench.schema.MEANINGS`).
    """
    began, options = perf_counter(), candidate.options(work)
    built = build(candidate.peer, work, make_arrays(work), options)
    row: Row = {"build_seconds": perf_counter() - began} | first_step(built)
    if flags.reference:
        with np.load(flags.reference) as file:
            flags.checked = max(distances(work, built, file, options.dtype).values())
    until = perf_counter() + flags.patience
    while True:
        before = probe()
        steps, samples = measure(
            built.run, flags.seconds, built.block_seconds, flags.turns
        )
        probes = before + probe()
        timed = {"samples": samples, "probe_gflops": probes, "load": 0, "cores": 1}
        if perf_counter() > until or not timing.noise(timed, flags.fastest):
            break
    row["peak_memory_mib"] = peak_mib()
    # imported after the measurement, so that the measured memory of a library without
    # JAX does not include JAX
    from lstm_jax.base.sharding import make_mesh
    from lstm_jax.lab.runs.folder import environment, versions

    about = environment(make_mesh())
    row |= flops.speeds(work, float(np.median(samples))) | {
        "steps_per_block": steps,
        "probe_gflops": [float(f"{value:.4g}") for value in probes],
        "samples": samples,
        "distance": flags.checked,
        "note": built.note,
        "backend_ran": built.backend,
        "devices": built.devices,
        "threads": os.environ.get("OMP_NUM_THREADS", ""),
        "versions": about.pop("versions") | versions(PEERS[candidate.peer].packages),
    }
    del about["devices"]
    return row | about


def main() -> None:
    """With `--write-reference`, write the reference results of a workload. Otherwise,
    time a library and print the result row.
    """
    parser = make_parser(__doc__)
    parser.add_argument(
        "candidate", type=read_candidate, help="as --peer of bench throughput takes it"
    )
    parser.add_argument("workload", type=workload)
    add_flags(
        parser,
        Path,
        reference="file of reference results",
        write_reference="file to write reference results to",
    )
    add_flags(
        parser,
        float,
        checked="distance that an earlier process found",
        seconds="time to measure for",
    )
    add_flags(
        parser,
        float,
        patience="time to go on measuring while it is noisy",
        fastest="speed of the fastest probe",
    )
    add_flags(
        parser,
        bool,
        turns="wait for a line before each block, which then takes --seconds",
    )
    parser.set_defaults(seconds=5.0, patience=0.0, fastest=0.0)
    flags = parser.parse_args()
    work, candidate = flags.workload, flags.candidate
    if flags.write_reference:
        from bench.peers import ours

        ours.write_reference(flags.write_reference, work, make_arrays(work))
        return
    about = candidate.fields(work) | work.fields
    try:
        row = timed_row(candidate, work, flags)
    except Exception as error:
        line = str(error).strip().splitlines() or [""]
        print(
            json.dumps(about | {"error": f"{type(error).__name__}: {line[0][:300]}"}),
            flush=True,
        )
        raise
    print(json.dumps(about | row), flush=True)


if __name__ == "__main__":
    main()
