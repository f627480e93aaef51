"""Haiku program in which `lstm_jax.unroll` replaces `hk.dynamic_unroll`, with the same
parameters.

    pip install dm-haiku
    python examples/haiku_layer.py

The program trains both versions of the model, and prints the last loss and the time per
step of each.
"""

import haiku as hk  # pyright: ignore[reportMissingImports]
import jax
import jax.numpy as jnp
import optax
from common import Comparison, Sizes, batches, compare, jit_loop, main

from lstm_jax import CELLS, LSTMParams, unroll

CELL = CELLS["lstm"]


def to_ours(linear: dict[str, jax.Array], features: int) -> LSTMParams:
    """Convert the parameters of `hk.LSTM` to those of the LSTM of lstm_jax.

    Haiku has one kernel for the concatenation [x, h], orders the gates as i, g, f, o,
    and adds 1 to the preactivation of the forget gate f. lstm_jax has a kernel for x
    and one for h, and orders the gates as i, f, g, o. In the result, the forget gate's
    bias includes the 1.

    Args:
        linear: dict with Haiku's kernel "w" (E + H, 4 H) and bias "b" (4 H,), for E
            input features and hidden size H.
        features: number of input features E.
    """
    i, g, f, o = jnp.split(linear["w"], 4, axis=1)
    kernel = jnp.concatenate([i, f, g, o], 1)
    i, g, f, o = jnp.split(linear["b"], 4)
    return LSTMParams(
        kernel[:features], kernel[features:], jnp.concatenate([i, f + 1, g, o])
    )


def run(sizes: Sizes, steps: int) -> Comparison:
    """Train both versions of the model from the same initial weights, and return their
    losses and times per step.

    One version runs the LSTM with Haiku, and the other runs it with lstm_jax.

    Args:
        sizes: sizes of the model and of a batch.
        steps: number of training steps of each version.
    """

    def network(ids):
        x = hk.Embed(sizes.vocabulary, sizes.features, name="embed")(ids)
        core = hk.LSTM(sizes.units, name="lstm")
        _, state = hk.dynamic_unroll(
            core, x, core.initial_state(ids.shape[0]), time_major=False
        )
        return hk.Linear(1, name="head")(state.hidden)[:, 0]

    theirs = hk.without_apply_rng(hk.transform(network))
    params = theirs.init(jax.random.key(0), batches(sizes, 1)[0][0])

    def ours(params, ids):
        x = params["embed"]["embeddings"][ids]
        h = unroll(CELL, to_ours(params["lstm/linear"], sizes.features), x, tokens=ids)[
            1
        ].h
        return (h @ params["head"]["w"] + params["head"]["b"])[:, 0]

    def loop(apply):
        def loss(params, ids, labels):
            return optax.sigmoid_binary_cross_entropy(apply(params, ids), labels).mean()

        return jit_loop(loss, params)

    return compare(loop(theirs.apply), loop(ours), sizes, steps)


if __name__ == "__main__":
    main(run)
