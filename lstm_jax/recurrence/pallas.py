"""The backend `pallas`, which runs the loops of the LSTM over time as GPU kernels, written in Pallas and compiled by Triton.

One launch of a GPU kernel runs all steps of a loop as several programs, which run in parallel. Each program computes `ROWS` rows of the
batch for all T steps, independently of other programs. A program of the forward kernel keeps h and c in registers, and a program of the
backward kernel keeps their gradients there. The units are divided into blocks whose size is a power of two, as Triton requires. Entries
beyond the last row of the batch or the last unit are read as 0 and are not written.

A small matrix of recurrent weights is read once and stays on the chip (`Tiling.resident` is true). A large matrix is read again at each
step, tile by tile, from the cache that all programs share. The left operand of the product with a large matrix is also written to memory at
each step, and read from there. This operand is h in the forward kernel and d_z in the backward kernel.

The precision of float32 products depends on the setting `jax_default_matmul_precision`, as in the other backends: TF32 is used unless this
setting is "highest". Sums and the state are float32. The forward loop keeps `hoisted.Residuals` for the backward loop.

B is the batch size, T the number of steps and H the number of units. A name d_x stands for the gradient with respect to x. A ref is an
array in memory that a Pallas kernel reads or writes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from lstm_jax.cells.products import is_per_gate
from lstm_jax.primitives.operation import PLATFORMS, apply
from lstm_jax.recurrence.call import BATCH_FIRST, COPIED, TIME_FIRST, Call, Options, Resets, on_mesh, restart, split_gradient
from lstm_jax.recurrence.hoisted import TWIN, HoistedLSTM, Loops, Residuals
from lstm_jax.shapes import GATES

LARGEST = 256
"""Largest number of units H that the backend `pallas` supports.

The loop over blocks of units is unrolled. For H = 512 Triton would take a minute to compile a kernel, and its registers would spill to
memory.
"""
ROWS = 16
"""Number of rows of the batch that a program computes. It is the smallest number that the tensor cores of the GPU accept."""
NARROWEST, WIDEST = 16, 64
"""Smallest and largest number of units in a block.

