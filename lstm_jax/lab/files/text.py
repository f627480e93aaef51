"""Values as text: a number with its noun, as many digits as keep differences visible,
and JSON that every reader of JSON accepts.
"""

import json
import math
from collections.abc import Iterable

MOST = 15
"""Largest result of `digits_for`. Every decimal number of 15 significant digits can be
restored from the float64 number nearest to it."""


def digits_for(values: Iterable[float], least: int) -> int:
    """Return how many significant digits each of several numbers needs, so that the
    differences between the numbers remain visible.
    """
    finite = [float(value) for value in values if math.isfinite(value)]
    spread = max(finite) - min(finite) if finite else 0.0
    if not 0 < spread < math.inf:
        return min(MOST, least)
    return min(
        MOST, least + max(0, math.floor(math.log10(max(map(abs, finite)) / spread)))
    )


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, such as "1 device" or "2 devices"."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def json_text(value, **options) -> str:
    """Return a value as JSON text, in which null stands for each float that is not
    finite, since JSON has neither NaN nor Infinity.
    """
    finite = json.loads(json.dumps(value), parse_constant=lambda _: None)
    return json.dumps(finite, allow_nan=False, **options)
