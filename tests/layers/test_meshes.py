"""Gradients of a whole model on a mesh of two devices that the user makes, with Auto or
Explicit axes: they equal those of one device.
"""

import contextlib

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from tables import assert_close

from lstm_jax import LSTM, Bidirectional, Embedding, RecurrentStack, compiled_code


class Model(nnx.Module):
    """Model with a masked embedding, a bidirectional layer, and an LSTM layer with
    dropout and recurrent dropout.
    """

    def __init__(self, rngs: nnx.Rngs):
        self.embedding = Embedding(10, 4, mask_zero=True, rngs=rngs)
        first = Bidirectional(4, 5, return_sequences=True, rngs=rngs)
        self.recurrent = RecurrentStack(
            [first, LSTM(10, 3, dropout=0.2, recurrent_dropout=0.2, rngs=rngs)]
        )

    def __call__(self, ids: jax.Array, key: jax.Array) -> jax.Array:
        return self.recurrent(
            self.embedding(ids), mask=self.embedding.mask(ids), rngs=key
        )


@pytest.mark.slow(keep=1)
@pytest.mark.skipif(
    jax.device_count() < 2, reason=f"needs two devices, JAX shows {jax.device_count()}"
)
@pytest.mark.parametrize("compiled", [True, False])
def test_gradients(compiled: bool) -> None:
    graph, params, rest = nnx.split(Model(nnx.Rngs(0)), nnx.Param, ...)
    ids = jnp.arange(24, dtype=jnp.int32).reshape(4, 6) % 10

    def loss(params, ids):
        return (nnx.merge(graph, params, rest)(ids, jax.random.key(1)) ** 2).sum()

    with compiled_code(compiled):
        want = jax.jit(jax.grad(loss))(params, ids)
        for axes in (AxisType.Auto, AxisType.Explicit):
            mesh = jax.make_mesh((2,), ("rows",), axis_types=(axes,))
            placed = (
                jax.device_put(params, NamedSharding(mesh, PartitionSpec())),
                jax.device_put(ids, NamedSharding(mesh, PartitionSpec("rows"))),
            )
            for context in (contextlib.nullcontext(), jax.set_mesh(mesh)):
                with context:
                    run = jax.jit(jax.grad(loss)).lower(*placed).compile()
                    assert_close(
                        jax.device_get(run(*placed)),
                        jax.device_get(want),
                        "float32",
                        f"{axes} ",
                    )
                assert "all-to-all" not in run.as_text()
