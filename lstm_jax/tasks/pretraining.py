"""Pretraining of a sentiment classifier: a language model of the training reviews, which initialises the embedding and the recurrent layer.

The loss of the language model is a sampled softmax (Jean et al. 2015): the softmax is over the correct word and a random sample of words
that the whole batch shares. The sample is drawn in proportion to the frequencies of the words in the text, and the scores are corrected for
these frequencies.

N is the number of positions of the text in a batch, K the number of sampled words and V the vocabulary size.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from rich.console import Console

from lstm_jax.config import SentimentConfig, TrainConfig
from lstm_jax.models import WordLanguageModel, functional, replaced
from lstm_jax.tasks.running import initial_rngs
from lstm_jax.training.callbacks import Callback
from lstm_jax.training.examples import Examples, steps_per_epoch
from lstm_jax.training.loop import FitResult, fit
from lstm_jax.training.optimizers import make_optimizer
from lstm_jax.training.predict import make_predict
from lstm_jax.training.step import Objective

BATCH, LENGTH, SAMPLED = 32, 128, 1024
"""Number of windows in a batch, number of words of a window that are read, and number of sampled words for each batch."""
CLIP, WARMUP = 1.0, 200
"""Largest global norm of the gradient, and largest number of steps in which the learning rate grows to its peak."""
BIAS = "head/bias"
"""Name of the bias (V,) of the words among the parameters of the language model."""


def pretrain(
    config: SentimentConfig,
    vocabulary: int,
    text: np.ndarray,
    held_out: np.ndarray | None,
    mesh: Mesh,
    *,
    checkpoints: Path | None = None,
    resume: bool = False,
    callbacks: Sequence[Callback] = (),
    console: Console | None = None,
) -> FitResult:
    """Train the language model on a text, and return its parameters and the metrics of each epoch.

    Args:
        config: config of the sentiment run. Its section `pretraining` has the number of epochs, the learning rate and the dropout rate.
        vocabulary: vocabulary size V.
        text: int word ids of the text.
        held_out: int word ids of a text on which the loss is computed after each epoch, or None.
        mesh: devices that a batch is sharded over.
        checkpoints: folder of the checkpoints; see `fit`. If None, no checkpoints are saved.
        resume: whether to continue from the newest checkpoint, if there is one.
        callbacks: functions that are called after each epoch.
        console: console that shows a progress bar. If None, nothing is shown.

    Returns:
        The result of `fit`. The names of the parameters that a classifier shares with the language model are those in the classifier.
    """
    windows = cut_windows(text)
    steps = config.pretraining.lm_epochs * steps_per_epoch(len(windows), BATCH)
    train = train_config(config, steps)
    counts = np.bincount(text, minlength=vocabulary)
    log_share = np.log(np.maximum(counts, 1) / len(text)).astype(np.float32)
    options = config.pretraining
    like = replace(config.model, dropout=options.lm_dropout, recurrent_dropout=0.0, weight_drop=0.0, zoneout=0.0, zoneout_cell=0.0)
    made = functional(WordLanguageModel(like, vocabulary, rngs=initial_rngs(config.train.seed)))
    shares, words = jnp.asarray(log_share), jnp.asarray(text, jnp.int32)
    return fit(
        replaced(made.params, {BIAS: log_share}),
        make_objective(made.rebuild, shares, words),
        make_optimizer(train, steps),
        Examples.of_rows((windows,)),
        train,
        mesh,
        metrics=("loss",),
        evaluate=None if held_out is None else _make_evaluate(made.rebuild, mesh, shares, words, cut_windows(held_out)),
        checkpoints=checkpoints,
        resume=resume,
        callbacks=callbacks,
        console=console,
    )


def train_config(config: SentimentConfig, steps: int) -> TrainConfig:
    """Return the config of the training of the language model: Adam with a cosine schedule, and with the seed of the sentiment run.

    `steps` is the number of steps of all epochs.
    """
    options = config.pretraining
    return TrainConfig(
        epochs=options.lm_epochs,
        batch_size=BATCH,
        learning_rate=options.lm_learning_rate,
        schedule="cosine",
        warmup_steps=min(WARMUP, steps // 10),
        clip_norm=CLIP,
        seed=config.train.seed,
        devices=config.train.devices,
    )


def cut_windows(text: np.ndarray) -> np.ndarray:
    """Return the windows of a text, as int32 (N, L + 1). The last word of a window is the first word of the next one.

    The words at the end of the text that fill no window are left out. If the text is shorter than one window, the window is the text.
    """
    length = min(LENGTH, len(text) - 1)
    starts = np.arange((len(text) - 1) // length) * length
    return text[starts[:, None] + np.arange(length + 1)[None, :]].astype(np.int32)


def sampled_losses(
    vectors: jax.Array, targets: jax.Array, table: jax.Array, bias: jax.Array, sample: jax.Array, log_share: jax.Array
) -> jax.Array:
    """Return the cross-entropies (N,), in nats, of a softmax over the correct word and the sampled words.

    The score of a word at a position is the inner product of the position's vector and the word's embedding, plus the word's bias, minus
    the logarithm of the word's frequency.

    Args:
        vectors: vectors (N, E) that the model computed for N positions of the text.
        targets: ids (N,) of the correct words.
        table: embedding (V, E).
        bias: bias (V,) of each word.
        sample: ids (K,) of the K sampled words.
        log_share: logarithm (V,) of the frequency of each word in the text from which the words were sampled.
    """
    offset = bias - log_share
    correct = (vectors * table[targets]).sum(-1) + offset[targets]
    others = vectors @ table[sample].T
    others += jnp.broadcast_to(offset[sample][None], others.shape)
    others = jnp.where(sample[None, :] == targets[:, None], -jnp.inf, others)
    return jnp.logaddexp(correct, jax.nn.logsumexp(others, axis=-1)) - correct


def make_objective(rebuild: Callable, log_share: jax.Array, words: jax.Array) -> Objective:
    """Return the training objective: the mean of the sampled cross-entropies of all directions, in nats a word.

    Its batch is a tuple of one array (B, L + 1): the word ids of B windows.

    Args:
        rebuild: function from parameters to the `WordLanguageModel`.
        log_share: logarithm (V,) of the frequency of each word in the text.
        words: word ids of the text, from which words are sampled.
    """

    def loss(params: Any, batch: tuple[jax.Array], weight: jax.Array, key: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        of_sample, of_masks = jax.random.split(key)
        model = rebuild(params)
        rows = _row_losses(model, batch[0], _draw_words(of_sample, words), log_share, of_masks)
        mean = (rows * weight).sum()
        return mean, {"loss": mean}

    return loss


def _draw_words(key: jax.Array, words: jax.Array) -> jax.Array:
    return words[jax.random.randint(key, (SAMPLED,), 0, len(words))]


def _row_losses(
    model: WordLanguageModel, ids: jax.Array, sample: jax.Array, log_share: jax.Array, key: jax.Array | None = None
) -> jax.Array:
    """Return the mean loss (B,) of the words of each window. Without a key there is no dropout."""
    rows = jnp.zeros(len(ids), jnp.float32)
    found = model(ids, deterministic=key is None, rngs=key)
    for vectors, targets in found:
        table, bias = model.embedding.embedding[...], model.head.bias[...]
        losses = sampled_losses(vectors.reshape(-1, vectors.shape[-1]), targets.reshape(-1), table, bias, sample, log_share)
        rows += losses.reshape(targets.shape).mean(0) / len(found)
    return rows


def _make_evaluate(rebuild: Callable, mesh: Mesh, log_share: jax.Array, words: jax.Array, windows: np.ndarray) -> Callable:
    """Return a function from parameters to the loss on the windows of a held-out text, with the same sampled words for all of them."""
    sample = _draw_words(jax.random.key(0), words)
    predict = make_predict(lambda model, ids: _row_losses(model, ids, sample, log_share), mesh, 64, lambda params, _: rebuild(params))
    return lambda params: {"validation_loss": float(predict(params, windows).mean(dtype=np.float64))}


def shared_params(classifier: Mapping[str, Any], language_model: Mapping[str, Any]) -> dict[str, Any]:
    """Return a dict from names to those parameters of the language model that initialise the classifier."""
    shared = (name for name in classifier if name.startswith(("embedding/", "recurrent/")))
    return {name: language_model[name] for name in shared}
