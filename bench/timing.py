"""Functions that run benchmark modules in fresh processes on fixed CPU cores, one
process at a time or several in turns.
"""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from bench import hardware
from bench.schema import Row, Rows, check, make_row
from lstm_jax.base.errors import require
from lstm_jax.lab.sweep.rows import run_missing

ROOT = Path(__file__).parents[1]
TURN = "your turn"
"""Line that a process of `bench.worker --turns` prints when it waits for its turn."""
SPREAD, TOLERATED = 0.1, 0.1
"""Limits of a quiet measurement: interquartile range of block times over their median,
slowdown of a probe beside it against the best."""
CORES = min(2, len(os.sched_getaffinity(0)))


def pinned(cores: int = CORES) -> dict[str, str]:
    """Return the environment variables of this process, and further variables that
    limit numeric libraries to `cores` threads.
    """
    limits = {
        f"{library}_NUM_THREADS": str(cores)
        for library in ("OMP", "MKL", "OPENBLAS", "NUMEXPR")
    }
    return os.environ | limits | (hardware.GPU_SETTINGS if hardware.gpu() else {})


def _start(
    arguments: Sequence[str],
    cores: int,
    environment: Mapping[str, str] | None,
    first: int = 0,
    **pipes,
) -> Any:
    allowed = sorted(os.sched_getaffinity(0))[first : first + cores]
    command, own = (
        [sys.executable, "-m", *arguments],
        {**pinned(cores), **(environment or {})},
    )
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=own, **pipes
    )
    # set at once, because the threads of the process inherit it
    os.sched_setaffinity(process.pid, allowed)
    return process


BUILD = """python -c "from lstm_jax.native.packaged import build_packaged; build_packaged()\""""
"""Command that compiles the code of a checkout, in its folder."""


def run_module(
    arguments: Sequence[str],
    cores: int = CORES,
    environment: Mapping[str, str] | None = None,
    first: int = 0,
) -> list[Row]:
    """Run `python -m ...` in a fresh process, and return the JSON objects that it
    prints.
    """
    with _start(
        arguments, cores, environment, first, stderr=subprocess.PIPE
    ) as process:
        printed, messages = process.communicate()
    if process.returncode:
        print(messages, end="", file=sys.stderr)  # else they are a library's chatter
        raise subprocess.CalledProcessError(process.returncode, process.args, printed)
    return [json.loads(line) for line in printed.splitlines() if line.startswith("{")]


def run_function(function: str, cores: int = CORES, first: int = 0, /, **given) -> Any:
    """Call a function, such as "bench.memory:measure_here", in a fresh process, and
    return its result. Arguments and result are JSON values; an iterator becomes a list.
    """
    arguments = ["bench.timing", function, json.dumps(given)]
    return run_module(arguments, cores, first=first)[-1]["result"]


def require_compiled(folders: Sequence[Path] = (ROOT,)) -> None:
    """Check that the checkouts have compiled code, unless the user has turned it off."""
    for folder in folders:
        command = [
            sys.executable,
            "-c",
            "from lstm_jax import native; print(native.why_not())",
        ]
        missing = subprocess.run(
            command, cwd=folder, stdout=subprocess.PIPE, text=True
        ).stdout.strip()
        remedy = (
            f"{BUILD} builds it; or name a backend, or set LSTM_JAX_COMPILED_CODE=0"
        )
        require(
            not missing or missing.startswith("turned off"),
            f"compiled code of {folder}",
            missing.partition(":")[0],
            remedy,
        )


def run_in_turns(
    arguments: Sequence[Sequence[str]],
    turns: int,
    folders: Sequence[Path] | None = None,
    environment: Mapping[str, str] | None = None,
) -> list[Row]:
    """Run several processes of `bench.worker --turns` on the same cores, and return the
    result row of each process.
    """
    started: list[subprocess.Popen[str]] = []

    def wait_for(process: subprocess.Popen[str]):
        if TURN not in map(str.strip, process.stdout or ()):
            raise subprocess.CalledProcessError(process.wait(), process.args)

    with contextlib.ExitStack() as stack:
        for folder, module in zip(
            folders or [ROOT] * len(arguments), arguments, strict=True
        ):
            process = stack.enter_context(
                _start(
                    [*module, "--turns"],
                    CORES,
                    environment,
                    cwd=folder,
                    stdin=subprocess.PIPE,
                )
            )
            stack.callback(process.kill)
            started.append(process)
        for process in started:
            wait_for(process)
        for turn in range(turns):
            for process in started if turn % 2 == 0 else reversed(started):
                print(file=process.stdin, flush=True)
                wait_for(process)
        printed = [process.communicate()[0] for process in started]
        for process in started:
            if process.returncode:
                raise subprocess.CalledProcessError(process.returncode, process.args)
        return [
            json.loads(next(line for line in text.splitlines() if line.startswith("{")))
            for text in printed
        ]


