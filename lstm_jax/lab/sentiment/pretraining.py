"""Pretraining of a sentiment classifier: a language model of the training reviews,
which initialises the embedding and the recurrent layer.

The loss is a sampled softmax (Jean et al. 2015) over the correct word and a random
sample of words that the whole batch shares. The sample is drawn in proportion to the
frequencies of the words, for which the scores are corrected.

B is the number of windows in a batch, L the number of words that the model reads in a
window, K the number of sampled words, E the number of features of a word and V the
vocabulary size.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int
from numpy import ndarray

from lstm_jax.base import sharding
from lstm_jax.base.errors import require
from lstm_jax.base.types import Values
from lstm_jax.lab.model import TokenIds, make_stack, replaced
from lstm_jax.lab.optimizers import make_optimizer
from lstm_jax.lab.predict import make_predict
from lstm_jax.lab.sentiment.config import SentimentConfig, SentimentModelConfig
from lstm_jax.lab.task import Training, initial_rngs
from lstm_jax.layers import ClassifierHead, Embedding, TiedHead
from lstm_jax.layers.base import dropout_key, is_training
from lstm_jax.recurrence.dropout import draw_mask
from lstm_jax.training.examples import Examples, steps_per_epoch
from lstm_jax.training.fit import FitResult, run_epochs

BATCH, LENGTH, SAMPLED = 32, 128, 512
"""Number of windows in a batch, number of words of a window that are read, and number
of sampled words for each batch."""
CLIP, WARMUP = 1.0, 200
"""Largest global norm of the gradient, and largest number of steps in which the
learning rate grows to its peak."""


class WordLanguageModel(nnx.Module):
    """Word-level language model whose parameters initialise a sentiment classifier (Dai
    & Le 2015).

    The model predicts the next word and, if the classifier is bidirectional, also the
    previous word. For each direction, a recurrent layer and a dense layer map the words
    read so far to a vector (E,). The logit of a word is the inner product of this
    vector and the embedding of the word, plus a bias of the word (tied weights).

    The embedding and the recurrent layer have the names and shapes of those of a
    `SentimentClassifier` with the same config, which must have one recurrent or
    bidirectional layer.
    """

    def __init__(
        self, config: SentimentModelConfig, vocabulary: int, *, rngs: nnx.Rngs
    ):
        self.embedding = Embedding(vocabulary, config.embed, rngs=rngs)
        self.dropout = config.dropout
        self.recurrent = make_stack(config, config.embed, sequences=True, rngs=rngs)
        directions = self.recurrent.layers[0].directions
        self.project = nnx.List(
            [
                ClassifierHead(layer.output_features, config.embed, rngs=rngs)
                for layer in directions
            ]
        )
        self.head = TiedHead(vocabulary, rngs=rngs)

    def __call__(
        self,
        ids: TokenIds,
        *,
        deterministic: bool | None = None,
        rngs: Array | None = None,
    ) -> list[tuple[Float[Array, "L B E"], Int[Array, "L B"]]]:
        """Return a list with one pair per direction: vectors (L, B, E), and the ids (L,
        B) of the words that the vectors should predict.

        `ids` are the words (B, L + 1) of B windows. The forward direction reads the
        first L of them. The backward direction reads the last L in reverse order, and
        its arrays are in the order in which it reads.
        """
        words = ids.T
        vectors = self.embedding(words, 1)
        directions = self.recurrent.layers[0].directions
        read = (slice(None, -1), slice(1, None))
        # the backward layer returns its outputs in the order in which it reads
        targets = (words[1:], words[:-1][::-1])
        found = []
        for number, (layer, project, steps, target) in enumerate(
            zip(directions, self.project, read, targets, strict=False)
        ):
            key = None if rngs is None else jax.random.fold_in(rngs, number)
            h: Any = layer(
                vectors[steps],
                tokens=words[steps],
                deterministic=deterministic,
                rngs=key,
                time_major=True,
                return_sequences=True,
            )
            h = h[0] if layer.return_state else h
            if self.dropout and is_training(layer, deterministic):
                # the layer draws its own masks from the key with 0 to 2 folded in
                mask = draw_mask(
                    jax.random.fold_in(dropout_key(None, key), 3),
                    self.dropout,
                    h.shape[1:],
                    h.dtype,
                )
                h *= jnp.broadcast_to(mask[None], h.shape)
            found.append((project(h), target))
        return found


class LanguageModel(Training):
    """Training of a word-level language model, which will initialise a sentiment
    classifier, with Adam, a cosine schedule and the seed of the sentiment run.

    Args:
        config: config of the sentiment run.
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
        """Return a function from parameters to the loss of other windows, with a fixed
        sample of words.
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
        rows = jnp.zeros(len(ids), jnp.float32)
        found = model(ids, deterministic=key is None, rngs=key)
        for vectors, targets in found:
            table = model.embedding.embedding[...]
            offset = model.head.bias[...] - jnp.asarray(self.log_share)
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

    See `LanguageModel`. The loss on `held_out`, a text of two words or more, is
    computed after each epoch. `options` are `checkpoints`, `resume`, `callbacks` and
    `watch` of `run_epochs`.

    Raises:
        Interrupted: if `watch` asks the training to stop, also during the last step.
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
    """Return the N windows of a text of two words or more as ints (N, L + 1): L words
    to read, and one more word because each word predicts the next.

    The last word of a window is the first word of the next one. Words at the end that
    fill no window are left out. A text of at most L words is one shorter window.
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

    The score of a word is the inner product of the position's vector (..., B, E) and
    the word's row of the table (V, E), plus its `offset` (V,): its bias minus the
    logarithm of its frequency. A sampled word that is the correct word is left out.
    `targets` (..., B) and `sample` (K,) are ids.
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
