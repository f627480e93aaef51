"""Sweep over configs: run what has no row yet, append a row for each run that ends."""

from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from lstm_jax.errors import require
from lstm_jax.sweep.executors import EXECUTORS, FAILED, Resources
from lstm_jax.sweep.identity import Run, import_name, run_id
from lstm_jax.sweep.missing import Row, record
from lstm_jax.sweep.rows import read_rows
from lstm_jax.sweep.tables import flatten


def run(
    function: Run,
    configs: Iterable[Any],
    path: str | Path,
    where: str = "here",
    workers: int = 0,
    retry: bool = False,
    options: Mapping[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """Run the configs that have no row yet, and return the rows of all configs, in their order.

    Args:
        function: config -> results by name.
        configs: frozen dataclasses; equal ones are one run.
        path: JSON lines, only ever appended; made if absent.
        where: name of an executor, see `EXECUTORS`.
        workers: processes at a time, which share the cores out; 0 for one a core.
        retry: run failed ones again.
        options: parameters of submitit.

    Raises:
        InputError: for an unknown `where`, fewer than 0 workers, or if submitit is needed and not installed.
    """
    *first, last = EXECUTORS
    require(where in EXECUTORS, "where", where, f"give {', '.join(first)} or {last}")
    require(workers >= 0, "workers", workers, "give 0 (one a core) or more")
    path, wanted = Path(path), {run_id(function, config): config for config in configs}
    status = {row["id"]: row["status"] for row in read_rows(path)}
    missing = {key: config for key, config in wanted.items() if key not in status or (retry and status[key] == FAILED)}
    resources = Resources(workers, path.with_suffix(".jobs"), options or {})

    def outcomes() -> Generator[tuple[Sequence[Row], str], None, None]:
        with closing(EXECUTORS[where](function, missing, resources)) as ended:
            for key, row in ended:
                yield [{"id": key, "run": import_name(function)} | row], _summary(key, row)

    record(path, "runs", len(missing), outcomes())
    return existing_rows(function, wanted.values(), path)


def existing_rows(function: Run, configs: Iterable[Any], path: str | Path) -> list[dict[str, Any]]:
    """Return the rows of the configs that have one, in the configs' order; the last row of a run that was tried again."""
    wanted = dict.fromkeys(run_id(function, config) for config in configs)
    found = {row["id"]: row for row in read_rows(Path(path)) if row["id"] in wanted}
    return [found[key] for key in wanted if key in found]


def _summary(key: str, row: Mapping[str, Any]) -> str:
    """Return the line that is printed when a run ends: id, status, seconds, and its error or its results other than lists."""
    if row["status"] == FAILED:
        text = row["error"]
    else:
        text = ", ".join(f"{name} {value}" for name, value in flatten(row["result"]).items() if not isinstance(value, list))
    return f"{key} {row['status']} ({row['seconds']:.1f} s): {text}"
