"""Random operands for calls of `unroll`, used by test_fuzz.py.

Each operand has the form in which it is drawn, and a plain form for the backend `reference`. NumPy computes the plain form without the
library: lengths and padding become a mask, ids become one-hot rows, and dtypes are converted by `astype`.
"""

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st
from tables import CELLS, Shape

from lstm_jax import CELLS as CELL_TABLE
from lstm_jax import DropoutMasks

SHAPES = (Shape(3, 4, 2, 5), Shape(1, 1, 1, 1), Shape(0, 3, 2, 3), Shape(2, 6, 3, 17), Shape(2, 0, 2, 3), Shape(7, 24, 3, 9))
FLOATS = ("float32", "float64", "bfloat16", "float16")
INTS = ("int32", "int64", "int8", "uint8", "uint32")
REAL = (*FLOATS, *INTS, "bool")
MISFITS = ("an axis less", "an axis more", "longer", "shorter", "turned")


def mostly(usual: Any, *others: Any, share: int = 8) -> st.SearchStrategy:
    """Return a strategy that draws one of `others` in about one of `share` draws, and `usual` in all other draws."""
    return st.integers(0, share - 1).flatmap(lambda n: st.sampled_from(others) if n == share - 1 else st.just(usual))


def misfitting(array: np.ndarray, misfit: str | None) -> np.ndarray:
    match misfit:
        case "an axis less":
            return array.sum(0) if array.ndim else array
        case "an axis more":
            return array[None]
        case "longer":
            return np.concatenate([array, array[..., :1]], -1) if array.ndim else array
        case "shorter":
            return array[..., :-1] if array.ndim else array
        case "turned":
            return array.T
        case _:
            return array


@dataclass
class Call:
    """Operands of a call in the drawn form (`given`) and in the plain form (`clean`), and the name of a wrong operand (`wrong`), if any."""

    cell: str
    given: dict[str, Any]
    clean: dict[str, Any] = field(default_factory=dict)
    wrong: str = ""
    outside: bool = False  # ids out of range at valid steps, which a call outside of `jit` refuses
    x_are_ids: bool = False
    x_has_gradient: bool = False
    """Whether gradients with respect to x can be compared: x has the parameters' dtype, and no tokens are given."""


class Drawing:
    """Source of the random choices of one Hypothesis example: the function `draw` and the NumPy generator `rng`."""

    def __init__(self, data: st.DataObject):
        self.draw = data.draw
        self.rng = np.random.default_rng(self.draw(st.integers(0, 999)))

    def one(self, *options: Any) -> Any:
        return self.draw(st.sampled_from(options))

    def array(self, array: np.ndarray, dtype: str, x64: bool, share: int = 24) -> tuple[Any, np.ndarray]:
        """Return an operand in two forms: as the call gets it, and as a NumPy array.

        The call gets a JAX array, a NumPy array or a list. In about one of `share` draws, the shape is changed; never if `share` is 0.
        """
        array = misfitting(array, self.draw(mostly(None, *MISFITS, share=share))) if share else array
        with np.errstate(invalid="ignore", over="ignore"):
            array = np.asarray(array.astype(jnp.dtype(dtype)))
        wide = array.dtype.itemsize == 8 and array.dtype.kind in "iuf"
        form = self.draw(mostly("jax" if x64 or not wide else "numpy", "numpy", "list", share=4))
        if form == "list" and (array.dtype.kind not in "biuf" or 0 in array.shape):
            form = "numpy"  # a list has no dtype of its own
        if form == "jax":
            return jnp.asarray(array), array
        return (array, array) if form == "numpy" else (array.tolist(), array)


