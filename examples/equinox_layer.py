"""An Equinox program with `lstm_jax.unroll` in place of a scan over `eqx.nn.LSTMCell`, on the same module.

pip install equinox
python examples/equinox_layer.py
"""

from typing import Any

import equinox as eqx  # pyright: ignore[reportMissingImports]
import jax
import jax.numpy as jnp
import optax
from common import Comparison, Sizes, compare, jit_loop, main

from lstm_jax import CELLS, LSTMParams, unroll

CELL = CELLS["lstm"]


class Classifier(eqx.Module):
    """Embedding, LSTM and a logit, for one sequence in `__call__`, as Equinox' modules are, and for a batch in `of_batch`."""

    embed: Any
    cell: Any
    head: Any

    def __init__(self, sizes: Sizes, key: jax.Array):
        first, second, third = jax.random.split(key, 3)
        self.embed = eqx.nn.Embedding(sizes.vocabulary, sizes.features, key=first)
        self.cell = eqx.nn.LSTMCell(sizes.features, sizes.units, key=second)
        self.head = eqx.nn.Linear(sizes.units, 1, key=third)

    def __call__(self, ids):
        x, zeros = jax.vmap(self.embed)(ids), jnp.zeros(self.cell.hidden_size)
        (h, _), _ = jax.lax.scan(lambda state, x_t: (self.cell(x_t, state), None), (zeros, zeros), x)
        return self.head(h)[0]

    def of_batch(self, ids):
        """Return the logits of a batch (B, T), with the recurrence of lstm_jax."""
        params = LSTMParams(self.cell.weight_ih.T, self.cell.weight_hh.T, self.cell.bias)
        h = unroll(CELL, params, self.embed.weight[ids], tokens=ids)[1].h
        return jax.vmap(self.head)(h)[:, 0]


def run(sizes: Sizes, steps: int) -> Comparison:
    """Train both versions."""
    params, static = eqx.partition(Classifier(sizes, jax.random.key(0)), eqx.is_array)

    def loop(ours: bool):
        def loss(params, ids, labels):
            model = eqx.combine(params, static)
            logits = model.of_batch(ids) if ours else jax.vmap(model)(ids)
            return optax.sigmoid_binary_cross_entropy(logits, labels).mean()

        return jit_loop(loss, params)

    return compare(loop(False), loop(True), sizes, steps)


if __name__ == "__main__":
    main(run)
