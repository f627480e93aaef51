"""The table of the tasks."""

from types import ModuleType

from lstm_jax.lab.forecast import task as forecast
from lstm_jax.lab.generation import task as generation
from lstm_jax.lab.sentiment import task as sentiment

TASKS: dict[str, ModuleType] = {
    "sentiment": sentiment,
    "generation": generation,
    "forecast": forecast,
}
"""Dict from the name of a task to its module, which has `train` and `load`."""
