"""The backend `pallas`, which runs the loops of the LSTM over time as GPU kernels,
written in Pallas and compiled by Triton.

One launch runs all steps of a loop. Each program computes `ROWS` rows of the batch for
all T steps, independently of the others, with h and c, or their gradients, in
registers. The units are divided into blocks whose size is a power of two, as Triton
requires.

A small matrix of recurrent weights stays on the chip (`Tiling.resident`). A large one
is read again at each step, tile by tile, from the cache that all programs share; the
left operand of its product, h or d_z, then passes through memory.

The arguments of the kernels are refs, the results last; results that are None are not
written. Flags are float32 (T, B), above 0 where they are true; the recurrent dropout
mask is (1, B, H) or (4, B, H). The precision of float32 products depends on the setting
`jax_default_matmul_precision`, as in the other backends. Sums and the state are
float32.

B is the batch size, T the number of steps and H the number of units. A name d_x stands
for the gradient with respect to x.
"""

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu
from jaxtyping import Array

from lstm_jax.base.checks import frozen
from lstm_jax.base.shapes import GATES
from lstm_jax.cells.products import is_per_gate
from lstm_jax.native.operation import PLATFORMS, apply
from lstm_jax.recurrence.call import (
    BATCH_FIRST,
    COPIED,
    TIME_FIRST,
    Call,
    Options,
    Resets,
    on_mesh,
    restart,
    select_rows,
    split_gradient,
)
from lstm_jax.recurrence.hoisted import HoistedLSTM, Residuals

LARGEST = 256
"""Largest number of units H that the backend `pallas` supports.

The loop over blocks of units is unrolled. For H = 512 Triton would take a minute to
compile a kernel, and its registers would spill to memory.
"""
ROWS = 16
"""Number of rows of the batch that a program computes. It is the smallest number that
the tensor cores of the GPU accept."""
NARROWEST, WIDEST = 16, 64
"""Smallest and largest number of units in a block.

The tensor cores of the GPU need at least 16. With more than 64, the shared memory could
not hold two copies of the tiles of the four gates.
"""
RESIDENT = 128 * 1024
"""Largest size in bytes of a recurrent kernel that stays on the chip. A program on an
H100 has 227 KiB of shared memory."""

Blocks = tuple[Array, ...]
"""The rows of an array (B, H) that a program computes, as one array (ROWS,
`Tiling.width`) for each block of units."""
AxisIndices = tuple[Array, Array | None]
"""Indices along an axis, and a bool mask that is True for indices inside the array. The
mask is None if all indices are inside."""


class Carry(NamedTuple):
    """State of the LSTM, or the gradient with respect to it, for the rows that one
    program computes.
    """

    h: Blocks
    c: Blocks


def _indices(start, count: int, size: int) -> AxisIndices:
    indices = start + lax.iota(jnp.int32, count)
    return indices, None if size % count == 0 else indices < size


@frozen
class Tiling:
    """Blocks into which the GPU kernels of the LSTM divide the rows of the batch, and
    the units.

    Attributes:
        batch: number of rows B of the whole batch.
        units: number of units H of the whole layer.
        dtype: dtype of the matrix of recurrent weights.
    """

    batch: int
    units: int
    dtype: Any

    @property
    def resident(self) -> bool:
        """Whether the matrix of recurrent weights is read once and stays on the chip,
        instead of being read at each step.
        """
        return (
            GATES * pl.next_power_of_2(self.units) ** 2 * jnp.dtype(self.dtype).itemsize
            <= RESIDENT
        )

    @property
    def width(self) -> int:
        """Number of units in a block, a power of two."""
        return min(WIDEST, max(NARROWEST, pl.next_power_of_2(self.units)))

    @property
    def blocks(self) -> range:
        """Indices of the blocks of units, from 0."""
        return range(pl.cdiv(self.units, self.width))

    def columns(self, block, gate=0) -> AxisIndices:
        """Return the indices of the units of one block along an axis of size H or, for
        a gate, of size 4H.
        """
        units, inside = _indices(block * self.width, self.width, self.units)
        return gate * self.units + units, inside

    def once(self, read: Callable, *ranges: range) -> Callable:
        """Return `read`. If `resident` is true, it is called here, for each combination
        of arguments in `ranges`, and not again.
        """
        if not self.resident:
            return read
        kept = {at: read(*at) for at in itertools.product(*ranges)}
        return lambda *at: kept[at]


