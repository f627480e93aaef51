"""Table of the tasks: one row a task, whose parts are imported when they are used."""

from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

from lstm_jax.lab.config import RunConfig
from lstm_jax.lab.forecast.config import ForecastConfig
from lstm_jax.lab.generation.config import GenerationConfig
from lstm_jax.lab.sentiment.config import SentimentConfig


class TaskRow(NamedTuple):
    """Parts of a task."""

    config: type[RunConfig]
    """Class of its configs."""
    commands: Callable[[], dict[str, Any]]
    """Function that returns its commands: a dict from their names to their classes."""
    module: Callable[[], ModuleType]
    """Function that returns its module, which has `train` and `load`."""


def _sentiment_commands():
    from lstm_jax.lab.sentiment.command import COMMANDS

    return COMMANDS


def _sentiment():
    from lstm_jax.lab.sentiment import task

    return task


def _generation_commands():
    from lstm_jax.lab.generation.command import COMMANDS

    return COMMANDS


def _generation():
    from lstm_jax.lab.generation import task

    return task


def _forecast_commands():
    from lstm_jax.lab.forecast.command import COMMANDS

    return COMMANDS


def _forecast():
    from lstm_jax.lab.forecast import task

    return task


TASKS: dict[str, TaskRow] = {
    "sentiment": TaskRow(SentimentConfig, _sentiment_commands, _sentiment),
    "generation": TaskRow(GenerationConfig, _generation_commands, _generation),
    "forecast": TaskRow(ForecastConfig, _forecast_commands, _forecast),
}
"""Dict from the name of a task to its parts."""
