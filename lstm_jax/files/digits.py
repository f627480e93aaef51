"""Choice of the number of digits with which several numbers are written, so that the differences between them remain visible."""

import math
from collections.abc import Iterable

MOST = 15
"""Largest result of `digits_for`. Every decimal number of 15 significant digits can be restored from the float64 number nearest to it."""


def digits_for(values: Iterable[float], least: int) -> int:
    """Return how many significant digits each of several numbers needs, so that the differences between the numbers remain visible.

    Let m be the largest absolute value, and d the difference between the largest and the smallest number. The result is `least` plus
    floor(log10(m / d)), but at least `least` and at most `MOST`. If d is 0, the result is `least`. For example, the numbers 1233996.1 and
    1234003.5 differ by 7.4, and with `least` 3 they need 8 digits. Numbers that are not finite are ignored.
    """
    finite = [float(value) for value in values if math.isfinite(value)]
    spread = max(finite) - min(finite) if finite else 0.0
    if not 0 < spread < math.inf:
        return min(MOST, least)
    return min(MOST, least + max(0, math.floor(math.log10(max(map(abs, finite)) / spread))))
