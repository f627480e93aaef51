"""Overrides and grids of frozen config dataclasses."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import Any

from lstm_jax.errors import require


def override(config: Any, changes: Mapping[str, Any]) -> Any:
    """Return the config with these fields changed; a name with dots is a field of an inner config.

    Raises:
        InputError: if the config has no such field.
    """
    for name, value in changes.items():
        field, _, rest = name.partition(".")
        fields = [f.name for f in dataclasses.fields(config)]
        require(field in fields, "field", name, f"{type(config).__name__} has {', '.join(fields)}")
        config = dataclasses.replace(config, **{field: override(getattr(config, field), {rest: value}) if rest else value})
    return config


def variants(config: Any, changes: Iterable[Mapping[str, Any]]) -> list[Any]:
    """Return one config for each mapping of overrides.

    Raises:
        InputError: if the config has no such field.
    """
    return [override(config, overrides) for overrides in changes]


def grid(config: Any, **axes: Sequence[Any]) -> list[Any]:
    """Return the config with every combination of the axes' values; the last axis varies fastest.

    Raises:
        InputError: if the config has no such field.
    """
    return variants(config, (dict(zip(axes, values, strict=True)) for values in product(*axes.values())))
