"""The contract of a recurrent cell: pure functions, and a check that they fit together."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from lstm_jax.cells import products
from lstm_jax.errors import InputError, require


@dataclass(frozen=True)
class Cell:
    """The pure functions and sizes of a recurrent cell.

    Attributes:
        name: name in `CELLS`.
        gates: number of gates; the kernel's columns hold their parts in order.
        params: NamedTuple class of the parameters, with a field `kernel`.
        init: init(key, features, units, dtype) -> params.
        bias: bias(units, dtype) -> the initial `bias` of the parameters; None for a cell without a bias.
        initial_state: initial_state(batch, units, dtype) -> state, a NamedTuple with a field `h`, which is the output.
        step: step(params, state, z (B, gates * H), recurrent mask, compute dtype) -> state.
        project: project(params, x (T, B, E), input mask, compute dtype) -> z (T, B, gates * H).
        linear: linear(z) -> a, b, where h' = a h + b, for a cell that is linear in its state; else None.
        make_step: make_step(activation, recurrent_activation) -> step, for a cell whose activations can be chosen; else None. A cell with
            one gate ignores the second.
    """

    name: str
    gates: int
    params: type
    init: Callable
    bias: Callable | None
    initial_state: Callable
    step: Callable
    project: Callable = products.project
    linear: Callable | None = None
    make_step: Callable | None = None

    @property
    def has_cell_state(self) -> bool:
        """Whether the state has a part c."""
        return "c" in jax.eval_shape(lambda: self.initial_state(1, 1))._fields

    @property
    def has_recurrent_kernel(self) -> bool:
        """Whether the gates contain a product with the state."""
        return "recurrent_kernel" in self.params._fields  # pyright: ignore[reportAttributeAccessIssue]


_STEPS, _BATCH, _FEATURES, _UNITS = 7, 5, 3, 4
_REMEDY = "see docs/own_cell.md"


def check_cell(cell: Cell) -> None:
    """Check by shapes that the functions of a cell fit together; nothing is computed.

    Raises:
        InputError: if a function does not fit; it names the function, its result and the expected one.
    """
    require(isinstance(cell, Cell), "cell", type(cell).__name__, "give a lstm_jax.Cell, or the name of one")
    named = isinstance(cell.name, str) and bool(cell.name) and cell.name.isprintable()
    require(named, "cell name", repr(cell.name), "give text")
    require(isinstance(cell.gates, int) and cell.gates >= 1, f"gates of cell {cell.name}", cell.gates, "give 1 or more")
    fields = getattr(cell.params, "_fields", ())
    require("kernel" in fields, f"params of cell {cell.name}", fields, "give a NamedTuple class with a field kernel")
    columns = cell.gates * _UNITS
    params, state = _check_params(cell, columns), _check_initial_state(cell)
    _check_step(cell, columns, params, state)
    if cell.linear is not None:
        _check_linear(cell, columns)


def _check_params(cell: Cell, columns: int) -> Any:
    """Check `init` and `bias`; return the shapes of the parameters."""
    fields = cell.params._fields  # pyright: ignore[reportAttributeAccessIssue]
    params = _shapes(cell, "init", lambda: cell.init(jax.random.key(0), _FEATURES, _UNITS, jnp.float32))
    require(type(params) is cell.params, f"init of cell {cell.name}", type(params).__name__, f"return {cell.params.__name__}")
    expected = {"kernel": (_FEATURES, columns), "recurrent_kernel": (_UNITS, columns), "bias": (columns,)}
    for name, leaf in zip(fields, params, strict=True):
        _check_shape(cell, f"init ({name})", leaf, expected.get(name))
    if "bias" in fields:
        bias: Any = cell.bias
        _check_shape(cell, "bias", _shapes(cell, "bias", lambda: bias(_UNITS, jnp.float32)), (columns,))
    return params


def _check_initial_state(cell: Cell) -> Any:
    """Check `initial_state`; return the shapes of the state."""
    state = _shapes(cell, "initial_state", lambda: cell.initial_state(_BATCH, _UNITS, jnp.float32))
    parts = getattr(state, "_fields", ())
    require("h" in parts, f"initial_state of cell {cell.name}", type(state).__name__, "return a NamedTuple with a field h, the output")
    _check_state(cell, "initial_state", state)
    return state


def _check_step(cell: Cell, columns: int, params: Any, state: Any) -> None:
    """Check `project` and `step`."""
    x = jax.ShapeDtypeStruct((_STEPS, _BATCH, _FEATURES), jnp.float32)
    z = _shapes(cell, "project", lambda params, x: cell.project(params, x, None, None), params, x)
    _check_shape(cell, "project", z, (_STEPS, _BATCH, columns))
    z_t = jax.ShapeDtypeStruct((_BATCH, columns), jnp.float32)
    new: Any = _shapes(cell, "step", lambda params, state, z: cell.step(params, state, z, None, None), params, state, z_t)
    require(type(new) is type(state), f"step of cell {cell.name}", type(new).__name__, f"return {type(state).__name__}")
    for name, part, like in zip(state._fields, new, state, strict=True):
        _check_shape(cell, f"step ({name})", part, like.shape)


def _check_linear(cell: Cell, columns: int) -> None:
    """Check `linear`."""
    linear: Any = cell.linear
    pair = _shapes(cell, "linear", linear, jax.ShapeDtypeStruct((_BATCH, columns), jnp.float32))
    require(isinstance(pair, tuple) and len(pair) == 2, f"linear of cell {cell.name}", type(pair).__name__, "return a pair a, b")
    for part in pair:
        _check_shape(cell, "linear", part, (_BATCH, _UNITS))


def _check_state(cell: Cell, function: str, state: Any) -> None:
    for name, part in zip(state._fields, state, strict=True):
        shape = getattr(part, "shape", ())
        hidden = name != "h" and len(shape) == 2 and shape[0] == _BATCH  # a part that is not the output may have another width
        _check_shape(cell, f"{function} ({name})", part, shape if hidden else (_BATCH, _UNITS))


def _check_shape(cell: Cell, function: str, leaf: Any, wanted: tuple[int, ...] | None) -> None:
    """Check a leaf's shape, and that it is float32; the remedy states the example sizes E = 3, H = 4, B = 5 and T = 7."""
    shape, dtype = getattr(leaf, "shape", None), getattr(leaf, "dtype", None)
    found = f"{shape} {dtype}" if shape is not None else type(leaf).__name__
    sizes = f"where features = {_FEATURES}, units = {_UNITS}, batch = {_BATCH}, steps = {_STEPS}"
    fits = shape is not None and dtype == jnp.float32 and (wanted is None or shape == wanted)
    require(fits, f"{function} of cell {cell.name}", found, f"return float32 {wanted or 'arrays'} {sizes}")


