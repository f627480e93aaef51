"""Values of a config as a dict, in a form that stays the same when a later version adds fields."""

import dataclasses
from typing import Any

ADDED = {"added": True}
"""Metadata of a field that was added after configs had been stored. Its default is not written, so that stored configs stay equal."""


def config_values(config: Any) -> dict[str, Any]:
    """Return the values of a dataclass instance as `dataclasses.asdict` does, without the fields marked `ADDED` that have their default."""
    values = dataclasses.asdict(config)
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.metadata.get("added") and value == field.default:
            del values[field.name]
        elif dataclasses.is_dataclass(value):
            values[field.name] = config_values(value)
    return values
