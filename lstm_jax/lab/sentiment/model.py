"""Classifier of texts: an embedding, recurrent layers, pooling over time, and a dense
layer with one output.

B is the batch size, T the number of steps, E the number of embedding features, V the
vocabulary size, M the largest number of texts packed in a row, and D the number of
output features of the recurrent layers.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from lstm_jax.base import sharding
from lstm_jax.base.errors import require
from lstm_jax.cells.products import INT8, matmul
from lstm_jax.lab.model import TokenIds, make_stack
from lstm_jax.lab.sentiment.config import SentimentModelConfig
from lstm_jax.layers import Bidirectional, ClassifierHead, Embedding
from lstm_jax.layers.base import Source, dropout_key, is_key, is_training
from lstm_jax.recurrence import LOWEST, as_int32
from lstm_jax.recurrence.dropout import draw_mask
from lstm_jax.recurrence.packing import PackedPlaces

StepOutputs = Float[Array, "T B D"]
PackedOutputs = Float[Array, "B M D"]  # one vector for each packed text
Members = Bool[Array, "B M T"]  # whether step t of row b belongs to text m of the row
EMBEDDING = "embedding/embedding"
"""Name of the embedding table in `Functional.params`."""
DROPPED = LOWEST + 1
"""Token of the words that word dropout drops, in the argument `tokens` of the recurrent
layers. The token of any other word is its id.

