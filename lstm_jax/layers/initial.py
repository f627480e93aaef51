"""Initialisation of the parameters of a recurrent layer with the initialisers of Keras."""

from collections.abc import Callable, Mapping
from typing import Annotated

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from lstm_jax.base.checks import MOST, Bounds, check_number
from lstm_jax.base.errors import require
from lstm_jax.cells import Cell, initializers
from lstm_jax.cells.initializers import Initializer

Initial = str | Initializer
Size = Annotated[int, Bounds(1, MOST, "give an int of 1 or more")]
Projection = Annotated[int, Bounds(0, MOST, "give an int below units, or 0")]
ARGUMENTS = {
    "kernel": "kernel_initializer",
    "recurrent_kernel": "recurrent_initializer",
    "bias": "bias_initializer",
}
"""Dict from the name of a parameter to the argument of a layer that is its initialiser.
"""


def check_size(name: str, value) -> int:
    """Return a size of a layer, such as its number of units, as an int."""
    return check_number(name, value, Size)


def initial_params(
    cell: Cell,
    as_in_keras: bool,
    features: int,
    units: int,
    drawn: Mapping[str, Initial | None],
    dtype,
    rngs: nnx.Rngs,
    use_bias: bool,
    unit_forget_bias: bool,
) -> dict[str, Array | None]:
    """Return a dict from the name of each parameter of a recurrent layer to its initial
    value, or to None for a bias without `use_bias`.

    `drawn` is a dict from the names in `ARGUMENTS` to initialisers, or to None for the
    default of the cell. `as_in_keras` tells whether Keras' initialisers are the default
    of the cell, and not its function `init`.
    """
    fields = cell.params._fields  # pyright: ignore[reportAttributeAccessIssue]
    for name, given in drawn.items():
        require(
            given is None or name in fields,
            ARGUMENTS[name],
            given,
            f"the cell {cell.name} has no {name}: leave it out",
        )

    def draw(name: str, given: Initial, *shape: int):
        return initializers.draw(given, rngs.params(), shape, dtype, ARGUMENTS[name])

    def init():
        return cell.init(rngs.params(), features, units, dtype)._asdict()

    if not as_in_keras:
        remedy = (
            f"the function init of the cell {cell.name} gives its bias: leave it "
            "out, or give bias_initializer"
        )
        require(unit_forget_bias, "unit_forget_bias", unit_forget_bias, remedy)
        params = init()
        params |= {
            name: draw(name, given, *params[name].shape)
            for name, given in drawn.items()
            if given is not None
        }
    else:
        params = {}
        for name, default, rows in (
            ("kernel", "glorot_uniform", features),
            ("recurrent_kernel", "orthogonal", cell.output_size(units)),
        ):
            if name in fields:
                given = drawn[name]
                params[name] = draw(
                    name, default if given is None else given, rows, cell.gates * units
                )
        if use_bias:
            params |= _biases(cell, units, dtype, drawn["bias"], unit_forget_bias, draw)
        if not ARGUMENTS.keys() >= set(fields):
            params = init() | params
    return (
        params
        if use_bias
        else params
        | {name: None for name in fields if name in ("bias", "recurrent_bias")}
    )


def _biases(
    cell: Cell,
    units: int,
    dtype,
    given: Initial | None,
    unit_forget_bias: bool,
    draw: Callable[..., Array],
) -> dict[str, Array]:
    assert cell.bias is not None
    usual = cell.bias(units, dtype)
    if "recurrent_bias" in cell.params._fields:  # pyright: ignore[reportAttributeAccessIssue]
        # the initialiser draws one array whose rows are the two biases, as in Keras
        rows = (
            (usual, jnp.zeros_like(usual))
            if given is None
            else draw("bias", given, 2, usual.size)
        )
        return {"bias": rows[0], "recurrent_bias": rows[1]}
    if given is None:
        return {"bias": usual if unit_forget_bias else jnp.zeros_like(usual)}
    # the values must be concrete even if the layer is created inside jax.jit
    with jax.ensure_compile_time_eval():
        forget = jnp.flatnonzero(cell.bias(1, jnp.float32)).tolist()
    if not (unit_forget_bias and forget):
        return {"bias": draw("bias", given, usual.size)}
    # As in Keras, the entries of the forget gate are 1, and the gates before and after
    # it are drawn one after the other.
    start, stop = forget[0] * units, (forget[0] + 1) * units
    before = [draw("bias", given, start)] if start else []
    return {
        "bias": jnp.concatenate(
            [*before, usual[start:stop], draw("bias", given, usual.size - stop)]
        )
    }
