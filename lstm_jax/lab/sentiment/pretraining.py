"""Pretraining of a sentiment classifier: a language model of the training reviews,
which initialises the embedding and the recurrent layer.

The loss of the language model is a sampled softmax (Jean et al. 2015): the softmax is
over the correct word and a random sample of words that the whole batch shares. The
sample is drawn in proportion to the frequencies of the words in the text, and the
scores are corrected for these frequencies.

B is the number of windows in a batch, L the number of words that the model reads in a
window, K the number of sampled words, E the number of features of a word and V the
vocabulary size.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh
from numpy import ndarray

from lstm_jax.base import sharding
from lstm_jax.base.errors import require
from lstm_jax.base.types import Values
from lstm_jax.lab.generation.language_model import WordLanguageModel
from lstm_jax.lab.model import replaced
from lstm_jax.lab.optimizers import make_optimizer
from lstm_jax.lab.sentiment.config import SentimentConfig
from lstm_jax.lab.task import Training, initial_rngs
from lstm_jax.training.examples import Examples, steps_per_epoch
from lstm_jax.training.fit import FitResult, run_epochs
from lstm_jax.training.predict import make_predict

BATCH, LENGTH, SAMPLED = 32, 128, 512
"""Number of windows in a batch, number of words of a window that are read, and number
of sampled words for each batch."""
CLIP, WARMUP = 1.0, 200
"""Largest global norm of the gradient, and largest number of steps in which the
learning rate grows to its peak."""


class LanguageModel(Training):
    """Training of a word-level language model, which will initialise a sentiment
    classifier.

    It uses Adam, a cosine schedule and the seed of the sentiment run.

    Args:
        config: config of the sentiment run. Its section `pretraining` has the number of
            epochs, the learning rate and the dropout rate.
        vocabulary: vocabulary size V.
        text: int word ids of the text.
        mesh: devices that a batch is sharded over.

    Raises:
        InputError: if the text has fewer than two words.
    """

    flags = {  # noqa: RUF012
        "parameters": "--units, --embed or --num-words, or give --lm-epochs 0",
        "residuals": "--units, or give --microbatches, --remat sqrt or --lm-epochs 0",
        "data": "--lm-epochs to 0",
    }

    def __init__(
        self, config: SentimentConfig, vocabulary: int, text: ndarray, mesh: Mesh
    ):
        require(
            len(text) >= 2,
            "words of the training reviews",
            len(text),
            "a language model needs two or more: give --lm-epochs 0",
        )
        self.config, self.windows = config, cut_windows(text)
        self.counts = np.bincount(text, minlength=vocabulary)
        self.log_share = np.log(np.maximum(self.counts, 1) / len(text)).astype(
            np.float32
        )
        size, parts = -(-BATCH // mesh.size) * mesh.size, config.train.microbatches
        self.steps = config.pretraining.lm_epochs * steps_per_epoch(
            len(self.windows), size
        )
        train = replace(
            config.train,
            epochs=config.pretraining.lm_epochs,
            batch_size=size,
            microbatches=parts if size % (parts * mesh.size) == 0 else 1,
            optimizer="adam",
            learning_rate=config.pretraining.lm_learning_rate,
            schedule="cosine",
            final_learning_rate=0.0,
            warmup_steps=min(WARMUP, self.steps // 10),
            clip_norm=CLIP,
            keep_epochs=False,
        )
        super().__init__(train, mesh)

    def batch(self):
        return (
            jax.ShapeDtypeStruct((self.train_config.batch_size, LENGTH + 1), np.int32),
        )

    def data_bytes(self):
        return 4 * int(self.counts.sum())

    def make_model(self):
        rate = self.config.pretraining.lm_dropout
        model = replace(
            self.config.model,
            dropout=rate,
            recurrent_dropout=0.0,
            weight_drop=0.0,
            zoneout=0.0,
            zoneout_cell=0.0,
        )
        return WordLanguageModel(
            model, len(self.counts), rngs=initial_rngs(self.config.train.seed)
        )

    def objective(self, rebuild):
        """Return the training objective: the mean sampled cross-entropy of the words in
        a batch, in nats; see `sampled_losses`.

        A batch is a tuple of one array: the word ids (B, L + 1) of B windows, as
        `cut_windows` returns them.
        """

        def loss(params, batch, weight, key):
            of_sample, of_masks = jax.random.split(key)
            mean = (
                self._losses(
                    rebuild(params), batch[0], self._draw_words(of_sample), of_masks
                )
                * weight
            ).sum()
            return mean, {"loss": mean}

        return loss

    def evaluation(
        self, rebuild: Callable, windows: ndarray
    ) -> Callable[..., dict[str, float]]:
        """Return a function from parameters to the validation loss: the loss of other
        windows, with a fixed sample of words.
        """
        sample = self._draw_words(jax.random.key(0))
        predict = make_predict(
            lambda model, ids: self._losses(model, ids, sample),
            self.mesh,
            64,
            lambda params, _: rebuild(params),
        )
        return lambda params, _: {
            "validation_loss": float(predict(params, windows).mean(dtype=np.float64))
        }

    def _draw_words(self, key: Array) -> Array:
        number = jax.random.randint(key, (SAMPLED,), 0, int(self.counts.sum()))
        return jnp.searchsorted(
            jnp.asarray(self.counts.cumsum(), jnp.int32), number, side="right"
        ).astype(jnp.int32)

    def _losses(
        self,
        model: WordLanguageModel,
        ids: Array,
        sample: Array,
        key: Array | None = None,
    ) -> Array:
        """Return the mean sampled cross-entropy (B,) of the words of each of B windows,
        as the mean over the directions of the model.
        """
        rows = jnp.zeros(len(ids), jnp.float32)
        found = model(ids, deterministic=key is None, rngs=key)
        for vectors, targets in found:
            table, offset = (
                model.embedding.embedding[...],
                model.head.bias[...] - jnp.asarray(self.log_share),
            )
            rows += sampled_losses(vectors, targets, table, offset, sample).mean(
                0
            ) / len(found)
        return rows


def pretrain(
    config: SentimentConfig,
    vocabulary: int,
    text: ndarray,
    held_out: ndarray | None,
    mesh: Mesh,
    **options,
) -> FitResult:
    """Train a word-level language model that will initialise a sentiment classifier,
    and return its parameters and metrics.

    `LanguageModel` explains `config`, `vocabulary`, `text` and `mesh`. The loss on
    `held_out`, a text of two words or more, is computed after each epoch. `options` are
    `checkpoints`, `resume`, `callbacks` and `watch` of `run_epochs`. The parameters
    of the embedding and of the recurrent layer have the same names as in a classifier.

    Raises:
        Interrupted: if `watch` asks the training to stop, also during the last training step.
            The state has been saved if `checkpoints` is given.
    """
    task = LanguageModel(config, vocabulary, text, mesh)
    params, rebuild = task.functional
    return run_epochs(
        replaced(params, {"head/bias": task.log_share}),
        task.objective(rebuild),
        make_optimizer(task.train_config, task.steps),
        Examples.of_rows((task.windows,)),
        task.train_config,
        mesh,
        metrics=("loss",),
        evaluate=None
        if held_out is None or len(held_out) < 2
        else task.evaluation(rebuild, cut_windows(held_out)),
        last=False,
        **options,
    )


def cut_windows(text: ndarray) -> ndarray:
    """Return the N windows of a text as ints (N, L + 1): L words to read, and one more
    word because each word predicts the next.

    L is `LENGTH`. The last word of a window is the first word of the next one. The
    words at the end of the text that fill no window are left out. The text must have at
    least two words. If it has at most L words, it is returned as one shorter window.
    """
    length = min(LENGTH, len(text) - 1)
    return np.lib.stride_tricks.sliding_window_view(
        text.astype(np.int32, copy=False), length + 1
    )[::length]


def sampled_losses(
    vectors: Array, targets: Array, table: Array, offset: Array, sample: Array
) -> Array:
    """Return the cross-entropies (..., B), in nats, of a softmax over the correct word
    and the sampled words.

    The score of a word at a position is the inner product of the position's vector
    (..., B, E) and the word's row of the table (V, E), plus the word's `offset` (V,):
    its bias minus the logarithm of its frequency in the text from which the words were
    sampled. A sampled word that is also the correct word is left out of the sampled
    words at this position. `targets` (..., B) and `sample` (K,) are ids.
    """
    correct = (vectors * sharding.gather_columns(table, targets)).sum(-1) + offset[
        targets
    ]
    others: Array = vectors @ sharding.replicate(table[sample]).T
    others += jnp.broadcast_to(offset[sample], others.shape)
    same = jnp.broadcast_to(sample, others.shape) == targets[..., None]
    others = jnp.where(same, -jnp.inf, others)
    return jnp.logaddexp(correct, jax.nn.logsumexp(others, axis=-1)) - correct


def shared_params(classifier: Mapping, language_model: Mapping) -> Values:
    """Return the parameters of the language model that a classifier takes over: those
    of the embedding and of the recurrent layer.
    """
    return {
        name: language_model[name]
        for name in classifier
        if name.startswith(("embedding/", "recurrent/"))
    }
