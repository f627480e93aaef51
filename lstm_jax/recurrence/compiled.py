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
from typing import Any

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
from lstm_jax.native.library import PRODUCT_NUMBERS, call_by_name, few_rows
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
WEIGHTS = ("kernel", "recurrent_kernel", "bias")
"""Parameters that the C++ code knows by name; it takes all others as one array."""


def run(options: Options, call: Call):
    """Run a cell for which `is_compiled` returns true over time in C++. The arguments
    and results are those of `reference.run`.

    Two fields serve this backend alone: `Call.tokens`, and `Options.batch_first`, with
    which the C++ code reads and writes x, the outputs and the gradients with respect to
    both as (B, T, ...) if there are more rows than `library.few_rows()`, so that XLA
    need not transpose them.
    """
    cell = of_one_head(options.cell)
    if cell is not options.cell:
        kernel = whole_kernel(call.params.recurrent_kernel)
        call = call._replace(params=call.params._replace(recurrent_kernel=kernel))
        options = replace(options, cell=cell)
    products = options.compute_dtype
    products = products if products in PRODUCT_NUMBERS else None
    one_row = call.x.shape[1] == 1 and products is None
    if cell not in COMPILED_CELLS or (cell.is_linear and one_row):
        return run_linear(options, call)

    if is_ids(call.x):
        call = call._replace(tokens=None)
    if cell.gates == 1:  # the C++ code has no axis of a single gate
        masks = jax.tree.map(
            lambda mask: mask[0] if is_per_gate(mask) else mask, call.dropout
        )
        call = call._replace(dropout=masks)
    operation = CompiledCell(replace(options, compute_dtype=products))
    joined = JOINED.get(cell)
    if joined is None:
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
        cell, sequences = options.cell, options.sequences
        fits = not keep or options.compute_dtype != INT8
        require(fits, "products in int8", "differentiated", NOT_DIFFERENTIABLE)
        if not custom:
            return self._forward_twin(keep, call)
        count = COMPILED_CELLS[cell] if keep else 0

        # JAX keeps this function, which therefore must not hold arrays of this trace
        def call_forward(call: Call):
            (steps, batch), params, state = call.x.shape[:2], call.params, call.state
            units = params.kernel.shape[1] // cell.gates
            swaps = _swaps(options, call)

            def like(*shape):
                return jax.ShapeDtypeStruct(shape, params.kernel.dtype)

            results: dict = _named("final {}", state)
            for name, part in state._asdict().items():
                if keep or (name == "h" and sequences and not swaps):
                    results[f"{name} of all steps"] = like(steps + 1, *part.shape)
            if count:
                results["kept"] = like(steps, batch, count * units)
            if sequences and swaps:
                results["outputs"] = like(batch, steps, units)

            kernels = (params.kernel, getattr(params, "recurrent_kernel", None))
            size = sum(kernel.size for kernel in kernels if kernel is not None)
            one_step = isinstance(batch, int) and isinstance(steps, int) and steps == 1
            found = call_by_name(
                "lstm_jax_forward",
                results,
                _operands(options, call) | {"bias": params.bias, **state._asdict()},
                one_thread=one_step and batch * size <= LITTLE,
                **_attributes(options, call),
            )
            final = [found[f"final {name}"] for name in state._fields]
            outputs = residuals = None
            if sequences and swaps:
                outputs = _swapped(found["outputs"])
            elif sequences:
                outputs = found["h of all steps"][1:, :, :units]
            if keep:
                all_steps = [found[f"{name} of all steps"] for name in state._fields]
                residuals = Residuals(found.get("kept"), *all_steps)
            return outputs, type(state)(*final), residuals

        all_steps: Any = [1] * len(call.state)
        axes = (
            1 if sequences else None,
            uniform_axes(call.state, 0),
            Residuals(1 if count else None, *all_steps) if keep else None,
        )
        run = partitioned(call_forward, batch_axes(call), axes)
        outputs, final, residuals = run(call)
        return (outputs, final), residuals

    def _forward_twin(self, keep: bool, call: Call):
        if keep and self._lstm_twin:
            return self._lstm_twin.forward(False, True, *call)
        joined = JOINED.get(self.options.cell)
        split = joined.split(call) if joined else call
        h, final = reference.run(self.options, split)
        final = joined.state[0](final) if joined else final
        if not keep:
            return (h, final), None
        # not read by the twin of `backward`
        like = jax.eval_shape(partial(self.forward, True, True), *call)[1]
        return (h, final), jax.tree.map(jnp.zeros_like, like)

    def backward(self, custom, wanted, args, residuals, cotangents):
        options, call, (d_h, d_final) = self.options, Call(*args), cotangents
        by_x = bool(Call(*wanted).x)
        if not custom or any(jax.tree.leaves(Call(*wanted).dropout)):
            twin = self._lstm_twin.backward if self._lstm_twin else super().backward
            found = Call(*twin(False, wanted, args, residuals, cotangents))
            if call.tokens is None or found.x is None:
                return tuple(found)
            # the sum over the steps of a row that have equal tokens, at the first one
            first = (call.tokens[:, None] == call.tokens[None]).argmax(0)  # (T, B)
            at = jnp.zeros_like(found.x).at[first, jnp.arange(first.shape[1])]
            return tuple(found._replace(x=at.add(found.x)))

        # as in `forward`, no arrays of this trace
        def call_backward(call: Call, residuals, d_final, d_h):
            params, swaps = call.params, _swaps(options, call)
            operands = _operands(options, call) | {
                "kept": residuals.kept,
                "h of all steps": residuals.all_h,
                "c of all steps": residuals.all_c,
                "d of outputs": _swapped(d_h) if swaps and d_h is not None else d_h,
            }
            operands |= _named("d of final {}", d_final)
            differentiated = d_final._asdict() | {"bias": params.bias}
            for name in ("kernel", "recurrent kernel", "extras"):
                differentiated[name] = operands[name]
            if by_x:
                differentiated["x"] = operands["x"]
            if call.resets:
                differentiated |= _named("{} of resets", d_final)
            found = call_by_name(
                "lstm_jax_backward",
                {f"d of {name}": array for name, array in differentiated.items()},
                operands,
                **_attributes(options, call),
            )

            gradients = {
                name: found[f"d of {name.replace('_', ' ')}"]
                for name in WEIGHTS
                if name in params._fields
            }
            if extras := _extras(params):
                ends = np.cumsum([len(part) for part in extras.values()])
                parts = jnp.split(found["d of extras"], ends[:-1])
                gradients.update(zip(extras, parts, strict=True))
            d_x = found.get("d of x")
            d_state, d_start = (
                type(d_final)(*(found.get(form.format(n)) for n in d_final._fields))
                for form in ("d of {}", "d of {} of resets")
            )
            return Call(
                type(params)(**gradients),
                _swapped(d_x) if swaps and by_x else d_x,
                d_state,
                None,
                DropoutMasks(),
                Resets(None, d_start) if call.resets else None,
            )

        d_final = with_zeros(d_final, call.state)
        of_rows = uniform_axes(d_final, 0)
        axes = Call(
            uniform_axes(call.params, SUM),
            1 if by_x else None,
            of_rows,
            None,
            DropoutMasks(),
            Resets(None, of_rows) if call.resets else None,
        )
        given = [1] * len(jax.tree.leaves(residuals)) + [0] * len(d_final)
        given += [1] * (d_h is not None)
        run = partitioned(call_backward, [*batch_axes(call), *given], axes)
        return tuple(run(call, residuals, d_final, d_h))


