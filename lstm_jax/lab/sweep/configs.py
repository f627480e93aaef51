"""Functions that return copies of a config, a frozen dataclass, in which some fields
have other values.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import Any

from lstm_jax.base.checks import as_tuple
from lstm_jax.base.errors import require


def is_config(value) -> bool:
    """Return whether a value is an instance of a dataclass."""
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def override(config, changes: Mapping) -> Any:
    """Return a copy of the config in which some fields have other values.

    Args:
        config: frozen dataclass.
        changes: dict from the name of a field to its new value. A name with dots, such
            as "model.units", stands for a field of an inner config.

    Raises:
        InputError: if a name in `changes` is not a field of the config.
    """
    new, inner = {}, {}
    for name, value in changes.items():
        field, _, rest = name.partition(".")
        require(
            is_config(config),
            "field",
            name,
            f"{type(config).__name__} {config!r} is no config and has no fields",
        )
        fields = [f.name for f in dataclasses.fields(config) if f.init]
        require(
            field in fields,
            "field",
            name,
            f"{type(config).__name__} has {', '.join(fields)}",
        )
        if rest:
            inner.setdefault(field, {})[rest] = value
        else:
            new[field] = value
            # a later change of the whole field replaces earlier changes of its parts
            inner.pop(field, None)
    new |= {
        field: override(new.get(field, getattr(config, field)), parts)
        for field, parts in inner.items()
    }
    # at once, since a config checks its fields together
    return dataclasses.replace(config, **new) if new else config


def variants(config, changes: Iterable[Mapping]) -> list:
    """Return one copy of the config for each dict in `changes`; see `override`."""
    return [override(config, overrides) for overrides in changes]


def grid(config, /, **axes: Sequence) -> list:
    """Return one copy of the config for every combination of the given values.

    Args:
        config: frozen dataclass.
        **axes: each keyword is the name of a field to vary (see `override`), and its
            argument is the list of values of this field. The last field varies fastest.

    Raises:
        InputError: if a keyword is not a field of the config, or if the values of a
            field are a string or not iterable.
    """
    axes = {
        name: as_tuple(name, values, "give a list of values")
        for name, values in axes.items()
    }
    return variants(
        config,
        (dict(zip(axes, values, strict=True)) for values in product(*axes.values())),
    )
