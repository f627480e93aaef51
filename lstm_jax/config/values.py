"""Conversion of configs (instances of dataclasses) to dicts.

A field that was added after users had stored configs without it is left out of the dict while it has its default value. The dict that an
earlier version stored for a config therefore still equals the dict of the same config in this version.
"""

import dataclasses
from typing import Any

ADDED = {"added": True}
"""Metadata of a field that was added after users had stored configs without it. `config_values` leaves such a field out while it has its
default value, so that a new config still equals the stored config."""


def config_values(config: Any) -> dict[str, Any]:
    """Return the values of a config as a dict, but leave out each added field that has its default value.

    An added field has the metadata `ADDED`: it did not exist in an earlier version of lstm_jax, with which users stored configs. If all
    added fields have their default values, the dict thus equals the one that the earlier version stored for the same config. A field that
    is a dataclass becomes a dict too.

    Args:
        config: instance of a dataclass.
    """
    values = dataclasses.asdict(config)
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.metadata.get("added") and value == default(field):
            del values[field.name]
        elif dataclasses.is_dataclass(value):
            values[field.name] = config_values(value)
    return values


def default(field: dataclasses.Field) -> Any:
    """Return the default value of a dataclass field, or `dataclasses.MISSING` if it has neither a default value nor a default factory."""
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
