"""Names of dimensions and array types for signatures.

B batch rows, T time steps, E input features, H units (hidden size), V vocabulary size, G gates; the LSTM has 4, in the order i, f, g, o.
A last axis of size 4H contains the gates in that order.
"""

from jaxtyping import Array, Bool, Float, Int

GATES = 4
"""Gates of the LSTM; the number of a cell is `Cell.gates`."""

Inputs = Float[Array, "B T E"]
Outputs = Float[Array, "B T H"]
UnitState = Float[Array, "B H"]
TokenIds = Int[Array, "B T"]
ValidSteps = Bool[Array, "B T"]
Lengths = Int[Array, "B"]

__all__ = ["GATES", "Inputs", "Lengths", "Outputs", "TokenIds", "UnitState", "ValidSteps"]
