"""Executors of the runs of a sweep: in this process, in other processes or in Slurm
jobs.

Each executor is a generator. When a run ends, the executor yields the pair (id,
outcome) of the run. The outcome is the part of the run's
row that says how the run has ended: its status, its result or error, its seconds and,
unless its process was killed, its devices.
"""

import contextlib
import dataclasses
import multiprocessing
import os
import re
import secrets
import signal
import sys
import time
import traceback
from collections import OrderedDict, deque
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any
from unittest import mock

from lstm_jax.base import machine
from lstm_jax.base.checks import frozen
from lstm_jax.base.errors import InputError, Interrupted, parsing, require
from lstm_jax.base.types import Texts, Values
from lstm_jax.base.writing import plain
from lstm_jax.lab.config import flatten
from lstm_jax.lab.machine import resources
from lstm_jax.lab.machine.interrupts import handled
from lstm_jax.lab.sweep.configs import (
    Run,
    import_name,
    main_name,
    run_id,
    set_main_name,
)
from lstm_jax.lab.sweep.rows import Row, append_rows, read_rows

DONE, FAILED = "done", "failed"
SPAWN = multiprocessing.get_context("spawn")
POLL_PROCESS, POLL_JOBS = 0.1, 0.5
"""Numbers of seconds between two queries of the state of a process that sends nothing,
and of the job states that submitit holds."""
Outcomes = Generator[tuple[str, Row], None, None]
ARRAY_JOBS = 1000
"""Largest number of jobs in a Slurm array. The default value of Slurm's setting
`MaxArraySize` does not allow larger arrays."""


@dataclass
class Work:
    """Runs that an executor starts, the settings of the executors, and the numbers of
    runs in each state.
    """

    function: Run
    missing: Mapping[str, Any]
    """Dict from the id of each run to its config, or from the id of the first run of
    each group to the group."""
    workers: int = 0
    """Number of processes or jobs at the same time; 0 means one process per GPU or
    core, or all jobs at once."""
    per_job: int = 0
    """Largest number of runs of one process or job; 0 means any number in a process,
    and one in a job."""
    folder: Path = Path("jobs")
    """Folder to which submitit writes its logs."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Parameters of submitit by name."""
    runs: int = 0
    """Number of runs in `missing`, whose items may be groups of runs."""
    cached: int = 0
    running: int = 0
    done: int = 0
    failed: int = 0

    def __str__(self) -> str:
        waiting = self.runs - self.running - self.done - self.failed
        counts = {
            "running": self.running,
            "waiting": waiting,
            "cached": self.cached,
            "done": self.done,
            "failed": self.failed,
        }
        return ", ".join(f"{count} {name}" for name, count in counts.items() if count)


def attempt(function: Run, config) -> Row:
    """Call `function` on a config in this process, and return the outcome."""
    start = time.perf_counter()
    try:
        outcome = {"status": DONE, "result": plain(dict(function(config)))}
    except Interrupted as error:
        raise KeyboardInterrupt(str(error)) from error
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        outcome = {"status": FAILED, "error": f"{type(error).__name__}: {error}"}
    seconds = time.perf_counter() - start
    about = {
        name: os.environ[name] for name in resources.SELECTORS if name in os.environ
    }
    with contextlib.suppress(RuntimeError):  # JAX finds no device
        if jax := sys.modules.get("jax"):
            about["device"] = (
                f"{jax.local_device_count()} x {jax.local_devices()[0].device_kind}"
            )
    return outcome | {"seconds": seconds, "about": about}


def here(work: Work) -> Outcomes:
    """Call the function on one config after another in this process."""
    for key, config in work.missing.items():
        work.running = 1
        row = attempt(work.function, config)
        work.running = 0
        yield key, row


