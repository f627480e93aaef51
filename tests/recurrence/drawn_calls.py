"""Random operands for calls of `unroll`, used by test_fuzz.py.

Each operand has the form in which it is drawn, and a plain form for the backend
`reference`. NumPy computes the plain form without the
library: lengths and padding become a mask, ids become one-hot rows, and dtypes are
converted by `astype`.
"""

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st
from tables import CELLS, Shape

from lstm_jax import CELLS as CELL_TABLE
from lstm_jax import DropoutMasks

SHAPES = (
    Shape(3, 4, 2, 5),
    Shape(1, 1, 1, 1),
    Shape(0, 3, 2, 3),
    Shape(2, 6, 3, 17),
    Shape(2, 0, 2, 3),
    Shape(7, 24, 3, 9),
)
FLOATS = ("float32", "float64", "bfloat16", "float16")
INTS = ("int32", "int64", "int8", "uint8", "uint32")
REAL = (*FLOATS, *INTS, "bool")
MISFITS = ("an axis less", "an axis more", "longer", "shorter", "turned")
KINDS = {"real": "biufV", "ints": "iu", "bools": "b"}
"""Dict from the name of a group of dtypes to the letters that NumPy has for their
kinds."""


def mostly(usual: Any, *others: Any, share: int = 8) -> st.SearchStrategy:
    """Return a strategy that draws one of `others` in about one of `share` draws, and
    `usual` in all other draws.
    """
    return st.integers(0, share - 1).flatmap(
        lambda n: st.sampled_from(others) if n == share - 1 else st.just(usual)
    )


def misfitting(array, misfit):
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


@cache
def shapes_of(cell: str, shape: Shape):
    init = CELL_TABLE[cell].init
    return jax.eval_shape(
        lambda key: init(key, shape.features, shape.units), jax.random.key(0)
    )


class Drawing:
    """One Hypothesis example: the random choices, and the operands of a call.

    Attributes:
        given: the operands in the drawn form.
        clean: the operands in the plain form.
        wrong: the name of a wrong operand, if any.
        outside: whether there are ids out of range at valid steps, which a call outside
            of `jit` refuses.
        x_are_ids: whether x is ids.
        x_has_gradient: whether gradients with respect to x can be compared: x has the
            parameters' dtype, and no tokens are given.
    """

    def __init__(self, data: st.DataObject, x64: bool):
        self.draw, self.x64 = data.draw, x64
        self.rng = np.random.default_rng(self.draw(st.integers(0, 999)))
        self.shape = self.one(*SHAPES[:4], SHAPES[0], SHAPES[3], *SHAPES)
        self.cell = self.one("lstm", "lstm", "lstm", *CELLS)
        self.dtype = self.draw(
            mostly(
                "float64" if x64 and self.one(False, True) else "float32",
                "bfloat16",
                share=12,
            )
        )
        self.time_major = self.one(False, True)
        self.given: dict[str, Any] = {}
        self.clean: dict[str, Any] = {}
        self.wrong = ""
        self.outside = self.x_are_ids = self.x_has_gradient = False

    def refuse(self, name: str, condition: bool = True) -> None:
        if condition:
            self.wrong = self.wrong or name

    def one(self, *options: Any) -> Any:
        return self.draw(st.sampled_from(options))

    def rarely(self, share: int) -> bool:
        return self.draw(mostly(False, True, share=share))

    def usually(self, *others: str, share: int) -> str:
        """Return the dtype of the parameters or, in about one of `share` draws, one of
        `others`.
        """
        return self.draw(mostly(self.dtype, *others, share=share))

    def operand(
        self, name: str, array, dtype: str, kind: str, *shapes: tuple, share: int = 24
    ):
        """Return an operand in two forms: as the call gets it, and as a NumPy array, or
        None if it is wrong.

        The call gets a JAX array, a NumPy array or a list. In about one of `share`
        draws, the shape is changed; never if `share` is 0.
        """
        array = (
            misfitting(array, self.draw(mostly(None, *MISFITS, share=share)))
            if share
            else array
        )
        with np.errstate(invalid="ignore", over="ignore"):
            array = np.asarray(array.astype(jnp.dtype(dtype)))
        wide = array.dtype.itemsize == 8 and array.dtype.kind in "iuf"
        form = self.draw(
            mostly("jax" if self.x64 or not wide else "numpy", "numpy", "list", share=4)
        )
        if form == "list" and (array.dtype.kind not in "biuf" or 0 in array.shape):
            form = "numpy"  # a list has no dtype of its own
        fits = array.shape in shapes and array.dtype.kind in KINDS[kind]
        self.refuse(name, not fits)
        return {"jax": jnp.asarray, "numpy": np.asarray, "list": np.ndarray.tolist}[
            form
        ](array), array if fits else None

    def state_parts(self, name: str, sizes: tuple, dtypes: list[str], *shapes: tuple):
        """Draw the arrays of a state, and return them in the two forms."""
        pairs = [
            self.operand(
                name, self.rng.normal(size=sizes) * 2, dtype, "real", *shapes, share=60
            )
            for dtype in dtypes
        ]
        parts, arrays = zip(*pairs, strict=True)
        return parts, tuple(map(self.plain, arrays))

    def turned(self, array):
        return np.swapaxes(array, 0, 1) if self.time_major else array

    def per_step(self, name: str, array, dtype: str, kind: str, share: int = 24):
        """Draw an operand (B, T, ...) into the call, and return it as a NumPy array, or
        None if it is wrong.
        """
        array = self.turned(array)
        self.given[name], found = self.operand(
            name, array, dtype, kind, array.shape, share=share
        )
        return None if found is None else self.turned(found)

    def plain(self, array):
        return (
            None if array is None else jnp.asarray(array.astype(jnp.dtype(self.dtype)))
        )


