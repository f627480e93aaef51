"""Executors of the runs of a sweep: in this process, in fresh processes or in Slurm jobs.

Each executor is a generator. When a run ends, the executor yields the pair (id, row) of the run. The row is a dict that describes the
outcome of the run; see `attempt`. The row does not contain the id.
"""

import contextlib
import copy
import dataclasses
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lstm_jax.errors import InputError, Interrupted
from lstm_jax.runtime import machine
from lstm_jax.sweep.configs import is_config
from lstm_jax.sweep.identity import Run, import_name, main_name, pickle_config, set_main_name
from lstm_jax.sweep.rows import Row, Tally, in_threads

DONE, FAILED = "done", "failed"
POLL_SECONDS = 0.5
"""Number of seconds between two queries of the job states that submitit holds. submitit itself asks Slurm for these states less often."""
REFUSED = "refused"
"""Key of the dict that a process of a sweep writes in place of a row if it cannot begin its run: the arguments of an `InputError`."""
Outcomes = Generator[tuple[str, Row], None, None]
ARRAY_JOBS = 1000
"""Largest number of jobs in a Slurm array. The default value of Slurm's setting `MaxArraySize` does not allow larger arrays."""


@dataclass(frozen=True)
class Resources:
    """Settings of the executors of a sweep: `workers` of the executor `processes`, the others of the executor `slurm`."""

    workers: int = 0
    """Number of processes that run at the same time; 0 means one per core."""
    folder: Path = Path("jobs")
    """Folder to which submitit writes its logs."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Parameters of submitit by name."""


def attempt(function: Run, config: Any) -> Row:
    """Call `function` on a copy of the config in this process, and return the row of this run."""
    start = time.perf_counter()
    try:
        result = json.loads(json.dumps(dict(function(_copied(config))), default=_plain))
    except Interrupted as error:
        raise KeyboardInterrupt(str(error)) from error
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        return _failed(config, f"{type(error).__name__}: {error}", time.perf_counter() - start)
    return {"config": dataclasses.asdict(config), "status": DONE, "result": result, "seconds": time.perf_counter() - start}


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


def _failed(config: Any, error: str, seconds: float) -> Row:
    return {"config": dataclasses.asdict(config), "status": FAILED, "error": error, "seconds": seconds}


def here(function: Run, missing: Mapping[str, Any], resources: Resources, tally: Tally) -> Outcomes:
    """Call `function` on one config after another in this process."""
    for key, config in missing.items():
        tally.running = 1
        row = attempt(function, config)
        tally.running = 0
        yield key, row


def processes(function: Run, missing: Mapping[str, Any], resources: Resources, tally: Tally) -> Outcomes:
    """Call `function` on each config in a fresh process."""
    cores = machine.cores()
    workers = resources.workers or len(cores)
    shares: queue.SimpleQueue[list[int]] = queue.SimpleQueue()
    for number in range(workers):
        shares.put(cores[number::workers] or cores)

    children = _Children()

    def run_on_a_share(config: Any) -> Row:
        share = shares.get()
        try:
            return _in_process(function, config, share, children)
        finally:
            shares.put(share)

    tally.running = min(workers, len(missing))
    with _sigterm_interrupts(), contextlib.closing(in_threads(run_on_a_share, missing, workers, children.kill)) as ended:
        for left, (key, future) in zip(reversed(range(len(missing))), ended, strict=True):
            tally.running = min(workers, left)
            yield key, future.result()


