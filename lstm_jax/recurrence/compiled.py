"""The backend `compiled`, which runs cells with compiled C++ code.

This module runs most cells, with the code in native/recurrence.cc. The module compiled_linear.py runs the other cells, which are cells that
users define and whose step is linear in the state. That module also runs minLSTM and minGRU if the batch has only one row and the matrix
products are in the dtype of the parameters; each thread then computes the matrix products of some of the steps. For these two cells on two
cores, compiled_linear.py is faster than recurrence.cc for one row, and slower for two rows.

One call of the C++ code runs the forward pass over all steps, and another call computes the gradients. The C++ code has a twin, which is
the same computation in JAX. The twin is used for derivatives of order 2 and higher, for forward-mode differentiation, and for gradients
with respect to dropout masks. On a device mesh each device runs its own rows of the batch.

On processors with AVX512-BF16 the matrix products can be in bfloat16. Their operands are rounded; sums, states and gradients are float32.
On processors with AVX512-VNNI the products of a forward pass can be in int8, see `cells.products.int8_matmul`.

B is the batch size, T the number of steps and H the number of units.
"""

import itertools
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lstm_jax import native
from lstm_jax.cells import CELLS, Cell
from lstm_jax.cells.products import INT8, NOT_DIFFERENTIABLE, is_per_gate, multiplied, project
from lstm_jax.dropout import DropoutMasks
from lstm_jax.errors import require
from lstm_jax.native.library import PRODUCT_NUMBERS
from lstm_jax.primitives.operation import apply
from lstm_jax.primitives.partition import SUM, call_partitioned
from lstm_jax.recurrence import gate_recurrent, hoisted
from lstm_jax.recurrence.compiled_cells import COMPILED_CELLS
from lstm_jax.recurrence.compiled_linear import run_linear
from lstm_jax.recurrence.lstm_loops import TWIN, Residuals
from lstm_jax.recurrence.operands import Call, Options, compute_dtype_name
from lstm_jax.recurrence.recurrent_operation import RecurrentOperation, mask_axis, with_zeros
from lstm_jax.recurrence.resets import Resets, restart

LITTLE = 2**18
"""Largest number of multiplications of a single step that runs in one thread, since it takes longer to wake another one."""
FEW_ROWS = 3
"""Largest batch size for which x, the outputs and their gradients must be (T, B, ...) in the C++ code, and cannot be (B, T, ...)."""


def run(options: Options, call: Call):
    """Run a cell for which `is_compiled` returns true over time in C++. The arguments and results are those of `reference.run`.

    Two fields serve this backend alone: `Call.tokens`, and `Options.batch_first`, with which the C++ code reads and writes x, the outputs
    and the gradients with respect to both as (B, T, ...) if there are more than `FEW_ROWS` rows, so that XLA need not transpose them.
    """
    cell, x, dropout = options.cell, call.x, call.dropout
    name = compute_dtype_name(options.compute_dtype, call.params.kernel.dtype)
    products = name if name in PRODUCT_NUMBERS else None
    if cell not in COMPILED_CELLS or (cell.is_linear and x.shape[1] == 1 and products is None):
        return run_linear(options, call)
    call = call._replace(tokens=None if x.ndim == 2 else call.tokens)
    if cell.gates == 1:  # the C++ code has no axis of a single gate
        call = call._replace(dropout=DropoutMasks(_without_gates(dropout.input), _without_gates(dropout.recurrent)))
    operation = (CompiledLSTM if cell is CELLS["lstm"] else CompiledCell)(replace(options, compute_dtype=products))
    if COMPILED_CELLS[cell].cell == cell:
        return apply(operation, *call)
    outputs, final = apply(operation, *gate_recurrent.join(call))
    return outputs, gate_recurrent.split_state(final)


def why_not_mixed(cell: Cell, dtype: str) -> str:
    """Return "" if a cell with parameters in float32 can have matrix products in `dtype`, else a message that says why it cannot."""
    row = COMPILED_CELLS.get(cell)
    if row is None or (dtype == INT8 and row.cell != cell):  # in a joined array, h and the gates would have one scale
        return f"no products in {dtype} for the cell {cell.name}"
    return native.why_not_products(dtype)


@dataclass(frozen=True)
class CompiledCell(RecurrentOperation):
    """Operation that runs a cell over time in C++. Its arguments are the fields of a `Call`.

    The gates of the LSTM with full gate recurrence also depend on the gates of the previous step. For this cell, `params`, `state`,
    `dropout` and `resets` are those of the equivalent cell `gate_recurrent.JOINED`. The array `h` in the state of `JOINED` has 4H columns:
    the output of the LSTM, followed by its gates i, f and o. Only the first H columns are returned as the output of a step. For every other
    cell, the output of a step is the whole array `h`.

    Attributes:
        options: static options of the call, with a `compute_dtype` of "bfloat16" or "int8", or None for the dtype of the parameters.
    """

    options: Options

    def runs_on(self):
        return ("cpu",)

    def forward(self, keep, *args):
        require(not keep or self.options.compute_dtype != INT8, "products in int8", "differentiated", NOT_DIFFERENTIABLE)
        return _call_forward(self.options, keep, Call(*args))

    def backward(self, wanted, args, residuals, cotangents):
        if any(jax.tree.leaves(Call(*wanted).dropout)):
            return self.plain_backward(wanted, args, residuals, cotangents)
        call = Call(*args)
        return tuple(_call_backward(self.options, bool(Call(*wanted).x), call, residuals, *with_zeros(cotangents, call.state)))

    def plain_forward(self, keep, *args):
        return _scan(self.options, keep, Call(*args))

    def plain_backward(self, wanted, args, residuals, cotangents):
        gradients = Call(*super().plain_backward(wanted, args, residuals, cotangents))
        return tuple(gradients._replace(x=_sum_repeats(gradients.x, Call(*args).tokens)))