def draw_params(on: Drawing) -> None:
    own, clean = {}, {}
    for name, leaf in shapes_of(on.cell, on.shape)._asdict().items():
        other = on.usually("float16", "float64", "int32", "complex64", share=60)
        array = misfitting(
            on.rng.normal(size=leaf.shape) * 0.7,
            on.draw(mostly(None, *MISFITS, share=60)),
        )
        array = np.asarray(array.astype(jnp.dtype(other)))
        narrow = other == "float64" and not on.x64
        own[name] = array if narrow else jnp.asarray(array)
        clean[name] = array.astype(np.float32) if narrow else np.asarray(own[name])
        on.refuse(
            f"params.{name}",
            clean[name].shape != leaf.shape or clean[name].dtype != jnp.dtype(on.dtype),
        )
    make = CELL_TABLE[on.cell].params
    on.given["params"], on.clean["params"] = (
        make(**own),
        make(**{name: jnp.asarray(array) for name, array in clean.items()}),
    )


def draw_valid(on: Drawing):
    """Draw a mask, lengths, both or neither into the call, and return the valid steps
    as bools (B, T), or None.
    """
    batch, steps = on.shape[:2]
    kind = on.one("none", "mask", "lengths", "lengths", "mask")
    valid = None
    if kind == "mask":
        dtype = on.draw(
            mostly("bool", "int32", "uint8", "float32", "float64", "complex64", share=3)
        )
        mask = on.per_step(
            "mask",
            on.rng.integers(0, 2, (batch, steps)) * (1 if dtype == "bool" else 2),
            dtype,
            "real",
        )
        valid = None if mask is None else mask.astype(bool)
    if kind == "lengths" or on.rarely(80):
        dtype = on.draw(
            mostly(
                "int32",
                "int64",
                "int8",
                "uint8",
                "uint32",
                "uint64",
                "float32",
                "bool",
                share=2,
            )
        )
        lengths = on.rng.integers(-3, steps + 4, batch)
        if jnp.dtype(dtype).kind in "ub":
            lengths = np.abs(lengths)
        if dtype == "int64" and on.one(False, True):
            lengths = lengths + on.rng.integers(-2, 3, batch) * 2**32
        on.given["lengths"], array = on.operand(
            "lengths", lengths, dtype, "ints", (batch,)
        )
        on.refuse("lengths", kind == "mask")
        if array is not None and valid is None:
            valid = np.array(
                [[t < int(n) for t in range(steps)] for n in array], bool
            ).reshape(batch, steps)
    return valid


def draw_ids(on: Drawing, padding):
    batch, steps, features, _ = on.shape
    on.x_are_ids = True
    name = on.draw(mostly("int32", *INTS, "bool", share=3))
    kind = jnp.dtype(name).kind
    ids = on.rng.integers(-features if kind == "i" else 0, features, (batch, steps))
    if on.one(False, False, False, True) and kind != "b":
        ids = np.where(
            on.rng.random(ids.shape) < 0.3, 2**32 + 1 if name == "int64" else 100, ids
        )
    if kind == "i":
        ids = np.where(padding & on.one(False, True), 99, ids)
    ids = on.per_step("x", ids, name, "ints", share=0)
    if ids is None:
        return None
    ids = ids.astype(object)  # Python's ints
    on.outside = any(not -features <= id < features for id in ids[~padding])
    rows = np.full((batch, steps, features), np.nan)
    for b, t in np.ndindex(batch, steps):
        if -features <= ids[b, t] < features:
            rows[b, t] = np.eye(features)[ids[b, t]]
    return rows


def draw_floats(on: Drawing, padding):
    batch, steps, features, _ = on.shape
    name = on.usually(*REAL, "complex64", share=3)
    kind = jnp.dtype(name).kind
    x = on.rng.normal(size=(batch, steps, features)) * (3 if kind in "iu" else 1)
    if kind in "fV":
        x[on.rng.random(x.shape) < on.one(0, 0, 0.04)] = np.nan
    if on.rarely(4):
        kept = on.draw(mostly("int32", *INTS, "float32", "bool", share=2))
        which = on.rng.integers(0, 3, (batch, steps))
        x = (
            on.rng.normal(size=(batch, 3, features))[np.arange(batch)[:, None], which]
            * 3
        )
        tokens = which.astype(np.int64) * (
            2**33 if kept == "int64" and on.one(False, True) else 1
        )
        if kept == "int32" and on.one(False, True):
            tokens = np.where(which == 0, -(2**31), tokens)
        on.per_step("tokens", tokens, kept, "ints")
    if kind in "fV":
        x = np.where(padding[:, :, None] & on.one(False, True), np.nan, x)
    # tokens add up gradients with respect to equal x
    on.x_has_gradient = name == on.dtype and "tokens" not in on.given
    return on.per_step("x", np.abs(x) if kind == "u" else x, name, "real", share=0)


