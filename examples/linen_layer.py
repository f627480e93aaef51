"""Flax Linen program in which `lstm_jax.unroll` replaces `nn.RNN`, with the same
parameters.

    python examples/linen_layer.py

The program trains both versions of the model, and prints the last loss and the time per
step of each.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from common import Comparison, Sizes, batches, compare, jit_loop, main

from lstm_jax import CELLS, LSTMParams, unroll

CELL = CELLS["lstm"]


class Classifier(nn.Module):
    """Flax Linen model that computes the logits (B,) of B sequences of token ids (B,
    T): embedding, LSTM, and dense layer with one output.

    If `ours` is true, `lstm_jax.unroll` runs the LSTM with the parameters of Flax's
    LSTM cell. Otherwise, `nn.RNN` of Flax runs it.
    """

    sizes: Sizes
    ours: bool

    @nn.compact
    def __call__(self, ids):
        x = nn.Embed(self.sizes.vocabulary, self.sizes.features, name="embed")(ids)
        cell = nn.OptimizedLSTMCell(self.sizes.units, name="cell")
        if self.ours and not self.is_initializing():
            gates, tree = "ifgo", cell.variables["params"]
            params = LSTMParams(
                kernel=jnp.concatenate(
                    [tree[f"i{gate}"]["kernel"] for gate in gates], 1
                ),
                recurrent_kernel=jnp.concatenate(
                    [tree[f"h{gate}"]["kernel"] for gate in gates], 1
                ),
                bias=jnp.concatenate([tree[f"h{gate}"]["bias"] for gate in gates]),
            )
            h = unroll(CELL, params, x, tokens=ids)[1].h
        else:
            (_, h), _ = nn.RNN(cell, return_carry=True)(x)
        return nn.Dense(1, name="head")(h)[:, 0]


def run(sizes: Sizes, steps: int) -> Comparison:
    """Train both versions of the model from the same initial weights, and return their
    losses and times per step.

    One version runs the LSTM with Flax, and the other runs it with lstm_jax.

    Args:
        sizes: sizes of the model and of a batch.
        steps: number of training steps of each version.
    """
    versions = [Classifier(sizes, ours) for ours in (False, True)]
    params = versions[0].init(jax.random.key(0), batches(sizes, 1)[0][0])

    def loop(model: Classifier):
        def loss(params, ids, labels):
            return optax.sigmoid_binary_cross_entropy(
                model.apply(params, ids), labels
            ).mean()

        return jit_loop(loss, params)

    return compare(*map(loop, versions), sizes, steps)


if __name__ == "__main__":
    main(run)
