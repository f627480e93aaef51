"""Arguments of the layers, and initialisation of the parameters of a recurrent layer with the initialisers of Keras."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx

from lstm_jax.bounds import MOST, Bounds, check_number
from lstm_jax.cells import Cell
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
_Result = TypeVar("_Result")


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


def checked_call(method: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """Decorate `__call__` of a layer: arguments that Keras, PyTorch or Flax name otherwise raise an `InputError` that says how."""

    @functools.wraps(method)
    def checked(*args: _Arguments.args, **options: _Arguments.kwargs) -> _Result:
        try:
            return method(*args, **options)
        except TypeError:
            for name in options.keys() - inspect.signature(method).parameters.keys() & FOREIGN.keys():
                raise InputError(name, options[name], FOREIGN[name]) from None
            raise

    return checked


Initial = str | Initializer
Size = Annotated[int, Bounds(1, MOST, "give an int of 1 or more")]
Projection = Annotated[int, Bounds(0, MOST, "give an int below units, or 0")]
ARGUMENTS = {"kernel": "kernel_initializer", "recurrent_kernel": "recurrent_initializer", "bias": "bias_initializer"}
"""Dict from the name of a parameter to the argument of a layer that is its initialiser."""


def check_size(name: str, value: Any) -> int:
    """Return a size of a layer, such as its number of units, as an int."""
    return check_number(name, value, Size)


def initial_params(
    cell: Cell,
    built_in: bool,
    sizes: tuple[int, int],
    drawn: Mapping[str, Initial | None],
    dtype: Any,
    rngs: nnx.Rngs,
    use_bias: bool,
    unit_forget_bias: bool,
) -> dict[str, jax.Array | None]:
    """Return a dict from the name of each parameter of a recurrent layer to its initial value.

    Args:
        cell: the cell.
        built_in: whether the cell is one of this library.
        sizes: numbers of features and units.
        drawn: dict from the names in `ARGUMENTS` to initialisers. None means the default of the cell.
        dtype: dtype of the parameters.
        rngs: random streams.
        use_bias: whether the layer has biases. If not, their values are None.
        unit_forget_bias: whether the bias of the forget gate, if the cell has one, is initialised to 1.
    """
    features, units = sizes
    fields = cell.params._fields  # pyright: ignore[reportAttributeAccessIssue]
    for name, given in drawn.items():
        require(given is None or name in fields, ARGUMENTS[name], given, f"the cell {cell.name} has no {name}: leave it out")
    params: dict[str, jax.Array | None] = {}
    if not built_in:
        remedy = f"the function init of the cell {cell.name} gives its bias: leave it out, or give bias_initializer"
        require(unit_forget_bias, "unit_forget_bias", unit_forget_bias, remedy)
        params = cell.init(rngs.params(), features, units, dtype)._asdict()
        for name, given in drawn.items():
            if given is not None and (array := params[name]) is not None:
                params[name] = draw(given, rngs.params(), array.shape, dtype, ARGUMENTS[name])
        return params if use_bias else params | {name: None for name in fields if name in ("bias", "recurrent_bias")}
    shapes = {"kernel": (features, cell.gates * units), "recurrent_kernel": (cell.output_size(units), cell.gates * units)}
    for name, default in (("kernel", "glorot_uniform"), ("recurrent_kernel", "orthogonal")):
        if name in fields:
            given = drawn[name]
            params[name] = draw(default if given is None else given, rngs.params(), shapes[name], dtype, ARGUMENTS[name])
    second = "recurrent_bias" in fields
    biases = (None, None)
    if use_bias:
        biases = _biases(cell, units, second, drawn["bias"], unit_forget_bias, dtype, rngs)
    params["bias"] = biases[0]
    if any(name not in ARGUMENTS for name in fields):
        others = cell.init(rngs.params(), features, units, dtype)._asdict()
        params |= {name: others[name] for name in fields if name not in ARGUMENTS}
    return params | ({"recurrent_bias": biases[1]} if second else {})


def _biases(
    cell: Cell, units: int, second: bool, given: Initial | None, unit_forget_bias: bool, dtype: Any, rngs: nnx.Rngs
) -> tuple[jax.Array, jax.Array]:
    """Return the initial bias and the initial recurrent bias, which is ignored if `second` is false."""
    assert cell.bias is not None
    usual = cell.bias(units, dtype)
    zeros = jnp.zeros_like(usual)
    if given is None:
        return (usual if unit_forget_bias else zeros), zeros
    if second:  # the initialiser draws one array whose rows are the two biases, as in Keras
        rows = draw(given, rngs.params(), (2, *usual.shape), dtype, "bias_initializer")
        return rows[0], rows[1]
    with jax.ensure_compile_time_eval():  # the values must be concrete even if the layer is created inside jax.jit
        ones = cell.bias(1, jnp.float32) == 1
        forget = [gate for gate in range(cell.gates) if ones[gate]]
    if not (unit_forget_bias and forget):
        return draw(given, rngs.params(), usual.shape, dtype, "bias_initializer"), zeros
    # As in Keras, the entries of the forget gate are 1, and the gates before and after it are drawn one after the other.
    start, stop = forget[0] * units, (forget[0] + 1) * units
    parts = [draw(given, rngs.params(), (size,), dtype, "bias_initializer") for size in (start, usual.size - stop) if size]
    return jnp.concatenate([*parts[: bool(start)], usual[start:stop], *parts[bool(start) :]]), zeros
