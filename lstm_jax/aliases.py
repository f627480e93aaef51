"""Names of types that occur in many signatures."""

import os
from typing import Any

Texts = tuple[str, ...]
Ints = tuple[int, ...]
Values = dict[str, Any]
"""Dict from names to values, such as the metrics of an epoch or the fields of a config."""
AnyPath = str | os.PathLike[str]
