"""Execution of a sweep, and the table of its rows. Configs that have no row yet are
run, and each run appends its row when it ends.
"""

import csv
import dataclasses
import inspect
import io
import json
import multiprocessing
import platform
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing, nullcontext
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from textwrap import shorten

import lstm_jax
from lstm_jax.base.checks import checked
from lstm_jax.base.errors import check_choice, parsing, require
from lstm_jax.base.types import AnyPath, Texts, Values
from lstm_jax.base.writing import locked, write_atomically
from lstm_jax.lab.config import flatten
from lstm_jax.lab.sweep.configs import (
    Run,
    import_name,
    is_config,
    require_importable,
    run_id,
    source_commit,
    source_digest,
)
from lstm_jax.lab.sweep.executors import EXECUTORS, FAILED, Work, divide, run_group
from lstm_jax.lab.sweep.rows import Row, read_rows, record

_FIRST, _LAST = ("id", "status"), ("error", "seconds")
"""Names of the columns that stand before (`_FIRST`) and after (`_LAST`) the columns of
the config fields and of the results."""


def run(
    function: Run,
    configs: Iterable,
    path: AnyPath,
    where: str = "here",
    workers: int = 0,
    retry: bool = False,
    options: Mapping | None = None,
    per_job: int = 0,
    together: str | Sequence[str] = (),
) -> list[Values]:
    """Run the configs that have no row yet, and return the rows of all configs, in the
    order of the configs.

    A warning is given if a skipped run has failed, or if the source code of the
    function has changed since its row was written.

    Args:
        function: function that takes a config, executes its run and returns a dict from
            the name of each result to its value; no lambda and no method of an
            instance. The results may depend on the config alone.
        configs: instances of a frozen dataclass. Configs with the same id count as one
            run.
        path: file with one row (a JSON object) per line, to which rows are appended.
            Floats that are not finite are written as NaN, Infinity or -Infinity.
        where: executor of the runs: "here", "processes" or "slurm".
        workers: number of processes or Slurm jobs at the same time. 0 means one process
            per GPU or TPU chip or, without any, per core, and all jobs at once.
        retry: whether to repeat runs that have failed.
        options: parameters of submitit by name. Only "slurm" uses them.
        per_job: largest number of runs that one process or Slurm job executes, one
            after another. 0 means any number in a process, and one in a job.
        together: name of a field, or names of several. Configs that differ only in
            these fields are run by one call of `function` under `jax.vmap`; see
            `lstm_jax.lab.sweep`.

    Returns:
        a list of dicts with the keys "id" (id of the run), "run" (name of the
        function), "code" (digest of its source code), "class" (name of the config's
        class), "config", "status", "result" or, for a failed run, "error", "seconds"
        (duration), and "about": the commit of the function's checkout (followed by "+"
        if Python files have changed since), the versions of Python, JAX and lstm_jax,
        the date of the end in UTC, the devices, and the environment variables that
        select them. Runs that were run together also have "together" (their number), by
        which "seconds" is divided.

    Raises:
        InputError: in one of these cases.

            - The function, a config or an argument is not as described above, or two
              configs with the same id have different classes.
            - Another process executes the same configs, or `workers` is larger than the
              number of GPUs or TPU chips.
            - The file cannot be written, or has a row that no sweep has written.
            - Another process cannot import the function or the class of a config.
            - submitit is not installed, or does not accept `options`, or Slurm refuses
              the jobs.

        KeyboardInterrupt: after Ctrl-C and, if `where` is "processes", after SIGTERM.
    """
    configs = list(configs)
    importing = "called while a run's process imports its function"
    is_importing = getattr(multiprocessing.current_process(), "_inheriting", False)
    require(
        not is_importing,
        "sweep",
        importing,
        'put the call below if __name__ == "__main__":',
    )
    check_choice("where", where, EXECUTORS)
    for argument, value in (("workers", workers), ("per_job", per_job)):
        require(value >= 0, argument, value, "give 0 (the default) or more")
    name = import_name(function)
    bound = inspect.ismethod(function) and not isinstance(function.__self__, type)
    remedy = (
        "give a function with a name, by which rows are found again, that needs "
        "only its config and no other object"
    )
    require("<lambda>" not in name and not bound, "function", name, remedy)
    for config in configs:
        require(
            is_config(config),
            "config",
            repr(config),
            "give instances of a frozen dataclass",
        )
        for field, value in dataclasses.asdict(config).items():
            with parsing(
                f"field {field} of a config",
                "give text or numbers, and dicts with keys of one type",
            ):
                json.dumps(value, sort_keys=True)
    if where == "processes":
        require_importable(function, configs)
    # absolute, since a run may change the working folder
    path = Path(path).absolute()
    wanted = _by_id(function, configs)
    code = source_digest(function)
    found, others = _found(path, wanted)
    failed = {key for key, row in found.items() if row["status"] == FAILED}
    edited = (
        sum(
            row.get("code", code) != code
            for key, row in found.items()
            if key not in failed
        )
        if code
        else 0
    )
    for count, text in (
        (
            0 if retry else len(failed),
            f"{len(failed)} of {len(found)} runs have failed before; "
            "retry=True repeats them",
        ),
        (
            edited,
            f"{edited} of {len(found)} rows are of another version of "
            f"{function.__name__}; a new file repeats them",
        ),
        (
            others,
            f"of {others} configs, the rows are of another class with equal "
            "values and do not count",
        ),
    ):
        if count:
            warnings.warn(f"{path}: {text}", stacklevel=2)
    missing = {
        key: config
        for key, config in wanted.items()
        if key not in found or (retry and key in failed)
    }
    names = checked("together", together, Texts)
    groups = divide(function, names, missing) if names else {}
    call, jobs = run_group if names else function, path.with_suffix(".jobs")
    work = Work(
        call,
        groups or missing,
        workers,
        per_job,
        jobs,
        options or {},
        len(missing),
        len(wanted) - len(missing),
    )
    labels, commit = _labels(wanted), source_commit(function) if missing else ""
    about = {
        "commit": commit,
        "python": platform.python_version(),
        "jax": version("jax"),
        "lstm_jax": lstm_jax.__version__,
    }

    def outcomes():
        with closing(EXECUTORS[where](work)) as ended:
            for first, ending in ended:
                for key, outcome in (
                    groups[first].outcomes(ending) if groups else {first: ending}
                ).items():
                    seconds = f"({outcome['seconds']:.1f} s)"
                    if outcome["status"] == FAILED:
                        work.failed += 1
                        text = f"failed {seconds}: {outcome['error']}"
                    else:
                        work.done += 1
                        results = flatten(outcome["result"]).items()
                        shown = (
                            f"{name} {_shown(value)}"
                            for name, value in results
                            if not isinstance(value, list)
                        )
                        text = f"{', '.join(shown)} {seconds}"
                    config = missing[key]
                    row = {
                        "id": key,
                        "run": name,
                        "code": code,
                        "class": import_name(type(config)),
                    }
                    row |= {"config": dataclasses.asdict(config)} | outcome
                    date = datetime.now(UTC).isoformat(timespec="seconds")
                    yield (
                        [
                            row
                            | {
                                "about": about
                                | {"date": date}
                                | outcome.get("about", {})
                            }
                        ],
                        f"{labels[key]}: {text}",
                    )

    # named by one config, so that a call with other configs may append to the same file
    # at the same time
    with (
        locked(path.with_name(f"{path.name}.{min(wanted)}.lock"), f"rows {path}")
        if missing
        else nullcontext()
    ):
        record(path, "runs", len(missing), outcomes(), work)
    if wanted:
        print(f"{path.name}: {work}")
    return list(_found(path, wanted)[0].values())


