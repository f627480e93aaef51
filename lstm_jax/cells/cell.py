"""The class `Cell`, which describes a recurrent cell by pure functions, and a check of
the cells that users define.

B is the batch size, T the number of steps, E the number of input features and H the
number of units.
"""

from collections.abc import Callable
from dataclasses import fields
from functools import cached_property
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import Array

from lstm_jax.base.checks import frozen
from lstm_jax.base.errors import InputError, check_class, parsing, require
from lstm_jax.base.types import Ints
from lstm_jax.cells import initializers, products

_STEPS, _BATCH, _FEATURES, _UNITS = 7, 5, 3, 4
Params = TypeVar("Params")


@frozen
class Cell:
    """Description of a recurrent cell: its number of gates, the class of its parameters
    and its pure functions.

    B is the batch size, T the number of steps, E the number of input features and H the
    number of units.

    Attributes:
        name: name of the cell, which is its key in the dict `CELLS`.
        gates: number of gates. The kernel (E, gates * H) has H columns for each gate.
        params: NamedTuple class of the parameters; it has a field `kernel`.
        init: function init(key, features, units, dtype) that returns the initial
            parameters.
        bias: function bias(units, dtype) that returns the initial value of the
            parameter `bias`; None if there is no such parameter. If a user defines the
            cell, only the shape of this value is used, and the layers take the initial
            bias from `init`.
        initial_state: function initial_state(batch, units, dtype) that returns the
            initial state. The state is a NamedTuple with a field `h`, which is the
            output of the cell.
        step: function step(params, state, z, mask, compute_dtype) that returns the
            state after one step. z (B, gates * H) is the projected input of this step.
            `mask` is the mask of recurrent dropout: (B, H) if all gates share it,
            (gates, B, H) with one mask per gate, or None. `compute_dtype` is the dtype
            of the matrix products, or None for the dtype of the arrays. `step` is also
            called at padded steps, with the z of x = 0. The result is discarded, but
            its derivatives must be finite there, or gradients become NaN.
        project: function project(params, x, mask, compute_dtype) that returns the
            projected input z (T, B, gates * H) of all steps. x is the input (T, B, E).
            If the input of the layer is int ids and `takes_ids` is false, x holds their
            one-hot vectors. `mask` is the mask of input dropout: (B, E), (gates, B, E)
            or None. The default function returns x W plus the bias, where W is the
            kernel.
        linear: function linear(z) for a cell whose output after a step is a h + b,
            elementwise, where h is the output before the step. It returns the arrays a
            and b (..., H) for z (..., gates * H), with any leading axes: z may belong
            to one step or to all steps. For any other cell, this attribute is None.
            Backends call `linear` in place of `step` only if the state has no field
            besides `h`; see `is_linear`.
        decay: function decay(params) for a linear cell whose a is the same at all steps
            and in all rows. It returns a, with the columns of h, and b is the projected
            input z. For any other cell, this attribute is None.
        complex_state: whether the H units of a linear cell are complex numbers: h, a
            and b have 2 H columns, first the real and then the imaginary parts, and a h
            is the product of complex numbers; see `times`.
        make_step: function make_step(activation, recurrent_activation) that returns a
            function `step` with these activations; None if the activations of the cell
            cannot be changed. A cell with one gate ignores `recurrent_activation`.
            `make_step` is only used for the cells of this library: the activations of
            other cells cannot be changed.
        outputs: number of columns of the output h, which is also the number of rows of
            the recurrent kernel and the number of columns of a mask of recurrent
            dropout. 0 means the number of units H.
        blocks: number of diagonal blocks of the kernel, which has E / blocks rows. More
            than 1 is for cells of this library.
        takes_ids: whether `project` also takes int ids (T, B), which need less time and
            memory than one-hot vectors. None means true if `project` is the default
            function, and false if it is any other function.
        chunk: function chunk(state, z, valid, resets) of a cell that computes L steps
            at once, as matrix products. It returns h (L, B, H) and the state after the
            steps, for z (L, B, ...), `valid` and `resets` as in `Call`. Its h at padded
            steps may be anything.
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
    decay: Callable | None = None
    complex_state: bool = False
    make_step: Callable | None = None
    outputs: int = 0
    blocks: int = 1
    takes_ids: bool | None = None
    chunk: Callable | None = None

    def __deepcopy__(self, memo) -> "Cell":
        """Return the cell itself: some backends run a cell only if it is the very
        object that `CELLS` contains.
        """
        return self

    def __reduce__(self) -> tuple:
        """Return how pickle creates the cell again. A cell of this library becomes the
        object that the library defines, not a new one.
        """
        return MAKERS.get(self) or (
            type(self),
            tuple(getattr(self, field.name) for field in fields(self)),
        )

    def output_size(self, units: int) -> int:
        """Return the number of columns of the output h: `outputs` or, if it is 0,
        `units`, twice as many if `complex_state` is true.
        """
        return self.outputs or units * (1 + self.complex_state)

    def features(self, kernel) -> int:
        """Return the number of input features E of a kernel."""
        return kernel.shape[0] * self.blocks

    @property
    def has_cell_state(self) -> bool:
        """Whether the state contains a cell state c in addition to the output h, as in
        an LSTM.
        """
        return "c" in self.state_like()._fields

    @cached_property
    def is_linear(self) -> bool:
        """Whether `linear` or `decay` gives the whole step: the cell has one, and its
        state has no field besides the output h.
        """
        return (
            self.linear or self.decay
        ) is not None and self.state_like()._fields == ("h",)

    def state_like(self, units: int = _UNITS) -> Any:
        """Return the initial state for batch size 1 in float32, with a
        `jax.ShapeDtypeStruct` in place of each array.
        """
        return jax.eval_shape(lambda: self.initial_state(1, units, jnp.float32))

    def projectable(self, params, x, masked: bool = False) -> Any:
        """Return the inputs x in a form that `project` takes: ids (T, B) that it does
        not take become one-hot vectors.

        `masked` tells whether `project` is called with a mask of input dropout. With
        such a mask, it never takes ids.
        """
        takes_ids = self.takes_ids
        if takes_ids is None:
            takes_ids = self.project is products.project
        if x.ndim == 3 or (takes_ids and not masked):
            return x
        features = self.features(params.kernel)
        return products.one_hot_rows(x, features, params.kernel.dtype)

    @property
    def has_recurrent_kernel(self) -> bool:
        """Whether the cell has a recurrent kernel, a matrix that multiplies the output
        h of the previous step.
        """
        return "recurrent_kernel" in self.params._fields  # pyright: ignore[reportAttributeAccessIssue]


def times(of_complex: bool, a: Array, h: Array) -> Array:
    """Return a h, where a and h have real numbers or, if `of_complex` is true, the real
    and then the imaginary parts of complex numbers.
    """
    a = jnp.broadcast_to(a, h.shape)
    if not of_complex:
        return a * h
    a_real, a_imaginary = jnp.split(a, 2, axis=-1)
    h_real, h_imaginary = jnp.split(h, 2, axis=-1)
    real = a_real * h_real - a_imaginary * h_imaginary
    imaginary = a_real * h_imaginary + a_imaginary * h_real
    return jnp.concatenate([real, imaginary], axis=-1)


def zero_bias(gates: int) -> Callable[..., Array]:
    """Return the function bias(units, dtype) of a cell whose initial bias is zeros
    (gates * units,).
    """
    return lambda units, dtype=jnp.float32: jnp.zeros((gates * units,), dtype)


def make_init(
    params: Callable[..., Params], gates: int, bias: Callable
) -> Callable[..., Params]:
    """Return the function init(key, features, units, dtype) of a cell with a kernel, a
    recurrent kernel and a bias.

    As in Keras, the kernel is glorot uniform and the recurrent kernel orthogonal.
    """

    def init(key, features, units, dtype=jnp.float32):
        products.check_sizes(features, units)
        kernel_key, recurrent_key = jax.random.split(key)
        columns = gates * units
        return params(
            initializers.glorot_uniform(kernel_key, (features, columns), dtype),
            initializers.orthogonal(recurrent_key, (units, columns), dtype),
            bias(units, dtype),
        )

    return init


MAKERS: dict[Cell, tuple[Callable[..., Cell], tuple]] = {}
"""Dict from each cell of this library to a pair (function, arguments): the call
function(*arguments) returns the cell.

