"""Equinox program in which `lstm_jax.unroll` replaces a scan over `eqx.nn.LSTMCell`,
with the same parameters.

    pip install equinox
    python examples/equinox_layer.py

The program trains both versions of the model, and prints the last loss and the time per
step of each.
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
    """Equinox model that computes the logit of a sequence of token ids: embedding,
    LSTM, and dense layer with one output.

    `__call__` takes a single sequence, as is usual in Equinox, and runs the LSTM with
    Equinox. `of_batch` takes a batch, and runs the LSTM with lstm_jax.
    """

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
        (h, _), _ = jax.lax.scan(
            lambda state, x_t: (self.cell(x_t, state), None), (zeros, zeros), x
        )
        return self.head(h)[0]

    def of_batch(self, ids):
        """Return the logits (B,) of B sequences of T token ids (B, T). The LSTM is run
        by `lstm_jax.unroll`.
        """
        params = LSTMParams(
            self.cell.weight_ih.T, self.cell.weight_hh.T, self.cell.bias
        )
        h = unroll(CELL, params, self.embed.weight[ids], tokens=ids)[1].h
        return jax.vmap(self.head)(h)[:, 0]


def run(sizes: Sizes, steps: int) -> Comparison:
    """Train both versions of the model from the same initial weights, and return their
    losses and times per step.

    One version runs the LSTM with Equinox, and the other runs it with lstm_jax.

    Args:
        sizes: sizes of the model and of a batch.
        steps: number of training steps of each version.
    """
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
