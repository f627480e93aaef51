"""Names of types that occur in many signatures."""

import os
from collections.abc import Callable
from typing import Any

Texts = tuple[str, ...]
Ints = tuple[int, ...]
Values = dict[str, Any]
"""Dict from names to values, such as the metrics of an epoch or the fields of a config.
"""
AnyPath = str | os.PathLike[str]
Progress = Callable[[int, int], None]
"""Function that is called with the size of what is done and the size of the whole, such
as numbers of shards or bytes."""
