"""Executors of the runs of a sweep: in this process, in fresh processes or in Slurm jobs.

Each executor is a generator. When a run ends, the executor yields the pair (id, row) of the run. The row itself does not contain the id.
"""

import contextlib
import dataclasses
import json
import os
import queue
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lstm_jax.errors import InputError
from lstm_jax.sweep.identity import Run, import_name
from lstm_jax.sweep.missing import Row, in_threads

DONE, FAILED = "done", "failed"
Outcomes = Generator[tuple[str, Row], None, None]


@dataclass(frozen=True)
class Resources:
    """Settings of the executors of a sweep. An executor ignores the settings that belong to another executor."""

    workers: int = 0
    """Number of processes that run at the same time. If 0, it is the number of cores. Only the executor `processes` uses it."""
    folder: Path = Path("jobs")
    """Folder to which submitit writes its logs. Only the executor `slurm` uses it."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Parameters of submitit by name. Only the executor `slurm` uses them."""


def attempt(function: Run, config: Any) -> Row:
    """Call `function(config)` in this process and return the row of this run.

    The row is a dict with the config, the status "done", the result and the duration in seconds. It does not contain the id of the run. If
    the call raises an exception, the row has the status "failed", and the error in place of the result.
    """
    start = time.perf_counter()
    try:
        result = json.loads(json.dumps(dict(function(config)), default=float))
    except Exception as error:
        traceback.print_exc()
        return _failed(config, f"{type(error).__name__}: {error}", time.perf_counter() - start)
    return {"config": dataclasses.asdict(config), "status": DONE, "result": result, "seconds": time.perf_counter() - start}


def _failed(config: Any, error: str, seconds: float) -> Row:
    return {"config": dataclasses.asdict(config), "status": FAILED, "error": error, "seconds": seconds}


def here(function: Run, missing: Mapping[str, Any], resources: Resources) -> Outcomes:
    """Run one config after another in this process.

    Args:
        function: function that executes the run of a config.
        missing: dict from the id of each run to its config.
        resources: settings, which this executor ignores.

    Yields:
        A pair (id, row) for each run. The row itself does not contain the id.
    """
    for key, config in missing.items():
        yield key, attempt(function, config)


def processes(function: Run, missing: Mapping[str, Any], resources: Resources) -> Outcomes:
    """Run each config in a fresh process.

    Args:
        function: function that executes the run of a config.
        missing: dict from the id of each run to its config.
        resources: settings. `resources.workers` processes run at the same time, and the cores are divided among them.

    Yields:
        A pair (id, row) for each run. The row itself does not contain the id.
    """
    cores = sorted(os.sched_getaffinity(0))
    workers = resources.workers or len(cores)
    shares: queue.SimpleQueue[list[int]] = queue.SimpleQueue()
    for number in range(workers):
        shares.put(cores[number::workers] or cores)

    def run_on_a_share(config: Any) -> Row:
        share = shares.get()
        try:
            return _in_process(function, config, share)
        finally:
            shares.put(share)

    with contextlib.closing(in_threads(run_on_a_share, missing, workers)) as ended:
        for key, future in ended:
            yield key, future.result()


def _in_process(function: Run, config: Any, cores: Iterable[int]) -> Row:
    """Run one config in a fresh process on the given CPU cores, and return the row of this run (see `attempt`)."""
    task = {"function": import_name(function), "config": import_name(type(config)), "values": dataclasses.asdict(config)}
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "row.json"
        command = [sys.executable, "-m", "lstm_jax.sweep.child", str(answer)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, text=True, env=environment, stdout=sys.stderr) as process:
            try:
                with contextlib.suppress(ProcessLookupError):  # the process has ended already
                    os.sched_setaffinity(process.pid, cores)
                process.communicate(json.dumps(task))
            except BaseException:
                process.kill()
                raise
        if answer.exists():
            return json.loads(answer.read_text())
    code = process.returncode
    return _failed(config, f"killed by signal {-code}" if code < 0 else f"ended with code {code}", time.perf_counter() - start)


def slurm(function: Run, missing: Mapping[str, Any], resources: Resources) -> Outcomes:
    """Run each config as a Slurm job, which the package submitit starts.

    Args:
        function: function that executes the run of a config.
        missing: dict from the id of each run to its config.
        resources: settings, of which `folder` and `options` are used.

    Yields:
        A pair (id, row) for each run. The row itself does not contain the id.

    Raises:
        InputError: if submitit is not installed.
    """
    try:
        import submitit  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise InputError("submitit", "not installed", 'pip install ".[slurm]"') from error
    parameters = dict(resources.options)
    executor = submitit.AutoExecutor(folder=resources.folder, cluster=parameters.pop("cluster", None))
    executor.update_parameters(**parameters)
    jobs = {key: executor.submit(attempt, function, config) for key, config in missing.items()}
    for key, job in jobs.items():
        try:
            yield key, job.result()
        except Exception as error:  # the job was killed, or ran out of time or memory
            first_line = (str(error).strip().splitlines() or [""])[0]
            yield key, _failed(missing[key], f"{type(error).__name__}: {first_line}", 0.0)


EXECUTORS: dict[str, Callable[[Run, Mapping[str, Any], Resources], Outcomes]] = {"here": here, "processes": processes, "slurm": slurm}
