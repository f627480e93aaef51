"""Conversion of values to JSON text that every reader of JSON accepts."""

import json


def json_text(value, **options) -> str:
    """Return a value as JSON text, in which null stands for each float that is not
    finite, since JSON has neither NaN nor Infinity.
    """
    finite = json.loads(json.dumps(value), parse_constant=lambda _: None)
    return json.dumps(finite, allow_nan=False, **options)
