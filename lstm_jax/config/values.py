"""Values of a config as a dict, in a form that stays the same when a later version adds fields."""

import dataclasses
from typing import Any

ADDED = {"added": True}
"""Metadata that marks a field as added later, after users had stored configs without it. If such a field has its default, it is not
written, so that a new config still equals the stored one."""


def config_values(config: Any) -> dict[str, Any]:
    """Return the values of a config as a dict, like `dataclasses.asdict`, but without some fields.

    A field with the metadata `ADDED`, which was added in a later version, is left out if it has its default value.
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
    """Return the default value of a dataclass field that has one."""
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