def draw_params(on: Drawing, call: Call, shape: Shape, dtype: str, x64: bool) -> None:
    """Draw the parameters of the cell into `call`."""
    row = CELL_TABLE[call.cell]
    like = shapes_of(call.cell, shape)
    own, clean = {}, {}
    for name, leaf in like._asdict().items():
        other = on.draw(mostly(dtype, "float16", "float64", "int32", "complex64", share=60))
        given_array = misfitting(on.rng.normal(size=leaf.shape) * 0.7, on.draw(mostly(None, *MISFITS, share=60)))
        array = np.asarray(given_array.astype(jnp.dtype(other)))
        own[name] = jnp.asarray(array) if x64 or other not in ("float64",) else array
        clean[name] = np.asarray(own[name]) if x64 or other != "float64" else array.astype(np.float32)
        if clean[name].shape != leaf.shape or clean[name].dtype != jnp.dtype(dtype):
            call.wrong = call.wrong or f"params.{name}"
    call.given["params"], call.clean["params"] = row.params(**own), row.params(**{k: jnp.asarray(v) for k, v in clean.items()})


_SHAPES: dict[tuple[str, Shape], Any] = {}


def shapes_of(cell: str, shape: Shape):
    """Return the shapes of the cell's parameters, which are computed once for each cell and shape."""
    if (cell, shape) not in _SHAPES:
        init = CELL_TABLE[cell].init
        _SHAPES[cell, shape] = jax.eval_shape(lambda key: init(key, shape.features, shape.units), jax.random.key(0))
    return _SHAPES[cell, shape]


def draw_valid(on: Drawing, call: Call, shape: Shape, x64: bool, time_major: bool) -> np.ndarray | None:
    """Draw a mask, lengths, both or neither into `call`, and return the valid steps as bools (B, T), or None.

    If a drawn operand has a wrong shape or dtype, or if both are drawn, `call.wrong` gets the name of the wrong operand, unless it already
    names another. The result comes from the mask if a mask is drawn, and from the lengths otherwise. It is None if this operand is wrong,
    or if neither is drawn.
    """
    batch, steps = shape.batch, shape.steps
    kind = on.one("none", "mask", "lengths", "lengths", "mask")
    valid = None
    if kind == "mask":
        dtype = on.draw(mostly("bool", "int32", "uint8", "float32", "float64", "complex64", share=3))
        mask = on.rng.integers(0, 2, (batch, steps)) * (1 if dtype == "bool" else 2)
        call.given["mask"], array = on.array(mask.T if time_major else mask, dtype, x64)
        if array.shape != ((steps, batch) if time_major else (batch, steps)) or dtype == "complex64":
            call.wrong = call.wrong or "mask"
        else:
            valid = (array.T if time_major else array).astype(bool)
    if kind == "lengths" or on.draw(mostly(False, True, share=80)):
        dtype = on.draw(mostly("int32", "int64", "int8", "uint8", "uint32", "uint64", "float32", "bool", share=2))
        lengths = on.rng.integers(-3, steps + 4, batch)
        if jnp.dtype(dtype).kind == "u" or dtype == "bool":
            lengths = np.abs(lengths)
        if dtype == "int64" and on.one(False, True):
            lengths = lengths + on.rng.integers(-2, 3, batch) * 2**32
        call.given["lengths"], array = on.array(lengths, dtype, x64)
        if array.shape != (batch,) or jnp.dtype(dtype).kind not in "iu" or kind == "mask":
            call.wrong = call.wrong or "lengths"
        elif valid is None:
            valid = np.array([[t < int(n) for t in range(steps)] for n in array], bool).reshape(batch, steps)
    return valid


