"""Overrides and grids of frozen config dataclasses."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import Any

from lstm_jax.errors import require


def override(config: Any, changes: Mapping[str, Any]) -> Any:
    """Return a copy of the config in which some fields have other values.

    Args:
        config: frozen dataclass.
        changes: new values by field name; a name with dots, as in "model.units", is a field of an inner config.

    Raises:
        InputError: if a name in `changes` is not a field of the config.
    """
    for name, value in changes.items():
        field, _, rest = name.partition(".")
        fields = [f.name for f in dataclasses.fields(config)]
        require(field in fields, "field", name, f"{type(config).__name__} has {', '.join(fields)}")
        config = dataclasses.replace(config, **{field: override(getattr(config, field), {rest: value}) if rest else value})
    return config


def variants(config: Any, changes: Iterable[Mapping[str, Any]]) -> list[Any]:
    """Return one copy of the config for each mapping in `changes`, with the fields that the mapping names overridden (see `override`).

    Raises:
        InputError: if a name in `changes` is not a field of the config.
    """
    return [override(config, overrides) for overrides in changes]


def grid(config: Any, **axes: Sequence[Any]) -> list[Any]:
    """Return one copy of the config for every combination of the values of the axes.

    Args:
        config: frozen dataclass.
        **axes: values by field name (see `override`); the last axis varies fastest.

    Raises:
        InputError: if the name of an axis is not a field of the config.
    """
    return variants(config, (dict(zip(axes, values, strict=True)) for values in product(*axes.values())))
