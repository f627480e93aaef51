"""The LSTM's forward and backward loops over time as persistent kernels, written in Pallas and lowered through Triton.

Each program of a kernel computes `ROWS` rows of the batch for all T steps, independently of other programs. It keeps h and c, or in the
backward kernel their gradients, in registers. The units are divided into blocks whose size is a power of two, as Triton requires. Entries
beyond the last row of the batch or the last unit are read as 0 and are not written.

A small recurrent kernel is read once and stays on the chip (`Tiling.resident` is true). A larger one is read again at each step, tile by
tile, from the cache that all programs share. The loop over its tiles reads the left operand of the product, h or d_z, from the array into
which the program has written it.

The products follow `jax_default_matmul_precision`, as in the other backends: float32 operands are multiplied in TF32 unless it is
"highest". Sums and the state are float32.

B is the batch size, T the number of steps and H the number of units. A name d_x stands for the gradient with respect to x. Ref is Pallas'
name for an array in memory.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from lstm_jax.shapes import GATES

ROWS = 16
"""Number of rows that a program computes, the smallest number that the GPU's matrix units accept."""
NARROWEST, WIDEST = 16, 64
"""Smallest and largest number of units in a block.

The matrix units accept no fewer units. With more, the shared memory could not hold two copies of the four gates' tiles.
"""
RESIDENT = 128 * 1024
"""Largest size in bytes of a resident recurrent kernel. A program on an H100 has 227 KiB of shared memory."""

Blocks = tuple[jax.Array, ...]
"""A program's rows of an array (B, H), as one array (ROWS, `Tiling.width`) for each block of units."""
AxisIndices = tuple[jax.Array, jax.Array | None]
"""Indices along an axis, and a bool mask that is True for indices inside the array; the mask is None if all indices are inside."""


class Carry(NamedTuple):
    """A program's rows of the LSTM's state, or of its gradient, in blocks of units."""

    h: Blocks
    c: Blocks


@dataclass(frozen=True)
class Tiling:
    """Division of the rows of a batch and of the units into blocks.

    Attributes:
        batch: number of rows B.
        units: number of units H.
        resident: whether the recurrent kernel is read once and stays on the chip.
    """

    batch: int
    units: int
    resident: bool

    @classmethod
    def of(cls, batch: int, units: int, dtype) -> "Tiling":
        """Return the tiling for a batch and a number of units, if the matrix products are computed in `dtype`."""
        whole = GATES * pl.next_power_of_2(units) ** 2 * jnp.dtype(dtype).itemsize
        return cls(batch, units, whole <= RESIDENT)

    @property
    def width(self) -> int:
        """Number of units in a block."""
        return min(WIDEST, max(NARROWEST, pl.next_power_of_2(self.units)))

    @property
    def blocks(self) -> range:
        """Indices of the blocks of units."""
        return range(pl.cdiv(self.units, self.width))

    @property
    def programs(self) -> int:
        """Number of programs that together compute all rows."""
        return pl.cdiv(self.batch, ROWS)

    def columns(self, block, gate=0) -> AxisIndices:
        """Return the indices of a block's units along an axis that contains the units of all gates, one gate after the other.

        For an axis that contains the units once, leave out `gate`.
        """
        units = block * self.width + lax.iota(jnp.int32, self.width)
        return gate * self.units + units, None if self.units % self.width == 0 else units < self.units

    def rows(self) -> AxisIndices:
        """Return the indices of this program's rows of the batch.

        Do not call it inside a loop, where Pallas' interpreter does not know the program id.
        """
        rows = pl.program_id(0) * ROWS + lax.iota(jnp.int32, ROWS)
        return rows, None if self.batch % ROWS == 0 else rows < self.batch


class Tile:
    """A rectangular block of entries along the last two axes of an array."""

    def __init__(self, rows: AxisIndices, columns: AxisIndices):
        (row, row_mask), (column, column_mask) = rows, columns
        self.at = (row[:, None], column[None, :])
        self.inside = None if row_mask is None else row_mask[:, None]
        if column_mask is not None:
            self.inside = column_mask[None, :] if self.inside is None else self.inside & column_mask[None, :]

    def read(self, ref, *leading) -> jax.Array:
        """Return the entries of the block, which are 0 outside the array. `leading` are indices of the axes before the last two."""
        return plgpu.load(ref.at[(*leading, *self.at)], mask=self.inside, other=None if self.inside is None else 0.0)

    def write(self, ref, value: jax.Array, *leading) -> None:
        """Write the entries of the block that are inside the array. `leading` are indices of the axes before the last two."""
        plgpu.store(ref.at[(*leading, *self.at)], value, mask=self.inside)