@dataclass(frozen=True)
class CompiledLSTM(CompiledCell):
    """Operation that runs the LSTM over time in C++.

    If gradients are computed in JAX instead of in C++ (see `Operation.plain_backward`), this class computes them from the residuals, which
    are the values that the forward pass has stored. Its base class `CompiledCell` runs the forward pass again instead.
    """

    def plain_backward(self, wanted, args, residuals, cotangents):
        call = Call(*args)
        gradients = hoisted.backward(TWIN, self.options, call, residuals, cotangents)
        by_masks = any(jax.tree.leaves(Call(*wanted).dropout))
        d_x = _sum_repeats(gradients.x, call.tokens) if Call(*wanted).x else None
        return tuple(gradients._replace(x=d_x, dropout=gradients.dropout if by_masks else DropoutMasks()))


def _without_gates(mask):
    return mask[0] if is_per_gate(mask) else mask


def _kinds(mask) -> int:
    return 0 if mask is None else len(mask) if is_per_gate(mask) else 1


def _attributes(options: Options, call: Call, sequences: bool) -> dict[str, Any]:
    return {
        "cell": COMPILED_CELLS[options.cell].number,
        "ids": bool(jnp.issubdtype(call.x.dtype, jnp.integer)),
        "input_masks": _kinds(call.dropout.input),
        "recurrent_masks": _kinds(call.dropout.recurrent),
        "masked": call.valid is not None,
        "tokens": call.tokens is not None,
        "resets": call.resets is not None,
        "products": PRODUCT_NUMBERS[options.compute_dtype],
        "sequences": sequences,
    }


def _with_axes(call: Call) -> list[tuple[Any, int]]:
    """Return pairs (array, index of its batch axis) of the operands that a call may lack."""
    masks = [(mask, mask_axis(mask)) for mask in (call.dropout.input, call.dropout.recurrent) if mask is not None]
    starts = [] if call.resets is None else [(call.resets.at, 1), *((part, 0) for part in call.resets.state)]
    return masks + [(operand, 1) for operand in (call.valid, call.tokens) if operand is not None] + starts


def _further(params) -> list[jax.Array]:
    return [jnp.concatenate(params[3:])] if len(params) > 3 else []


def _in_order(options: Options, x, *arrays) -> tuple:
    """Return `arrays` in the order of axes that the C++ code reads, and whether this is (B, T, ...)."""
    batch = x.shape[1]  # no int in an exported program of a symbolic batch size, which runs the twin
    swaps = options.batch_first and isinstance(batch, int) and batch > FEW_ROWS
    return (*(jnp.swapaxes(a, 0, 1) if swaps and a is not None and a.ndim == 3 else a for a in arrays), swaps)


def _call_forward(options: Options, keep: bool, call: Call):
    params, state, sequences, gates = call.params, call.state, options.sequences, options.cell.gates
    attributes = _attributes(options, call, sequences)
    weights = (*params[:3], *_further(params))
    kept = COMPILED_CELLS[options.cell].kept if keep else 0
    state_args = slice(len(weights) + 1, len(weights) + 1 + len(state))  # JAX keeps `run`, so that it must not hold arrays of this trace

    def run(*args):
        (steps, batch), dtype, units = args[0].shape[:2], args[1].dtype, args[1].shape[1] // gates
        first = args[state_args]
        x, swaps = _in_order(options, args[0], args[0])
        states = len(first) if keep else int(sequences and not swaps)  # arrays of the state that are returned for all steps
        shapes = [(steps + 1, *part.shape) for part in first[:states]]
        shapes += [(steps, batch, kept * units)] * bool(kept) + [(batch, steps, units)] * (sequences and swaps)
        results = [*first, *(jax.ShapeDtypeStruct(shape, dtype) for shape in shapes)]
        weights = sum(kernel.size for kernel in args[1:3] if kernel.ndim == 2)
        alone = isinstance(steps, int) and isinstance(batch, int) and steps == 1 and batch * weights <= LITTLE
        own = {"alone": alone, "keep": keep, "batch_first": swaps}
        found = native.call("lstm_jax_forward", results, (x, *args[1:]), {}, sets=True, **own, **attributes)
        if not sequences:
            return found
        outputs = jnp.swapaxes(found.pop(), 0, 1) if swaps else found[len(first)][1:, :, :units]
        return [*found[: None if keep else len(first)], outputs]

    operands = [(call.x, 1), *((param, None) for param in weights), *((part, 0) for part in state), *_with_axes(call)]
    found = list(call_partitioned(run, operands, [0] * len(state) + [1] * (len(state) * keep + bool(kept) + sequences)))
    outputs = found.pop() if sequences else None
    values = found.pop() if kept else None
    final, steps = type(state)(*found[: len(state)]), found[len(state) :]
    return (outputs, final), Residuals(values, steps[0], steps[1] if len(steps) > 1 else None) if keep else None


