"""A language model of the words of reviews, whose embedding and LSTMs a classifier then starts from (Dai & Le 2015).

One LSTM reads forward and predicts the next word, one reads backward and predicts the word before; both score words by the embedding's own
rows (tied weights). The softmax is over the right word and a sample of others that the whole batch shares, drawn as often as the text has
them and corrected for it (Jean et al. 2015).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.training import fit
from lstm_jax import LSTMParams, unroll
from lstm_jax.cells import CELLS
from lstm_jax.initializers import glorot_uniform

BATCH, LENGTH, SAMPLED = 64, 64, 1024
"""Stretches of a step, words of a stretch, and words beside the right one that a step scores."""
RATE = 2e-3


class Params(NamedTuple):
    """embedding: (V, E); bias: (V,), of the words' scores; layers and out (H, E): of each direction, forward first."""

    embedding: jax.Array
    bias: jax.Array
    layers: tuple[LSTMParams, ...]
    out: tuple[jax.Array, ...]


def initial(key: jax.Array, vocabulary: int, embed: int, units: int, directions: int) -> Params:
    """As the classifier's own."""
    keys = jax.random.split(key, 1 + 2 * directions)
    layers = tuple(CELLS["lstm"].init(k, embed, units) for k in keys[1 : 1 + directions])
    out = tuple(glorot_uniform(k, (units, embed), jnp.float32) for k in keys[1 + directions :])
    table = jax.random.uniform(keys[0], (vocabulary, embed), jnp.float32, -0.05, 0.05)
    return Params(table, jnp.zeros(vocabulary), layers, out)


def sampled_loss(scored: jax.Array, target: jax.Array, params: Params, sample: jax.Array, log_share: jax.Array) -> jax.Array:
    """Mean nats of the right word among itself and the sample.

    Args:
        scored: (N, E), what the words' rows are multiplied with.
        target: int (N,).
        sample: int (K,).
        log_share: (V,), log of each word's share of the text, by which the sample was drawn.
    """

    def offset(words: jax.Array) -> jax.Array:
        return params.bias[words] - log_share[words]

    right = (scored * params.embedding[target]).sum(-1) + offset(target)
    others = scored @ params.embedding[sample].T + offset(sample)[None, :]
    others = jnp.where(sample[None, :] == target[:, None], -jnp.inf, others)
    return (jnp.logaddexp(right, jax.nn.logsumexp(others, axis=-1)) - right).mean()


def loss(params: Params, batch: tuple[jax.Array, jax.Array], log_share: jax.Array) -> jax.Array:
    """Of a batch: ids (T + 1, B), and the sample (K,)."""
    ids, sample = batch
    x, total = params.embedding[ids], jnp.zeros(())
    ways = ((x[:-1], ids[:-1], ids[1:]), (x[:0:-1], ids[:0:-1], ids[-2::-1]))
    for layer, out, (read, tokens, target) in zip(params.layers, params.out, ways, strict=False):
        h, _ = unroll(CELLS["lstm"], layer, read, tokens=tokens, time_major=True)
        total += sampled_loss((h @ out).reshape(-1, out.shape[1]), target.reshape(-1), params, sample, log_share)
    return total / len(params.layers)


def pretrain(
    text: np.ndarray, vocabulary: int, embed: int, units: int, directions: int, passes: float, seed: int
) -> tuple[dict[str, Any], list[float]]:
    """Train on a text of ids, from random places of it.

    Args:
        passes: over the text, in words read.

    Returns:
        The classifier's parameters of its embedding and first recurrent layer, by their names in it, and the mean loss of every so many
        updates.
    """
    words = jnp.asarray(text, jnp.int32)
    counts = np.bincount(text, minlength=vocabulary)
    log_share = jnp.asarray(np.log(np.maximum(counts, 1) / len(text)), jnp.float32)
    key, length = jax.random.key(seed), min(LENGTH, len(text) - 1)

    def batch(number: jax.Array) -> tuple[jax.Array, jax.Array]:
        where, which = jax.random.split(jax.random.fold_in(key, number))
        starts = jax.random.randint(where, (BATCH,), 0, len(text) - length)
        ids = words[starts[None, :] + jnp.arange(length + 1)[:, None]]
        return ids, words[jax.random.randint(which, (SAMPLED,), 0, len(text))]

    updates = max(1, round(passes * len(text) / (BATCH * length)))
    start = initial(jax.random.fold_in(key, updates), vocabulary, embed, units, directions)._replace(bias=log_share)
    params, losses = fit(lambda params, batch: loss(params, batch, log_share), start, batch, updates, RATE)
    names = ["recurrent/0"] if directions == 1 else ["recurrent/0/forward", "recurrent/0/backward"]
    found = {"embedding/embedding": params.embedding}
    for name, layer in zip(names, params.layers, strict=True):
        found |= {f"{name}/{part}": array for part, array in layer._asdict().items()}
    return {name: np.asarray(array) for name, array in found.items()}, losses