@contextlib.contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """Let a SIGTERM raise `KeyboardInterrupt` until the context ends."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt("SIGTERM")

    signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


class _Children:
    """The processes of a sweep that run at the moment."""

    def __init__(self):
        self._lock, self._running, self._ended = threading.Lock(), set[subprocess.Popen](), False

    @contextlib.contextmanager
    def started(self, *arguments: Any, **options: Any) -> Iterator[subprocess.Popen]:
        """Return a context manager that starts a process, and that kills the process if an exception ends the `with` block."""
        with self._lock:  # otherwise `kill` could miss a process that is about to start
            if self._ended:
                raise KeyboardInterrupt
            process = subprocess.Popen(*arguments, **options)
            self._running.add(process)
        try:
            with process:
                try:
                    yield process
                except BaseException:
                    process.kill()
                    raise
        finally:
            self._running.discard(process)

    def kill(self) -> None:
        """Kill all processes that run, and prevent further ones from starting."""
        with self._lock:
            self._ended = True
            for process in list(self._running):
                process.kill()


def _in_process(function: Run, config: Any, cores: Iterable[int], children: _Children) -> Row:
    """Call `function(config)` in a fresh process on the given CPU cores, and return the row of this run (see `attempt`)."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
    start = time.perf_counter()
    try:
        output: Any = sys.stderr.fileno()
    except (AttributeError, OSError):  # for example `contextlib.redirect_stderr` to a buffer
        output = 2
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "row.json"
        # -P: a module of the working folder, which python -m puts first, would take the place of a script or a library of the same name
        command = [sys.executable, "-P", "-m", "lstm_jax.sweep.child", import_name(function), str(answer)]
        with children.started(command, stdin=subprocess.PIPE, env=environment, stdout=output) as process:
            with contextlib.suppress(ProcessLookupError):  # the process has ended already
                machine.pin(process.pid, cores)
            process.communicate(pickle_config(config))
        if answer.exists():
            row = json.loads(answer.read_text())
            if REFUSED in row:
                raise InputError(*row[REFUSED])
            return row
    code = process.returncode
    if code == -signal.SIGINT:  # a Ctrl-C in the terminal reaches the process, too
        raise KeyboardInterrupt
    return _failed(config, f"killed by signal {-code}" if code < 0 else f"ended with code {code}", time.perf_counter() - start)


def slurm(function: Run, missing: Mapping[str, Any], resources: Resources, tally: Tally) -> Outcomes:
    """Call `function` on each config in a Slurm job of its own, which the package submitit starts."""
    try:
        import submitit  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise InputError("submitit", "not installed", 'pip install ".[slurm]"') from error
    parameters = dict(resources.options)
    try:
        executor = submitit.AutoExecutor(folder=resources.folder, cluster=parameters.pop("cluster", None))
        executor.update_parameters(**parameters)
    except (AssertionError, NameError, RuntimeError, TypeError, ValueError) as error:
        first_line = str(error).split("\n")[0].rstrip(".")
        raise InputError("options", first_line, 'give a cluster such as "local", and parameters of submitit') from error
    jobs = {}
    keys = list(missing)
    try:
        for begin in range(0, len(keys), ARRAY_JOBS):
            try:
                with executor.batch():
                    own = keys[begin : begin + ARRAY_JOBS]
                    submitted = {key: executor.submit(_attempt_in_job, main_name(), function, missing[key]) for key in own}
            except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError) as error:
                message = str(error).strip().split("\n")[-1] or type(error).__name__
                raise InputError("Slurm", message, "correct the options, or submit fewer jobs") from error
            jobs |= submitted  # only now: a job that is not submitted yet cannot be cancelled
        while jobs:
            ended = [key for key, job in jobs.items() if job.done()]
            tally.running = sum(job.state == "RUNNING" for key, job in jobs.items() if key not in ended)
            for key in ended:
                try:
                    row = jobs.pop(key).result()
                except Exception as error:
                    first_lines = " ".join(str(error).split("\n")[:2]).strip()
                    row = _failed(missing[key], f"{type(error).__name__}: {first_lines}", 0.0)
                yield key, row
            time.sleep(0 if ended else POLL_SECONDS)
    finally:
        for job in jobs.values():
            job.cancel(check=False)


def _attempt_in_job(main: str, function: Run, config: Any) -> Row:
    set_main_name(main)
    return attempt(function, config)


EXECUTORS: dict[str, Callable[[Run, Mapping[str, Any], Resources, Tally], Outcomes]] = {
    "here": here,
    "processes": processes,
    "slurm": slurm,
}
