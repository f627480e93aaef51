"""Reading and writing of configs as JSON."""

import dataclasses
import difflib
import json
import tomllib
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from lstm_jax.base.errors import InputError, require
from lstm_jax.base.reading import decode_utf8, parsing, read_input
from lstm_jax.base.types import Values
from lstm_jax.lab.config import RunConfig
from lstm_jax.lab.forecast.config import ForecastConfig
from lstm_jax.lab.generation.config import GenerationConfig
from lstm_jax.lab.sentiment.config import SentimentConfig
from lstm_jax.training.config import config_values, flatten

C = TypeVar("C", bound=RunConfig)
_REMEDY = "name the folder of a finished or interrupted run"


CONFIGS: dict[str, type[RunConfig]] = {
    kind.task: kind for kind in (SentimentConfig, GenerationConfig, ForecastConfig)
}
"""Dict from the name of a task to the class of its config."""


def to_json(config: RunConfig) -> str:
    """Return a config, together with the name of its task, as indented JSON."""
    return json.dumps({"task": config.task} | config_values(config), indent=2) + "\n"


def with_task(raw) -> Any:
    """Return a parsed JSON config with the name of its task under the key "task".

    Older versions of the library wrote configs without this key. The task is then
    inferred from the other keys. If `raw` has the key, or is not a dict, it is returned
    unchanged.
    """
    if not isinstance(raw, dict) or "task" in raw:
        return raw
    series = isinstance(raw.get("data"), dict) and "horizon" in raw["data"]
    kind = (
        GenerationConfig
        if "sample" in raw
        else ForecastConfig
        if series
        else SentimentConfig
    )
    return {"task": kind.task} | raw


Changes = dict[str, tuple[Any, Any]]
"""Dict from the name of a field, such as "train.epochs", to the pair of the old value
and the new value."""


def config_changes(old, new) -> Changes:
    """Return the fields in which two configs, as parsed JSON, differ. If their tasks
    differ, only the task is compared.
    """
    before, after = _flat(old), _flat(new)
    changes = {
        name: (before.get(name), after.get(name))
        for name in after | before
        if before.get(name) != after.get(name)
    }
    return {"task": changes["task"]} if "task" in changes else changes


def shown_changes(changes: Changes) -> str:
    """Return the result of `config_changes` as text, such as "epochs: 2 in the run, 4
    given".
    """

    def cut(value):
        shown = repr(value)
        return shown if len(shown) <= 40 else shown[:37] + "..."

    return "; ".join(
        f"{name.rpartition('.')[2]}: {cut(old)} in the run, {cut(new)} given"
        for name, (old, new) in changes.items()
    )


@cache
def _defaults(task: str) -> dict[str, Values]:
    kind = CONFIGS.get(task)
    sections: Any = dataclasses.fields(kind) if kind else ()
    return json.loads(
        json.dumps(
            {section.name: section.type() for section in sections},
            default=dataclasses.asdict,
        )
    )


def _as_now(raw: Values) -> Values:
    """Return a parsed JSON config in which values that this version refuses are
    replaced by allowed values of the same meaning.
    """
    parts = {}
    for section, values in _defaults(str(raw.get("task"))).items():
        if isinstance(part := raw.get(section), dict):
            parts[section] = {
                name: bool(value) if isinstance(values.get(name), bool) else value
                for name, value in part.items()
            }
    train = parts.get("train", {})
    final = train.get("final_learning_rate")
    if (
        isinstance(final, int | float)
        and final > 0
        and train.get("schedule", "constant") == "constant"
    ):
        train["final_learning_rate"] = 0.0
    return raw | parts


def _flat(raw) -> Values:
    raw = _as_now(with_task(raw)) if isinstance(raw, dict) else {"": raw}
    return flatten(_defaults(str(raw.get("task")))) | flatten(raw)


def read_config(path: Path, kind: type[C]) -> C:
    """Read a config of the class `kind` from a JSON file that was written with
    `to_json`. Sections that `kind` does not have are ignored.

    Raises:
        InputError: if the file does not exist, is not JSON or contains no config of
            this class, if the config lacks a section, or if a section has an unknown
            field or an invalid value.
    """
    raw = _read_json(path)
    task = raw["task"]
    require(
        task == kind.task,
        f"run {path.parent}",
        task,
        f"use {CONFIGS[task].commands}, or name a run of {kind.task}",
    )
    parts: Values = {}
    try:
        for section in dataclasses.fields(kind):
            if section.name in raw or not section.metadata.get("added"):
                values = _with_tuples(raw[section.name])
                parts[section.name] = section.type(**values)  # pyright: ignore[reportCallIssue]
        return kind(**parts)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"config {path}", error, _REMEDY) from error


def read_fields(path: Path) -> tuple[Values, list[str]]:
    """Return the task and the fields in the config.json of a run of any version, and
    the names of those that this version does not know.

    The values are not checked. A field that the file lacks has its default value.

    Raises:
        InputError: if the file cannot be read, or lacks one of the sections data, model
            and train.
    """
    raw = with_task(_parsed(path, _REMEDY))
    require(
        all(isinstance(raw.get(name), dict) for name in ("data", "model", "train")),
        f"config {path}",
        "not of a run",
        _REMEDY,
    )
    fields, known = _flat(raw), _flat({"task": raw["task"]})
    return fields, [name for name in fields if name not in known]


def override(config: C, path: Path) -> C:
    """Return a copy of a config with the values of a file: a run's config.json, or TOML
    (.toml), which may have only some of the fields.

    Raises:
        InputError: if the file cannot be read, is for another task, or has an unknown
            field or a value that the config refuses.
    """
    subject, raw = (
        f"config {path}",
        _parsed(path, "give the config.json of a run, or a .toml file"),
    )
    task = raw.pop("task", config.task)
    require(
        task == config.task, subject, f"task {task}", f"give a config of {config.task}"
    )
    known = flatten(dataclasses.asdict(config))
    for name in flatten(raw):
        if name not in known:
            (nearest,) = difflib.get_close_matches(name, known, 1, 0)
            raise InputError(
                subject, f"unknown field {name}", f"did you mean {nearest}?"
            )
    sections = {}
    for section, part in raw.items():
        try:
            sections[section] = dataclasses.replace(
                getattr(config, section), **_with_tuples(part)
            )
        except InputError as error:
            raise InputError(
                subject, f"{section}.{error.subject}: {error.value}", error.remedy
            ) from error
    return dataclasses.replace(config, **sections)


def _with_tuples(section: Values) -> Values:
    return {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in section.items()
    }


def _parsed(path: Path, remedy: str) -> Values:
    subject = f"config {path}"
    content = decode_utf8(read_input(path, subject, remedy), path, remedy)
    with parsing(subject, remedy):
        read = tomllib.loads if path.suffix == ".toml" else json.loads
        raw = read(content)
    require(isinstance(raw, dict), subject, type(raw).__name__, remedy)
    return raw


def read_task(path: Path) -> str:
    """Return the name of the task of a config that was written as JSON with `to_json`.

    Raises:
        InputError: if the file does not exist, is not JSON, or is no config of a task.
    """
    return _read_json(path)["task"]


def _read_json(path: Path) -> Values:
    raw = with_task(_parsed(path, _REMEDY))
    task = raw["task"]
    require(
        isinstance(task, str) and task in CONFIGS,
        f"config {path}",
        f"task {task}",
        _REMEDY,
    )
    return _as_now(raw)