class Tile:
    """Rectangular block of entries along the last two axes of an array. The block may
    reach beyond the end of an axis.
    """

    def __init__(self, rows: AxisIndices, columns: AxisIndices):
        (row, row_mask), (column, column_mask) = rows, columns
        self.at = (row[:, None], column[None, :])
        self.inside = None if row_mask is None else row_mask[:, None]
        if column_mask is not None:
            self.inside = (
                column_mask[None, :]
                if self.inside is None
                else self.inside & column_mask[None, :]
            )

    def read(self, ref, *leading) -> Array:
        """Return this block of the array `ref[*leading]`, with 0 for entries outside
        the array.
        """
        return _load(ref.at[(*leading, *self.at)], self.inside)

    def write(self, ref, value: Array, *leading) -> None:
        plgpu.store(ref.at[(*leading, *self.at)], value, mask=self.inside)


def _load(ref, inside: Array | None) -> Array:
    return plgpu.load(ref, mask=inside, other=None if inside is None else 0.0)


class Part:
    """Rows of arrays (..., B, H) that one program of a GPU kernel computes (see
    `Blocks`), and their products with the recurrent kernel.

    The products are those of `kernel`, the recurrent kernel (H, 4H) or, if `transposed`
    is true, its transpose (4H, H). The four gates have one matrix (H, H) each. The
    matrices stand side by side in the recurrent kernel, and one below the other in its
    transpose.
    """

    def __init__(self, tiling: Tiling, kernel, mask, transposed: bool):
        self.tiling, self.mask = tiling, mask
        # not within loops (Pallas' interpreter)
        self.rows = _indices(pl.program_id(0) * ROWS, ROWS, tiling.batch)

        # the rows in block k and the columns in block n of the gate's matrix
        def weights(k, gate, n):
            return Tile(
                tiling.columns(k, gate * transposed),
                tiling.columns(n, gate * (not transposed)),
            ).read(kernel)

        self._weights = tiling.once(weights, tiling.blocks, range(GATES), tiling.blocks)
        if mask is not None:
            self._factors = tiling.once(
                lambda n, gate: self.tile(n).read(mask, gate),
                tiling.blocks,
                range(mask.shape[0]),
            )

    def tile(self, block, gate=0) -> Tile:
        return Tile(self.rows, self.tiling.columns(block, gate))

    def read(self, ref) -> Blocks:
        return tuple(self.tile(n).read(ref) for n in self.tiling.blocks)

    def write(self, ref, blocks: Sequence[Array], *leading) -> None:
        """Write the rows, or do nothing if `ref` is None."""
        for n in self.tiling.blocks if ref is not None else ():
            self.tile(n).write(ref, blocks[n], *leading)

    def flags(self, ref, t) -> Array | None:
        """Return a bool array (ROWS,) that is True for batch rows in which `ref` (T, B)
        is above 0 at step t, or None if `ref` is None.
        """
        rows, inside = self.rows
        return None if ref is None else _load(ref.at[t, rows], inside) > 0

    def dropped(self, values: Array, block, gate: int) -> Array:
        """Return the values of a block of units, multiplied by the gate's dropout mask."""
        return (
            values
            if self.mask is None
            else values * self._factors(block, gate % self.mask.shape[0])
        )

    def add_products(self, sums: Blocks, operand: Callable, n: int) -> Blocks:
        """Return, for each gate, sums[gate] plus the sum of operand(gate, k) @
        weights(k, gate, n) over the blocks k of units.
        """

        def add(k, sums):
            pairs = [
                (operand(gate, k), self._weights(k, gate, n)) for gate in range(GATES)
            ]
            products = [
                jnp.dot(a.astype(b.dtype), b, preferred_element_type=jnp.float32)
                for a, b in pairs
            ]
            return tuple(
                total + product for total, product in zip(sums, products, strict=True)
            )

        if not self.tiling.resident:
            return lax.fori_loop(
                jnp.int32(0), jnp.int32(len(self.tiling.blocks)), add, sums
            )
        for k in self.tiling.blocks:
            sums = add(k, sums)
        return sums


