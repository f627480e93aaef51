"""Word-level language model whose trained embedding and recurrent layer can initialise
a sentiment classifier.

B is the number of windows in a batch, L the number of words that each direction of the
model reads from a window of L + 1 words, E the number of features of a word, H the
number of units and V the vocabulary size.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from lstm_jax.base.shapes import TokenIds
from lstm_jax.lab.model import make_stack
from lstm_jax.lab.sentiment.config import SentimentModelConfig
from lstm_jax.layers import ClassifierHead, Embedding, TiedHead
from lstm_jax.layers.base import dropout_key, is_training
from lstm_jax.recurrence.dropout import draw_mask


class WordLanguageModel(nnx.Module):
    """Word-level language model whose parameters initialise a sentiment classifier (Dai
    & Le 2015).

    The model predicts the next word and, if the classifier is bidirectional, also the
    previous word. The layers are an embedding with E features, a recurrent layer for
    each direction, and a dense layer for each direction. At each step, the dense layer
    maps the output of the recurrent layer to a vector (E,). The logit of a word is the
    inner product of this vector and the embedding of the word, plus a bias of the word
    (tied weights).

    The embedding and the recurrent layer have the same names and shapes as those of a
    `SentimentClassifier` with the same config, so that their trained parameters can
    initialise the classifier.

    Args:
        config: config of the classifier, which must have one recurrent or bidirectional
            layer. Its rates of dropout apply to the language model, too.
        vocabulary: vocabulary size V.
        rngs: random streams; the parameters are drawn from the stream `params`.
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

        The forward direction reads the first L words of each window, and predicts the
        word after each of them. The backward direction reads the last L words in
        reverse order, and predicts the word before each of them. The arrays of the
        backward direction are in the order in which it reads: entry 0 of the vectors
        belongs to the last word of the window, and entry 0 of the ids is the id of the
        word before that word.

        `ids` are the words (B, L + 1) of B windows. `rngs` is a random key from which
        the dropout masks are drawn.

        Raises:
            InputError: if `rngs` is None, and either `config.dropout` is applied or a
                layer that needs masks has no random stream.
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
