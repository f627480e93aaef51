"""Functions that return copies of a config, a frozen dataclass, in which some fields have other values."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import Any

from lstm_jax.bounds import as_tuple
from lstm_jax.config.shared import override


def variants(config, changes: Iterable[Mapping[str, Any]]) -> list:
    """Return one copy of the config for each dict in `changes`; see `override`."""
    return [override(config, overrides) for overrides in changes]


def grid(config, /, **axes: Sequence) -> list:
    """Return one copy of the config for every combination of the given values.

    Args:
        config: frozen dataclass.
        **axes: each keyword is the name of a field to vary (see `override`), and its argument is the list of values of this field. The last
            field varies fastest.

    Raises:
        InputError: if a keyword is not a field of the config, or if the values of a field are a string or not iterable.
    """
    axes = {name: as_tuple(name, values, "give a list of values") for name, values in axes.items()}
    return variants(config, (dict(zip(axes, values, strict=True)) for values in product(*axes.values())))