def _call_backward(options: Options, by_x: bool, call: Call, residuals: Residuals, d_h, d_final) -> Call:
    params = call.params
    attributes = _attributes(options, call, d_h is not None)
    kernels = params[: 2 if options.cell.has_recurrent_kernel else 1]
    extras, kept = _further(params), [part for part in residuals if part is not None]
    states, others, count, has_resets = len(d_final), len(extras), len(kernels), call.resets is not None
    state_args = slice(others + len(kept), others + len(kept) + states)  # as in `_call_forward`, `run` must not hold arrays
    outputs_at = None if d_h is None else state_args.stop  # of d_h in `rest`

    def run(*args):
        x, kernels, rest = args[0], args[1 : 1 + count], list(args[1 + count :])
        state = rest[state_args]
        bias = jax.ShapeDtypeStruct(kernels[0].shape[1:], kernels[0].dtype)
        d_h = None if outputs_at is None else rest[outputs_at]
        x, d_h, swaps = _in_order(options, x, x, d_h)
        if outputs_at is not None:
            rest[outputs_at] = d_h
        results = [*state, *kernels, bias, *rest[:others], *([x] if by_x else []), *(state if has_resets else [])]
        own = {"d_x": by_x, "batch_first": swaps}
        found = native.call("lstm_jax_backward", results, (x, *kernels, *rest), {}, sets=True, **own, **attributes)
        if by_x and swaps:
            at = len(state) + count + 1 + others  # of d_x
            found[at] = jnp.swapaxes(found[at], 0, 1)
        return found

    operands = [(call.x, 1), *((param, None) for param in (*kernels, *extras)), *((part, 1) for part in kept)]
    operands += [*((part, 0) for part in d_final), *([] if d_h is None else [(d_h, 1)]), *_with_axes(call)]
    axes = [0] * states + [SUM] * (count + 1 + others) + [1] * by_x + [0] * (states * has_resets)
    found = iter(call_partitioned(run, operands, axes))
    d_state = type(d_final)(*itertools.islice(found, states))
    of_kernels = list(itertools.islice(found, count + 1))
    d_extras = jnp.split(next(found), np.cumsum([len(part) for part in params[3:]])[:-1]) if extras else ()
    d_params = type(params)(*of_kernels, *d_extras)
    d_x = next(found) if by_x else None
    d_resets = Resets(None, type(d_final)(*found)) if has_resets else None
    return Call(d_params, d_x, d_state, None, DropoutMasks(), d_resets)


def _scan(options: Options, keep: bool, call: Call):
    """Run a cell over time in JAX, with the same results as the forward pass in C++."""
    params, x, state, valid, dropout, resets, _ = call
    row, sequences, dtype = COMPILED_CELLS[options.cell], options.sequences, options.compute_dtype
    cell, units = row.cell, params.kernel.shape[1] // options.cell.gates
    z = cell.project(params, x, dropout.input, dtype)
    of_x = z if cell.project is project else multiplied(params.kernel, x, dropout.input, dtype)

    def body(state, inputs):
        z_t, of_x_t, valid_t, reset_t = inputs
        state = restart(state, reset_t, resets)
        new = cell.step(params, state, z_t, dropout.recurrent, dtype)
        kept = row.keep(params, state, new, of_x_t, dropout.recurrent, dtype) if keep else None
        if valid_t is not None:
            runs = valid_t[:, None]
            copied = (state, None if kept is None else jnp.zeros_like(kept))
            new, kept = jax.tree.map(lambda a, b: jnp.where(runs, a, b), (new, kept), copied)
        return new, (new if keep or sequences else None, kept)

    scanned: Any = jax.lax.scan(body, state, (z, of_x, valid, None if resets is None else resets.at))
    final, (states, kept) = scanned
    residuals = None
    if keep:
        all_steps = [jnp.concatenate([first[None], rest]) for first, rest in zip(state, states, strict=True)]
        residuals = Residuals(kept, all_steps[0], all_steps[1] if len(all_steps) > 1 else None)
    return (states.h[..., :units] if sequences else None, final), residuals


def _sum_repeats(d_x, tokens):
    """Sum the gradient with respect to x over the steps of a row that have equal tokens, and return it."""
    if tokens is None or d_x is None:
        return d_x
    first = (tokens[:, None] == tokens[None]).argmax(0)  # first[t, b] is the first step at which row b has the same token as at step t
    return jnp.zeros_like(d_x).at[first, jnp.arange(d_x.shape[1])].add(d_x)
