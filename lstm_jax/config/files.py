"""Configs as JSON files.

Decoding is written by hand: the dataclasses check their own fields, so a converter such as cattrs would add a dependency and a second set
of error texts for the few lines of `read_config`.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any, TypeVar

from lstm_jax.backend_names import with_current_names
from lstm_jax.config.forecast import ForecastConfig
from lstm_jax.config.generation import GenerationConfig
from lstm_jax.config.sentiment import SentimentConfig
from lstm_jax.config.shared import RunConfig
from lstm_jax.errors import InputError, require

CONFIGS: dict[str, type[RunConfig]] = {kind.task: kind for kind in (SentimentConfig, GenerationConfig, ForecastConfig)}
"""The table of tasks: name -> config. The file of a task in `lstm_jax.tasks` imports its config."""
C = TypeVar("C", bound=RunConfig)
_REMEDY = "name the folder of a finished or interrupted run"


def to_json(config: RunConfig) -> str:
    """Return the task's name and the whole config as indented JSON."""
    return json.dumps({"task": config.task} | dataclasses.asdict(config), indent=2) + "\n"


def with_task(raw: Any) -> Any:
    """Return a config read from JSON with the name of its task, which older versions did not write."""
    if not isinstance(raw, dict) or "task" in raw:
        return raw
    series = isinstance(raw.get("data"), dict) and "horizon" in raw["data"]
    kind = GenerationConfig if "sample" in raw else ForecastConfig if series else SentimentConfig
    return {"task": kind.task} | raw


def read_config(path: Path, kind: type[C]) -> C:
    """Read back what `to_json` wrote.

    Raises:
        InputError: if the file is absent, is not JSON, is of a run of another task, or has fields this version does not know.
    """
    raw = with_task(_read_json(path))
    task = raw["task"]
    require(isinstance(task, str) and task in CONFIGS, f"config {path}", f"task {task}", _REMEDY)
    require(task == kind.task, f"run {path.parent}", task, f"use {CONFIGS[task].commands}, or name a run of {kind.task}")
    try:
        return kind(**{field.name: _part(field.type, raw[field.name]) for field in dataclasses.fields(kind)})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"config {path}", error, _REMEDY) from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        raw = with_current_names(json.loads(path.read_text()))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"config {path}", error.strerror if isinstance(error, OSError) else error, _REMEDY) from error
    require(isinstance(raw, dict), f"config {path}", type(raw).__name__, _REMEDY)
    return raw


def _part(kind: Any, fields: dict[str, Any]) -> Any:
    """Make one part of a config; JSON has lists only, where the dataclasses have tuples."""
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()})
