"""Executors of the runs of a sweep: in this process, in fresh processes or in Slurm jobs.

Each executor is a generator. When a run ends, the executor yields the pair (id, outcome) of the run. The outcome is the part of the run's
row that says how the run has ended: its status, its result or error, and its seconds.
"""

import contextlib
import copy
import dataclasses
import json
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from lstm_jax.errors import InputError, Interrupted, require
from lstm_jax.runtime import machine
from lstm_jax.runtime.interrupts import handled
from lstm_jax.sweep.configs import is_config
from lstm_jax.sweep.identity import Run, import_name, main_name, set_main_name
from lstm_jax.sweep.rows import Row, in_threads

DONE, FAILED = "done", "failed"
SPAWN = multiprocessing.get_context("spawn")
POLL_PROCESS, POLL_JOBS = 0.02, 0.5
"""Numbers of seconds between two queries of the state of a process, and of the job states that submitit holds."""
Outcomes = Generator[tuple[str, Row], None, None]
ARRAY_JOBS = 1000
"""Largest number of jobs in a Slurm array. The default value of Slurm's setting `MaxArraySize` does not allow larger arrays."""


@dataclass
class Work:
    """Runs that an executor starts, the settings of the executors, and the numbers of runs that are running, done and failed."""

    function: Run
    missing: Mapping[str, Any]
    """Dict from the id of each run to its config."""
    workers: int = 0
    """Number of processes that the executor `processes` runs at the same time; 0 means one per core."""
    folder: Path = Path("jobs")
    """Folder to which submitit writes its logs."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Parameters of submitit by name."""
    running: int = 0
    done: int = 0
    failed: int = 0

    def __str__(self) -> str:
        waiting = len(self.missing) - self.running - self.done - self.failed
        return f"{self.running} running, {waiting} waiting, {self.done} done, {self.failed} failed"


def attempt(function: Run, config: Any) -> Row:
    """Call `function` on a copy of the config in this process, and return the outcome of this run."""
    start = time.perf_counter()
    try:
        result = json.loads(json.dumps(dict(function(_copied(config))), default=_plain))
        outcome = {"status": DONE, "result": result}
    except Interrupted as error:
        raise KeyboardInterrupt(str(error)) from error
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        outcome = {"status": FAILED, "error": f"{type(error).__name__}: {error}"}
    return outcome | {"seconds": time.perf_counter() - start}


def _copied(value: Any) -> Any:
    """Return a copy of a config, with copies of the values of its fields. Other attributes of the config, such as locks, are shared."""
    if not is_config(value):
        return copy.deepcopy(value)
    new = copy.copy(value)
    for own in dataclasses.fields(value):
        object.__setattr__(new, own.name, _copied(getattr(value, own.name)))
    return new


def _plain(value: Any) -> Any:
    item = value.item() if hasattr(value, "item") else value
    return item if isinstance(item, bool | int | float | str) else float(item)


def here(work: Work) -> Outcomes:
    """Call the function on one config after another in this process."""
    for key, config in work.missing.items():
        work.running = 1
        row = attempt(work.function, config)
        work.running = 0
        yield key, row


def processes(work: Work) -> Outcomes:
    """Call the function on each config in a fresh process."""
    cores = machine.cores()
    workers = work.workers or len(cores)
    shares = [cores[number::workers] or cores for number in range(workers)]
    ended, count = threading.Event(), len(work.missing)

    def run_on_a_share(config: Any) -> Row:
        share = shares.pop()
        try:
            return _in_process(work.function, config, share, ended)
        finally:
            shares.append(share)

    work.running = min(workers, count)
    handlers = {signal.SIGTERM: _interrupt} if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL else {}
    with handled(handlers), contextlib.closing(in_threads(run_on_a_share, work.missing, workers, ended.set)) as rows:
        for number, (key, future) in enumerate(rows, 1):
            work.running = min(workers, count - number)
            yield key, future.result()


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt("SIGTERM")


