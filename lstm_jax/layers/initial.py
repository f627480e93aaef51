"""Arguments of the layers, and initialisation of the parameters of a recurrent layer with the initialisers of Keras."""

import functools
import inspect
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ParamSpec

import jax
import jax.numpy as jnp
from flax import nnx

from lstm_jax.bounds import Count, check_number
from lstm_jax.cells import BUILT_IN, Cell
from lstm_jax.errors import InputError, require
from lstm_jax.initializers import Initializer, draw

_PENALTY = "add the penalty to the loss, such as 1e-4 * jnp.sum(layer.kernel[...] ** 2), or let the weights decay by optax.adamw"
_CONSTRAINT = "constrain the parameters after an update, for example by optax.keep_params_nonnegative"
_TRAINING = "call train() or eval() of the model, or give deterministic=False or True to the call"
FOREIGN = {
    "kernel_regularizer": _PENALTY,
    "recurrent_regularizer": _PENALTY,
    "bias_regularizer": _PENALTY,
    "activity_regularizer": "add the penalty of the outputs to the loss",
    "kernel_constraint": _CONSTRAINT,
    "recurrent_constraint": _CONSTRAINT,
    "bias_constraint": _CONSTRAINT,
    "training": _TRAINING,
    "deterministic": _TRAINING,
    "seed": "give rngs=nnx.Rngs(seed)",
    "implementation": "leave it out: the backend is chosen by itself, or by backend=",
    "unroll": "leave it out: the backend is chosen by itself, or by backend=",
    "use_cudnn": "it is called backend here: see `lstm-jax backends`",
    "layer": "Bidirectional makes both layers: give Bidirectional(features, units, cell='lstm', rngs=nnx.Rngs(0))",
    "batch_first": "inputs are (B, T, E): for (T, B, E) give time_major=True to the call",
    "time_major": "give it to the call",
    "num_layers": "give RecurrentStack a list of as many layers",
    "bidirectional": "use Bidirectional",
    "input_size": "it is called features here",
    "in_features": "it is called features here",
    "hidden_size": "it is called units here",
    "hidden_features": "it is called units here",
    "proj_size": "it is called projection here",
    "bias": "it is called use_bias here",
    "nonlinearity": "it is called activation here",
    "input_dim": "it is called vocabulary in an Embedding here, and features in another layer",
    "output_dim": "it is called features here",
}
"""Dict from arguments of layers in Keras, PyTorch and Flax that the layers of this project do not have to what to do instead."""
_Arguments = ParamSpec("_Arguments")


def constructor(init: Callable[_Arguments, None]) -> Callable[_Arguments, None]:
    """Decorate the method `__init__` of a layer: arguments that do not fit its signature raise an `InputError` that says what does."""
    signature = inspect.signature(init)
    needed = [name for name, parameter in signature.parameters.items() if parameter.default is parameter.empty and name != "options"][1:]

    @functools.wraps(init)
    def checked(*args: _Arguments.args, **options: _Arguments.kwargs) -> None:
        given: dict[str, Any] = dict(options)
        if len(args) > 1 and isinstance(args[1], nnx.Module):
            given["layer"] = type(args[1]).__name__
        for name, value in given.items():
            require(name in signature.parameters or name not in FOREIGN, name, value, FOREIGN.get(name, ""))
        try:
            signature.bind(*args, **options)
        except TypeError as error:
            title = type(args[0]).__name__
            raise InputError(title, error, f"give {title}({', '.join(needed)}, ...)".replace("rngs", "rngs=nnx.Rngs(0)")) from error
        if "rngs" in needed:
            require(hasattr(given["rngs"], "params"), "rngs", given["rngs"], "give nnx.Rngs(0), or other Rngs with a stream `params`")
        init(*args, **options)

    return checked


Initial = str | Initializer
_FIRST = ("kernel", "recurrent_kernel", "bias")


@dataclass(frozen=True)
class Initials:
    """Arguments of a recurrent layer that determine its initial parameters.

    An initialiser is a name in `keras.initializers`, or a function (key, shape, dtype) -> array.

    Attributes:
        kernel: initialiser of the kernel; None means the default of the cell.
        recurrent: initialiser of the recurrent kernel; None means the default of the cell.
        bias: initialiser of the bias; None means the default of the cell.
        use_bias: whether the layer has biases.
        unit_forget_bias: whether the bias of the forget gate, if the cell has one, is initialised to 1.
    """

    kernel: Initial | None = None
    recurrent: Initial | None = None
    bias: Initial | None = None
    use_bias: bool = True
    unit_forget_bias: bool = True


def as_int(name: str, value: Any, remedy: str) -> int:
    """Return an integer as a Python int. The integer may be given as a number of Python or NumPy, or as an array without axes."""
    try:
        if not isinstance(value, bool):
            return operator.index(value)
    except TypeError:
        pass
    raise InputError(name, repr(value), remedy)