The tensor cores of the GPU need at least 16. With more than 64, the shared memory could not hold two copies of the tiles of the four
gates.
"""
RESIDENT = 128 * 1024
"""Largest size in bytes of a recurrent kernel that stays on the chip. A program on an H100 has 227 KiB of shared memory."""

Blocks = tuple[jax.Array, ...]
"""The rows of an array (B, H) that a program computes, as one array (ROWS, `Tiling.width`) for each block of units."""
AxisIndices = tuple[jax.Array, jax.Array | None]
"""Indices along an axis, and a bool mask that is True for indices inside the array. The mask is None if all indices are inside."""


class Carry(NamedTuple):
    """State of the LSTM, or the gradient with respect to it, for the rows that one program computes."""

    h: Blocks
    c: Blocks


@dataclass(frozen=True)
class Tiling:
    """Blocks into which the GPU kernels of the LSTM divide the rows of the batch, and the units.

    Attributes:
        batch: number of rows B of the whole batch.
        units: number of units H of the whole layer.
        resident: whether the matrix of recurrent weights is read once and stays on the chip, instead of being read at each step.
    """

    batch: int
    units: int
    resident: bool

    @classmethod
    def of(cls, batch: int, units: int, dtype) -> "Tiling":
        """Return the tiling for a batch of `batch` rows and `units` hidden units. `dtype` is the dtype of the recurrent kernel."""
        whole = GATES * pl.next_power_of_2(units) ** 2 * jnp.dtype(dtype).itemsize
        return cls(batch, units, whole <= RESIDENT)

    @property
    def width(self) -> int:
        """Number of units in a block, a power of two."""
        return min(WIDEST, max(NARROWEST, pl.next_power_of_2(self.units)))

    @property
    def blocks(self) -> range:
        """Indices of the blocks of units, from 0."""
        return range(pl.cdiv(self.units, self.width))

    @property
    def programs(self) -> int:
        """Number of programs (parallel instances of a GPU kernel) that are needed to compute all rows of the batch."""
        return pl.cdiv(self.batch, ROWS)

    def columns(self, block, gate=0) -> AxisIndices:
        """Return the indices of the units of one block along an axis of size H or, for a gate, of size 4H."""
        units = block * self.width + lax.iota(jnp.int32, self.width)
        return gate * self.units + units, None if self.units % self.width == 0 else units < self.units

    def rows(self) -> AxisIndices:
        """Return the indices of the batch rows that the calling GPU program computes. Not for use in loops (Pallas' interpreter)."""
        rows = pl.program_id(0) * ROWS + lax.iota(jnp.int32, ROWS)
        return rows, None if self.batch % ROWS == 0 else rows < self.batch


class Tile:
    """Rectangular block of entries along the last two axes of an array. The block may reach beyond the end of an axis."""

    def __init__(self, rows: AxisIndices, columns: AxisIndices):
        (row, row_mask), (column, column_mask) = rows, columns
        self.at = (row[:, None], column[None, :])
        self.inside = None if row_mask is None else row_mask[:, None]
        if column_mask is not None:
            self.inside = column_mask[None, :] if self.inside is None else self.inside & column_mask[None, :]

    def read(self, ref, *leading) -> jax.Array:
        """Return this block of the array `ref[*leading]`, with 0 for entries outside the array."""
        return plgpu.load(ref.at[(*leading, *self.at)], mask=self.inside, other=None if self.inside is None else 0.0)

    def write(self, ref, value: jax.Array, *leading) -> None:
        plgpu.store(ref.at[(*leading, *self.at)], value, mask=self.inside)


class Part:
    """Reader and writer of the rows of arrays (..., B, H) that one program of a GPU kernel computes; see `Blocks`."""

    def __init__(self, tiling: Tiling):
        self.tiling, self.rows = tiling, tiling.rows()

    def tile(self, block, gate=0) -> Tile:
        return Tile(self.rows, self.tiling.columns(block, gate))

    def read(self, ref, *leading) -> Blocks:
        return tuple(self.tile(n).read(ref, *leading) for n in self.tiling.blocks)

    def write(self, ref, blocks: Blocks | list[jax.Array], *leading) -> None:
        """Write the rows, or do nothing if `ref` is None."""
        for n in self.tiling.blocks if ref is not None else ():
            self.tile(n).write(ref, blocks[n], *leading)

    def read_state(self, refs) -> Carry:
        return Carry(self.read(refs.h), self.read(refs.c))

    def write_state(self, refs, state: Carry) -> None:
        self.write(refs.h, state.h)
        self.write(refs.c, state.c)

    def mask(self, ref, block) -> Blocks:
        """Return one block of units of the dropout mask `ref` as a tuple: one array if `ref` is (B, H), or four if it is (4, B, H)."""
        if len(ref.shape) == 2:
            return (self.tile(block).read(ref),)
        return tuple(self.tile(block).read(ref, gate) for gate in range(GATES))

    def flags(self, ref, t) -> jax.Array | None:
        """Return a bool array (ROWS,) that is True for batch rows in which `ref` (T, B) is above 0 at step t, or None if `ref` is None."""
        if ref is None:
            return None
        rows, inside = self.rows
        return plgpu.load(ref.at[t, rows], mask=inside, other=None if inside is None else 0.0) > 0


def _reader(tiling: Tiling, kernel, transposed: bool) -> Callable[..., jax.Array]:
    """Return a function read(k, gate, n) that returns one tile of the recurrent kernel, or of its transpose.

    The four gates have one matrix (H, H) each. The matrices stand side by side in the recurrent kernel (H, 4H). In its transpose (4H, H),
    their transposes stand one below the other. The tile read(k, gate, n) consists of the rows in block k and the columns in block n of the
    gate's matrix or, if `transposed` is true, of its transpose.

    If `tiling.resident` is true, all tiles are read when `_reader` is called. If it is false, each call of `read` reads one tile.
    """

    def read(k, gate: int, n: int) -> jax.Array:
        return Tile(tiling.columns(k, gate * transposed), tiling.columns(n, gate * (not transposed))).read(kernel)

    if not tiling.resident:
        return read
    kept = {(k, gate, n): read(k, gate, n) for k in tiling.blocks for gate in range(GATES) for n in tiling.blocks}
    return lambda *tile: kept[tile]


def _add_products(tiling: Tiling, sums: Blocks, operand: Callable, tile: Callable) -> Blocks:
    """Return, for each gate, sums[gate] plus the sum of operand(gate, k) @ tile(k, gate) over the blocks k of units."""

    def add(k, sums: Blocks) -> Blocks:
        pairs = [(operand(gate, k), tile(k, gate)) for gate in range(GATES)]
        products = [jnp.dot(a.astype(b.dtype), b, preferred_element_type=jnp.float32) for a, b in pairs]
        return tuple(total + product for total, product in zip(sums, products, strict=True))

    if not tiling.resident:
        return lax.fori_loop(jnp.int32(0), jnp.int32(len(tiling.blocks)), add, sums)
    for k in tiling.blocks:
        sums = add(k, sums)
    return sums


def _choose(valid: jax.Array | None, a: jax.Array, b: jax.Array) -> jax.Array:
    return a if valid is None else jnp.where(valid[:, None], a, b)


def forward_kernel(
    tiling: Tiling, steps: int, barrier: Callable, kernel, z, state, mask, valid, resets, final, all_h, all_c, gates
) -> None:
    """Run the LSTM forward over all steps, for the batch rows that one program (instance of this GPU kernel) computes.

    The arguments from `kernel` on are refs: arrays in memory that the GPU kernel reads, or writes if they are results. The results `all_h`,
    `all_c` and `gates` may be None, which means that they are not written.

    Args:
        tiling: division of rows and units into blocks.
        steps: number of steps T.
        barrier: function that waits until all threads of the program have called it.
        kernel: recurrent kernel, the weight matrix (H, 4H) that multiplies h, in the dtype of the matrix products.
        z: projected input (T, B, 4H).
        state: initial state.
        mask: recurrent dropout mask (B, H) or (4, B, H), or None.
        valid: float32 (T, B), above 0 at valid steps and 0 at padded steps, or None if no step is padded.
        resets: `Resets` whose flags are float32 (T, B), above 0 where the state of a row is replaced before a step; or None.
        final: final state, a result.
        all_h: h of all steps as in `Residuals`, a result. It must not be None if `tiling.resident` is false: each step reads h from it.
        all_c: c of all steps as in `Residuals`, a result.
        gates: gates as in `Residuals`, a result.
    """
    part, blocks, read = Part(tiling), tiling.blocks, _reader(tiling, kernel, transposed=False)
    masks = {n: part.mask(mask, n) for n in blocks} if mask is not None and tiling.resident else {}
    start = part.read_state(state)
    part.write(all_h, start.h, 0)
    part.write(all_c, start.c, 0)

    def body(t, carry: Carry) -> Carry:
        starts, h, c = None, carry.h, carry.c
        if resets is not None:
            starts = part.flags(resets.at, t)
            h, c = restart(carry, starts, Resets(None, part.read_state(resets.state)))
        runs = part.flags(valid, t)
        if not tiling.resident:
            barrier()  # wait until the other threads of this program have written h

        def operand(gate: int, k) -> jax.Array:
            before = h[k] if tiling.resident else part.tile(k).read(all_h, t)
            if starts is not None and not tiling.resident:
                before = jnp.where(starts[:, None], part.tile(k).read(resets.state.h), before)
            if mask is None:
                return before
            factors = masks[k] if tiling.resident else part.mask(mask, k)
            return before * factors[gate % len(factors)]

        new_h, new_c = [], []
        for n in blocks:
            sums = tuple(part.tile(n, gate).read(z, t) for gate in range(GATES))
            sums = _add_products(tiling, sums, operand, lambda k, gate, n=n: read(k, gate, n))
            i, f, g, o = jax.nn.sigmoid(sums[0]), jax.nn.sigmoid(sums[1]), jnp.tanh(sums[2]), jax.nn.sigmoid(sums[3])
            after = f * c[n] + i * g
            new_c.append(_choose(runs, after, c[n]))
            new_h.append(_choose(runs, o * jnp.tanh(after), h[n]))
            if gates is not None:
                for gate, value in enumerate((i, f, g, o)):
                    part.tile(n, gate).write(gates, _choose(runs, value, jnp.zeros_like(value)), t)
        part.write(all_h, new_h, t + 1)
        part.write(all_c, new_c, t + 1)
        return Carry(tuple(new_h), tuple(new_c))

    part.write_state(final, lax.fori_loop(jnp.int32(0), jnp.int32(steps), body, start))


def backward_kernel(
    tiling: Tiling, steps: int, barrier: Callable, kernel, gates, all_c, d_h, d_final, mask, valid, resets, d_state, d_reset, d_z
) -> None:
    """Compute the gradients of the LSTM, from the last step to the first, for the batch rows of one program (instance of this GPU kernel).

    The arguments from `kernel` on are refs: arrays in memory that the GPU kernel reads, or writes if they are results.

    Args:
        tiling: division of rows and units into blocks.
        steps: number of steps T.
        barrier: function that waits until all threads of the program have called it.
        kernel: transposed recurrent kernel (4H, H) in the dtype of the matrix products.
        gates: gates as in `Residuals`, which `forward_kernel` has written.
        all_c: c of all steps as in `Residuals`, which `forward_kernel` has written.
        d_h: gradient with respect to h of all steps (T, B, H), or None.
        d_final: gradient with respect to the final state.
        mask: recurrent dropout mask (B, H) or (4, B, H), or None.
        valid: float32 (T, B), above 0 at valid steps and 0 at padded steps, or None if no step is padded.
        resets: `Resets` as in `forward_kernel`, or None.
        d_state: gradient with respect to the initial state, a result.
        d_reset: gradient with respect to `resets.state`, a result, or None.
        d_z: gradient with respect to the projected input z, a result.
    """
    part, blocks, read = Part(tiling), tiling.blocks, _reader(tiling, kernel, transposed=True)
    masks = {n: part.mask(mask, n) for n in blocks} if mask is not None and tiling.resident else {}

    def body(done, carries):
        carry, d_starts = carries
        t = steps - 1 - done
        runs = part.flags(valid, t)
        starts = None if resets is None else part.flags(resets.at, t)
        d_hs, d_cs, d_zs = [], [], []
        for n in blocks:
            tile = part.tile(n)
            i, f, g, o = (part.tile(n, gate).read(gates, t) for gate in range(GATES))
            c_before, tanh_c = tile.read(all_c, t), jnp.tanh(tile.read(all_c, t + 1))
            if starts is not None and resets is not None:
                c_before = jnp.where(starts[:, None], tile.read(resets.state.c), c_before)
            d_h_n = carry.h[n] if d_h is None else carry.h[n] + tile.read(d_h, t)
            d_c = carry.c[n] + d_h_n * o * (1 - tanh_c * tanh_c)
            by_gate = (d_c * g * i * (1 - i), d_c * c_before * f * (1 - f), d_c * i * (1 - g * g), d_h_n * tanh_c * o * (1 - o))
            for gate, value in enumerate(by_gate):
                part.tile(n, gate).write(d_z, value, t)
            d_hs.append(d_h_n)
            d_cs.append(_choose(runs, d_c * f, d_c))
            d_zs.append(tuple(value.astype(kernel.dtype) for value in by_gate))
        if not tiling.resident:
            barrier()  # wait until the other threads of this program have written d_z

        def operand(gate: int, k) -> jax.Array:
            return d_zs[k][gate] if tiling.resident else part.tile(k, gate).read(d_z, t)

        before = []
        for n in blocks:
            sums = (jnp.zeros((ROWS, tiling.width), jnp.float32),) * GATES
            sums = _add_products(tiling, sums, operand, lambda k, gate, n=n: read(k, gate, n))
            if mask is not None:
                factors = masks[n] if tiling.resident else part.mask(mask, n)
                sums = tuple(value * factors[gate % len(factors)] for gate, value in enumerate(sums))
            before.append(_choose(runs, sums[0] + sums[1] + sums[2] + sums[3], d_hs[n]))
        return split_gradient(Carry(tuple(before), tuple(d_cs)), d_starts, starts)

    start = part.read_state(d_final)
    no_starts = None if resets is None else jax.tree.map(jnp.zeros_like, start)
    first, d_starts = lax.fori_loop(jnp.int32(0), jnp.int32(steps), body, (start, no_starts))
    part.write_state(d_state, first)
    if d_reset is not None:
        part.write_state(d_reset, d_starts)


def run(options: Options, call: Call):
    """Run the LSTM over time with the backend `pallas`. The arguments and results are those of `reference.run`."""
    return apply(HoistedLSTM(LOOPS, options), *call)


def _launch(kernel: Callable, tiling: Tiling, steps: int, results, interpret: bool, *args):
    # only the loop over tiles may be pipelined (num_stages=2), since each iteration of the loop over time reads what the last one wrote
    options = plgpu.CompilerParams(num_warps=max(4, tiling.width // 8), num_stages=1 if tiling.resident else 2)
    barrier = (lambda: None) if interpret else plgpu.debug_barrier
    body = partial(kernel, tiling, steps, barrier)
    return pl.pallas_call(body, results, grid=(tiling.programs,), compiler_params=options, interpret=interpret)(*args)


def _shape(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


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
        steps, batch, units = z.shape[0], *state.h.shape
        tiling, all_steps = Tiling.of(batch, units, kernel.dtype), _shape(steps + 1, batch, units)
        results = (
            jax.tree.map(lambda part: _shape(*part.shape), state),
            all_steps if options.sequences or keep or not tiling.resident else None,
            all_steps if keep else None,
            _shape(*z.shape) if keep else None,
        )
        args = (kernel, z, state, mask, valid, resets)
        final, all_h, all_c, gates = _launch(forward_kernel, tiling, steps, results, interpret, *args)
        return all_h[1:] if options.sequences else None, final, Residuals(gates, all_h, all_c) if keep else None

    z = jnp.concatenate(z, axis=-1) if isinstance(z, tuple) else z
    in_specs, out_specs = (TIME_FIRST, BATCH_FIRST), (TIME_FIRST, BATCH_FIRST, TIME_FIRST)
    return _on_mesh(loop, options, call, in_specs, out_specs, z, call.state)


def _backward_loop(interpret: bool, options: Options, residuals: Residuals, d_h, d_final, call: Call):
    def loop(kernel, mask, valid, resets, residuals, d_h, d_final):
        batch, units = d_final.h.shape
        d_state = jax.tree.map(lambda part: _shape(*part.shape), d_final)
        results = (d_state, None if resets is None else d_state, _shape(*residuals.gates.shape))
        args = (kernel.T, residuals.gates, residuals.all_c, d_h, d_final, mask, valid, resets)
        tiling = Tiling.of(batch, units, kernel.dtype)
        return _launch(backward_kernel, tiling, residuals.gates.shape[0], results, interpret, *args)

    in_specs, out_specs = (TIME_FIRST, TIME_FIRST, BATCH_FIRST), (BATCH_FIRST, BATCH_FIRST, TIME_FIRST)
    d_state, d_reset, d_z = _on_mesh(loop, options, call, in_specs, out_specs, residuals, d_h, d_final)
    split = is_per_gate(call.dropout.recurrent) or is_per_gate(call.dropout.input)
    return d_state, d_reset, tuple(jnp.split(d_z, GATES, axis=-1)) if split else d_z


LOOPS = Loops(partial(_forward_loop, False), partial(_backward_loop, False), TWIN, ("cuda", "rocm"))
INTERPRETED = Loops(partial(_forward_loop, True), partial(_backward_loop, True), TWIN, PLATFORMS)
"""Loops whose kernels are interpreted by Pallas, for tests. They run on every platform, but slowly."""
