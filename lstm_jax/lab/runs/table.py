"""Table of training runs, which is read from their folders without JAX."""

import contextlib
import difflib
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from lstm_jax.base.errors import InputError, parsing, require
from lstm_jax.base.types import AnyPath
from lstm_jax.base.types import Values as Row
from lstm_jax.base.writing import held
from lstm_jax.lab.config import read_fields
from lstm_jax.lab.files.reading import locate
from lstm_jax.lab.runs.folder import RunFolder

_FACTS = (
    "run",
    "task",
    "state",
    "epochs",
    "best_epoch",
    "metric",
    "best",
    "seconds",
    "problem",
)
_SPLITS = ("validation", "test", "train")
_HEADLINES = [
    f"{split}_{name}"
    for split in _SPLITS
    for name in ("bits", "accuracy", "mae", "loss")
]
_READABLE = "restore the file, or name another run"


def runs(*folders: AnyPath) -> list[Row]:
    """Return one row for each training run in some folders and their subfolders, in the
    order of the folders and of the paths in each.

    All rows have the same keys, and numbers, texts or None (no value) as values.
    `pandas.DataFrame(rows)` or `polars.DataFrame(rows, infer_schema_length=None)` makes
    a table of them. The keys are:

    - "run" (path) and "task"
    - "state": "finished", "running" (a process trains it), "interrupted", "damaged" (a
      file cannot be read or has changed; checkpoints are not checked), or "foreign"
      (config.json is of another program)
    - "epochs" (finished ones), "best_epoch" and "seconds" (of training)
    - "metric" and "best": name and value of a metric of the best epoch, such as
      "validation_accuracy"
    - "problem": what is wrong with the run, or ""
    - fields of the config, such as "model.units", and metrics of the best epoch and of
      the end, such as "train_loss"

    Raises:
        InputError: if a folder does not exist, or holds no run.
    """
    found = {}
    for folder in folders:
        own = []
        for path, below, files in os.walk(
            locate(os.fspath(folder), "folder", "name a folder of runs")
        ):
            if {"config.json", "data.sha256"} & set(files):
                own.append(Path(path))
                below[:] = {*below} - {"checkpoints", "events", "figures"}
        require(own, f"folder {folder}", "no run in it", "name a folder of runs")
        found |= dict.fromkeys(sorted(own))
    rows = [_row(path) for path in found]
    names = dict.fromkeys(
        [
            *_FACTS,
            *sorted(
                {name for row in rows for name in row},
                key=lambda name: ("." not in name, name),
            ),
        ]
    )
    return [{name: row.get(name) for name in names} for row in rows]


def _row(path: Path) -> Row:
    run, row = RunFolder(path), dict.fromkeys(_FACTS) | {"run": str(path)}
    try:
        with parsing(f"run {path}", _READABLE):
            fields, unknown = read_fields(run.config)
            row["task"] = str(fields.pop("task"))
            for name in filter(lambda name: "." in name, fields):
                value = (
                    " ".join(map(str, fields[name]))
                    if isinstance(fields[name], list)
                    else fields[name]
                )
                # which is a text in other runs
                number = isinstance(value, int | float) and name != "model.remat"
                row[name] = value if number else str(value)
            if run.fingerprint.exists():  # else it was killed as it began
                run.verify()
            notes = [
                f"run {path}: {name} is unknown to this version" for name in unknown
            ]
            epochs = read_epochs(path)
            result = (
                _parsed(run.result, run.result.read_bytes())
                if run.result.is_file()
                else {}
            )
            monitored = [
                epoch for epoch in epochs if epoch.get("validation_loss") is not None
            ]
            best = min(
                monitored or epochs[-1:] or [{}],
                key=lambda epoch: epoch.get("validation_loss", 0),
            )
            metrics = {
                name: value
                for name, value in (best | result).items()
                if name.startswith(_SPLITS)
            }
            metric = next((name for name in _HEADLINES if name in metrics), "")
            facts = {
                "state": "running"
                if held(run.lock)
                else "finished"
                if result
                else "interrupted",
                "epochs": len(epochs),
                "best_epoch": epochs.index(best) + 1 if epochs else None,
                "metric": metric,
                "best": metrics.get(metric),
                "seconds": float(
                    result.get("seconds") or sum(epoch["seconds"] for epoch in epochs)
                ),
                "problem": "; ".join(notes),
            }
            return row | metrics | facts
    except InputError as error:
        return row | {
            "state": "damaged" if run.fingerprint.exists() else "foreign",
            "problem": str(error),
        }


def read_epochs(folder: Path) -> list[Row]:
    """Return the metrics of each finished epoch of the run in a folder, from its
    metrics.jsonl.
    """
    path = RunFolder(folder).metrics
    return (
        [_parsed(path, line) for line in path.read_bytes().splitlines()]
        if path.is_file()
        else []
    )


def _parsed(path: Path, text: bytes) -> Row:
    with parsing(f"file {path}", _READABLE):
        return dict(json.loads(text))


def select(
    rows: Sequence[Row], where: Iterable[str] = (), sort: str = "run"
) -> list[Row]:
    """Return those rows of `runs` that satisfy all conditions, sorted by a column.

    Args:
        rows: rows of `runs`.
        where: conditions such as "units=128" or "model.units=128".
        sort: name of a column, such as "units". Metrics are sorted from the best to the
            worst, other columns in ascending order.

    Raises:
        InputError: if a condition has no "=", or a column does not exist.
    """
    names = {name.rpartition(".")[2]: name for name in reversed(rows[0])} | {
        name: name for name in rows[0]
    }

    def column(name: str):
        given = name.replace("-", "_")
        if given not in names:
            (nearest,) = difflib.get_close_matches(given, names, 1, 0)
            raise InputError("column", name, f"did you mean {nearest}?")
        return names[given]

    kept, by = rows, column(sort)
    for condition in where:
        name, equals, text = condition.partition("=")
        require(equals, "where", condition, "give NAME=VALUE, such as units=128")
        found = _having(kept, column(name), text)
        near = [
            other
            for other in difflib.get_close_matches(name, names)
            if not found and _having(kept, names[other], text)
        ]
        require(
            not near,
            "where",
            condition,
            f"no run has it; did you mean {' or '.join(near)}?",
        )
        kept = found

    def rank(row: Row):
        value, metric = row[by], row["metric"] if by == "best" else by
        return (
            (1,)
            if value is None
            else (
                0,
                metric,
                isinstance(value, str),
                -value if metric.endswith(("accuracy", "auc")) else value,
            )
        )

    return sorted(kept, key=rank)


def _having(rows: Sequence[Row], column: str, text: str) -> list[Row]:
    value: str | float = text
    with contextlib.suppress(ValueError):
        value = float(text)
    return [
        row
        for row in rows
        if row[column] == value or str(row[column]).lower() == text.lower()
    ]


def varied(rows: Sequence[Row]) -> list[str]:
    """Return the names of the config fields in which rows of `runs` differ. A row that
    lacks a field is ignored.
    """
    return [
        name
        for name in rows[0]
        if "." in name and len({row[name] for row in rows} - {None}) > 1
    ]