class Part:
    """Access to this program's rows of arrays (..., B, H), in blocks of units.

    The values of the gates are one array (T, B, 4H) or four arrays (T, B, H).
    """

    def __init__(self, tiling: Tiling):
        self.tiling, self.rows = tiling, tiling.rows()

    def tile(self, block, gate=0) -> Tile:
        return Tile(self.rows, self.tiling.columns(block, gate))

    def read(self, ref, *leading) -> Blocks:
        return tuple(self.tile(n).read(ref, *leading) for n in self.tiling.blocks)

    def write(self, ref, blocks: Blocks | list[jax.Array], *leading) -> None:
        for n in self.tiling.blocks:
            self.tile(n).write(ref, blocks[n], *leading)

    def read_gate(self, gates, t, gate: int, block) -> jax.Array:
        return self.tile(block).read(gates[gate], t) if isinstance(gates, tuple) else self.tile(block, gate).read(gates, t)

    def write_gate(self, gates, t, gate: int, block, value: jax.Array) -> None:
        if isinstance(gates, tuple):
            self.tile(block).write(gates[gate], value, t)
        else:
            self.tile(block, gate).write(gates, value, t)

    def mask(self, ref, block) -> Blocks:
        """Return one block of units of a dropout mask: one array if the mask is (B, H), or four, one per gate, if it is (4, B, H)."""
        if len(ref.shape) == 2:
            return (self.tile(block).read(ref),)
        return tuple(self.tile(block).read(ref, gate) for gate in range(GATES))

    def valid(self, ref, t) -> jax.Array | None:
        """Return a bool array (ROWS, 1) that tells in which rows step t is valid, or None if all steps are valid (`ref` is None)."""
        if ref is None:
            return None
        rows, inside = self.rows
        return (plgpu.load(ref.at[t, rows], mask=inside, other=None if inside is None else 0.0) > 0)[:, None]


def _reader(tiling: Tiling, kernel, transposed: bool) -> Callable[..., jax.Array]:
    """Return a function read(k, gate, n) -> tile of the recurrent kernel.

    If `transposed` is false, the kernel is (H, 4H), and the tile is in row block k and in column block n of the gate. If it is true, the
    kernel is (4H, H), and the tile is in row block k of the gate and in column block n. If the tiling is resident, all tiles are read once,
    when this function is called.
    """

    def read(k, gate: int, n: int) -> jax.Array:
        return Tile(tiling.columns(k, gate * transposed), tiling.columns(n, gate * (not transposed))).read(kernel)

    if not tiling.resident:
        return read
    kept = {(k, gate, n): read(k, gate, n) for k in tiling.blocks for gate in range(GATES) for n in tiling.blocks}
    return lambda *tile: kept[tile]


def _add_products(tiling: Tiling, sums: Blocks, operand: Callable, tile: Callable) -> Blocks:
    """Return for each gate its entry of `sums` plus the sum of operand(gate, k) @ tile(k, gate) over all blocks k of units."""

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
    return a if valid is None else jnp.where(valid, a, b)


def forward_kernel(tiling: Tiling, steps: int, barrier: Callable, kernel, z, state, mask, valid, final, all_h, all_c, gates) -> None:
    """Compute the equations of cells/lstm.py for this program's rows and all steps.

    The arguments from `kernel` on are refs, or None for an operand that is absent or a result that is not requested.

    Args:
        tiling: division of rows and units into blocks.
        steps: number of steps T.
        barrier: function that waits until all threads of the program reach it.
        kernel: recurrent kernel (H, 4H) in the dtype of the products.
        z: result of the input projection, one array (T, B, 4H) or four arrays (T, B, H).
        state: initial state.
        mask: recurrent dropout mask (B, H) or (4, B, H).
        valid: float32 (T, B), above 0 at valid steps.
        final: result, the final state.
        all_h: result, see `Residuals`; must be present if the recurrent kernel is not resident.
        all_c: result, see `Residuals`.
        gates: result, see `Residuals`.
    """
    part, blocks, read = Part(tiling), tiling.blocks, _reader(tiling, kernel, transposed=False)
    masks = {n: part.mask(mask, n) for n in blocks} if mask is not None and tiling.resident else {}
    start = Carry(part.read(state.h), part.read(state.c))
    for ref, first in ((all_h, start.h), (all_c, start.c)):
        if ref is not None:
            part.write(ref, first, 0)

    def body(t, carry: Carry) -> Carry:
        h, c = carry
        runs = part.valid(valid, t)
        if not tiling.resident:
            barrier()  # wait until the other threads of this program have written h

        def operand(gate: int, k) -> jax.Array:
            before = h[k] if tiling.resident else part.tile(k).read(all_h, t)
            if mask is None:
                return before
            factors = masks[k] if tiling.resident else part.mask(mask, k)
            return before * factors[gate % len(factors)]

        new_h, new_c = [], []
        for n in blocks:
            sums = tuple(part.read_gate(z, t, gate, n) for gate in range(GATES))
            sums = _add_products(tiling, sums, operand, lambda k, gate, n=n: read(k, gate, n))
            i, f, g, o = jax.nn.sigmoid(sums[0]), jax.nn.sigmoid(sums[1]), jnp.tanh(sums[2]), jax.nn.sigmoid(sums[3])
            after = f * c[n] + i * g
            new_c.append(_choose(runs, after, c[n]))
            new_h.append(_choose(runs, o * jnp.tanh(after), h[n]))
            if gates is not None:
                for gate, value in enumerate((i, f, g, o)):
                    part.write_gate(gates, t, gate, n, _choose(runs, value, jnp.zeros_like(value)))
        for ref, new in ((all_h, new_h), (all_c, new_c)):
            if ref is not None:
                part.write(ref, new, t + 1)
        return Carry(tuple(new_h), tuple(new_c))

    last = lax.fori_loop(jnp.int32(0), jnp.int32(steps), body, start)
    part.write(final.h, last.h)
    part.write(final.c, last.c)


