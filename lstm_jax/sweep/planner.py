"""A planner for ablations: overrides of a frozen config -> runs known by their content -> a row each -> one tidy table.

    from dataclasses import dataclass
    from lstm_jax import sweep

    @dataclass(frozen=True)
    class Config:
        units: int = 32
        rate: float = 0.1

    def run(config: Config) -> dict[str, float]:
        return {"score": config.units * config.rate}

    configs = sweep.grid(Config(), units=[16, 32], rate=[0.1, 0.2])
    rows = sweep.run(run, configs, "rows.jsonl", where="processes")
    sweep.write_table(rows, "table.csv")

A config may hold configs: `**{"model.units": [16, 32]}` overrides within. A run is known by the hash of its function's name and its
config; one that has a row is not run again, be it done or failed (`retry=True` tries those that failed once more). A run that raises or
whose process is killed leaves a row that says so, and the rest goes on; a sweep that is killed itself goes on where it stopped when it is
called again. In one process all runs have the devices that the first of them made, where they do not ask for a number.

`where`: "here", in this process, one by one; "processes", a fresh process each, `workers` at a time; "slurm", a job each through submitit
(`pip install ".[slurm]"`), of which `options` are the parameters. In the latter two the function and its config are found by their names,
so that both stand in a module.
"""

import contextlib
import csv
import dataclasses
import hashlib
import io
import json
import os
import queue
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any, Literal

from lstm_jax.errors import InputError, require
from lstm_jax.files.writing import write_atomically
from lstm_jax.sweep import progress
from lstm_jax.sweep.rows import append_rows, read_rows

Where = Literal["here", "processes", "slurm"]
Run = Callable[[Any], Mapping[str, Any]]
DONE, FAILED = "done", "failed"


def override(config: Any, changes: Mapping[str, Any]) -> Any:
    """The config with these fields changed; a name with dots is a field of a config within.

    Raises:
        InputError: if there is no such field.
    """
    for name, value in changes.items():
        field, _, rest = name.partition(".")
        fields = [f.name for f in dataclasses.fields(config)]
        require(field in fields, "field", name, f"{type(config).__name__} has {', '.join(fields)}")
        config = dataclasses.replace(config, **{field: override(getattr(config, field), {rest: value}) if rest else value})
    return config


def grid(config: Any, **axes: Sequence[Any]) -> list[Any]:
    """The config with every combination of these fields' values.

    Raises:
        InputError: if there is no such field.
    """
    return [override(config, dict(zip(axes, values, strict=True))) for values in product(*axes.values())]


def each(config: Any, changes: Iterable[Mapping[str, Any]]) -> list[Any]:
    """The config with each of these overrides.

    Raises:
        InputError: if there is no such field.
    """
    return [override(config, one) for one in changes]


def name_of(thing: Any) -> str:
    """module:name of a function or class, where another process finds it."""
    module = thing.__module__
    if module == "__main__":
        main = sys.modules["__main__"]
        spec = getattr(main, "__spec__", None)  # of python -m; a script's folder is on the path
        module = spec.name if spec else Path(getattr(main, "__file__", None) or module).stem
    return f"{module}:{thing.__qualname__}"