def _named(form: str, state) -> dict[str, Array]:
    return {form.format(name): part for name, part in state._asdict().items()}


def _extras(params) -> dict[str, Array]:
    parts = params._asdict().items()
    return {name: array for name, array in parts if name not in WEIGHTS}


def _operands(options: Options, call: Call) -> dict[str, Array | None]:
    """Return the operands of both passes, by their names in native/contract.h."""
    params, resets = call.params, call.resets
    extras = _extras(params)
    operands = {
        "ids" if is_ids(call.x) else "x": call.x,
        "kernel": params.kernel,
        "recurrent kernel": getattr(params, "recurrent_kernel", None),
        "extras": jnp.concatenate([*extras.values()]) if extras else None,
        "input mask": call.dropout.input,
        "recurrent mask": call.dropout.recurrent,
        "valid": call.valid,
        "tokens": call.tokens,
    }
    if resets:
        operands["resets"] = resets.at
        operands |= _named("{} of resets", resets.state)
    if "x" in operands and _swaps(options, call):
        operands["x"] = _swapped(call.x)
    return operands


def _swaps(options: Options, call: Call) -> bool:
    """Return whether arrays of all steps are (B, T, ...) in C++."""
    # no int in an exported program of a symbolic batch size, which runs the twin
    batch = call.x.shape[1]
    return options.batch_first and isinstance(batch, int) and batch > few_rows()


def _attributes(options: Options, call: Call) -> dict[str, int]:
    return {
        "cell": list(COMPILED_CELLS).index(options.cell),
        "products": PRODUCT_NUMBERS[options.compute_dtype],
        "batch_first": _swaps(options, call),
    }


def _swapped(array):
    return jnp.swapaxes(array, 0, 1)


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
