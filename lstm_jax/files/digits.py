"""Number of digits with which numbers are written, so that their differences can be seen."""

import math
from collections.abc import Iterable

import numpy as np

MOST = 15
"""Number of digits that each float64 number keeps."""


def digits_for(values: Iterable[float], least: int) -> int:
    """Return the number of significant digits with which some numbers are written, so that their differences can be seen.

    It is `least`, and one more for each power of ten by which the largest absolute value exceeds the largest difference. For 1233996.1 and
    1234003.5, whose difference is 7.4, and `least` 3, it is 8. It is at most `MOST`. Numbers that are not finite are ignored.
    """
    finite = np.asarray(list(values), np.float64)
    finite = finite[np.isfinite(finite)]
    spread = float(np.ptp(finite)) if len(finite) else 0.0
    if spread == 0:
        return least
    return min(MOST, least + max(0, math.floor(math.log10(np.abs(finite).max() / spread))))
