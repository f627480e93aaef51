"""Pretraining of a sentiment classifier: a language model of the training reviews, which initialises the embedding and the recurrent layer.

The loss of the language model is a sampled softmax (Jean et al. 2015): the softmax is over the correct word and a random sample of words
that the whole batch shares. The sample is drawn in proportion to the frequencies of the words in the text, and the scores are corrected for
these frequencies.

B is the number of windows in a batch, L the number of words that the model reads in a window, K the number of sampled words, E the number
of features of a word and V the vocabulary size.
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
from lstm_jax.errors import require
from lstm_jax.models import WordLanguageModel, functional, replaced
from lstm_jax.runtime import sharding
from lstm_jax.tasks.base import initial_rngs
from lstm_jax.tasks.memory import require_memory
from lstm_jax.training.callbacks import Callback
from lstm_jax.training.examples import Examples, steps_per_epoch
from lstm_jax.training.loop import FitResult, fit
from lstm_jax.training.optimizers import make_optimizer
from lstm_jax.training.predict import make_predict
from lstm_jax.training.step import Objective

BATCH, LENGTH, SAMPLED = 32, 128, 512
"""Number of windows in a batch, number of words of a window that are read, and number of sampled words for each batch."""
CLIP, WARMUP = 1.0, 200
"""Largest global norm of the gradient, and largest number of steps in which the learning rate grows to its peak."""
FLAGS = {
    "parameters": "--units, --embed or --num-words, or give --lm-epochs 0",
    "residuals": "--units, or give --microbatches, --remat sqrt or --lm-epochs 0",
    "data": "--lm-epochs to 0",
}
"""Command-line flags that the user can change if there is not enough memory for the language model; see `Task.flags`."""
BIAS = "head/bias"
"""Name of the parameter of the language model that holds the bias (V,), one number for each word."""


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
    """Train a word-level language model that will initialise a sentiment classifier, and return its parameters and metrics.

    Args:
        config: config of the sentiment run. Its section `pretraining` has the number of epochs, the learning rate and the dropout rate.
        vocabulary: vocabulary size V.
        text: int word ids of the text.
        held_out: int word ids of a text on which the loss is computed after each epoch. If it is None or has fewer than two words, no loss
            is computed.
        mesh: devices that a batch is sharded over.
        checkpoints: see `fit`.
        resume: see `fit`.
        callbacks: see `fit`.
        console: see `fit`.

    Returns:
        The result of `fit`. The parameters of the embedding and of the recurrent layer have the same names as in a classifier.

    Raises:
        InputError: if the text has fewer than two words.
        Interrupted: if SIGINT or SIGTERM arrives, also during the last training step. The state has been saved if `checkpoints` is given.
    """
    require(len(text) >= 2, "words of the training reviews", len(text), "a language model needs two or more: give --lm-epochs 0")
    windows, counts = cut_windows(text), np.bincount(text, minlength=vocabulary)
    steps = config.pretraining.lm_epochs * steps_per_epoch(len(windows), _batch_size(mesh))
    train = train_config(config, mesh, steps)
    made = functional(make_language_model(config, vocabulary))
    return fit(
        replaced(made.params, {BIAS: _log_share(counts)}),
        make_objective(made.rebuild, counts),
        make_optimizer(train, steps),
        Examples.of_rows((windows,)),
        train,
        mesh,
        metrics=("loss",),
        evaluate=None if held_out is None or len(held_out) < 2 else _make_evaluate(made.rebuild, mesh, counts, cut_windows(held_out)),
        checkpoints=checkpoints,
        resume=resume,
        callbacks=callbacks,
        console=console,
        last=False,
    )


def check_memory(config: SentimentConfig, vocabulary: int, words: int, mesh: Mesh) -> None:
    """Raise an `InputError` unless the training of the language model on a text of `words` words fits into the free memory."""
    counts = np.ones(vocabulary, np.int64)
    require_memory(
        train_config(config, mesh, 1),
        lambda: make_language_model(config, vocabulary),
        lambda rebuild: make_objective(rebuild, counts),
        (jax.ShapeDtypeStruct((_batch_size(mesh), LENGTH + 1), np.int32),),
        mesh,
        FLAGS,
        data_bytes=4 * words,
    )


def make_language_model(config: SentimentConfig, vocabulary: int) -> WordLanguageModel:
    """Return a new language model, whose random initial weights are drawn from the seed in the config of the sentiment run."""
    rate = config.pretraining.lm_dropout
    model = replace(config.model, dropout=rate, recurrent_dropout=0.0, weight_drop=0.0, zoneout=0.0, zoneout_cell=0.0)
    return WordLanguageModel(model, vocabulary, rngs=initial_rngs(config.train.seed))


def _batch_size(mesh: Mesh) -> int:
    return -(-BATCH // mesh.size) * mesh.size


def train_config(config: SentimentConfig, mesh: Mesh, steps: int) -> TrainConfig:
    """Return the config of a training of `steps` steps, which uses Adam, a cosine schedule and the seed of the sentiment run."""
    size, parts = _batch_size(mesh), config.train.microbatches
    return TrainConfig(
        epochs=config.pretraining.lm_epochs,
        batch_size=size,
        microbatches=parts if size % (parts * mesh.size) == 0 else 1,
        learning_rate=config.pretraining.lm_learning_rate,
        schedule="cosine",
        warmup_steps=min(WARMUP, steps // 10),
        clip_norm=CLIP,
        seed=config.train.seed,
        checkpoint_steps=config.train.checkpoint_steps,
        stop_on_nan=config.train.stop_on_nan,
        devices=config.train.devices,
    )


def cut_windows(text: np.ndarray) -> np.ndarray:
    """Return the N windows of a text as int32 (N, L + 1): L words to read, and one more word because each word predicts the next.

    L is `LENGTH`. The last word of a window is the first word of the next one. The words at the end of the text that fill no window are
    left out. The text must have at least two words. If it has at most L words, it is returned as one shorter window.
    """
    length = min(LENGTH, len(text) - 1)
    return np.lib.stride_tricks.sliding_window_view(text, length + 1)[::length].astype(np.int32)


def sampled_losses(
    vectors: jax.Array, targets: jax.Array, table: jax.Array, bias: jax.Array, sample: jax.Array, log_share: jax.Array
) -> jax.Array:
    """Return the cross-entropies (..., B), in nats, of a softmax over the correct word and the sampled words.

    The score of a word at a position is the inner product of the position's vector and the word's embedding, plus the word's bias, minus
    the logarithm of the word's frequency. A sampled word that is also the correct word is left out of the sampled words at this position.

    Args:
        vectors: vectors (..., B, E) that the model computed for positions of the text.
        targets: ids (..., B) of the correct words.
        table: embedding (V, E).
        bias: bias (V,) of each word.
        sample: ids (K,) of the K sampled words.
        log_share: logarithm (V,) of the frequency of each word in the text from which the words were sampled.
    """
    offset = bias - log_share
    correct = (vectors * sharding.gather_columns(table, targets)).sum(-1) + offset[targets]
    others: jax.Array = vectors @ sharding.replicate(table[sample]).T
    others += jnp.broadcast_to(offset[sample], others.shape)
    same = jnp.broadcast_to(sample, others.shape) == targets[..., None]
    others = jnp.where(same, -jnp.inf, others)
    return jnp.logaddexp(correct, jax.nn.logsumexp(others, axis=-1)) - correct


def make_objective(rebuild: Callable, counts: np.ndarray) -> Objective:
    """Return the training objective: the mean sampled cross-entropy of the words in a batch, in nats; see `sampled_losses`.

    If the model predicts the next and the previous word, the mean is over both predictions. A batch is a tuple of one array: the word ids
    (B, L + 1) of B windows, as `cut_windows` returns them.

    Args:
        rebuild: function from parameters to the `WordLanguageModel`.
        counts: number (V,) of occurrences of each word in the text.
    """

    def loss(params: Any, batch: tuple[jax.Array], weight: jax.Array, key: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        of_sample, of_masks = jax.random.split(key)
        rows = _row_losses(rebuild(params), batch[0], _draw_words(of_sample, counts), _log_share(counts), of_masks)
        mean = (rows * weight).sum()
        return mean, {"loss": mean}

    return loss


def _log_share(counts: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(counts, 1) / counts.sum()).astype(np.float32)


def _draw_words(key: jax.Array, counts: np.ndarray) -> jax.Array:
    number = jax.random.randint(key, (SAMPLED,), 0, int(counts.sum()))
    return jnp.searchsorted(jnp.asarray(counts.cumsum(), jnp.int32), number, side="right").astype(jnp.int32)


def _row_losses(
    model: WordLanguageModel, ids: jax.Array, sample: jax.Array, log_share: np.ndarray, key: jax.Array | None = None
) -> jax.Array:
    """Return the loss (B,) of each of B windows: the mean sampled cross-entropy of the words of the window; see `sampled_losses`."""
    rows = jnp.zeros(len(ids), jnp.float32)
    found = model(ids, deterministic=key is None, rngs=key)
    for vectors, targets in found:
        table, bias = model.embedding.embedding[...], model.head.bias[...]
        rows += sampled_losses(vectors, targets, table, bias, sample, jnp.asarray(log_share)).mean(0) / len(found)
    return rows


def _make_evaluate(rebuild: Callable, mesh: Mesh, counts: np.ndarray, windows: np.ndarray) -> Callable:
    sample, log_share = _draw_words(jax.random.key(0), counts), _log_share(counts)
    predict = make_predict(lambda model, ids: _row_losses(model, ids, sample, log_share), mesh, 64, lambda params, _: rebuild(params))
    return lambda params: {"validation_loss": float(predict(params, windows).mean(dtype=np.float64))}


def shared_params(classifier: Mapping[str, Any], language_model: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of the language model that a classifier takes over: those of the embedding and of the recurrent layer."""
    shared = (name for name in classifier if name.startswith(("embedding/", "recurrent/")))
    return {name: language_model[name] for name in shared}
