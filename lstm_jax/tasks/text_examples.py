"""Training examples of a text on the device, and their objectives, for the two regimes: windows and streams.

The number of an example stands for a position in the text, so that a batch is one gather from the text. Neither windows nor one-hot vectors
are stored.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lstm_jax import data
from lstm_jax.errors import require
from lstm_jax.training.examples import Examples, Order, epoch_order
from lstm_jax.training.step import Objective

Rebuild = Callable[..., Any]
"""Function from parameters to the `CharGenerator` that has them."""


def _gather(length: int, step: int) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """Return gather(text, numbers (B,)) -> ids (B, length + 1), in which the row of number n begins at position n * step of the text."""

    def gather(text: jax.Array, numbers: jax.Array) -> jax.Array:
        positions = (numbers * step)[:, None] + jnp.arange(length + 1, dtype=numbers.dtype)[None, :]
        return jnp.take(text, positions, mode="clip").astype(jnp.int32)

    return gather


def window_examples(text: np.ndarray, length: int, step: int) -> Examples:
    """Return the windows of a text, each with the character after it, in random order.

    A window has `length` characters and begins `step` characters after the previous one, as in `data.windows`.

    Raises:
        InputError: if the text is shorter than one window and the character after it.
    """
    X, _ = data.windows(text, length, step)
    return Examples(text, len(X), _gather(length, step), epoch_order)


def stream_examples(text: np.ndarray, length: int, batch: int) -> Examples:
    """Return `batch` streams, which are consecutive sections of the text, read in chunks of `length` characters.

    Row b of a step continues where row b of the previous step ended. Each epoch begins at a random character below `length`, so that the
    boundaries at which the gradient is truncated differ between epochs.

    Raises:
        InputError: if the text is too short for one step.
    """
    needed = (batch + 1) * length  # the last chunk may begin length - 1 characters later, and a target follows it
    remedy = f"{batch} streams of {length} characters need {needed}: give more text, a smaller batch or length"
    require(len(text) >= needed, "text", f"{len(text)} characters", remedy)
    chunks = data.stream_chunks(len(text) - length + 1, length, batch)

    def order(key: jax.Array, count: int, batch_size: int) -> Order:
        shift = jax.random.randint(key, (), 0, length)
        rows = jnp.asarray(chunks * length, jnp.int32).reshape(count // batch_size, batch_size) + shift
        return Order(rows, jnp.full(rows.shape, 1 / batch_size), jnp.full(len(rows), batch_size, jnp.float32))

    return Examples(text, chunks.size, _gather(length, 1), order)


def _metrics(logits: jax.Array, targets: jax.Array, weight: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Return the cross-entropy in nats and the metrics, weighted over B and averaged over leading axes.

    Args:
        logits: (..., B, V), with V the size of the vocabulary.
        targets: ids of the right characters, (..., B).
        weight: weights that sum to 1, (B,).
    """
    nats = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    correct = (jnp.argmax(logits, axis=-1) == targets).astype(nats.dtype)
    leading = tuple(range(nats.ndim - 1))
    loss, accuracy = ((metric.mean(leading) * weight).sum() for metric in (nats, correct))
    return loss, {"loss": loss, "accuracy": accuracy}


def window_objective(rebuild: Rebuild) -> Objective:
    """Return an objective over ids (B, length + 1): the cross-entropy, in nats, of the character after each window from a zero state."""

    def objective(params, ids, weight, key):
        logits, _ = rebuild(params)(ids[:, :-1], last=True, deterministic=False, rngs=key)
        return _metrics(logits, ids[:, -1], weight)

    return objective


def stream_objective(rebuild: Rebuild) -> Objective:
    """Return an objective over chunks of ids (B, length + 1): the mean cross-entropy, in nats, of every next character.

    A chunk begins with the state of the previous step, but the gradient ends at the first character of the chunk: truncated
    back-propagation through time (Williams & Peng 1990).
    """

    def objective(params, ids, weight, key, state):
        model = rebuild(params)
        h, state = model.hidden(ids[:, :-1], state=state, deterministic=False, rngs=key)
        loss, metrics = _metrics(model.logits(h), ids[:, 1:].T, weight)
        return loss, (metrics, state)

    return objective