def processes(work: Work) -> Outcomes:
    """Call the function in processes, each of which executes one run after another."""
    cores, selections = machine.cores(), resources.accelerators()
    workers = work.workers or len(selections) or len(cores)
    remedy = (
        f"give at most {len(selections)}, the GPUs or TPU chips of this process, "
        "or set JAX_PLATFORMS=cpu"
    )
    require(workers <= len(selections) or not selections, "workers", workers, remedy)
    shares = [cores[number::workers] or cores for number in range(workers)]
    # a worker takes neighbours in the list, since it has compiled the program of a
    # config that differs in the seed alone
    items = list(work.missing.items())
    parts = [
        deque(
            items[number * len(items) // workers : (number + 1) * len(items) // workers]
        )
        for number in range(workers)
    ]
    places = list(zip(shares, selections or [{}] * workers, parts, strict=False))
    busy, leaving, name = list[_Worker](), list[_Worker](), f"sweep {id(work)}"

    def take(worker: _Worker):
        *_, part = worker.place
        return part.popleft() if part else max(parts, key=len).pop()

    unhandled = (
        [signal.SIGTERM] if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL else []
    )
    with handled(_interrupt, *unhandled):
        try:
            while busy or any(parts):
                while places and any(parts):
                    while leaving:
                        leaving.pop().process.join()  # frees the memory of its GPU
                    busy.append(_Worker(work.function, name, places.pop(0)))
                    busy[-1].begin(*take(busy[-1]))
                work.running = len(busy)
                wait([worker.pipe for worker in busy], POLL_PROCESS)
                for worker in [worker for worker in busy if worker.has_ended()]:
                    work.running -= 1
                    yield worker.key, worker.outcome()
                    if worker.alive and any(parts) and worker.runs != work.per_job:
                        worker.begin(*take(worker))
                    else:
                        worker.pipe.close()
                        busy.remove(worker)
                        leaving.append(worker)  # its exit takes a while
                        places.append(worker.place)
            while leaving:
                leaving.pop().process.join()
        finally:
            for process in multiprocessing.active_children():
                if process.name == name:
                    process.kill()
                    process.join()


def _interrupt(*_: object):
    raise KeyboardInterrupt("SIGTERM")


class _Worker:
    """Process that executes one run after another at its place: CPU cores, variables
    that select a GPU, and a part of the runs.
    """

    def __init__(self, function: Run, name: str, place: tuple):
        self.function, self.place, self.runs = function, place, 0
        cores, selection, _ = place
        self.pipe, other = SPAWN.Pipe()
        self.process = SPAWN.Process(target=_serve, args=(function, other), name=name)
        with (
            mock.patch.dict(os.environ, selection)
            if selection
            else contextlib.nullcontext()
        ):
            self.process.start()
        other.close()
        assert self.process.pid is not None
        with contextlib.suppress(ProcessLookupError):  # the process has ended already
            resources.pin(self.process.pid, cores)

    def begin(self, key: str, config) -> None:
        self.key, self.start, self.received = key, time.perf_counter(), []
        self.runs += 1
        with contextlib.suppress(OSError):  # the process has ended already
            self.pipe.send(config)

    def has_ended(self) -> bool:
        self.alive = self.process.is_alive()
        with contextlib.suppress(EOFError, OSError):  # it may be killed while it sends
            while self.pipe.poll():
                self.received.append(self.pipe.recv())
        return len(self.received) == 2 or not self.alive

    def outcome(self) -> Row:
        if len(self.received) == 2:
            return self.received[1]
        code = self.process.exitcode or 0
        if code == -signal.SIGINT:  # a Ctrl-C in the terminal reaches the process, too
            raise KeyboardInterrupt
        error = f"killed by signal {-code}" if code < 0 else f"ended with code {code}"
        subject = f"process of {import_name(self.function)}"
        require(
            self.received or code < 0,
            subject,
            f"{error} before its run",
            "correct what its message names",
        )
        return {
            "status": FAILED,
            "error": error,
            "seconds": time.perf_counter() - self.start,
        }


def _keep_compiled():
    if "jax" in sys.modules:
        from lstm_jax.lab.machine.compilation_cache import keep_compiled

        keep_compiled()


def _serve(function: Run, pipe: Connection):
    """Receive configs until the sweep closes the pipe. Send None when the run of a
    config begins, and its outcome when it ends.
    """
    os.dup2(2, 1)  # standard output is that of the sweep
    _keep_compiled()
    try:
        while True:
            config = pipe.recv()
            pipe.send(None)
            pipe.send(attempt(function, config))
    except (EOFError, ConnectionError):
        return
    except KeyboardInterrupt as error:
        # after a SIGTERM a training saves its state and raises `Interrupted`: this run
        # alone fails, while a SIGINT ends the sweep
        cause = error.__cause__
        number = cause.number if isinstance(cause, Interrupted) else signal.SIGINT
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)