def _labels(configs: Mapping) -> dict[str, str]:
    flat = {key: flatten(dataclasses.asdict(config)) for key, config in configs.items()}
    seen = Counter(
        (name, repr(value))
        for values in flat.values()
        for name, value in values.items()
    )
    return {
        key: " ".join(
            f"{name}={_shown(value, 'g')}"
            for name, value in values.items()
            if seen[name, repr(value)] < len(flat)
        )
        or key
        for key, values in flat.items()
    }


def _shown(value, form: str = ".4g") -> str:
    return f"{value:{form}}" if isinstance(value, float) else shorten(str(value), 60)


def _by_id(function: Run, configs: Iterable) -> Values:
    wanted: Values = {}
    for config in configs:
        first = wanted.setdefault(run_id(function, config), config)
        one, other = import_name(type(first)), import_name(type(config))
        require(
            one == other,
            "configs with the same values",
            f"{one} and {other}",
            "run each class in a call of its own",
        )
    return wanted


def _found(path: Path, wanted: Mapping) -> tuple[dict[str, Row], int]:
    # the last row of each config, and the number of configs with rows of other classes
    def check(row, location: str):
        known = (
            isinstance(row, dict)
            and isinstance(row.get("id"), str)
            and row.keys() >= {"config", "status"}
        )
        require(
            known,
            f"rows {location}",
            "not a row of a sweep",
            "name the file of a sweep, or a new one",
        )
        return row

    rows = [row for row in read_rows(path, check) if row["id"] in wanted]
    mine = {
        row["id"]: row
        for row in rows
        if row.get("class") in (None, import_name(type(wanted[row["id"]])))
    }
    return {key: mine[key] for key in wanted if key in mine}, len(
        {row["id"] for row in rows} - mine.keys()
    )


def existing_rows(function: Run, configs: Iterable, path: AnyPath) -> list[Values]:
    """Return the rows in the file `path` that earlier runs of `function` on the given
    configs have written: the last row of each config that has one, in the order of the
    configs. Errors are those of `run`.
    """
    return list(_found(Path(path), _by_id(function, configs))[0].values())


def table(rows: Iterable[Mapping]) -> tuple[list[str], list[list]]:
    """Return the rows of a sweep as a table, which is a pair (names of the columns,
    list of lines).

    The columns are id, status, the fields of the config, the results, error and
    seconds; a missing value is "". A field with the name of another column is named
    `config.NAME`, a result `result.NAME`.
    """
    parts = [
        {
            "": row,
            "config.": flatten(row["config"]),
            "result.": flatten(row.get("result", {})),
        }
        for row in rows
    ]
    columns = {name: ("", name) for name in (*_FIRST, *_LAST)}
    for prefix in ("config.", "result."):
        names = dict.fromkeys(name for part in parts for name in part[prefix])
        for name in names:
            column = name
            while column in columns or (column != name and column in names):
                column = prefix + column
            columns[column] = prefix, name
    for name in _LAST:
        columns[name] = columns.pop(name)
    return list(columns), [
        [part[prefix].get(name, "") for prefix, name in columns.values()]
        for part in parts
    ]


def write_table(rows: Iterable[Mapping], path: AnyPath) -> None:
    """Write the table of the rows (see `table`) to a CSV file."""
    names, lines = table(rows)
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([names, *lines])
    write_atomically(Path(path), text.getvalue().encode())
