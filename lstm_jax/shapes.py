"""Array types for signatures, and the letters that name their dimensions.

B is the number of batch rows, T of time steps, E of input features, H of units (hidden size), V of vocabulary entries and G of gates.
The LSTM has 4 gates: i (input), f (forget), g (cell input) and o (output). A last axis of size 4H contains the gates in this order.
"""

from jaxtyping import Array, Bool, Float, Int

GATES = 4
"""Number of gates of the LSTM. `Cell.gates` is the number of gates of any cell."""

Inputs = Float[Array, "B T E"]
Outputs = Float[Array, "B T H"]
UnitState = Float[Array, "B H"]
TokenIds = Int[Array, "B T"]
ValidSteps = Bool[Array, "B T"]
Lengths = Int[Array, "B"]

__all__ = ["GATES", "Inputs", "Lengths", "Outputs", "TokenIds", "UnitState", "ValidSteps"]
