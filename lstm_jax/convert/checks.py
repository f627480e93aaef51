"""Checks of the types of the values that users give to the functions of `lstm_jax.convert`."""

from collections.abc import Collection, Mapping
from typing import Any

from lstm_jax.errors import require


def kind_of(value: object) -> str:
    """Return the name of a value's class for an error message, or "class NAME" if the value is itself a class."""
    return f"class {value.__name__}" if isinstance(value, type) else type(value).__name__


def check_named(subject: str, value: Any, remedy: str) -> None:
    """Check that a value is a dict whose keys are strings."""
    require(isinstance(value, Mapping), subject, kind_of(value), remedy)
    others = [repr(key) for key in value if not isinstance(key, str)]
    require(not others, subject, f"keys that are no text: {', '.join(others)}", remedy)


def is_list(value: object) -> bool:
    """Return whether a value is a list or another collection, but neither a text, a dict nor an array without axes."""
    return isinstance(value, Collection) and not isinstance(value, str | Mapping) and getattr(value, "ndim", 1) > 0


def has_state_dict(value: object) -> bool:
    """Return whether a value has a method `state_dict`, as a PyTorch module has. If the value is a class, the result is false."""
    return not isinstance(value, type) and callable(getattr(value, "state_dict", None))