def slurm(work: Work) -> Outcomes:
    """Call the function in Slurm jobs, which the package submitit starts, on a few
    configs in each.
    """
    try:
        import submitit  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise InputError(
            "submitit", "not installed", 'pip install ".[slurm]"'
        ) from error
    parameters = dict(work.options)
    with parsing(
        "options", 'give a cluster such as "local", and parameters of submitit'
    ):
        executor = submitit.AutoExecutor(
            folder=work.folder, cluster=parameters.pop("cluster", None)
        )
        executor.update_parameters(**parameters)
    keys, size = list(work.missing), work.per_job or 1
    waiting = [keys[begin : begin + size] for begin in range(0, len(keys), size)]
    # by the file of their outcomes: the job, and the ids of its runs that have none yet
    jobs = {}
    try:
        while waiting or jobs:
            while free := min(
                len(waiting),
                ARRAY_JOBS,
                work.workers - len(jobs) if work.workers else ARRAY_JOBS,
            ):
                submitted = {}
                try:
                    with executor.batch():
                        for own in waiting[:free]:
                            path = (
                                work.folder / f"{own[0]}.{secrets.token_hex(4)}.jsonl"
                            )
                            configs = {key: work.missing[key] for key in own}
                            submitted[path] = (
                                executor.submit(
                                    _attempt_in_job,
                                    main_name(),
                                    work.function,
                                    configs,
                                    path,
                                ),
                                own,
                            )
                except (
                    submitit.core.utils.FailedJobError,
                    submitit.core.utils.FailedSubmissionError,
                ) as error:
                    message = str(error).strip().split("\n")[-1] or type(error).__name__
                    raise InputError(
                        "Slurm", message, "correct the options, or submit fewer jobs"
                    ) from error
                # only now: a job that is not submitted yet cannot be cancelled
                jobs |= submitted
                del waiting[:free]
            work.running = sum(job.state == "RUNNING" for job, _ in jobs.values())
            before = len(jobs)
            for path, (job, own) in list(jobs.items()):
                ended, rows, error = job.done(), read_rows(path), ""
                if ended:
                    del jobs[path]
                    try:
                        rows = job.result()
                    except Exception as raised:
                        first_lines = " ".join(str(raised).split("\n")[:2]).strip()
                        error = f"{type(raised).__name__}: {first_lines}"
                for row in rows:
                    if (key := row.pop("id")) in own:
                        own.remove(key)
                        yield key, row
                if ended:
                    # without the file, no run has begun
                    lost = own[:1] if path.exists() else own
                    yield from (
                        (key, {"status": FAILED, "error": error, "seconds": 0.0})
                        for key in lost
                    )
                    waiting += filter(None, [own[len(lost) :]])
                    path.unlink(missing_ok=True)
            time.sleep(POLL_JOBS if len(jobs) == before else 0)
    finally:
        for job, _ in jobs.values():
            job.cancel(check=False)


def _attempt_in_job(
    main: str, function: Run, configs: Mapping, path: Path
) -> list[Row]:
    set_main_name(main)
    _keep_compiled()
    append_rows(path)
    # of a job that Slurm has started again
    before = {row["id"] for row in read_rows(path)}
    for key, config in configs.items():
        if key not in before:
            append_rows(path, {"id": key} | attempt(function, config))
    return list(read_rows(path))


EXECUTORS = {"here": here, "processes": processes, "slurm": slurm}


