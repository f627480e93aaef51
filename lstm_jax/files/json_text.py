"""Conversion of values to JSON text that every reader of JSON accepts."""

import json
import math
from typing import Any


def json_text(value, **options) -> str:
    """Return a value as JSON text, in which null stands for each float that is not finite, since JSON has neither NaN nor Infinity."""
    return json.dumps(_finite(value), allow_nan=False, **options)


def _finite(value) -> Any:
    """Return a copy of a value, in which None takes the place of each float that is not finite."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value