def _in_process(function: Run, config: Any, cores: Iterable[int], ended: threading.Event) -> Row:
    """Like `attempt`, but in a fresh process on the given CPU cores, which is killed once the sweep has ended."""
    start, received = time.perf_counter(), []
    reader, writer = SPAWN.Pipe(duplex=False)
    process = SPAWN.Process(target=_attempt_and_send, args=(function, config, writer))
    process.start()
    assert process.pid is not None
    writer.close()
    try:
        with reader, contextlib.suppress(EOFError, ProcessLookupError):  # the process has ended already
            machine.pin(process.pid, cores)
            while not ended.is_set() and (process.is_alive() or reader.poll()):
                if reader.poll(POLL_PROCESS):
                    received.append(reader.recv())
    finally:
        process.kill()
        process.join()
    code = process.exitcode or 0
    if len(received) == 2:
        return received[1]
    if code == -signal.SIGINT:  # a Ctrl-C in the terminal reaches the process, too
        raise KeyboardInterrupt
    error = f"killed by signal {-code}" if code < 0 else f"ended with code {code}"
    require(received or code < 0, f"process of {import_name(function)}", f"{error} before its run", "correct what its message names")
    return {"status": FAILED, "error": error, "seconds": time.perf_counter() - start}


def _attempt_and_send(function: Run, config: Any, writer: Connection) -> None:
    """Send None, to say that this process has imported the function and the class of the config, and then the outcome of the run."""
    writer.send(None)
    os.dup2(2, 1)  # standard output is that of the sweep
    try:
        writer.send(attempt(function, config))
    except KeyboardInterrupt as error:
        # after a SIGTERM a training saves its state and raises `Interrupted`: this run alone fails, while a SIGINT ends the sweep
        cause = error.__cause__
        number = cause.number if isinstance(cause, Interrupted) else signal.SIGINT
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)


def slurm(work: Work) -> Outcomes:
    """Call the function on each config in a Slurm job of its own, which the package submitit starts."""
    try:
        import submitit  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise InputError("submitit", "not installed", 'pip install ".[slurm]"') from error
    parameters = dict(work.options)
    try:
        executor = submitit.AutoExecutor(folder=work.folder, cluster=parameters.pop("cluster", None))
        executor.update_parameters(**parameters)
    except (AssertionError, NameError, RuntimeError, TypeError, ValueError) as error:
        first_line = str(error).split("\n")[0].rstrip(".")
        raise InputError("options", first_line, 'give a cluster such as "local", and parameters of submitit') from error
    jobs, keys = {}, list(work.missing)
    try:
        for begin in range(0, len(keys), ARRAY_JOBS):
            try:
                with executor.batch():
                    own = keys[begin : begin + ARRAY_JOBS]
                    submitted = {key: executor.submit(_attempt_in_job, main_name(), work.function, work.missing[key]) for key in own}
            except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError) as error:
                message = str(error).strip().split("\n")[-1] or type(error).__name__
                raise InputError("Slurm", message, "correct the options, or submit fewer jobs") from error
            jobs |= submitted  # only now: a job that is not submitted yet cannot be cancelled
        while jobs:
            ended = [key for key, job in jobs.items() if job.done()]
            work.running = sum(job.state == "RUNNING" for key, job in jobs.items() if key not in ended)
            for key in ended:
                try:
                    row = jobs.pop(key).result()
                except Exception as error:
                    first_lines = " ".join(str(error).split("\n")[:2]).strip()
                    row = {"status": FAILED, "error": f"{type(error).__name__}: {first_lines}", "seconds": 0.0}
                yield key, row
            time.sleep(0 if ended else POLL_JOBS)
    finally:
        for job in jobs.values():
            job.cancel(check=False)


def _attempt_in_job(main: str, function: Run, config: Any) -> Row:
    set_main_name(main)
    return attempt(function, config)


EXECUTORS: dict[str, Callable[[Work], Outcomes]] = {"here": here, "processes": processes, "slurm": slurm}