def check_size(name: str, value: Any) -> int:
    """Return a size of a layer, such as its number of units, as an int."""
    return check_number(name, as_int(name, value, "give an int of 1 or more"), Count)


def initial_params(
    cell: Cell, base: Cell, features: int, units: int, how: Initials, dtype: Any, rngs: nnx.Rngs
) -> dict[str, jax.Array | None]:
    """Return a dict from the name of each parameter of a recurrent layer to its initial value."""
    fields = cell.params._fields  # pyright: ignore[reportAttributeAccessIssue]
    for name, given in (("recurrent_kernel", how.recurrent), ("bias", how.bias)):
        argument = f"{name.removesuffix('_kernel')}_initializer"
        require(given is None or name in fields, argument, given, f"the cell {cell.name} has no {name}: leave it out")
    if base not in BUILT_IN:
        return _own_cell(cell, features, units, how, dtype, rngs)
    columns = cell.gates * units
    params: dict[str, jax.Array | None] = {}
    which = "glorot_uniform" if how.kernel is None else how.kernel
    params["kernel"] = draw(which, rngs.params(), (features, columns), dtype, "kernel_initializer")
    if cell.has_recurrent_kernel:
        which = "orthogonal" if how.recurrent is None else how.recurrent
        params["recurrent_kernel"] = draw(which, rngs.params(), (cell.output_size(units), columns), dtype, "recurrent_initializer")
    second = "recurrent_bias" in fields
    biases = _biases(cell, units, second, how, dtype, rngs) if how.use_bias else (None, None)
    params["bias"] = biases[0]
    if any(name not in _FIRST for name in fields):
        drawn = cell.init(rngs.params(), features, units, dtype)
        params |= {name: getattr(drawn, name) for name in fields if name not in _FIRST}
    return params | ({"recurrent_bias": biases[1]} if second else {})


def set_params(layer: Any, *params: Mapping[str, jax.Array | None]) -> None:
    """Set an attribute of a recurrent layer for each parameter in `params`: an `nnx.Param` with the initial value, or None for None."""
    for name, array in (pair for group in params for pair in group.items()):
        remedy = "a layer has an attribute of this name: rename the field"
        require(not hasattr(layer, name), f"params of cell {layer.row.name}", name, remedy)
        setattr(layer, name, None if array is None else nnx.Param(array))


def _biases(cell: Cell, units: int, second: bool, how: Initials, dtype: Any, rngs: nnx.Rngs) -> tuple[jax.Array, jax.Array]:
    """Return the initial bias and the initial recurrent bias, which is ignored if `second` is false."""
    assert cell.bias is not None
    usual = cell.bias(units, dtype)
    zeros = jnp.zeros_like(usual)
    if how.bias is None:
        return (usual if how.unit_forget_bias else zeros), zeros
    if second:  # the initialiser draws one array whose rows are the two biases, as in Keras
        rows = draw(how.bias, rngs.params(), (2, *usual.shape), dtype, "bias_initializer")
        return rows[0], rows[1]
    with jax.ensure_compile_time_eval():  # the values must be concrete even if the layer is created inside jax.jit
        ones = cell.bias(1, jnp.float32) == 1
        forget = [gate for gate in range(cell.gates) if ones[gate]]
    if not (how.unit_forget_bias and forget):
        return draw(how.bias, rngs.params(), usual.shape, dtype, "bias_initializer"), zeros
    # As in Keras, the entries of the forget gate are 1, and the gates before and after it are drawn one after the other.
    start, stop = forget[0] * units, (forget[0] + 1) * units
    drawn = [draw(how.bias, rngs.params(), (size,), dtype, "bias_initializer") for size in (start, usual.size - stop) if size]
    return jnp.concatenate([*drawn[: bool(start)], usual[start:stop], *drawn[bool(start) :]]), zeros


def _own_cell(cell: Cell, features: int, units: int, how: Initials, dtype: Any, rngs: nnx.Rngs) -> dict[str, jax.Array | None]:
    """Return what the function `init` of a user's cell gives, with parameters drawn anew for which `how` has an initialiser."""
    remedy = f"the function init of the cell {cell.name} gives its bias: leave it out, or give bias_initializer"
    require(how.unit_forget_bias, "unit_forget_bias", how.unit_forget_bias, remedy)
    params: dict[str, jax.Array | None] = cell.init(rngs.params(), features, units, dtype)._asdict()
    for name, given in (("kernel", how.kernel), ("recurrent_kernel", how.recurrent), ("bias", how.bias)):
        array = params.get(name)
        if given is not None and array is not None:
            argument = f"{name.removesuffix('_kernel') if name != 'kernel' else name}_initializer"
            params[name] = draw(given, rngs.params(), array.shape, dtype, argument)
    return params if how.use_bias else params | {name: None for name in params if name in ("bias", "recurrent_bias")}
