"""The backend `compiled`, which runs cells with compiled C++ code.

The code in native/ runs the cells of `COMPILED_CELLS`. Other cells whose step is linear
in the state are run by the code in native/linear.cc (`LinearSteps`): JAX computes the
coefficients a and b of all steps h' = a h + b, and the C++ code reads and writes each
number once, while the parallel scan of the backend `associative` makes about 2 log2(T)
passes. It also runs minLSTM and minGRU if the batch has only one row and the matrix
products are in the dtype of the parameters; each thread then computes the products of
some of the steps. On two cores this is faster than native/ for one row, and slower for
two rows.

One call of the C++ code runs the forward pass over all steps, and another call computes
the gradients. The C++ code has a twin, which is the same computation in JAX. The twin
is used for derivatives of order 2 and higher, for forward-mode differentiation, and for
gradients with respect to dropout masks. On a device mesh each device runs its own rows
of the batch.

On processors with AVX512-BF16 the matrix products can be in bfloat16. Their operands
are rounded; sums, states and gradients are float32. On processors with AVX512-VNNI the
products of a forward pass can be in int8, see `cells.products.int8_matmul`.
"""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from lstm_jax import native
from lstm_jax.base.checks import frozen
from lstm_jax.base.errors import require
from lstm_jax.cells import CELLS, Cell
from lstm_jax.cells.cell import is_ours, times
from lstm_jax.cells.products import INT8, NOT_DIFFERENTIABLE, is_ids, is_per_gate
from lstm_jax.cells.slstm import whole_kernel
from lstm_jax.native.library import PRODUCT_NUMBERS
from lstm_jax.native.operation import Axes, Operation, apply, with_zeros
from lstm_jax.native.partition import SUM, partitioned
from lstm_jax.recurrence import reference
from lstm_jax.recurrence.associative import coefficients
from lstm_jax.recurrence.call import (
    Call,
    Options,
    RecurrentOperation,
    Resets,
    batch_axes,
    uniform_axes,
)
from lstm_jax.recurrence.compiled_cells import (
    COMPILED_CELLS,
    GATE_RECURRENT,
    JOINED,
    of_one_head,
)
from lstm_jax.recurrence.dropout import DropoutMasks
from lstm_jax.recurrence.hoisted import HoistedLSTM, Residuals

LITTLE = 2**18
"""Largest number of multiplications of a single step that runs in one thread, since it
takes longer to wake another one."""
FEW_ROWS = 3  # `kMostFewRows` in C++
"""Largest batch size for which x, the outputs and their gradients must be (T, B, ...)
in the C++ code, and cannot be (B, T, ...)."""


def run(options: Options, call: Call):
    """Run a cell for which `is_compiled` returns true over time in C++. The arguments
    and results are those of `reference.run`.

    Two fields serve this backend alone: `Call.tokens`, and `Options.batch_first`, with
    which the C++ code reads and writes x, the outputs and the gradients with respect to
    both as (B, T, ...) if there are more than `FEW_ROWS` rows, so that XLA need not
    transpose them.
    """
    cell, x = of_one_head(options.cell), call.x
    if cell is not options.cell:
        kernel = whole_kernel(call.params.recurrent_kernel)
        options, call = (
            replace(options, cell=cell),
            call._replace(params=call.params._replace(recurrent_kernel=kernel)),
        )
    products = (
        options.compute_dtype if options.compute_dtype in PRODUCT_NUMBERS else None
    )
    if cell not in COMPILED_CELLS or (
        cell.is_linear and x.shape[1] == 1 and products is None
    ):
        return run_linear(options, call)
    call = call._replace(tokens=None if x.ndim == 2 else call.tokens)
    if cell.gates == 1:  # the C++ code has no axis of a single gate
        call = call._replace(
            dropout=jax.tree.map(
                lambda mask: mask[0] if is_per_gate(mask) else mask, call.dropout
            )
        )
    operation = CompiledCell(replace(options, compute_dtype=products))
    if not (joined := JOINED.get(cell)):
        return apply(operation, *call)
    h, state = apply(operation, *joined.join(call))
    return h, joined.state[1](state)