def load() -> float:
    """Return the machine's load average over the last minute. Results record it,
    because other work on the machine makes times noisy.
    """
    return os.getloadavg()[0]


def peaks() -> dict[str, float]:
    """Measure the machine's peak speeds of a matrix product (GFLOP/s) and of a memory
    copy (GB/s).
    """
    found = run_function("bench.hardware:gpu_peaks") if hardware.gpu() else {}
    for cores in (1, CORES):
        row = run_function("bench.hardware:cpu_peaks", cores, threads=cores)
        found |= {f"{name}_{cores}": value for name, value in row.items()}
    return found


def fastest_probe() -> float:
    """Measure the present speed of the CPU three times with `hardware.probe`,
    and return the highest speed in GFLOP/s.
    """
    return (
        0.0
        if hardware.gpu()
        else max(run_function("bench.hardware:probe") for _ in range(3))
    )


def noise(row: Row, fastest: float = 0.0) -> str:
    """Return the reason why a time is noisy, or "" if it is not."""
    low, middle, high = np.quantile(row["samples"], [0.25, 0.5, 0.75])
    if (high - low) / middle > SPREAD:
        return (
            f"samples spread over {100 * (high - low) / middle:.0f} % of their median"
        )
    probes = row.get("probe_gflops")
    if probes and min(probes) < (1 - TOLERATED) * fastest:
        return (
            f"a product ran at {min(probes):.0f} GFLOP/s beside it, {fastest:.0f} "
            "at best"
        )
    return (
        f"{row['load']:.1f} processes wanted a core"
        if row["load"] > 2 * row["cores"]
        else ""
    )


def compilation_cache(folder: str) -> dict[str, str]:
    """Return environment variables that make JAX and PyTorch store all compiled
    programs in a folder and load them from there.
    """
    return {
        "JAX_COMPILATION_CACHE_DIR": f"{folder}/xla",
        "TORCHINDUCTOR_CACHE_DIR": f"{folder}/inductor",
        "JAX_ENABLE_COMPILATION_CACHE": "true",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
    }


def measure_missing(
    path: Path,
    measurement: str,
    items: Rows,
    measure: Callable[[Row], Rows],
    describe: Callable[[Rows], str],
    measuring: bool = True,
    counts: Callable[[Row], bool] = lambda row: True,
    workers: int = 1,
) -> list[Row]:
    """Measure the items that have no row in a file yet, append their rows, and return
    the rows of all items.

    The fields of an item identify its rows, and `measure` returns the other fields of
    these rows. An item also counts as measured only if `counts` is true for its rows.
    Without `measuring`, only the rows are returned.
    """
    names = list(dict.fromkeys(name for item in items for name in item))

    def key(row: Row):
        return json.dumps([row.get(name) for name in names], sort_keys=True)

    def key_of_row(row: Row):
        return key(row) if row["measurement"] == measurement and counts(row) else None

    def measured(item: Row):
        about = {
            "measurement": measurement,
            "machine": hardware.machine_id(),
            "cores": CORES,
            "load": load(),
        }
        about_item = {name: value for name, value in item.items() if value is not None}
        return [make_row(**about | row | about_item) for row in measure(item)]

    def line(item: Row, rows: Rows):
        shown = (
            f"{name} {value}"
            for name, value in item.items()
            if value is not None and name not in ("git", "versions", "machine")
        )
        return f"{', '.join(shown)}: {describe(rows)}"

    by_key = {key(item): item for item in items}
    rows = run_missing(
        path,
        by_key if measuring else {},
        key_of_row,
        measured,
        "measurements",
        line,
        check,
        workers,
    )
    return [row for row in rows if key_of_row(row) in by_key]


if __name__ == "__main__":
    module, function = sys.argv[1].split(":")
    called = getattr(import_module(module), function)
    result = called(**json.loads(sys.argv[2]))
    print(json.dumps({"result": result}, default=list))
