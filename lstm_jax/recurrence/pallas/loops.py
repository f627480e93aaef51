"""The backend `pallas`: functions that run the LSTM's forward and backward loops over time with the GPU kernels in kernels.py.

One launch of a GPU kernel runs all steps of a loop. The forward loop keeps the values that the backward loop needs as `Residuals`; see
lstm_loops.py. B is the batch size, T the number of steps and H the number of units.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from lstm_jax.cells import LSTMState
from lstm_jax.cells.products import is_per_gate
from lstm_jax.primitives.operation import PLATFORMS, apply
from lstm_jax.recurrence.hoisted import HoistedLSTM
from lstm_jax.recurrence.lstm_loops import TWIN, Loops, Residuals
from lstm_jax.recurrence.on_mesh import BATCH_FIRST, COPIED, TIME_FIRST, on_mesh
from lstm_jax.recurrence.operands import Call, Options
from lstm_jax.recurrence.pallas.kernels import Tiling, backward_kernel, forward_kernel
from lstm_jax.recurrence.resets import Resets
from lstm_jax.shapes import GATES

LARGEST = 256
"""Largest number of units H that the backend `pallas` supports.

The loop over blocks of units is unrolled. For H = 512 Triton would take a minute to compile a kernel, and its registers would spill to
memory.
"""


def run(options: Options, call: Call):
    """Run the LSTM over time with the backend `pallas`. The arguments and results are those of `reference.run`."""
    return apply(HoistedLSTM(LOOPS, options), *call)


def _launch(kernel: Callable, tiling: Tiling, steps: int, results, interpret: bool, *args):
    # only the loop over tiles may be pipelined (num_stages=2), since each iteration of the loop over time reads what the last one wrote
    options = plgpu.CompilerParams(num_warps=max(4, tiling.width // 8), num_stages=1 if tiling.resident else 2)
    barrier = (lambda: None) if interpret else plgpu.debug_barrier
    body = partial(kernel, tiling, steps, barrier)
    return pl.pallas_call(body, results, grid=(tiling.programs,), compiler_params=options, interpret=interpret)(*args)


def _shapes(state: LSTMState):
    return jax.tree.map(lambda part: jax.ShapeDtypeStruct(part.shape, part.dtype), state)


def _gates(like, split: bool):
    """Return the shape and dtype (float32) of the gates of all steps, as `jax.ShapeDtypeStruct`."""
    steps, batch, units = like
    if split:
        return tuple(jax.ShapeDtypeStruct((steps, batch, units), jnp.float32) for _ in range(GATES))
    return jax.ShapeDtypeStruct((steps, batch, GATES * units), jnp.float32)


def _on_mesh(function: Callable, options: Options, call: Call, in_specs: tuple, out_specs: tuple, *arrays):
    """Run `function(kernel, mask, valid, resets, *arrays)` on each device, with the recurrent kernel in the dtype of the products."""
    mask = call.dropout.recurrent
    specs = (COPIED, TIME_FIRST if is_per_gate(mask) else BATCH_FIRST, TIME_FIRST, Resets(TIME_FIRST, BATCH_FIRST) if call.resets else None)
    resets = call.resets and call.resets._replace(at=call.resets.at.astype(jnp.float32))
    valid = None if call.valid is None else call.valid.astype(jnp.float32)
    kernel = call.params.recurrent_kernel
    args = (kernel.astype(options.compute_dtype or kernel.dtype), mask, valid, resets, *arrays)
    return on_mesh(function, call.state.h.shape[0], (*specs, *in_specs), out_specs, *args)


def _forward_loop(interpret: bool, options: Options, keep: bool, z, call: Call):
    def loop(kernel, mask, valid, resets, z, state):
        batch, units = state.h.shape
        steps = (z[0] if isinstance(z, tuple) else z).shape[0]
        split = isinstance(z, tuple) or is_per_gate(mask)
        all_steps = jax.ShapeDtypeStruct((steps + 1, batch, units), jnp.float32)
        final = _shapes(state)
        gates = _gates((steps, batch, units), split) if keep else None
        tiling = Tiling.of(batch, units, kernel.dtype)
        results = (final, all_steps if options.sequences or keep or not tiling.resident else None, all_steps if keep else None, gates)
        args = (kernel, z, state, mask, valid, resets)
        final, all_h, all_c, gates = _launch(forward_kernel, tiling, steps, results, interpret, *args)
        return all_h[1:] if options.sequences else None, final, Residuals(gates, all_h, all_c) if keep else None

    in_specs, out_specs = (TIME_FIRST, BATCH_FIRST), (TIME_FIRST, BATCH_FIRST, TIME_FIRST)
    return _on_mesh(loop, options, call, in_specs, out_specs, z, call.state)


def _backward_loop(interpret: bool, options: Options, residuals: Residuals, d_h, d_final, call: Call):
    split = is_per_gate(call.dropout.recurrent) or is_per_gate(call.dropout.input)

    def loop(kernel, mask, valid, resets, residuals, d_h, d_final):
        batch, units = d_final.h.shape
        steps = residuals.all_c.shape[0] - 1
        d_state = _shapes(d_final)
        results = (d_state, None if resets is None else d_state, _gates((steps, batch, units), split))
        args = (kernel.T, residuals.gates, residuals.all_c, d_h, d_final, mask, valid, resets)
        return _launch(backward_kernel, Tiling.of(batch, units, kernel.dtype), steps, results, interpret, *args)

    in_specs, out_specs = (TIME_FIRST, TIME_FIRST, BATCH_FIRST), (BATCH_FIRST, BATCH_FIRST, TIME_FIRST)
    return _on_mesh(loop, options, call, in_specs, out_specs, residuals, d_h, d_final)


LOOPS = Loops(partial(_forward_loop, False), partial(_backward_loop, False), TWIN, ("cuda", "rocm"))
INTERPRETED = Loops(partial(_forward_loop, True), partial(_backward_loop, True), TWIN, PLATFORMS)
"""Loops whose kernels are interpreted by Pallas, for tests. They run on every platform, but slowly."""