def draw_state(on: Drawing) -> None:
    like = CELL_TABLE[on.cell].initial_state(1, 1)
    kind = on.one("none", "state", "state", "tuple", "list")
    if kind == "none":
        return
    shape = (on.shape.batch, CELL_TABLE[on.cell].output_size(on.shape.units))
    dtypes = [on.usually(*REAL, "complex64", share=4) for _ in like]
    parts, arrays = on.state_parts("initial_state", shape, dtypes, shape)
    on.given["initial_state"] = {
        "state": lambda: type(like)(*parts),
        "tuple": lambda: parts,
        "list": lambda: list(parts),
    }[kind]()
    on.clean["initial_state"] = type(like)(*arrays)


def draw_resets(on: Drawing) -> None:
    if on.one(True, False, False):
        return
    batch, steps = on.shape[:2]
    units = CELL_TABLE[on.cell].output_size(on.shape.units)
    flags = on.rng.random((batch, steps)) < on.one(0.0, 0.2, 1.0)
    found = on.per_step(
        "resets",
        flags,
        on.draw(mostly("bool", "int32", "float32", share=20)),
        "bools",
        share=40,
    )
    on.clean["resets"] = None if found is None else jnp.asarray(found)
    if on.one(True, False):
        return
    size, like = (
        (units,) if on.one(True, False) else (batch, units),
        CELL_TABLE[on.cell].initial_state(1, 1),
    )
    both = on.state_parts(
        "reset_state", size, [on.dtype] * len(like), (units,), (batch, units)
    )
    on.given["reset_state"], on.clean["reset_state"] = both


def draw_dropout(on: Drawing) -> None:
    row, (batch, steps, features, _) = CELL_TABLE[on.cell], on.shape
    units = row.output_size(on.shape.units)
    masks, cleans = [], []
    for name, size in (("input", features), ("recurrent", units)):
        kind = on.one("none", "none", "shared", "per gate")
        mask, array = None, None
        if kind != "none":
            kept = on.usually(
                "bool", "int32", "float64", "bfloat16", "complex64", share=3
            )
            shapes = ((batch, size), (row.gates, batch, size))
            drawn = on.rng.integers(0, 2, shapes[kind == "per gate"]) * (
                1 if kept == "bool" else 2
            )
            mask, array = on.operand(
                f"dropout.{name}", drawn, kept, "real", *shapes, share=40
            )
            on.refuse(
                f"dropout.{name}", name == "recurrent" and not row.has_recurrent_kernel
            )
        masks.append(mask)
        cleans.append(on.plain(array))
    zoneout, clean = None, None
    if on.rarely(12):
        if on.one(False, True):
            zoneout, clean = {"h": 0.25}, {"h": jnp.asarray(0.25, jnp.dtype(on.dtype))}
        else:
            kept, shape = on.one("bool", "int32", "float32"), (steps, batch, units)
            mask, array = on.operand(
                "dropout.zoneout", on.rng.integers(0, 2, shape), kept, "real", shape
            )
            on.refuse("dropout.zoneout", kept == "float32")
            zoneout, clean = (
                {"h": mask},
                {"h": None if array is None else jnp.asarray(array.astype(bool))},
            )
    if any(mask is not None for mask in (*masks, zoneout)):
        on.given["dropout"] = DropoutMasks(*masks, zoneout)
        on.clean["dropout"] = DropoutMasks(*cleans, clean)


def draw_operands(on: Drawing) -> None:
    shape = on.shape
    draw_params(on)
    valid = draw_valid(on)
    padding = np.zeros(shape[:2], bool) if valid is None else ~valid
    x = (draw_ids if on.rarely(4) else draw_floats)(on, padding)
    on.clean["x"] = (
        None
        if x is None
        else np.where(padding[:, :, None], 0, x).astype(jnp.dtype(on.dtype))
    )
    draw_state(on)
    draw_resets(on)
    draw_dropout(on)
    options = {
        name: on.one(False, True)
        for name in ("backwards", "return_sequences", "zero_output_for_mask")
    }
    remat = on.draw(mostly(None, "sqrt", 1, 2, 99, 0, True, share=6))
    products = on.draw(
        mostly(None, "bfloat16", "float32", "float99", "int32", share=12)
    )
    zoned = on.given.get("dropout", DropoutMasks()).zoneout
    on.refuse(
        "remat", (remat is True) or remat == 0 or (remat is not None and bool(zoned))
    )
    on.refuse("compute_dtype", products in ("float99", "int32"))
    on.refuse("x", shape.steps == 0)
    on.given |= options | {
        "time_major": on.time_major,
        "remat": remat,
        "compute_dtype": products,
    }
    on.clean |= options | {"compute_dtype": products, "mask": valid}
