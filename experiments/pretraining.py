"""Word-level language model for pretraining: its embedding and LSTMs initialize a sentiment classifier (Dai & Le 2015).

One LSTM reads forward and predicts the next word. If there are two directions, another LSTM reads backward and predicts the previous word.
The output layer has the same weights as the embedding (tied weights). The loss is a sampled softmax (Jean et al. 2015): the softmax is over
the correct word and a random sample of words that the whole batch shares. The sample is drawn in proportion to the frequencies of the words
in the text, and the scores are corrected for these frequencies.
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
"""Number of windows in a batch, number of words in a window, and number of sampled words for each batch."""
RATE = 2e-3


class Params(NamedTuple):
    """Parameters of the language model. V is the vocabulary size, E the number of features of a word, and H the hidden size."""

    embedding: jax.Array
    """Embedding (V, E), which is also the kernel of the output layer."""
    bias: jax.Array
    """Bias (V,) of the output layer."""
    layers: tuple[LSTMParams, ...]
    """Parameters of the LSTM of each direction. The forward direction is first."""
    out: tuple[jax.Array, ...]
    """Kernel (H, E) of each direction, which maps the outputs of its LSTM to word vectors."""


def initial(key: jax.Array, vocabulary: int, embed: int, units: int, directions: int) -> Params:
    """Return random initial parameters of the language model, drawn from the same distributions as those of the classifier.

    Args:
        key: PRNG key.
        vocabulary: vocabulary size V.
        embed: number of features E of a word.
        units: hidden size H of each direction.
        directions: 1 for a forward LSTM, or 2 for a forward and a backward LSTM.
    """
    keys = jax.random.split(key, 1 + 2 * directions)
    layers = tuple(CELLS["lstm"].init(k, embed, units) for k in keys[1 : 1 + directions])
    out = tuple(glorot_uniform(k, (units, embed), jnp.float32) for k in keys[1 + directions :])
    table = jax.random.uniform(keys[0], (vocabulary, embed), jnp.float32, -0.05, 0.05)
    return Params(table, jnp.zeros(vocabulary), layers, out)


def sampled_loss(scored: jax.Array, target: jax.Array, params: Params, sample: jax.Array, log_share: jax.Array) -> jax.Array:
    """Return the mean cross-entropy, in nats, of a softmax over the correct word and the sampled words.

    The score of a word at a position is the inner product of the position's vector and the word's embedding, plus the word's bias, minus
    the logarithm of the word's frequency.

    Args:
        scored: vectors (N, E) that the model computed for N positions of the text.
        target: ids (N,) of the correct words.
        params: parameters of the language model.
        sample: ids (K,) of the K sampled words.
        log_share: logarithm (V,) of the frequency of each word in the text from which the words were sampled.
    """

    def offset(words: jax.Array) -> jax.Array:
        return params.bias[words] - log_share[words]

    correct = (scored * params.embedding[target]).sum(-1) + offset(target)
    others = scored @ params.embedding[sample].T + offset(sample)[None, :]
    others = jnp.where(sample[None, :] == target[:, None], -jnp.inf, others)
    return (jnp.logaddexp(correct, jax.nn.logsumexp(others, axis=-1)) - correct).mean()


def loss(params: Params, batch: tuple[jax.Array, jax.Array], log_share: jax.Array) -> jax.Array:
    """Return the loss of the language model on one batch, in nats. It is the mean of the losses of the directions.

    Args:
        params: parameters of the language model.
        batch: a pair of arrays: the word ids (T + 1, B) of B windows with T + 1 words, and the ids (K,) of the K sampled words.
        log_share: logarithm (V,) of the frequency of each word in the text.
    """
    ids, sample = batch
    x, total = params.embedding[ids], jnp.zeros(())
    directions = ((x[:-1], ids[:-1], ids[1:]), (x[:0:-1], ids[:0:-1], ids[-2::-1]))
    for layer, out, (inputs, tokens, target) in zip(params.layers, params.out, directions, strict=False):
        h, _ = unroll(CELLS["lstm"], layer, inputs, tokens=tokens, time_major=True)
        total += sampled_loss((h @ out).reshape(-1, out.shape[1]), target.reshape(-1), params, sample, log_share)
    return total / len(params.layers)


def pretrain(
    text: np.ndarray, vocabulary: int, embed: int, units: int, directions: int, passes: float, seed: int
) -> tuple[dict[str, Any], list[float]]:
    """Train the language model on random windows of a text.

    Args:
        text: word ids.
        vocabulary: vocabulary size V.
        embed: number of features E of a word.
        units: hidden size H of each direction.
        directions: 1 for a forward LSTM, or 2 for a forward and a backward LSTM.
        passes: number of passes over the text, that is, the number of words to read divided by the length of the text.
        seed: seed of the initial parameters, the windows and the sampled words.

    Returns:
        A pair (parameters, losses). The parameters are a dict from names to the trained arrays of the embedding and the LSTMs. The names
        are those of the corresponding parameters of the classifier. The losses are a list of training losses. Each one is the mean over
        `experiments.training.CHUNK` updates, or over the remaining updates at the end.
    """
    words = jnp.asarray(text, jnp.int32)
    counts = np.bincount(text, minlength=vocabulary)
    log_share = jnp.asarray(np.log(np.maximum(counts, 1) / len(text)), jnp.float32)
    key, length = jax.random.key(seed), min(LENGTH, len(text) - 1)

    def batch(number: jax.Array) -> tuple[jax.Array, jax.Array]:
        of_starts, of_sample = jax.random.split(jax.random.fold_in(key, number))
        starts = jax.random.randint(of_starts, (BATCH,), 0, len(text) - length)
        ids = words[starts[None, :] + jnp.arange(length + 1)[:, None]]
        return ids, words[jax.random.randint(of_sample, (SAMPLED,), 0, len(text))]

    updates = max(1, round(passes * len(text) / (BATCH * length)))
    start = initial(jax.random.fold_in(key, updates), vocabulary, embed, units, directions)._replace(bias=log_share)
    params, losses = fit(lambda params, batch: loss(params, batch, log_share), start, batch, updates, RATE)
    names = ["recurrent/0"] if directions == 1 else ["recurrent/0/forward", "recurrent/0/backward"]
    arrays = {"embedding/embedding": params.embedding}
    for name, layer in zip(names, params.layers, strict=True):
        arrays |= {f"{name}/{part}": array for part, array in layer._asdict().items()}
    return {name: np.asarray(array) for name, array in arrays.items()}, losses
