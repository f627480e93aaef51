"""Names of types that occur in many signatures, and constants of all modules."""

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

GATES = 4
"""Number of gates of the LSTM: i (input), f (forget), g (cell input) and o (output). A
last axis of size 4H contains the gates in this order."""
RUNS = "lstm_jax runs"
"""Name of the axis over which `jax.vmap` maps the runs of a sweep that run together."""