def why_not_mixed(cell: Cell, dtype: str) -> str:
    """Return "" if a cell with parameters in float32 can have matrix products in
    `dtype`, else a message that says why it cannot.
    """
    if of_one_head(cell) not in COMPILED_CELLS or (
        dtype == INT8 and cell == GATE_RECURRENT
    ):  # joined, h and the gates would have one scale
        return f"no products in {dtype} for the cell {cell.name}"
    return native.why_not_products(dtype)


@frozen
class CompiledCell(RecurrentOperation):
    """Operation that runs a cell over time in C++. Its arguments are the fields of a
    `Call`, in the form of `JOINED`.

    The gradients of the LSTM's twin are computed from the residuals, which are the
    values that the forward pass has stored. For any other cell, the forward pass of the
    twin is run again instead.

    Attributes:
        options: static options of the call, with a `compute_dtype` of "bfloat16" or
            "int8", or None for the dtype of the parameters.
    """

    options: Options

    @property
    def _lstm_twin(self) -> HoistedLSTM | None:
        return (
            HoistedLSTM(self.options, joined=True)
            if self.options.cell is CELLS["lstm"]
            else None
        )

    def forward(self, custom, keep, *args):
        options, call = self.options, Call(*args)
        require(
            not keep or options.compute_dtype != INT8,
            "products in int8",
            "differentiated",
            NOT_DIFFERENTIABLE,
        )
        if not custom and keep and self._lstm_twin:
            return self._lstm_twin.forward(False, True, *args)
        if not custom:
            joined = JOINED.get(options.cell)
            h, final = reference.run(options, joined.split(call) if joined else call)
            # not read by the twin of `backward`
            like = (
                jax.eval_shape(partial(self.forward, True, True), *args)[1]
                if keep
                else None
            )
            return (h, joined.state[0](final) if joined else final), jax.tree.map(
                jnp.zeros_like, like
            )
        sequences, count = (
            options.sequences,
            COMPILED_CELLS[options.cell] if keep else 0,
        )

        # The operands and results have the order in which the C++ code takes them.
        # JAX keeps this function, which therefore must not hold arrays of this trace
        def call_forward(call: Call):
            x, params, state, attributes = (
                call.x,
                call.params,
                call.state,
                _attributes(options, call),
            )
            (steps, batch), dtype, units = (
                x.shape[:2],
                params.kernel.dtype,
                params.kernel.shape[1] // options.cell.gates,
            )
            swaps = attributes["batch_first"]
            # arrays of the state that are returned for all steps
            returned = state if keep else state[: int(sequences and not swaps)]
            results = (
                state,
                [
                    jax.ShapeDtypeStruct((steps + 1, *part.shape), dtype)
                    for part in returned
                ],
                jax.ShapeDtypeStruct((steps, batch, count * units), dtype)
                if count
                else None,
                jax.ShapeDtypeStruct((batch, steps, units), dtype)
                if sequences and swaps
                else None,
            )
            products = sum(kernel.size for kernel in params[:2] if kernel.ndim == 2)
            one_thread = (
                isinstance(steps, int)
                and isinstance(batch, int)
                and steps == 1
                and batch * products <= LITTLE
            )
            weights = (*params[:3], *_further(params))
            operands = (
                _swapped(x) if swaps else x,
                weights,
                state,
                call.dropout,
                call.valid,
                call.tokens,
                call.resets,
            )
            flags = {"one_thread": one_thread, "keep": keep, "sequences": sequences}
            final, all_steps, kept, outputs = native.call(
                "lstm_jax_forward", results, operands, sets=True, **flags, **attributes
            )
            if sequences:
                outputs = _swapped(outputs) if swaps else all_steps[0][1:, :, :units]
            return final, all_steps if keep else [], kept, outputs

        axes = (
            uniform_axes(call.state, 0),
            [1] * len(call.state) if keep else [],
            1 if count else None,
            1 if sequences else None,
        )
        final, all_steps, kept, outputs = partitioned(
            call_forward, batch_axes(call), axes
        )(call)
        return (outputs, final), Residuals(kept, *all_steps) if keep else None

    def backward(self, custom, wanted, args, residuals, cotangents):
        options, call, (d_h, d_final) = self.options, Call(*args), cotangents
        by_x = bool(Call(*wanted).x)
        if not custom or any(jax.tree.leaves(Call(*wanted).dropout)):
            twin = self._lstm_twin.backward if self._lstm_twin else super().backward
            gradients = Call(*twin(False, wanted, args, residuals, cotangents))
            # the sum over the steps of a row that have equal tokens
            if call.tokens is not None and gradients.x is not None:
                # first step at which the row has the token of step t, (T, B)
                first = (call.tokens[:, None] == call.tokens[None]).argmax(0)
                summed = (
                    jnp.zeros_like(gradients.x)
                    .at[first, jnp.arange(first.shape[1])]
                    .add(gradients.x)
                )
                gradients = gradients._replace(x=summed)
            return tuple(gradients)

        # as in `forward`, no arrays of this trace
        def call_backward(call: Call, residuals, d_final, d_h):
            x, params, attributes = call.x, call.params, _attributes(options, call)
            kernels, extras = (
                params[: 2 if options.cell.has_recurrent_kernel else 1],
                _further(params),
            )
            swaps = attributes["batch_first"]
            if swaps:
                x, d_h = _swapped(x), None if d_h is None else _swapped(d_h)
            results = (
                d_final,
                kernels,
                params.bias,
                extras,
                x if by_x else None,
                d_final if call.resets else None,
            )
            operands = (
                x,
                kernels,
                extras,
                residuals,
                d_final,
                d_h,
                call.dropout,
                call.valid,
                call.tokens,
                call.resets,
            )
            flags = {"d_x": by_x, "sequences": d_h is not None}
            d_state, d_kernels, d_bias, d_extras, d_x, d_start = native.call(
                "lstm_jax_backward", results, operands, sets=True, **flags, **attributes
            )
            further = (
                jnp.split(
                    d_extras[0], np.cumsum([len(part) for part in params[3:]])[:-1]
                )
                if extras
                else ()
            )
            d_params = type(params)(*d_kernels, d_bias, *further)
            d_x = _swapped(d_x) if by_x and swaps else d_x
            return Call(
                d_params,
                d_x,
                d_state,
                None,
                DropoutMasks(),
                Resets(None, d_start) if call.resets else None,
            )

        d_final = with_zeros(d_final, call.state)
        d_start = Resets(None, uniform_axes(d_final, 0)) if call.resets else None
        axes = Call(
            uniform_axes(call.params, SUM),
            1 if by_x else None,
            uniform_axes(d_final, 0),
            None,
            DropoutMasks(),
            d_start,
        )
        given = (
            [1] * len(jax.tree.leaves(residuals))
            + [0] * len(d_final)
            + [1] * (d_h is not None)
        )
        return tuple(
            partitioned(call_backward, [*batch_axes(call), *given], axes)(
                call, residuals, d_final, d_h
            )
        )