pickle stores this pair in place of the cell, since pickle cannot store functions that
are defined within other functions.
"""


def made_by(cell: Cell, maker: Callable[..., Cell], *args) -> Cell:
    """Store the call that makes a cell, and return the cell."""
    MAKERS[cell] = (maker, args)
    return cell


def is_ours(cell: Cell) -> bool:
    """Return whether all functions of the cell, its activations too, are of this
    library, so that they depend on their arguments alone.
    """
    made = MAKERS.get(cell)
    return made is not None and all(
        isinstance(arg, str | int | float) or (isinstance(arg, Cell) and is_ours(arg))
        for arg in made[1]
    )


def check_cell(cell: Cell) -> None:
    """Check, without computing anything, that the attributes and functions of a cell
    are as the class `Cell` describes them.

    Raises:
        InputError: if an attribute of the cell is wrong, or if a function raises an
            error or returns a value of a wrong class, shape or dtype. The message names
            the attribute or function, its value or result, and what is expected.
    """
    check_class("cell", cell, Cell, "give a lstm_jax.Cell, or the name of one")
    named = isinstance(cell.name, str) and bool(cell.name) and cell.name.isprintable()
    require(named, "cell name", repr(cell.name), "give text")
    for name, least in (("gates", 1), ("outputs", 0)):
        size = getattr(cell, name)
        good = isinstance(size, int) and size >= least
        require(good, f"{name} of cell {cell.name}", size, f"give {least} or more")
    fields = getattr(cell.params, "_fields", ())
    remedy = "give a NamedTuple class with a field kernel"
    require("kernel" in fields, f"params of cell {cell.name}", fields, remedy)
    columns = cell.gates * _UNITS
    outputs = cell.output_size(_UNITS)

    def result(name: str, arrays: tuple, *static, kind: type | None = None) -> Any:
        subject, function = f"{name} of cell {cell.name}", getattr(cell, name)
        with parsing(subject, "see docs/contributing/own_cell.md"):
            found = jax.eval_shape(lambda *arrays: function(*arrays, *static), *arrays)
        if kind is not None and type(found) is not kind:
            raise InputError(subject, type(found).__name__, f"return {kind.__name__}")
        return found

    def check(function: str, leaf, wanted: Ints | None) -> None:
        shape, dtype = getattr(leaf, "shape", None), getattr(leaf, "dtype", None)
        if shape is not None and dtype == jnp.float32 and wanted in (None, shape):
            return
        found = f"{shape} {dtype}" if shape is not None else type(leaf).__name__
        sizes = (
            f"where features = {_FEATURES}, units = {_UNITS}, batch = {_BATCH}, "
            f"steps = {_STEPS}"
        )
        remedy = f"return float32 {wanted or 'arrays'} {sizes}"
        raise InputError(f"{function} of cell {cell.name}", found, remedy)

    # the parameters
    static = (_FEATURES, _UNITS, jnp.float32)
    params = result("init", (jax.random.key(0),), *static, kind=cell.params)
    expected = {
        "kernel": (_FEATURES, columns),
        "recurrent_kernel": (outputs, columns),
        "bias": (columns,),
    }
    for name, leaf in zip(fields, params, strict=True):
        check(f"init ({name})", leaf, expected.get(name))
    if "bias" in fields:
        check("bias", result("bias", (), _UNITS, jnp.float32), (columns,))

    # the state, of which only the width of h is fixed
    state = result("initial_state", (), _BATCH, _UNITS, jnp.float32)
    if "h" not in getattr(state, "_fields", ()):
        subject = f"initial_state of cell {cell.name}"
        remedy = "return a NamedTuple with a field h, the output"
        raise InputError(subject, type(state).__name__, remedy)
    for name, part in zip(state._fields, state, strict=True):
        shape = getattr(part, "shape", ())
        hidden = name != "h" and len(shape) == 2 and shape[0] == _BATCH
        check(f"initial_state ({name})", part, shape if hidden else (_BATCH, outputs))

    # a step
    x = jax.ShapeDtypeStruct((_STEPS, _BATCH, _FEATURES), jnp.float32)
    z = jax.ShapeDtypeStruct((_BATCH, columns), jnp.float32)
    projected = result("project", (params, x), None, None)
    check("project", projected, (_STEPS, _BATCH, columns))
    new = result("step", (params, state, z), None, None, kind=type(state))
    for name, part, like in zip(state._fields, new, state, strict=True):
        check(f"step ({name})", part, like.shape)
    if cell.linear is not None:
        pair = result("linear", (z,))
        if not (isinstance(pair, tuple) and len(pair) == 2):
            subject = f"linear of cell {cell.name}"
            raise InputError(subject, type(pair).__name__, "return a pair a, b")
        for part in pair:
            check("linear", part, (_BATCH, outputs))
    if cell.decay is not None:
        remedy = "with decay, z has as many columns as h"
        require(columns == outputs, f"gates of cell {cell.name}", cell.gates, remedy)
        check("decay", result("decay", (params,)), (outputs,))


def reads_mask(cell: Cell) -> bool:
    """Return whether the function `step` of a cell uses its argument `mask`, the mask
    of recurrent dropout.
    """
    params = jax.eval_shape(
        lambda: cell.init(jax.random.key(0), _FEATURES, _UNITS, jnp.float32)
    )
    z = jax.ShapeDtypeStruct((1, cell.gates * _UNITS), jnp.float32)
    mask = jax.ShapeDtypeStruct((1, cell.output_size(_UNITS)), jnp.float32)
    trace = jax.make_jaxpr(lambda mask, *arrays: cell.step(*arrays, mask, None))
    traced = trace(mask, params, cell.state_like(), z).jaxpr
    read = [variable for equation in traced.eqns for variable in equation.invars]
    return any(traced.invars[0] is variable for variable in read)
