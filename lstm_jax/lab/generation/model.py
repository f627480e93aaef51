"""Character-level language model, which generates text.

B is the batch size, T the number of steps, H the number of units and V the vocabulary
size.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from lstm_jax.base import sharding
from lstm_jax.base.errors import require
from lstm_jax.lab.generation.config import GenerationModelConfig
from lstm_jax.lab.model import TokenIds, ValidSteps, make_stack
from lstm_jax.layers import ClassifierHead, Embedding, TiedHead
from lstm_jax.layers.base import Source, dropout_key, is_training
from lstm_jax.recurrence.dropout import draw_mask

_FOLDED = 1000  # a stack folds smaller numbers into the key


class CharGenerator(nnx.Module):
    """Character-level language model. It maps ids (B, T) to logits (B, T, V) of the
    next character after each step.

    The input is encoded one-hot or by an embedding. Recurrent layers and a dense layer
    with V outputs follow. With the defaults and a vocabulary of 33 characters, the
    model has 87,201 parameters, as the Keras example lstm_text_generation.
    """

    def __init__(
        self, config: GenerationModelConfig, vocabulary: int, *, rngs: nnx.Rngs
    ):
        self.units = config.units
        self.cell = config.cell
        self.dropout = config.step_dropout
        self.embedding: Any = (
            Embedding(vocabulary, config.embed, rngs=rngs) if config.embed else None
        )
        self.recurrent = make_stack(
            config,
            config.embed or vocabulary,
            sequences=True,
            return_state=True,
            rngs=rngs,
        )
        outputs = self.recurrent.layers[-1].output_features
        require(
            not config.tied or outputs == config.embed,
            "tied",
            f"{outputs} outputs",
            f"the embedding has {config.embed}: leave it out",
        )
        self.head: Any = (
            TiedHead(vocabulary, rngs=rngs)
            if config.tied
            else ClassifierHead(outputs, vocabulary, rngs=rngs)
        )
        if limit := config.initial_range:
            params = nnx.state(self, nnx.Param)
            nnx.update(
                self,
                jax.tree.map(
                    lambda p: jax.random.uniform(
                        rngs.params(), p.shape, p.dtype, -limit, limit
                    ),
                    params,
                ),
            )

    def initial_state(self, batch: int) -> list:
        """Return a list with the zero state of each recurrent layer, a named tuple of
        (B, H) arrays such as `LSTMState`.
        """
        return self.recurrent.initial_state(batch)

    def hidden(
        self,
        ids: TokenIds,
        *,
        mask: ValidSteps | None = None,
        resets: Array | None = None,
        state: list | None = None,
        deterministic: bool | None = None,
        rngs: Source = None,
    ) -> tuple[Float[Array, "T B H"], list]:
        """Return the outputs (T, B, H) of the last recurrent layer after each
        character, and the final states of all layers.

        Args:
            ids: character ids (B, T), where T is at least 1.
            mask: bool (B, T), False at steps to skip. If None, no step is skipped.
            resets: bool (B, T), True where the state is replaced by zeros before the
                character is read. If None, the state is never replaced.
            state: initial states, one per recurrent layer. If None, they are zeros.
            deterministic: whether to run without dropout; for this and `rngs`, see
                `Recurrent.__call__`.
            rngs: source of the dropout masks.
        """
        steps_first, tokens = ids.T, None
        if self.embedding is None:
            x = sharding.constrain(steps_first, 1)
        else:
            found = self.embedding(steps_first, 1)
            x = self._drop(found, 0, deterministic, rngs)
            tokens = steps_first if x is found else None  # equal words have other masks
        h, states = self.recurrent(
            x,
            mask=None if mask is None else mask.T,
            resets=None if resets is None else resets.T,
            tokens=tokens,
            initial_state=state,
            deterministic=deterministic,
            rngs=rngs,
            time_major=True,
        )
        return self._drop(h, 1, deterministic, rngs), states

    def _drop(
        self, x: Array, number: int, deterministic: bool | None, rngs: Source
    ) -> Array:
        if not (self.dropout and is_training(self.recurrent, deterministic)):
            return x
        key = jax.random.fold_in(
            dropout_key(self.recurrent.rngs, rngs), _FOLDED + number
        )
        return x * draw_mask(key, self.dropout, x.shape, x.dtype)

    def logits(self, hidden: Float[Array, "... H"]) -> Float[Array, "... V"]:
        """Return the logits of the next character, given the outputs of the last
        recurrent layer.
        """
        if isinstance(self.head, TiedHead):
            return self.head(hidden, self.embedding.embedding[...])
        return self.head(hidden)

    def __call__(
        self, ids: TokenIds, *, last: bool = False, **options
    ) -> tuple[Float[Array, "..."], list]:
        """Return the logits of the next character, and the final states of all layers.

        The logits are (B, T, V) or, if `last` is true, those after the last step, (B,
        V). `options` are further arguments of `hidden`.

        If `mask` skips the first steps of a row, their logits are computed from an
        output of zeros. If it skips every step of a row and `last` is true, they are
        computed from the final h of the row, so that a text can be continued.
        """
        h, states = self.hidden(ids, **options)
        if last:
            h = self._drop(
                states[-1].h, 1, options.get("deterministic"), options.get("rngs")
            )
        return self.logits(h) if last else jnp.swapaxes(self.logits(h), 0, 1), states