def draw_x(on: Drawing, call: Call, shape: Shape, dtype: str, x64: bool, valid: np.ndarray | None, time_major: bool) -> None:
    batch, steps, features, _ = shape
    padding = np.zeros((batch, steps), bool) if valid is None else ~valid
    if on.draw(mostly(False, True, share=4)):
        call.x_are_ids = True
        name = on.draw(mostly("int32", *INTS, "bool", share=3))
        ids = on.rng.integers(-features if jnp.dtype(name).kind == "i" else 0, features, (batch, steps))
        outside = on.one(False, False, False, True) and name != "bool"
        if outside:
            far = 2**32 + 1 if name == "int64" else 100
            ids = np.where(on.rng.random(ids.shape) < 0.3, far, ids)
        if name != "bool" and name[0] != "u":
            ids = np.where(padding & on.one(False, True), 99, ids)
        call.given["x"], array = on.array(ids.T if time_major else ids, name, x64, share=0)
        if name == "bool":
            call.wrong = call.wrong or "x"
            return
        ids = (array.T if time_major else array).astype(object)  # Python's ints
        call.outside = any(not -features <= id < features for id in ids[~padding])
        rows = np.full((batch, steps, features), np.nan)
        for b, t in np.ndindex(batch, steps):
            if -features <= ids[b, t] < features:
                rows[b, t] = np.eye(features)[ids[b, t]]
        call.clean["x"] = rows
    else:
        name = on.draw(mostly(dtype, *REAL, "complex64", share=3))
        x = on.rng.normal(size=(batch, steps, features)) * (3 if jnp.dtype(name).kind in "iu" else 1)
        x = np.abs(x) if jnp.dtype(name).kind == "u" else x
        if jnp.dtype(name).kind in "fV":
            x[on.rng.random(x.shape) < on.one(0, 0, 0.04)] = np.nan
        if on.draw(mostly(False, True, share=4)):
            kept = on.draw(mostly("int32", *INTS, "float32", "bool", share=2))
            which = on.rng.integers(0, 3, (batch, steps))
            x = on.rng.normal(size=(batch, 3, features))[np.arange(batch)[:, None], which] * 3
            x = np.abs(x) if jnp.dtype(name).kind == "u" else x
            tokens = which.astype(np.int64) * (2**33 if kept == "int64" and on.one(False, True) else 1)
            if kept == "int32" and on.one(False, True):
                tokens = np.where(which == 0, -(2**31), tokens)
            call.given["tokens"], array = on.array(tokens.T if time_major else tokens, kept, x64)
            if array.shape != ((steps, batch) if time_major else (batch, steps)) or jnp.dtype(kept).kind not in "iu":
                call.wrong = call.wrong or "tokens"
        if jnp.dtype(name).kind in "fV":
            x = np.where(padding[:, :, None] & on.one(False, True), np.nan, x)
        call.given["x"], array = on.array(np.swapaxes(x, 0, 1) if time_major else x, name, x64, share=0)
        if name == "complex64":
            call.wrong = call.wrong or "x"
            return
        call.clean["x"] = np.swapaxes(array, 0, 1) if time_major else array
        call.x_has_gradient = name == dtype and "tokens" not in call.given  # tokens add up gradients with respect to equal x
    call.clean["x"] = np.where(padding[:, :, None], 0, call.clean["x"]).astype(jnp.dtype(dtype))


def draw_state(on: Drawing, call: Call, shape: Shape, dtype: str, x64: bool) -> None:
    like = CELL_TABLE[call.cell].initial_state(1, 1)
    kind = on.one("none", "state", "state", "tuple", "list")
    if kind == "none":
        return
    parts, arrays = [], []
    for _ in like:
        name = on.draw(mostly(dtype, *REAL, "complex64", share=4))
        part, array = on.array(on.rng.normal(size=(shape.batch, shape.units)) * 2, name, x64, share=60)
        if array.shape != (shape.batch, shape.units) or name == "complex64":
            call.wrong = call.wrong or "initial_state"
        parts.append(part)
        arrays.append(array)
    call.given["initial_state"] = {"state": type(like)(*parts), "tuple": tuple(parts), "list": parts}[kind]
    if not call.wrong:
        call.clean["initial_state"] = type(like)(*(jnp.asarray(array.astype(jnp.dtype(dtype))) for array in arrays))


def draw_resets(on: Drawing, call: Call, shape: Shape, dtype: str, x64: bool, time_major: bool) -> None:
    if on.one(True, False, False):
        return
    batch, steps, units = shape.batch, shape.steps, shape.units
    flags = on.rng.random((batch, steps)) < on.one(0.0, 0.2, 1.0)
    kept = on.draw(mostly("bool", "int32", "float32", share=20))
    call.given["resets"], array = on.array(flags.T if time_major else flags, kept, x64, share=40)
    if array.shape != ((steps, batch) if time_major else (batch, steps)) or kept != "bool":
        call.wrong = call.wrong or "resets"
        return
    call.clean["resets"] = jnp.asarray(array.T if time_major else array)
    if on.one(True, False):
        return
    shared, parts, arrays = on.one(True, False), [], []
    for _ in CELL_TABLE[call.cell].initial_state(1, 1):
        part, array = on.array(on.rng.normal(size=(units,) if shared else (batch, units)) * 2, dtype, x64, share=60)
        if array.shape not in ((units,), (batch, units)):
            call.wrong = call.wrong or "reset_state"
        parts.append(part)
        arrays.append(array)
    call.given["reset_state"] = tuple(parts)
    if not call.wrong:
        call.clean["reset_state"] = tuple(jnp.asarray(array.astype(jnp.dtype(dtype))) for array in arrays)


