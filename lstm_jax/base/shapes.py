"""Array types for function signatures, and the letters that name their axes.

B is the batch size, T the number of time steps, E the number of input features, H the
number of units (hidden size), V the vocabulary size and G the number of gates. The LSTM
has 4 gates: i (input), f (forget), g (cell input) and o (output). A last axis of size
4H contains the gates in this order.
"""

from jaxtyping import Array, Bool, Int

GATES = 4
"""Number of gates of the LSTM. For any other cell, `Cell.gates` is the number of its
gates."""
RUNS = "lstm_jax runs"
"""Name of the axis over which `jax.vmap` maps the runs of a sweep that run together."""

TokenIds = Int[Array, "B T"]
ValidSteps = Bool[Array, "B T"]