def backward_kernel(tiling: Tiling, steps: int, barrier: Callable, kernel, gates, all_c, d_h, d_final, mask, valid, d_state, d_z) -> None:
    """Back-propagate through `forward_kernel`, from the last step to the first.

    Arguments of the same names are those of `forward_kernel`, except that `kernel` is the transposed recurrent kernel (4H, H).

    Args:
        tiling: division of rows and units into blocks.
        steps: number of steps T.
        barrier: function that waits until all threads of the program reach it.
        kernel: transposed recurrent kernel (4H, H) in the dtype of the products.
        gates: residuals, see `Residuals`.
        all_c: residuals, see `Residuals`.
        d_h: gradient of h of all steps (T, B, H), or None.
        d_final: gradient of the final state.
        mask: recurrent dropout mask (B, H) or (4, B, H), or None.
        valid: float32 (T, B), above 0 at valid steps, or None.
        d_state: result, the gradient of the initial state.
        d_z: result, the gradient of z, one array (T, B, 4H) or four arrays (T, B, H).
    """
    part, blocks, read = Part(tiling), tiling.blocks, _reader(tiling, kernel, transposed=True)
    masks = {n: part.mask(mask, n) for n in blocks} if mask is not None and tiling.resident else {}

    def body(done, carry: Carry) -> Carry:
        t = steps - 1 - done
        runs = part.valid(valid, t)
        d_hs, d_cs, d_zs = [], [], []
        for n in blocks:
            tile = part.tile(n)
            i, f, g, o = (part.read_gate(gates, t, gate, n) for gate in range(GATES))
            c_before, tanh_c = tile.read(all_c, t), jnp.tanh(tile.read(all_c, t + 1))
            d_h_n = carry.h[n] if d_h is None else carry.h[n] + tile.read(d_h, t)
            d_c = carry.c[n] + d_h_n * o * (1 - tanh_c * tanh_c)
            by_gate = (d_c * g * i * (1 - i), d_c * c_before * f * (1 - f), d_c * i * (1 - g * g), d_h_n * tanh_c * o * (1 - o))
            for gate, value in enumerate(by_gate):
                part.write_gate(d_z, t, gate, n, value)
            d_hs.append(d_h_n)
            d_cs.append(_choose(runs, d_c * f, d_c))
            d_zs.append(tuple(value.astype(kernel.dtype) for value in by_gate))
        if not tiling.resident:
            barrier()  # wait until the other threads of this program have written d_z

        def operand(gate: int, k) -> jax.Array:
            return d_zs[k][gate] if tiling.resident else part.read_gate(d_z, t, gate, k)

        before = []
        for n in blocks:
            sums = (jnp.zeros((ROWS, tiling.width), jnp.float32),) * GATES
            sums = _add_products(tiling, sums, operand, lambda k, gate, n=n: read(k, gate, n))
            if mask is not None:
                factors = masks[n] if tiling.resident else part.mask(mask, n)
                sums = tuple(value * factors[gate % len(factors)] for gate, value in enumerate(sums))
            before.append(_choose(runs, sums[0] + sums[1] + sums[2] + sums[3], d_hs[n]))
        return Carry(tuple(before), tuple(d_cs))

    start = Carry(part.read(d_final.h), part.read(d_final.c))
    first = lax.fori_loop(jnp.int32(0), jnp.int32(steps), body, start)
    part.write(d_state.h, first.h)
    part.write(d_state.c, first.c)
