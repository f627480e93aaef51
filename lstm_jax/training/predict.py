"""Compiled predictions over many rows."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from lstm_jax.runtime import sharding


def make_predict(
    forward: Callable[[Any, Any], jax.Array],
    mesh: Mesh,
    batch_size: int = 512,
    prepare: Callable[[Any, int], Any] = lambda params, count: params,
) -> Callable[[Any, Any], np.ndarray]:
    """Compile `predict(params, rows) -> array`: `forward(params, batch)` over rows (a pytree of (N, ...)), in batches over the mesh.

    `prepare(params, rows in all)` returns the first argument of `forward`, from the parameters and the number of rows; it runs once per
    call.
    """

    @jax.jit
    def compiled(params, batches):
        leaf = jax.tree.leaves(batches)[0]
        ready = prepare(params, leaf.shape[0] * leaf.shape[1])
        return jax.lax.map(lambda batch: forward(ready, batch), batches)

    def predict(params, rows) -> np.ndarray:
        count = jax.tree.leaves(rows)[0].shape[0]
        # small inputs get a small batch that still divides over the devices
        size = min(batch_size, max(8, 1 << (count - 1).bit_length())) if count else batch_size
        size = -(-size // mesh.size) * mesh.size
        padded = -(-count // size) * size

        def cut(array):
            array = np.concatenate([array, np.zeros((padded - count, *array.shape[1:]), array.dtype)])
            return jax.device_put(array.reshape(-1, size, *array.shape[1:]), sharding.replicated(mesh))

        with sharding.on(mesh):
            outputs = compiled(params, jax.tree.map(lambda a: cut(np.asarray(a)), rows))
        return np.asarray(outputs).reshape(padded, *outputs.shape[2:])[:count]

    return predict