@frozen
class Group:
    """Configs by the ids of their runs, which differ only in the fields `names`, and
    the function that runs them.
    """

    function: Run
    names: Texts
    configs: Values

    def outcomes(self, outcome: Row) -> dict[str, Row]:
        """Return the outcome of each run, from the outcome of `run_group`."""
        count = len(self.configs)
        shared = (
            outcome
            | {"seconds": outcome["seconds"] / count}
            | ({"together": count} if count > 1 else {})
        )
        if outcome["status"] == FAILED:
            return dict.fromkeys(self.configs, shared)
        results = outcome["result"]["results"]
        remedy = (
            "compute with it in JAX and return JAX values, without float(...); "
            "the line is above"
        )
        require(
            results,
            f"function {import_name(self.function)}",
            f"needs the value of {', '.join(self.names)}",
            remedy,
        )
        return {
            key: shared | {"result": result}
            for key, result in zip(self.configs, results, strict=True)
        }


def divide(function: Run, names: Texts, configs: Values) -> dict[str, Group]:
    """Divide configs into groups that differ only in the fields `names`, and return
    each group by the id of its first run.
    """
    groups: dict[Any, Values] = {}
    for key, config in configs.items():
        rest = _replaced(
            config, {name: type(_number(config, name)).__name__ for name in names}
        )
        groups.setdefault((type(config), run_id(function, rest)), {})[key] = config
    return {
        next(iter(group)): Group(function, names, group) for group in groups.values()
    }


def _number(config, name: str) -> int | float:
    fields = flatten(dataclasses.asdict(config))
    value = fields.get(name)
    good = isinstance(value, int | float) and not isinstance(value, bool)
    require(
        good,
        f"together {name}",
        value,
        f"name a field of numbers, of {', '.join(fields)}",
    )
    return fields[name]


def _replaced(config, values: Values) -> Any:
    new = object.__new__(type(config))
    for own in dataclasses.fields(config):
        object.__setattr__(new, own.name, getattr(config, own.name))
    for name, value in values.items():
        field, _, rest = name.partition(".")
        object.__setattr__(
            new, field, _replaced(getattr(new, field), {rest: value}) if rest else value
        )
    return new


def run_group(group: Group) -> Values:
    """Return the results of all configs of a group, or None in their place if the
    function needs the values of the fields.
    """
    import jax
    import jax.numpy as jnp
    import numpy as np
    from flax import nnx

    from lstm_jax.base.types import RUNS

    usual, (first, *others) = nnx.RngStream.__init__, group.configs.values()

    def start(self, key, *, tag):
        is_seed = (
            isinstance(key, jax.Array)
            and key.shape == ()
            and jnp.issubdtype(key.dtype, jnp.integer)
        )
        usual(self, jax.random.key(key) if is_seed else key, tag=tag)

    def run(values):
        return OrderedDict(group.function(_replaced(first, values)))

    if not others:
        return {"results": [dict(group.function(first))]}
    # floats keep their weak type, and a seed is cut to 32 bits, as in a run alone
    columns = {
        name: [_number(config, name) for config in group.configs.values()]
        for name in group.names
    }
    values = {
        name: jnp.stack([n if isinstance(n, float) else np.int64(n) for n in column])
        for name, column in columns.items()
    }
    # this program is called once: on CPUs, a compilation half as long costs little
    # speed
    options = (
        {"xla_backend_optimization_level": 1}
        if jax.default_backend() == "cpu"
        else None
    )
    try:
        nnx.RngStream.__init__ = start  # Flax' own takes a seed only if it is an int
        found = jax.device_get(
            jax.jit(jax.vmap(run, axis_name=RUNS), compiler_options=options)(values)
        )
    except (TypeError, IndexError) as error:
        if not re.search("[Tt]race|concrete|JAX type", str(error)):
            raise
        traceback.print_exc()
        return {"results": None}
    finally:
        nnx.RngStream.__init__ = usual
    return {
        "results": [
            jax.tree.map(lambda leaf, n=n: leaf[n], found)
            for n in range(len(group.configs))
        ]
    }