def forward_kernel(
    tiling: Tiling,
    barrier: Callable,
    kernel,
    z,
    state,
    mask,
    valid,
    resets,
    final,
    all_h,
    all_c,
    gates,
) -> None:
    """Run the LSTM forward over all steps, for the batch rows that one program
    (instance of this GPU kernel) computes.

    `barrier` waits until all threads of the program have called it. `kernel` is the
    recurrent kernel (H, 4H) in the dtype of the products, and z (T, B, 4H) the
    projected input. If `tiling.resident` is false, `all_h` must not be None: each step
    reads h from it.
    """
    part, blocks = Part(tiling, kernel, mask, transposed=False), tiling.blocks
    start = Carry(*map(part.read, state))
    part.write(all_h, start.h, 0)
    part.write(all_c, start.c, 0)

    def body(t, carry):
        starts, (h, c) = None, carry
        if resets is not None:
            starts = part.flags(resets.at, t)
            h, c = restart(
                carry, starts, Resets(None, Carry(*map(part.read, resets.state)))
            )
        runs = part.flags(valid, t)
        if not tiling.resident:
            barrier()  # wait until the other threads of this program have written h

        def operand(gate, k):
            before = h[k] if tiling.resident else part.tile(k).read(all_h, t)
            if starts is not None and not tiling.resident:
                before = jnp.where(
                    starts[:, None], part.tile(k).read(resets.state.h), before
                )
            return part.dropped(before, k, gate)

        new_h, new_c = [], []
        for n in blocks:
            sums = part.add_products(
                tuple(part.tile(n, gate).read(z, t) for gate in range(GATES)),
                operand,
                n,
            )
            i, f, g, o = (
                jax.nn.sigmoid(sums[0]),
                jax.nn.sigmoid(sums[1]),
                jnp.tanh(sums[2]),
                jax.nn.sigmoid(sums[3]),
            )
            after = f * c[n] + i * g
            new_c.append(select_rows(runs, after, c[n]))
            new_h.append(select_rows(runs, o * jnp.tanh(after), h[n]))
            if gates is not None:
                for gate, value in enumerate((i, f, g, o)):
                    part.tile(n, gate).write(gates, select_rows(runs, value, 0), t)
        part.write(all_h, new_h, t + 1)
        part.write(all_c, new_c, t + 1)
        return Carry(tuple(new_h), tuple(new_c))

    for ref, part_of_state in zip(
        final,
        lax.fori_loop(jnp.int32(0), jnp.int32(z.shape[0]), body, start),
        strict=True,
    ):
        part.write(ref, part_of_state)


def backward_kernel(
    tiling: Tiling,
    barrier: Callable,
    kernel,
    gates,
    all_c,
    d_h,
    d_final,
    mask,
    valid,
    resets,
    d_state,
    d_reset,
    d_z,
) -> None:
    """Compute the gradients of the LSTM, from the last step to the first, for the batch
    rows of one program (instance of this GPU kernel).

    `kernel` is the transposed recurrent kernel (4H, H). d_h (T, B, H) or None, and
    d_final, are the gradients with respect to h of all steps and to the final state.
    """
    part, blocks, steps = (
        Part(tiling, kernel, mask, transposed=True),
        tiling.blocks,
        gates.shape[0],
    )

    def body(done, carries):
        carry, d_starts = carries
        t = steps - 1 - done
        runs = part.flags(valid, t)
        starts = resets and part.flags(resets.at, t)
        d_hs, d_cs, d_zs = [], [], []
        for n in blocks:
            tile = part.tile(n)
            i, f, g, o = (part.tile(n, gate).read(gates, t) for gate in range(GATES))
            c_before, tanh_c = tile.read(all_c, t), jnp.tanh(tile.read(all_c, t + 1))
            if starts is not None and resets is not None:
                c_before = jnp.where(
                    starts[:, None], tile.read(resets.state.c), c_before
                )
            d_h_n = carry.h[n] if d_h is None else carry.h[n] + tile.read(d_h, t)
            d_c = carry.c[n] + d_h_n * o * (1 - tanh_c * tanh_c)
            by_gate = (
                d_c * g * i * (1 - i),
                d_c * c_before * f * (1 - f),
                d_c * i * (1 - g * g),
                d_h_n * tanh_c * o * (1 - o),
            )
            for gate, value in enumerate(by_gate):
                part.tile(n, gate).write(d_z, value, t)
            d_hs.append(d_h_n)
            d_cs.append(select_rows(runs, d_c * f, d_c))
            d_zs.append(tuple(value.astype(kernel.dtype) for value in by_gate))
        if not tiling.resident:
            barrier()  # wait until the other threads of this program have written d_z

        def operand(gate, k):
            return d_zs[k][gate] if tiling.resident else part.tile(k, gate).read(d_z, t)

        before = []
        for n in blocks:
            sums = part.add_products(
                (jnp.zeros((ROWS, tiling.width), jnp.float32),) * GATES, operand, n
            )
            sums = [part.dropped(total, n, gate) for gate, total in enumerate(sums)]
            before.append(
                select_rows(runs, sums[0] + sums[1] + sums[2] + sums[3], d_hs[n])
            )
        return split_gradient(Carry(tuple(before), tuple(d_cs)), d_starts, starts)

    start = Carry(*map(part.read, d_final))
    no_starts = resets and jax.tree.map(jnp.zeros_like, start)
    first, d_starts = lax.fori_loop(
        jnp.int32(0), jnp.int32(steps), body, (start, no_starts)
    )
    for refs, gradients in ((d_state, first), (d_reset, d_starts)):
        for ref, blocks_of_gradient in zip(refs or (), gradients or (), strict=True):
            part.write(ref, blocks_of_gradient)