One token is enough for all dropped words, since the vectors of all dropped words are
zeros. `DROPPED` differs from all word ids, and from `LOWEST`, which is the token of
padded steps.
"""


class SentimentClassifier(nnx.Module):
    """Binary classifier of texts, which maps word ids (B, T) to logits (B,). The
    probability of label 1 is sigmoid(logit).

    The layers are an embedding, recurrent layers, and a dense layer with one output.
    The dense layer reads the last output of the recurrent layers or, with pooling,
    their outputs pooled over time. With the default config the model has 2,691,713
    parameters, as many as the Keras example imdb_lstm.
    """

    def __init__(
        self, config: SentimentModelConfig, vocabulary: int, *, rngs: nnx.Rngs
    ):
        self.embedding = Embedding(
            vocabulary, config.embed, mask_zero=config.mask_zero, rngs=rngs
        )
        self.folded = False
        self.pooling = config.pooling
        self.word_dropout = config.word_dropout
        self.head_dropout = config.head_dropout
        self.recurrent = make_stack(
            config, config.embed, sequences=config.pooling != "last", rngs=rngs
        )
        features = self.recurrent.layers[-1].output_features
        self.head = ClassifierHead(
            features * (1 + (config.pooling == "mean+max")), 1, rngs=rngs
        )

    def __call__(
        self,
        ids: TokenIds,
        *,
        vectors: Float[Array, "T B E"] | None = None,
        packed: PackedPlaces | None = None,
        deterministic: bool | None = None,
        rngs: Source = None,
    ) -> Float[Array, "B"] | Float[Array, "B M"]:
        """Return the logits of a batch: (B,), one for each row, or (B, M), one for each
        of at most M texts that are packed in each row.

        Args:
            ids: word ids (B, T), padded with 0.
            vectors: word vectors (T, B, E). If None, they are looked up in the
                embedding.
            packed: positions of several texts that are packed in each row, or None if a
                row is one text.
            deterministic: whether to run without dropout; see `Recurrent.__call__`.
            rngs: random streams or a key for the dropout masks.

        Raises:
            InputError: if `ids` are not ints, if `rngs` is None and word dropout or
                dropout of the head is applied, or if texts are packed and a
                bidirectional model with the pooling "last" does not merge its
                directions by "concat".
        """
        # the recurrence runs over time, so the vectors are gathered with time as the
        # first axis; int32 has room for the token `DROPPED`
        steps_first = as_int32("ids", ids).T
        tokens = steps_first if not self.folded and vectors is None else None
        if vectors is None:
            vectors = (
                sharding.constrain(steps_first, 1)
                if self.folded
                else self.embedding(steps_first, 1)
            )
        training = is_training(self.recurrent, deterministic)
        if self.word_dropout and training:
            kept = jax.random.bernoulli(
                self._key(rngs, 0), 1 - self.word_dropout, (*steps_first.shape, 1)
            )
            vectors = vectors * jnp.broadcast_to(kept, vectors.shape).astype(
                vectors.dtype
            )
            tokens = (
                None if tokens is None else jnp.where(kept[..., 0], tokens, DROPPED)
            )
        h: Any = self.recurrent(
            vectors,
            mask=self.embedding.mask(steps_first) if packed is None else None,
            segment_ids=None if packed is None else packed.segment_ids.T,
            return_sequences=None if packed is None else True,
            tokens=tokens,
            deterministic=deterministic,
            rngs=rngs,
            time_major=True,
        )
        if self.pooling == "last":
            features = h if packed is None else self._last_of_each(h, packed)
        else:
            features = (
                pool(h, steps_first, self.pooling)
                if packed is None
                else pool_packed(h, packed, self.pooling)
            )
        if self.head_dropout and training:
            features *= draw_mask(
                self._key(rngs, 1), self.head_dropout, features.shape, features.dtype
            )
        return self.head(features)[..., 0]

    def _last_of_each(self, h: StepOutputs, packed: PackedPlaces) -> PackedOutputs:
        rows = jnp.arange(h.shape[1])[:, None]
        last = h[packed.last, rows]
        layer = self.recurrent.layers[-1]
        if not isinstance(layer, Bidirectional):
            return last
        require(
            layer.merge_mode == "concat",
            "merge",
            layer.merge_mode,
            "packed texts with the pooling last need concat",
        )
        units = layer.forward.output_features
        return jnp.concatenate(
            [last[..., :units], h[packed.first, rows][..., units:]], axis=-1
        )

    def _key(self, rngs: Source, number: int) -> Array:
        key = dropout_key(None, rngs)
        # layers fold in the smaller numbers
        if is_key(rngs):
            return jax.random.fold_in(key, len(self.recurrent.layers) + number)
        return key

    def fold(self) -> "SentimentClassifier":
        """Replace the input kernels of the first recurrent layer by their products with
        the embedding table, and return the model, which is changed in place.

        Row i of such a product (V, G * H), for a cell with G gates and H units, is the
        input projection of the word with id i, which the layer then looks up. Use the
        folded model without dropout, since input dropout would drop whole words.

        Raises:
            InputError: if the model is already folded.
        """
        require(
            not self.folded, "model", "folded", "give the model before it is folded"
        )
        table = sharding.constrain(self.embedding.embedding[...], 0)
        for layer in self.recurrent.layers[0].directions:
            # the table is computed once, so that nothing is won by rounding it
            dtype = None if layer.dtype == INT8 else layer.dtype
            layer.kernel = nnx.Param(
                sharding.replicate(matmul(table, layer.kernel[...], dtype))
            )
        self.folded = True
        return self


def pool(h: StepOutputs, ids: Int[Array, "T B"], kind: str) -> Float[Array, "B P"]:
    """Return the outputs of a recurrent layer, pooled over the words of each row."""
    real = jnp.broadcast_to((ids != 0)[..., None], h.shape)
    mean = jnp.where(real, h, 0).sum(0) / jnp.maximum(real.sum(0), 1).astype(h.dtype)
    largest = jnp.where(real.any(0), jnp.where(real, h, -jnp.inf).max(0), 0)
    return _join(mean, largest, kind)


def pool_packed(
    h: StepOutputs, places: PackedPlaces, kind: str
) -> Float[Array, "B M P"]:
    """Return the outputs of a recurrent layer, pooled over the steps of each text, for
    at most M texts that are packed in each row.
    """
    member = members(places, h.shape[0])
    mean = sum_members(member, h) / jnp.maximum(member.sum(-1), 1)[..., None].astype(
        h.dtype
    )
    return _join(mean, mean if kind == "mean" else _largest(h, places), kind)


@jax.custom_jvp
def _largest(h: StepOutputs, places: PackedPlaces) -> PackedOutputs:
    ids = places.segment_ids.T
    begins = jnp.concatenate([jnp.ones_like(ids[:1], bool), ids[1:] != ids[:-1]])

    def running(largest: Array, given: tuple[Array, Array]):
        row, begins = given
        largest = jnp.where(begins[:, None], row, jnp.maximum(largest, row))
        return largest, largest

    _, so_far = lax.scan(running, jnp.full_like(h[0], -jnp.inf), (h, begins))
    return so_far[places.last, jnp.arange(h.shape[1])[:, None]]


@_largest.defjvp
def _largest_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    h, places = primals
    value = _largest(h, places)
    member = members(places, h.shape[0])
    equal = (h == text_at_step(value, member)).astype(h.dtype)
    count = jnp.maximum(sum_members(member, equal), 1)
    return value, sum_members(member, equal * tangents[0]) / count


def members(places: PackedPlaces, steps: int) -> Members:
    """Return which of the steps of each row belong to which of its texts."""
    step = jnp.arange(steps)[None, None, :]
    return (places.first[..., None] <= step) & (step <= places.last[..., None])


def text_at_step(values: PackedOutputs, member: Members) -> StepOutputs:
    """Return an array that holds for each step the D values of the text to which the
    step belongs.
    """
    text = jnp.argmax(member, 1)
    return jnp.swapaxes(jnp.take_along_axis(values, text[..., None], 1), 0, 1)


def sum_members(member: Members, values: StepOutputs) -> PackedOutputs:
    """Return the sums (B, M, D) of `values` over the steps of each of the M texts of
    each row, computed by a matrix product.
    """
    return jnp.einsum(
        "bmt,tbd->bmd",
        member.astype(values.dtype),
        values,
        precision=lax.Precision.HIGHEST,
    )


def _join(mean: Array, largest: Array, kind: str) -> Array:
    return {
        "mean": mean,
        "max": largest,
        "mean+max": jnp.concatenate([mean, largest], -1),
    }[kind]