def _shapes(cell: Cell, name: str, call: Callable, *arrays: Any) -> Any:
    """Return the shapes of the result of a call of the cell's function `name`."""
    require(callable(getattr(cell, name)), f"{name} of cell {cell.name}", type(getattr(cell, name)).__name__, "give a function")
    try:
        return jax.eval_shape(call, *arrays)
    except InputError:
        raise
    except Exception as error:  # the user's function may raise anything
        raise InputError(f"{name} of cell {cell.name}", f"{type(error).__name__}: {error}", _REMEDY) from error


def reads_mask(cell: Cell) -> bool:
    """Return whether the result of the cell's step depends on the mask of recurrent dropout."""
    params = jax.eval_shape(lambda: cell.init(jax.random.key(0), _FEATURES, _UNITS, jnp.float32))
    state = jax.eval_shape(lambda: cell.initial_state(_BATCH, _UNITS, jnp.float32))
    z, mask = (jax.ShapeDtypeStruct((_BATCH, size), jnp.float32) for size in (cell.gates * _UNITS, _UNITS))
    traced = jax.make_jaxpr(lambda mask, params, state, z: cell.step(params, state, z, mask, None))(mask, params, state, z).jaxpr
    return any(traced.invars[0] is variable for equation in traced.eqns for variable in equation.invars)