def _attributes(options: Options, call: Call):
    # no int in an exported program of a symbolic batch size, which runs the twin
    batch = call.x.shape[1]
    input_masks, recurrent_masks = (
        0 if mask is None else len(mask) if is_per_gate(mask) else 1
        for mask in call.dropout[:2]
    )
    return {
        "cell": list(COMPILED_CELLS).index(options.cell),
        "ids": is_ids(call.x),
        "input_masks": input_masks,
        "recurrent_masks": recurrent_masks,
        "masked": call.valid is not None,
        "tokens": call.tokens is not None,
        "resets": call.resets is not None,
        "products": PRODUCT_NUMBERS[options.compute_dtype],
        # arrays (B, T, ...)
        "batch_first": options.batch_first
        and isinstance(batch, int)
        and batch > FEW_ROWS,
    }


def _further(params) -> list[Array]:
    return [jnp.concatenate(params[3:])] if len(params) > 3 else []


def _swapped(array):
    return jnp.swapaxes(array, 0, 1) if array.ndim == 3 else array


def run_linear(options: Options, call: Call):
    """Run a cell with linear steps (`cell.is_linear` is true) over time in C++. The
    arguments and results are those of `reference.run`.
    """
    # a cell of the user may have a function `project` that needs (T, B, E), as masks do
    swaps = options.batch_first and is_ours(options.cell) and call.dropout.input is None
    a, b, starts = coefficients(options, call, swaps)
    h = apply(
        LinearSteps(options.cell.complex_state, swaps), a, b, call.state.h, starts
    )
    last = h[:, -1] if swaps else h[-1]
    return (_swapped(h) if swaps else h) if options.sequences else None, jax.tree.map(
        lambda _: last, call.state
    )


