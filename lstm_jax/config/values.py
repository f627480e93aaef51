"""Conversion of configs (instances of dataclasses) to dicts.

Users store such dicts. A later version of lstm_jax may add a field to a config. While the new field has its default value, it is left out
of the dict. The dict of a config therefore equals the dict that an earlier version stored for the same config.
"""

import dataclasses
from typing import Any

ADDED = {"added": True}
"""Metadata of a field that was added after users had stored configs without it. `config_values` leaves such a field out while it has its
default value, so that a new config still equals the stored config."""


def config_values(config: Any) -> dict[str, Any]:
    """Return the values of a config as a dict, without the later added fields that have their default values."""
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
