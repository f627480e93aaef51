"""Conversion of values to JSON text that every reader of JSON accepts."""

import json
from collections.abc import Mapping
from typing import Any


def json_text(value, **options) -> str:
    """Return a value as JSON text, in which null stands for each float that is not
    finite, since JSON has neither NaN nor Infinity.
    """
    finite = json.loads(json.dumps(value), parse_constant=lambda _: None)
    return json.dumps(finite, allow_nan=False, **options)


def plain(value) -> Any:
    """Return a value as JSON represents it. An array of JAX or NumPy becomes a list, or
    a number if it has one entry.
    """
    return json.loads(json.dumps(value, default=_converted))


def _converted(value) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    if getattr(value, "size", 1) != 1:
        return value.tolist()
    item = value.item() if hasattr(value, "item") else value
    return item if isinstance(item, bool | int | float | str) else float(item)
