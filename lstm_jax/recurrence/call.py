"""What a backend gets, a `Call` and its `Options`, and what backends have in common:
resets, custom passes and rows on several devices.

B is the batch size, T the number of steps, E the number of input features and H the
number of units.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array

from lstm_jax.base import sharding
from lstm_jax.base.checks import frozen
from lstm_jax.cells import Cell
from lstm_jax.cells.products import is_per_gate
from lstm_jax.native.operation import Axes, Operation
from lstm_jax.recurrence.dropout import DropoutMasks

Remat = Literal["sqrt"] | int | None
"""Type of the argument `remat`: None (store all residuals), "sqrt" (ceil(sqrt(T))
segments), or an approximate number of segments."""


class Resets(NamedTuple):
    """Resets of the state within a sequence.

    The steps after a reset do not depend on the steps before it, and no gradient
    crosses it.

    Attributes:
        at: bool (T, B). The entry (t, b) is True if the state of row b of the batch is
            replaced before step t. The steps are in the order in which they are
            processed.
        state: the new state, with arrays (B, H). Where `at` is True, row b of these
            arrays replaces the state of row b of the batch.
    """

    at: Any
    state: Any


class Call(NamedTuple):
    """Operands of a backend. Time is the first axis, and the steps are in the order in
    which they are processed.

    Attributes:
        params: parameters of the cell.
        x: inputs (T, B, E), or ids (T, B), with zeros at padded steps.
        state: initial state of the cell.
        valid: bool (T, B) that is False at padded steps, or None if no step is padded.
        dropout: dropout masks.
        resets: resets of the state within the sequence, or None.
        tokens: int32 (T, B), or None. Steps of the same row with equal tokens have
            equal inputs, so that a backend may compute the product of the inputs and
            the kernel only once for all of these steps.
    """

    params: Any
    x: Any
    state: Any
    valid: Array | None
    dropout: DropoutMasks
    resets: Resets | None
    tokens: Array | None = None


@frozen
class Options:
    """Static options of a call: what a compiled program depends on besides the shapes
    and dtypes of its operands.

    Attributes:
        cell: the cell.
        compute_dtype: dtype of the matrix products; None means the dtype of the
            parameters.
        sequences: whether h of all steps is returned.
        batch_first: whether the caller transposes x from (B, T, ...), and transposes
            the outputs back.
        remat: the number of segments of which only the first state is stored, see
            `unroll`.
    """

    cell: Cell
    compute_dtype: Any = None
    sequences: bool = True
    batch_first: bool = False
    remat: Remat = None


def select_rows(flags: Array | None, a, b):
    """Return pytrees with the rows of `a` where flags (..., B) are true, and those of
    `b` elsewhere. If `flags` is None, return `a`.
    """
    if flags is None:
        return a
    return jax.tree.map(lambda a, b: jnp.where(flags[..., None], a, b), a, b)


def restart(state, at: Array | None, resets: Resets | None) -> Any:
    """Return the state from which a step starts: `resets.state` in the rows that are
    reset, and `state` in all other rows.
    """
    if at is None or resets is None:
        return state
    return select_rows(at, resets.state, state)


def split_gradient(gradient, d_reset, at: Array | None) -> tuple[Any, Any]:
    """Back-propagate through the resets before a step, and return the two resulting
    gradients.
    """
    if at is None:
        return gradient, d_reset
    starts = at[:, None]
    d_reset = jax.tree.map(
        lambda total, part: total + jnp.where(starts, part, 0), d_reset, gradient
    )
    return jax.tree.map(lambda part: jnp.where(starts, 0, part), gradient), d_reset


class RecurrentOperation(Operation):
    """Base class of the operations (see `Operation`) that run a cell over time.

    The arguments of an operation are the fields of a `Call`. The outputs are the pair
    (h of all steps, final state). h of all steps is an array (T, B, H), or None if it
    is not requested.
    """

    def arg_axes(self, args: tuple) -> Axes:
        return batch_axes(Call(*args))

    def result_axes(self, outputs) -> list[int]:
        h, state = outputs
        return [1] * (h is not None) + [0] * len(state)


def batch_axes(call: Call) -> Axes:
    """Return the index of the batch axis of each array of a call. The parameters have
    none.
    """
    axes: list[int | None] = []
    for field, part in call._asdict().items():
        for leaf in jax.tree.leaves(part):
            if field == "params":
                axes.append(None)
            elif field == "state":
                axes.append(0)
            elif field == "dropout":
                axes.append(int(is_per_gate(leaf)))
            elif field == "resets":
                axes.append(int(leaf.dtype == jnp.bool_))
            else:
                axes.append(1)
    return axes


def uniform_axes(tree, axis) -> Any:
    """Return a tree of the structure of `tree` that has `axis` in place of each array."""
    return jax.tree.map(lambda _: axis, tree)


BATCH_FIRST = PartitionSpec(sharding.DATA)
COPIED = PartitionSpec()


def on_mesh(function: Callable, batch: int, in_specs: tuple, out_specs, *args):
    """Call `function(*args)` and return its results. On a mesh each device calls the
    function on its own rows of the batch.
    """
    if not sharding.splits(batch):
        return function(*args)
    return jax.shard_map(
        function, in_specs=in_specs, out_specs=out_specs, check_vma=False
    )(*args)