def draw_dropout(on: Drawing, call: Call, shape: Shape, dtype: str, x64: bool) -> None:
    row = CELL_TABLE[call.cell]
    masks, cleans = [], []
    for name, size in (("input", shape.features), ("recurrent", shape.units)):
        kind = on.one("none", "none", "shared", "per gate")
        if kind == "none":
            masks.append(None)
            cleans.append(None)
            continue
        kept = on.draw(mostly(dtype, "bool", "int32", "float64", "bfloat16", "complex64", share=3))
        lead = (row.gates,) if kind == "per gate" else ()
        mask, array = on.array(on.rng.integers(0, 2, (*lead, shape.batch, size)) * (1 if kept == "bool" else 2), kept, x64, share=40)
        linear = name == "recurrent" and row.linear is not None
        if array.shape not in ((shape.batch, size), (row.gates, shape.batch, size)) or kept == "complex64" or linear:
            call.wrong = call.wrong or f"dropout.{name}"
        masks.append(mask)
        cleans.append(None if call.wrong else jnp.asarray(array.astype(jnp.dtype(dtype))))
    zoneout, clean_zoneout = None, None
    if on.draw(mostly(False, True, share=12)):
        if on.one(False, True):
            zoneout = {"h": 0.25}
            clean_zoneout = {"h": jnp.asarray(0.25, jnp.dtype(dtype))}
        else:
            kept = on.one("bool", "int32", "float32")
            given_array, array = on.array(on.rng.integers(0, 2, (shape.steps, shape.batch, shape.units)), kept, x64)
            zoneout, clean_zoneout = {"h": given_array}, {"h": jnp.asarray(array.astype(bool))}
            if array.shape != (shape.steps, shape.batch, shape.units) or kept == "float32":
                call.wrong = call.wrong or "dropout.zoneout"
    if any(mask is not None for mask in (*masks, zoneout)):
        call.given["dropout"] = DropoutMasks(*masks, zoneout)
        call.clean["dropout"] = DropoutMasks(*cleans, clean_zoneout)


def draw_call(on: Drawing, x64: bool) -> Call:
    shape = on.one(*SHAPES[:4], SHAPES[0], SHAPES[3], *SHAPES)
    call = Call(on.one("lstm", "lstm", "lstm", *CELLS), {})
    dtype = on.draw(mostly("float64" if x64 and on.one(False, True) else "float32", "bfloat16", share=12))
    time_major = on.one(False, True)
    draw_params(on, call, shape, dtype, x64)
    valid = draw_valid(on, call, shape, x64, time_major)
    draw_x(on, call, shape, dtype, x64, valid, time_major)
    draw_state(on, call, shape, dtype, x64)
    draw_resets(on, call, shape, dtype, x64, time_major)
    draw_dropout(on, call, shape, dtype, x64)
    options = {name: on.one(False, True) for name in ("backwards", "return_sequences", "zero_output_for_mask")}
    remat = on.draw(mostly(None, "sqrt", 1, 2, 99, 0, True, share=6))
    products = on.draw(mostly(None, "bfloat16", "float32", "float99", "int32", share=12))
    zoned = call.given.get("dropout", DropoutMasks()).zoneout
    if (remat is True) or remat == 0 or (remat is not None and zoned):
        call.wrong = call.wrong or "remat"
    if products in ("float99", "int32"):
        call.wrong = call.wrong or "compute_dtype"
    if shape.steps == 0:
        call.wrong = call.wrong or "x"
    call.given |= options | {"time_major": time_major, "remat": remat, "compute_dtype": products}
    call.clean |= options | {"compute_dtype": products, "mask": valid}
    return call
