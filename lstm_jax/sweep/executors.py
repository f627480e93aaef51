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
import time
import traceback
from collections import deque
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from lstm_jax.errors import InputError, Interrupted, require
from lstm_jax.runtime import machine
from lstm_jax.runtime.interrupts import handled
from lstm_jax.sweep.configs import is_config
from lstm_jax.sweep.identity import Run, import_name, main_name, set_main_name
from lstm_jax.sweep.rows import Row

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
    if getattr(value, "size", 1) != 1:
        return value.tolist()
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
    waiting, running = deque(work.missing.items()), list[_Process]()
    unhandled = [signal.SIGTERM] if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL else []
    with handled(_interrupt, *unhandled):
        try:
            while waiting or running:
                while waiting and shares:
                    running.append(_Process(work.function, *waiting.popleft(), shares.pop()))
                work.running = len(running)
                time.sleep(POLL_PROCESS)
                for own in [own for own in running if own.has_ended()]:
                    running.remove(own)
                    shares.append(own.cores)
                    work.running = len(running)
                    yield own.key, own.outcome()
        finally:
            for process in multiprocessing.active_children():
                if process.name in work.missing:
                    process.kill()
                    process.join()


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt("SIGTERM")


class _Process:
    """Fresh process that executes one run on its own CPU cores."""

    def __init__(self, function: Run, key: str, config: Any, cores: list[int]):
        self.function, self.key, self.cores, self.start, self.received = function, key, cores, time.perf_counter(), []
        self.reader, writer = SPAWN.Pipe(duplex=False)
        self.process = SPAWN.Process(target=_attempt_and_send, args=(function, config, writer), name=key)
        self.process.start()
        writer.close()
        assert self.process.pid is not None
        with contextlib.suppress(ProcessLookupError):  # the process has ended already
            machine.pin(self.process.pid, cores)

    def has_ended(self) -> bool:
        ended = not self.process.is_alive()
        with contextlib.suppress(EOFError, OSError):  # it may be killed while it sends
            while self.reader.poll():
                self.received.append(self.reader.recv())
        return ended

    def outcome(self) -> Row:
        code = self.process.exitcode or 0
        if len(self.received) == 2:
            return self.received[1]
        if code == -signal.SIGINT:  # a Ctrl-C in the terminal reaches the process, too
            raise KeyboardInterrupt
        error = f"killed by signal {-code}" if code < 0 else f"ended with code {code}"
        subject = f"process of {import_name(self.function)}"
        require(self.received or code < 0, subject, f"{error} before its run", "correct what its message names")
        return {"status": FAILED, "error": error, "seconds": time.perf_counter() - self.start}


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