def run(options: Options, call: Call):
    """Run the LSTM over time with the backend `pallas`. The arguments and results are
    those of `reference.run`.
    """
    return apply(PallasLSTM(options), *call)


def _launch(kernel: Callable, tiling: Tiling, results, interpret: bool, *args):
    # only the loop over tiles may be pipelined (num_stages=2), since each iteration of
    # the loop over time reads what the last one wrote
    options = plgpu.CompilerParams(
        num_warps=max(4, tiling.width // 8), num_stages=1 if tiling.resident else 2
    )
    body = partial(kernel, tiling, (lambda: None) if interpret else plgpu.debug_barrier)
    grid = (pl.cdiv(tiling.batch, ROWS),)
    return pl.pallas_call(
        body, results, grid=grid, compiler_params=options, interpret=interpret
    )(*args)


def _shapes(tree):
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.float32), tree
    )


def _on_mesh(
    function: Callable,
    options: Options,
    call: Call,
    in_specs: tuple,
    out_specs: tuple,
    *arrays,
):
    """Run `function(tiling, kernel, mask, valid, resets, *arrays)` on each device, with
    the kernel in the dtype of the products.
    """
    mask, kernel = call.dropout.recurrent, call.params.recurrent_kernel
    dtype = options.compute_dtype or kernel.dtype
    mask = mask if mask is None or is_per_gate(mask) else mask[None]
    resets = call.resets and call.resets._replace(at=call.resets.at.astype(jnp.float32))
    valid = None if call.valid is None else call.valid.astype(jnp.float32)

    def on_rows(kernel, *args):
        return function(Tiling(args[3].h.shape[0], len(kernel), dtype), kernel, *args)

    specs = (
        COPIED,
        TIME_FIRST,
        TIME_FIRST,
        Resets(TIME_FIRST, BATCH_FIRST) if call.resets else None,
        *in_specs,
    )
    return on_mesh(
        on_rows,
        len(call.state.h),
        specs,
        out_specs,
        kernel.astype(dtype),
        mask,
        valid,
        resets,
        *arrays,
    )


@frozen
class PallasLSTM(HoistedLSTM):
    """`HoistedLSTM` whose loops over time are GPU kernels. On other platforms, the
    loops of `HoistedLSTM` run.

    Attributes:
        joined: see `HoistedLSTM`.
        interpret: whether the kernels are interpreted by Pallas, for tests. They then
            run on every platform, but slowly.
    """

    joined: bool = True
    interpret: bool = False

    @property
    def platforms(self):
        return PLATFORMS if self.interpret else ("cuda", "rocm")

    def forward_loop(self, custom, keep, z, call):
        if not custom:
            return super().forward_loop(custom, keep, z, call)
        options = self.options

        def loop(tiling, kernel, mask, valid, resets, state, z):
            all_steps = jax.ShapeDtypeStruct((len(z) + 1, *state.h.shape), jnp.float32)
            reads_h = options.sequences or keep or not tiling.resident
            results = (
                _shapes(state),
                all_steps if reads_h else None,
                all_steps if keep else None,
                _shapes(z) if keep else None,
            )
            args = (kernel, z, state, mask, valid, resets)
            final, all_h, all_c, gates = _launch(
                forward_kernel, tiling, results, self.interpret, *args
            )
            return (
                all_h[1:] if options.sequences else None,
                final,
                Residuals(gates, all_h, all_c) if keep else None,
            )

        return _on_mesh(
            loop,
            options,
            call,
            (BATCH_FIRST, TIME_FIRST),
            (TIME_FIRST, BATCH_FIRST, TIME_FIRST),
            call.state,
            z,
        )

    def backward_loop(self, custom, residuals, d_h, d_final, call):
        if not custom:
            return super().backward_loop(custom, residuals, d_h, d_final, call)

        def loop(tiling, kernel, mask, valid, resets, d_final, residuals, d_h):
            d_state = _shapes(d_final)
            results = (d_state, resets and d_state, _shapes(residuals.kept))
            args = (
                kernel.T,
                residuals.kept,
                residuals.all_c,
                d_h,
                d_final,
                mask,
                valid,
                resets,
            )
            return _launch(backward_kernel, tiling, results, self.interpret, *args)

        specs = (
            (BATCH_FIRST, TIME_FIRST, TIME_FIRST),
            (BATCH_FIRST, BATCH_FIRST, TIME_FIRST),
        )
        return _on_mesh(loop, self.options, call, *specs, d_final, residuals, d_h)