@frozen
class LinearSteps(Operation):
    """Operation that computes the steps h' = a h + b of a linear recurrence in C++, and
    returns h after each step (T, B, Z).

    Its arguments are a (T, B, Z) or, if it is the same at all steps, (Z,), then b (T,
    B, Z), the initial h (B, Z), and flags, bool (T, B) or None. A flag is True where
    the state is reset before a step. At such a step h' is b.

    Attributes:
        complex_state: whether the numbers are complex, as in `Cell.complex_state`.
        batch_first: whether arrays of all steps are (B, T, ...).
    """

    complex_state: bool = False
    batch_first: bool = False

    @property
    def residual_axis(self) -> int:
        return int(not self.batch_first)

    def arg_axes(self, args: tuple) -> Axes:
        axis = self.residual_axis
        return [
            None if args[0].ndim == 1 else axis,
            axis,
            0,
            *[axis] * (args[3] is not None),
        ]

    def result_axes(self, outputs) -> list[int]:
        del outputs
        return [self.residual_axis]

    def _call(self, function: str, results, a, *operands):
        attributes = {
            "complex": self.complex_state,
            "constant": a.ndim == 1,
            "batch_first": self.batch_first,
        }
        return native.call(
            function,
            results,
            (a, *operands),
            resets=operands[-1] is not None,
            **attributes,
        )

    def forward(self, custom, keep, *args):
        """Run all steps and return (h of all steps, residuals). The residuals are h of
        all steps, or None if `keep` is false.
        """

        def body(h, step):
            a, b, at = step
            h = (
                times(
                    self.complex_state,
                    a,
                    h if at is None else jnp.where(at[:, None], 0, h),
                )
                + b
            )
            return h, h

        a, b, start, starts = args
        if custom:
            run = partitioned(
                lambda a, b, *more: self._call(
                    "lstm_jax_linear_forward", b, a, b, *more
                ),
                self.arg_axes(args),
                self.residual_axis,
            )
            h = run(*args)
        else:
            steps = jnp.broadcast_to(a, b.shape), b, starts
            if self.batch_first:
                steps = jax.tree.map(lambda array: jnp.swapaxes(array, 0, 1), steps)
            h = lax.scan(body, start, steps)[1]
            h = jnp.swapaxes(h, 0, 1) if self.batch_first else h
        return h, h if keep else None

    def backward(self, custom, wanted, args, residuals, cotangents):
        if not custom:
            return super().backward(custom, wanted, args, residuals, cotangents)
        a, _, h, starts = args
        constant, axis = a.ndim == 1, self.residual_axis

        def call(a, h, all_h, *more):
            return self._call(
                "lstm_jax_linear_backward",
                (h if constant else a, all_h, h),
                a,
                h,
                all_h,
                *more,
            )

        axes = [None if constant else axis, 0, axis, axis] + [axis] * (
            starts is not None
        )
        d_a, d_b, d_start = partitioned(call, axes, (0 if constant else axis, axis, 0))(
            a, h, residuals, cotangents, starts
        )
        return d_a.sum(0) if constant else d_a, d_b, d_start, None
