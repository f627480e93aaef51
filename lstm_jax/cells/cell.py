"""The contract of a recurrent cell: pure functions, and the check that they fit together."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from lstm_jax.cells import products
from lstm_jax.errors import InputError, require


@dataclass(frozen=True)
class Cell:
    """Pure functions and sizes by which a backend runs a cell.

    gates: parts that the kernel's columns hold side by side; params: their NamedTuple; init(key, features, units, dtype) -> params;
    bias(units, dtype) -> the initial `bias` of it, None for a cell without;
    initial_state(batch, units, dtype) -> state, a NamedTuple with a field `h`, which is the output;
    project(params, x (T, B, E), input mask, compute dtype) -> z (T, B, gates * H);
    step(params, state, z (B, gates * H), recurrent mask, compute dtype) -> state.
    linear(z) -> a, b, where h' = a h + b: of the cells whose gates do not see h, else None.
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

    @property
    def sees_state(self) -> bool:
        """Whether the gates have a product with the state."""
        return "recurrent_kernel" in self.params._fields  # pyright: ignore[reportAttributeAccessIssue]


_STEPS, _BATCH, _FEATURES, _UNITS = 7, 5, 3, 4
_REMEDY = "see docs/own_cell.md"


def check_cell(cell: Cell) -> None:
    """Check that the functions of a cell fit together, by shapes alone: nothing is computed.

    Raises:
        InputError: that names the function which does not fit, what it gives and what fits.
    """
    require(isinstance(cell, Cell), "cell", type(cell).__name__, "give a lstm_jax.Cell, or the name of one")
    named = isinstance(cell.name, str) and bool(cell.name) and cell.name.isprintable()
    require(named, "cell name", repr(cell.name), "give text")
    require(isinstance(cell.gates, int) and cell.gates >= 1, f"gates of cell {cell.name}", cell.gates, "give 1 or more")
    fields = getattr(cell.params, "_fields", ())
    require("kernel" in fields, f"params of cell {cell.name}", fields, "give a NamedTuple class with a field kernel")
    columns = cell.gates * _UNITS
    params = _shapes(cell, "init", lambda: cell.init(jax.random.key(0), _FEATURES, _UNITS, jnp.float32))
    require(type(params) is cell.params, f"init of cell {cell.name}", type(params).__name__, f"return {cell.params.__name__}")
    known = {"kernel": (_FEATURES, columns), "recurrent_kernel": (_UNITS, columns), "bias": (columns,)}
    for name, leaf in zip(fields, params, strict=True):
        _check_shape(cell, f"init ({name})", leaf, known.get(name))
    if "bias" in fields:
        bias: Any = cell.bias
        _check_shape(cell, "bias", _shapes(cell, "bias", lambda: bias(_UNITS, jnp.float32)), (columns,))
    state = _shapes(cell, "initial_state", lambda: cell.initial_state(_BATCH, _UNITS, jnp.float32))
    parts = getattr(state, "_fields", ())
    require("h" in parts, f"initial_state of cell {cell.name}", type(state).__name__, "return a NamedTuple with a field h, the output")
    _check_state(cell, "initial_state", state)
    x = jax.ShapeDtypeStruct((_STEPS, _BATCH, _FEATURES), jnp.float32)
    z = _shapes(cell, "project", lambda params, x: cell.project(params, x, None, None), params, x)
    _check_shape(cell, "project", z, (_STEPS, _BATCH, columns))
    z_t = jax.ShapeDtypeStruct((_BATCH, columns), jnp.float32)
    new: Any = _shapes(cell, "step", lambda params, state, z: cell.step(params, state, z, None, None), params, state, z_t)
    require(type(new) is type(state), f"step of cell {cell.name}", type(new).__name__, f"return {type(state).__name__}")
    for name, part, like in zip(parts, new, state, strict=True):
        _check_shape(cell, f"step ({name})", part, like.shape)
    if cell.linear is not None:
        pair = _shapes(cell, "linear", cell.linear, z_t)
        require(isinstance(pair, tuple) and len(pair) == 2, f"linear of cell {cell.name}", type(pair).__name__, "return a pair a, b")
        for part in pair:
            _check_shape(cell, "linear", part, (_BATCH, _UNITS))


def _check_state(cell: Cell, function: str, state: Any) -> None:
    for name, part in zip(state._fields, state, strict=True):
        shape = getattr(part, "shape", ())
        wide = name != "h" and len(shape) == 2 and shape[0] == _BATCH  # what is no output may have another width
        _check_shape(cell, f"{function} ({name})", part, shape if wide else (_BATCH, _UNITS))


def _check_shape(cell: Cell, function: str, leaf: Any, wanted: tuple[int, ...] | None) -> None:
    """E = 3, H = 4, B = 5 and T = 7 stand for any: the remedy says so."""
    shape, dtype = getattr(leaf, "shape", None), getattr(leaf, "dtype", None)
    found = f"{shape} {dtype}" if shape is not None else type(leaf).__name__
    sizes = f"where features = {_FEATURES}, units = {_UNITS}, batch = {_BATCH}, steps = {_STEPS}"
    fits = shape is not None and dtype == jnp.float32 and (wanted is None or shape == wanted)
    require(fits, f"{function} of cell {cell.name}", found, f"return float32 {wanted or 'arrays'} {sizes}")


def _shapes(cell: Cell, name: str, call: Callable, *arrays: Any) -> Any:
    """Return what a call of the cell's function `name` gives, as shapes."""
    require(callable(getattr(cell, name)), f"{name} of cell {cell.name}", type(getattr(cell, name)).__name__, "give a function")
    try:
        return jax.eval_shape(call, *arrays)
    except InputError:
        raise
    except Exception as error:  # whatever the user's function raises
        raise InputError(f"{name} of cell {cell.name}", f"{type(error).__name__}: {error}", _REMEDY) from error


def reads_mask(cell: Cell) -> bool:
    """Whether the result of the cell's step depends on the mask of recurrent dropout."""
    params = jax.eval_shape(lambda: cell.init(jax.random.key(0), _FEATURES, _UNITS, jnp.float32))
    state = jax.eval_shape(lambda: cell.initial_state(_BATCH, _UNITS, jnp.float32))
    z, mask = (jax.ShapeDtypeStruct((_BATCH, size), jnp.float32) for size in (cell.gates * _UNITS, _UNITS))
    traced = jax.make_jaxpr(lambda mask, params, state, z: cell.step(params, state, z, mask, None))(mask, params, state, z).jaxpr
    return any(traced.invars[0] is variable for equation in traced.eqns for variable in equation.invars)
