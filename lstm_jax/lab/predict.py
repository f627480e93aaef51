"""Predictions of a model for many examples, computed in batches by one compiled
function.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.sharding import Mesh

from lstm_jax.base import processes, sharding


def make_predict(
    forward: Callable,
    mesh: Mesh,
    batch_size: int = 512,
    prepare: Callable = lambda params, count: params,
) -> Callable[[Any, Any], Any]:
    """Return a compiled function predict(params, rows) that applies a model to N
    examples in batches.

    `rows` is a pytree of arrays (N, ...). The result has NumPy arrays, whose row n is
    the prediction for row n. 64-bit ints in `rows` are clipped to the range of 32-bit
    ints, unless 64-bit dtypes are enabled in JAX (`jax_enable_x64`).

    Args:
        forward: function forward(prepared, batch) that returns a pytree of arrays with
            one row for each row of the batch.
        mesh: devices that a batch is sharded over.
        batch_size: largest number of rows in a batch. It is rounded up to a multiple of
            the number of devices.
        prepare: function prepare(params, count) that makes `prepared` once in each call
            of `predict`, from the number of padded rows.
    """

    # the predictions of all batches are read by each process
    @partial(
        jax.jit,
        out_shardings=sharding.replicated(mesh) if processes.several() else None,
    )
    def compiled(params, batches):
        leaf = jax.tree.leaves(batches)[0]
        ready = prepare(params, leaf.shape[0] * leaf.shape[1])
        return lax.map(lambda batch: forward(ready, batch), batches)

    def predict(params, rows):
        count = jax.tree.leaves(rows)[0].shape[0]
        # a small input gets a small batch, whose size is still a multiple of the number
        # of devices
        size = batch_size
        if count:
            size = min(batch_size, max(8, 1 << (count - 1).bit_length()))
        size = -(-size // mesh.size) * mesh.size
        padded = -(-count // size) * size

        def cut(array):
            kept = jax.dtypes.canonicalize_dtype(array.dtype)
            # JAX would drop the upper bits, and make other numbers of large ones
            if array.dtype.kind in "iu" and kept != array.dtype:
                range_ = np.iinfo(kept)
                array = np.clip(array, range_.min, range_.max).astype(kept)
            spare = np.zeros((padded - count, *array.shape[1:]), array.dtype)
            array = np.concatenate([array, spare])
            batches = array.reshape(-1, size, *array.shape[1:])
            return sharding.put(batches, sharding.replicated(mesh))

        with sharding.on(mesh):
            outputs = compiled(params, jax.tree.map(lambda a: cut(np.asarray(a)), rows))

        def joined(array):
            return np.asarray(array).reshape(padded, *array.shape[2:])[:count]

        return jax.tree.map(joined, outputs)

    return predict
