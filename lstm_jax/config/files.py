"""Reading and writing of configs as JSON."""

import dataclasses
import json
import pkgutil
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

from lstm_jax.backend_names import with_current_names
from lstm_jax.config.forecast import ForecastConfig
from lstm_jax.config.generation import GenerationConfig
from lstm_jax.config.sentiment import SentimentConfig
from lstm_jax.config.shared import RunConfig, config_values, default
from lstm_jax.errors import InputError, require

C = TypeVar("C", bound=RunConfig)
_REMEDY = "name the folder of a finished or interrupted run"


def _configs() -> dict[str, type[RunConfig]]:
    for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
        import_module(f"lstm_jax.config.{module.name}")
    return {kind.task: kind for kind in sorted(RunConfig.__subclasses__(), key=lambda kind: kind.task, reverse=True)}


CONFIGS = _configs()
"""Dict from the name of a task to the class of its config."""


def to_json(config: RunConfig) -> str:
    """Return a config, together with the name of its task, as indented JSON."""
    return json.dumps({"task": config.task} | config_values(config), indent=2) + "\n"


def with_task(raw: Any) -> Any:
    """Return a parsed JSON config with the name of its task under the key "task".

    Older versions of the library wrote configs without this key. The task is then inferred from the other keys. If `raw` has the
    key, or is not a dict, it is returned unchanged.
    """
    if not isinstance(raw, dict) or "task" in raw:
        return raw
    series = isinstance(raw.get("data"), dict) and "horizon" in raw["data"]
    kind = GenerationConfig if "sample" in raw else ForecastConfig if series else SentimentConfig
    return {"task": kind.task} | raw


def config_changes(old: Any, new: Any) -> dict[tuple[str, str], tuple[Any, Any]]:
    """Return the fields in which two configs differ, as a dict from (section, field) to the pair of the old value and the new value."""
    before, after = _flat(old), _flat(new)
    task = ("", "task")
    names = [task] if before.get(task) != after.get(task) else [*after, *before]
    pairs = {name: (before.get(name), after.get(name)) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def shown_changes(changes: dict[tuple[str, str], tuple[Any, Any]]) -> str:
    """Return the result of `config_changes` as text, such as "epochs: 2 in the run, 4 given". The text names at most three fields."""

    def cut(value: Any) -> str:
        shown = repr(value)
        return shown if len(shown) <= 40 else shown[:37] + "..."

    texts = [f"{name}: {cut(old)} in the run, {cut(new)} given" for (_, name), (old, new) in changes.items()]
    more = len(texts) - 3
    return "; ".join(texts[:3]) + (f"; and {more} more" if more > 0 else "")


def _sections(raw: dict[str, Any]) -> dict[str, tuple[dataclasses.Field, ...]]:
    """Return the fields of each section of the config of the task that a parsed JSON config names; none if the task is unknown."""
    kind = CONFIGS.get(str(raw.get("task", "")))
    return {section.name: dataclasses.fields(section.type) for section in dataclasses.fields(kind)} if kind else {}  # pyright: ignore[reportArgumentType]


def _as_now(raw: dict[str, Any]) -> dict[str, Any]:
    """Return a parsed JSON config in which values that this version refuses are replaced by allowed values of the same meaning."""
    parts: dict[str, dict[str, Any]] = {}
    for section, fields in _sections(raw).items():
        if isinstance(part := raw.get(section), dict):
            bools = {field.name for field in fields if field.type is bool}
            parts[section] = {name: bool(value) if name in bools else value for name, value in part.items()}
    train = parts.get("train", {})
    final = train.get("final_learning_rate")
    if isinstance(final, int | float) and final > 0 and train.get("schedule", "constant") == "constant":
        train["final_learning_rate"] = 0.0
    return raw | parts


def _flat(raw: Any) -> dict[tuple[str, str], Any]:
    """Return the fields of a config that was parsed from JSON, as a dict from (section, field) to the value."""
    raw = _as_now(with_task(raw)) if isinstance(raw, dict) else {"": raw}
    found: dict[tuple[str, str], Any] = {}
    for section, fields in _sections(raw).items():
        for field in fields:
            value = default(field)
            found[section, field.name] = list(value) if isinstance(value, tuple) else value
    for name, part in raw.items():
        found |= {(name, field): value for field, value in part.items()} if isinstance(part, dict) else {("", name): part}
    return found


def read_config(path: Path, kind: type[C]) -> C:
    """Read a config from a JSON file that was written with `to_json`, and return it.

    Args:
        path: path of the file.
        kind: expected class of the config.

    Raises:
        InputError: in one of these cases.

            - The file does not exist or is not JSON.
            - The file contains no config, or a config of another class than `kind`.
            - The config lacks a section, or a section has an unknown field or an invalid value. Sections that `kind` does not have are
              ignored.
    """
    raw = _read_json(path)
    task = raw["task"]
    require(task == kind.task, f"run {path.parent}", task, f"use {CONFIGS[task].commands}, or name a run of {kind.task}")
    try:
        sections = [field for field in dataclasses.fields(kind) if field.name in raw or not field.metadata.get("added")]
        return kind(**{field.name: _part(field.type, raw[field.name]) for field in sections})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"config {path}", error, _REMEDY) from error


def read_task(path: Path) -> str:
    """Return the name of the task of a config that was written as JSON with `to_json`.

    Raises:
        InputError: if the file does not exist, is not JSON, or is no config of a task.
    """
    return _read_json(path)["task"]


def _read_json(path: Path) -> dict[str, Any]:
    """Read a config from a JSON file, and return it as a dict."""
    try:
        raw = with_current_names(json.loads(path.read_text()))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"config {path}", error.strerror if isinstance(error, OSError) else error, _REMEDY) from error
    require(isinstance(raw, dict), f"config {path}", type(raw).__name__, _REMEDY)
    raw = with_task(raw)
    task = raw["task"]
    require(isinstance(task, str) and task in CONFIGS, f"config {path}", f"task {task}", _REMEDY)
    return _as_now(raw)


def _part(kind: Any, fields: dict[str, Any]) -> Any:
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()})
