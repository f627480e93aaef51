"""Initial parameters of a recurrent layer, drawn as Keras draws them."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from lstm_jax.cells import BUILT_IN, Cell
from lstm_jax.errors import require
from lstm_jax.initializers import Initializer, draw

Initial = str | Initializer
_FIRST = ("kernel", "recurrent_kernel", "bias")


@dataclass(frozen=True)
class Initials:
    """The arguments of a layer that determine its initial parameters; see `Recurrent`.

    An initialiser that is None stands for the default of the cell.
    """

    kernel: Initial | None = None
    recurrent: Initial | None = None
    bias: Initial | None = None
    use_bias: bool = True
    unit_forget_bias: bool = True


def initial_params(
    cell: Cell, base: Cell, features: int, units: int, how: Initials, dtype: Any, rngs: nnx.Rngs
) -> dict[str, jax.Array | None]:
    """Return the initial parameters of `cell` by name; biases are None if `how.use_bias` is false.

    Args:
        cell: the layer's cell.
        base: the cell in `CELLS` from which `cell` was made by a choice of activations.
        features: number of input features E.
        units: number of units H.
        how: the layer's arguments about initial parameters.
        dtype: dtype of the parameters.
        rngs: random streams; the parameters are drawn from the stream `params`.

    Raises:
        InputError: if an initialiser is given for a parameter that the cell does not have, it is unknown, or it returns an array of the
            wrong shape.
    """
    fields = cell.params._fields  # pyright: ignore[reportAttributeAccessIssue]
    for name, given in (("recurrent_kernel", how.recurrent), ("bias", how.bias)):
        argument = f"{name.removesuffix('_kernel')}_initializer"
        require(given is None or name in fields, argument, given, f"the cell {cell.name} has no {name}: leave it out")
    if base not in BUILT_IN:
        return _own_cell(cell, features, units, how, dtype, rngs)
    columns = cell.gates * units
    params: dict[str, jax.Array | None] = {}
    params["kernel"] = draw(how.kernel or "glorot_uniform", rngs.params(), (features, columns), dtype, "kernel_initializer")
    if cell.has_recurrent_kernel:
        kernel = draw(how.recurrent or "orthogonal", rngs.params(), (units, columns), dtype, "recurrent_initializer")
        params["recurrent_kernel"] = kernel
    second = "recurrent_bias" in fields
    biases = _biases(cell, units, second, how, dtype, rngs) if how.use_bias else (None, None)
    params["bias"] = biases[0]
    if any(name not in _FIRST for name in fields):
        drawn = cell.init(rngs.params(), features, units, dtype)
        params |= {name: getattr(drawn, name) for name in fields if name not in _FIRST}
    return params | ({"recurrent_bias": biases[1]} if second else {})


def _biases(cell: Cell, units: int, second: bool, how: Initials, dtype: Any, rngs: nnx.Rngs) -> tuple[jax.Array, jax.Array]:
    """Return the initial bias and the initial recurrent bias.

    Args:
        cell: the layer's cell.
        units: number of units H.
        second: whether the cell has a recurrent bias. If so, an initialiser draws both biases as the rows of one array, as in Keras; if
            not, the second result is unused.
        how: the layer's arguments about initial parameters.
        dtype: dtype of the biases.
        rngs: random streams; the biases are drawn from the stream `params`.
    """
    assert cell.bias is not None
    usual = cell.bias(units, dtype)
    if how.bias is None:
        return (usual if how.unit_forget_bias else jnp.zeros_like(usual)), jnp.zeros_like(usual)
    if second:
        rows = draw(how.bias, rngs.params(), (2, *usual.shape), dtype, "bias_initializer")
        return rows[0], rows[1]
    return _forgetful(cell, usual, units, how, dtype, rngs), jnp.zeros_like(usual)


def _forgetful(cell: Cell, usual: jax.Array, units: int, how: Initials, dtype: Any, rngs: nnx.Rngs) -> jax.Array:
    """Return a bias drawn by the initialiser `how.bias`, with ones for the forget gate if `how.unit_forget_bias` is true.

    As in Keras, the gates before the forget gate and the gates after it are then drawn separately. `usual` is the cell's default bias.
    """
    assert how.bias is not None
    assert cell.bias is not None
    with jax.ensure_compile_time_eval():  # so that the values are concrete even if the layer is created inside a jit
        ones = cell.bias(1, jnp.float32) == 1
        forget = [gate for gate in range(cell.gates) if ones[gate]]
    if not (how.unit_forget_bias and forget):
        return draw(how.bias, rngs.params(), usual.shape, dtype, "bias_initializer")
    start, stop = forget[0] * units, (forget[0] + 1) * units
    parts = [
        draw(how.bias, rngs.params(), (size,), dtype, "bias_initializer") if size else jnp.zeros(0, dtype)
        for size in (start, usual.size - stop)
    ]
    return jnp.concatenate([parts[0], usual[start:stop], parts[1]])


def _own_cell(cell: Cell, features: int, units: int, how: Initials, dtype: Any, rngs: nnx.Rngs) -> dict[str, jax.Array | None]:
    """Return the initial parameters of a user's cell: those of its `init`, except parameters for which an initialiser is given."""
    params: dict[str, jax.Array | None] = cell.init(rngs.params(), features, units, dtype)._asdict()
    for name, given in (("kernel", how.kernel), ("recurrent_kernel", how.recurrent), ("bias", how.bias)):
        array = params.get(name)
        if given is not None and array is not None:
            argument = f"{name.removesuffix('_kernel') if name != 'kernel' else name}_initializer"
            params[name] = draw(given, rngs.params(), array.shape, dtype, argument)
    return params if how.use_bias else params | {name: None for name in params if name in ("bias", "recurrent_bias")}