def content(run: Run, config: Any) -> str:
    """The run's id: 16 hex digits of the function's name and the config."""
    text = json.dumps([name_of(run), dataclasses.asdict(config)], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def flat(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Nested mappings as one, names joined by dots."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= flat(value, f"{before}{name}.") if isinstance(value, Mapping) else {before + name: value}
    return found


def attempt(run: Run, config: Any) -> dict[str, Any]:
    """The row of a run in this process, without its id."""
    began = time.perf_counter()
    try:
        result: dict[str, Any] = {"status": DONE, "result": json.loads(json.dumps(dict(run(config)), default=float))}
    except Exception as error:
        traceback.print_exc()
        result = {"status": FAILED, "error": f"{type(error).__name__}: {error}"}
    return {"config": dataclasses.asdict(config)} | result | {"seconds": time.perf_counter() - began}


def _built(kind: Any, values: Mapping[str, Any]) -> Any:
    """A config of what `asdict` made of it; the types of configs within come from its own default."""
    like = {f.name: f.default_factory() for f in dataclasses.fields(kind) if f.default_factory is not dataclasses.MISSING}
    fields = {
        name: _built(type(like[name]), value)
        if isinstance(value, dict) and dataclasses.is_dataclass(like.get(name))
        else tuple(value)
        if isinstance(value, list)
        else value
        for name, value in values.items()
    }
    return kind(**fields)


def _found(name: str) -> Any:
    module, _, inside = name.partition(":")
    found = import_module(module)
    for part in inside.split("."):
        found = getattr(found, part)
    return found


def _in_process(run: Run, config: Any, cores: Iterable[int]) -> dict[str, Any]:
    """The row of a run in a fresh process on these cores."""
    asked = {"run": name_of(run), "config": name_of(type(config)), "values": dataclasses.asdict(config)}
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "row.json"
        began = time.perf_counter()
        command = [sys.executable, "-m", "lstm_jax.sweep.planner", str(answer)]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
        with subprocess.Popen(command, stdin=subprocess.PIPE, text=True, env=environment, stdout=sys.stderr) as done:
            try:
                with contextlib.suppress(ProcessLookupError):  # it has ended already
                    os.sched_setaffinity(done.pid, cores)
                done.communicate(json.dumps(asked))
            except BaseException:
                done.kill()
                raise
        if answer.exists():
            return json.loads(answer.read_text())
    how = f"killed by signal {-done.returncode}" if done.returncode < 0 else f"ended with code {done.returncode}"
    return {"config": asked["values"], "status": FAILED, "error": how, "seconds": time.perf_counter() - began}


def _serve() -> None:
    """In the fresh process: what standard input asks for, its row into the file that is named."""
    asked = json.loads(sys.stdin.read())
    row = attempt(_found(asked["run"]), _built(_found(asked["config"]), asked["values"]))
    write_atomically(Path(sys.argv[1]), json.dumps(row).encode())


def _here(run: Run, missing: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, config in missing.items():
        yield number, attempt(run, config)


def _processes(run: Run, missing: Mapping[str, Any], workers: int) -> Iterator[tuple[str, dict[str, Any]]]:
    every = sorted(os.sched_getaffinity(0))
    free: queue.SimpleQueue[list[int]] = queue.SimpleQueue()
    for number in range(workers):
        free.put(every[number::workers] or every)

    def one_run(config: Any) -> dict[str, Any]:
        cores = free.get()
        try:
            return _in_process(run, config, cores)
        finally:
            free.put(cores)

    with ThreadPoolExecutor(workers) as pool:
        under_way = {pool.submit(one_run, config): number for number, config in missing.items()}
        try:
            for one in as_completed(under_way):
                yield under_way[one], one.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _slurm(run: Run, missing: Mapping[str, Any], folder: Path, options: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        import submitit  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise InputError("submitit", "not installed", 'pip install ".[slurm]"') from error
    settings = dict(options)
    executor = submitit.AutoExecutor(folder=folder, cluster=settings.pop("cluster", None))
    executor.update_parameters(**settings)
    jobs = {number: executor.submit(attempt, run, config) for number, config in missing.items()}
    for number, job in jobs.items():
        try:
            yield number, job.result()
        except Exception as error:  # of the job: killed, out of time or of memory
            lines = str(error).strip().splitlines() or [""]
            told = f"{type(error).__name__}: {lines[0]}"
            yield number, {"config": dataclasses.asdict(missing[number]), "status": FAILED, "error": told, "seconds": 0.0}


def run(
    function: Run,
    configs: Iterable[Any],
    path: str | Path,
    where: Where = "here",
    workers: int = 0,
    retry: bool = False,
    options: Mapping[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """Run what has no row yet, and give the rows of all configs, in their order.

    Args:
        function: config -> figures by name.
        configs: frozen dataclasses; equal ones are one run.
        path: JSON lines, only ever appended; made if absent.
        workers: processes at a time, that share the cores out, so that none waits for another; 0 for one a core.
        retry: run those that failed once more.
        options: of submitit.

    Raises:
        InputError: for an unknown `where`, fewer than 0 workers, or no submitit.
    """
    require(where in ("here", "processes", "slurm"), "where", where, "give here, processes or slurm")
    require(workers >= 0, "workers", workers, "give 0 (one a core) or more")
    path, configs = Path(path), list(configs)
    wanted = {content(function, config): config for config in configs}
    there = {row["id"]: row for row in rows(function, configs, path)}
    missing = {number: config for number, config in wanted.items() if number not in there or (retry and there[number]["status"] == FAILED)}
    made = {
        "here": lambda: _here(function, missing),
        "processes": lambda: _processes(function, missing, workers or len(os.sched_getaffinity(0))),
        "slurm": lambda: _slurm(function, missing, path.with_suffix(".jobs"), options or {}),
    }[where]()
    with progress.bar("runs", len(missing)) as advance:
        for number, row in made:
            append_rows(path, {"id": number, "run": name_of(function)} | row)
            told = (
                row["error"]
                if row["status"] == FAILED
                else ", ".join(f"{k} {v}" for k, v in flat(row["result"]).items() if not isinstance(v, list))
            )
            advance(f"{number} {row['status']} ({row['seconds']:.1f} s): {told}")
    return rows(function, configs, path)


def rows(function: Run, configs: Iterable[Any], path: str | Path) -> list[dict[str, Any]]:
    """Rows of those of these configs that have one, in the configs' order; of a run that was tried again, the last."""
    wanted = dict.fromkeys(content(function, config) for config in configs)
    found = {row["id"]: row for row in read_rows(Path(path)) if row["id"] in wanted}
    return [found[number] for number in wanted if number in found]


def table(rows: Iterable[Mapping[str, Any]]) -> tuple[list[str], list[list[Any]]]:
    """Names of columns and a line a row: id, status, the config's fields, the figures, error and seconds; empty where a row has none."""
    lines = [
        {"id": row["id"], "status": row["status"]}
        | flat(row["config"])
        | flat(row.get("result", {}))
        | {"error": row.get("error", ""), "seconds": row["seconds"]}
        for row in rows
    ]
    names = [*dict.fromkeys(name for line in lines for name in line if name not in ("error", "seconds")), "error", "seconds"]
    return names, [[line.get(name, "") for name in names] for line in lines]


def write_table(rows: Iterable[Mapping[str, Any]], path: str | Path) -> None:
    """The table as CSV."""
    names, lines = table(rows)
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([names, *lines])
    write_atomically(Path(path), text.getvalue().encode())


if __name__ == "__main__":
    _serve()
