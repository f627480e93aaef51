"""The legend of dimensions and the array aliases that every signature uses.

B batch rows, T time steps, E input features, H units, V vocabulary, G = 4 gates in the order i, f, g, o.
A last axis of 4H holds the gates side by side in that order.
"""

from jaxtyping import Array, Bool, Float, Int

GATES = 4

Inputs = Float[Array, "B T E"]
Outputs = Float[Array, "B T H"]
UnitState = Float[Array, "B H"]
TokenIds = Int[Array, "B T"]
ValidSteps = Bool[Array, "B T"]
Lengths = Int[Array, "B"]

__all__ = ["GATES", "Inputs", "Lengths", "Outputs", "TokenIds", "UnitState", "ValidSteps"]
