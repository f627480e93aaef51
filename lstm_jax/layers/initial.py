"""Arguments of the layers, and initialisation of the parameters of a recurrent layer with the initialisers of Keras."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any, TypeVar, cast

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from lstm_jax import initializers
from lstm_jax.bounds import MOST, Bounds, check_number
from lstm_jax.cells import Cell
from lstm_jax.errors import InputError, require
from lstm_jax.initializers import Initializer

_PENALTY = "add the penalty to the loss, such as 1e-4 * jnp.sum(layer.kernel[...] ** 2), or let the weights decay by optax.adamw"
_CONSTRAINT = "constrain the parameters after an update, for example by optax.keep_params_nonnegative"
_TRAINING = "call train() or eval() of the model, or give deterministic=False or True to the call"
FOREIGN = {
    "cell": "the layer has its own: use Recurrent(features, units, cell=...)",
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
_Method = TypeVar("_Method", bound=Callable)


def _refuse_foreign(method: Callable, options: Mapping[str, Any]) -> None:
    for name in options.keys() - inspect.signature(method).parameters.keys() & FOREIGN.keys():
        raise InputError(name, options[name], FOREIGN[name]) from None


def constructor(init: _Method) -> _Method:
    """Decorate the method `__init__` of a layer: arguments that do not fit its signature raise an `InputError` that says what does."""
    signature = inspect.signature(init)
    needed = [name for name, parameter in signature.parameters.items() if parameter.default is parameter.empty and name != "options"][1:]

    @functools.wraps(init)
    def checked(*args, **options):
        inner = [type(layer).__name__ for layer in args[1:2] if isinstance(layer, nnx.Module)]
        _refuse_foreign(init, options | ({"layer": inner[0]} if inner else {}))
        try:
            signature.bind(*args, **options)
        except TypeError as error:
            title = type(args[0]).__name__
            raise InputError(title, error, f"give {title}({', '.join(needed)}, ...)".replace("rngs", "rngs=nnx.Rngs(0)")) from error
        if "rngs" in needed:
            require(hasattr(options["rngs"], "params"), "rngs", options["rngs"], "give nnx.Rngs(0), or other Rngs with a stream `params`")
        init(*args, **options)

    return cast(Any, checked)


def checked_call(method: _Method) -> _Method:
    """Decorate `__call__` of a layer: arguments that Keras, PyTorch or Flax name otherwise raise an `InputError` that says how."""

    @functools.wraps(method)
    def checked(*args, **options):
        try:
            return method(*args, **options)
        except TypeError:
            _refuse_foreign(method, options)
            raise

    return cast(Any, checked)


Initial = str | Initializer
Size = Annotated[int, Bounds(1, MOST, "give an int of 1 or more")]
Projection = Annotated[int, Bounds(0, MOST, "give an int below units, or 0")]
ARGUMENTS = {"kernel": "kernel_initializer", "recurrent_kernel": "recurrent_initializer", "bias": "bias_initializer"}
"""Dict from the name of a parameter to the argument of a layer that is its initialiser."""


def check_size(name: str, value) -> int:
    """Return a size of a layer, such as its number of units, as an int."""
    return check_number(name, value, Size)


def initial_params(
    cell: Cell,
    built_in: bool,
    features: int,
    units: int,
    drawn: Mapping[str, Initial | None],
    dtype,
    rngs: nnx.Rngs,
    use_bias: bool,
    unit_forget_bias: bool,
) -> dict[str, Array | None]:
    """Return a dict from the name of each parameter of a recurrent layer to its initial value, or to None for a bias without `use_bias`.

    `drawn` is a dict from the names in `ARGUMENTS` to initialisers, or to None for the default of the cell. `built_in` tells whether the
    cell is one of this library.
    """
    fields = cell.params._fields  # pyright: ignore[reportAttributeAccessIssue]
    for name, given in drawn.items():
        require(given is None or name in fields, ARGUMENTS[name], given, f"the cell {cell.name} has no {name}: leave it out")

    def draw(name: str, given: Initial, *shape: int):
        return initializers.draw(given, rngs.params(), shape, dtype, ARGUMENTS[name])

    def init():
        return cell.init(rngs.params(), features, units, dtype)._asdict()

    if not built_in:
        remedy = f"the function init of the cell {cell.name} gives its bias: leave it out, or give bias_initializer"
        require(unit_forget_bias, "unit_forget_bias", unit_forget_bias, remedy)
        params = init()
        params |= {name: draw(name, given, *params[name].shape) for name, given in drawn.items() if given is not None}
    else:
        params = {}
        for name, default, rows in (("kernel", "glorot_uniform", features), ("recurrent_kernel", "orthogonal", cell.output_size(units))):
            if name in fields:
                given = drawn[name]
                params[name] = draw(name, default if given is None else given, rows, cell.gates * units)
        if use_bias:
            params |= _biases(cell, units, dtype, drawn["bias"], unit_forget_bias, draw)
        if not ARGUMENTS.keys() >= set(fields):
            params = init() | params
    return params if use_bias else params | {name: None for name in fields if name in ("bias", "recurrent_bias")}


def _biases(cell: Cell, units: int, dtype, given: Initial | None, unit_forget_bias: bool, draw: Callable[..., Array]) -> dict[str, Array]:
    assert cell.bias is not None
    usual = cell.bias(units, dtype)
    if "recurrent_bias" in cell.params._fields:  # pyright: ignore[reportAttributeAccessIssue]
        # the initialiser draws one array whose rows are the two biases, as in Keras
        rows = (usual, jnp.zeros_like(usual)) if given is None else draw("bias", given, 2, usual.size)
        return {"bias": rows[0], "recurrent_bias": rows[1]}
    if given is None:
        return {"bias": usual if unit_forget_bias else jnp.zeros_like(usual)}
    with jax.ensure_compile_time_eval():  # the values must be concrete even if the layer is created inside jax.jit
        forget = jnp.flatnonzero(cell.bias(1, jnp.float32)).tolist()
    if not (unit_forget_bias and forget):
        return {"bias": draw("bias", given, usual.size)}
    # As in Keras, the entries of the forget gate are 1, and the gates before and after it are drawn one after the other.
    start, stop = forget[0] * units, (forget[0] + 1) * units
    before = [draw("bias", given, start)] if start else []
    return {"bias": jnp.concatenate([*before, usual[start:stop], draw("bias", given, usual.size - stop)])}
