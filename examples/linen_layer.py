"""A Flax Linen program with `lstm_jax.unroll` in place of `nn.RNN`, on the same parameters.

python examples/linen_layer.py
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from common import Comparison, Sizes, batches, compare, jit_loop, main

from lstm_jax import CELLS, LSTMParams, unroll

CELL = CELLS["lstm"]


class Classifier(nn.Module):
    """Embedding, LSTM and a logit. The LSTM is Flax' own, or lstm_jax runs it with the parameters of Flax' cell."""

    sizes: Sizes
    ours: bool

    @nn.compact
    def __call__(self, ids):
        x = nn.Embed(self.sizes.vocabulary, self.sizes.features, name="embed")(ids)
        cell = nn.OptimizedLSTMCell(self.sizes.units, name="cell")
        if self.ours and not self.is_initializing():
            gates, tree = "ifgo", cell.variables["params"]
            params = LSTMParams(
                kernel=jnp.concatenate([tree[f"i{gate}"]["kernel"] for gate in gates], 1),
                recurrent_kernel=jnp.concatenate([tree[f"h{gate}"]["kernel"] for gate in gates], 1),
                bias=jnp.concatenate([tree[f"h{gate}"]["bias"] for gate in gates]),
            )
            h = unroll(CELL, params, x, tokens=ids)[1].h
        else:
            (_, h), _ = nn.RNN(cell, return_carry=True)(x)
        return nn.Dense(1, name="head")(h)[:, 0]


def run(sizes: Sizes, steps: int) -> Comparison:
    """Train both versions."""
    versions = [Classifier(sizes, ours) for ours in (False, True)]
    params = versions[0].init(jax.random.key(0), batches(sizes, 1)[0][0])

    def loop(model: Classifier):
        def loss(params, ids, labels):
            return optax.sigmoid_binary_cross_entropy(model.apply(params, ids), labels).mean()

        return jit_loop(loss, params)

    return compare(*map(loop, versions), sizes, steps)


if __name__ == "__main__":
    main(run)
