"""Training examples and objectives of a character model. The model reads a text either in windows or as streams.

The model starts each window from a zero state. In a stream it carries its recurrent state from one training step to the next.

The text is stored as character ids, in an array or in shards on disk, and the examples are not stored. An example is identified by an
integer. The function `Examples.gather` computes the position of the example in the text from this integer, and cuts the example out of the
text.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lstm_jax import data
from lstm_jax.errors import require
from lstm_jax.training import stream_order
from lstm_jax.training.examples import Examples, Order, epoch_order
from lstm_jax.training.step import Objective

Rebuild = Callable[..., Any]
"""Function from parameters to a `CharGenerator` with these parameters."""


MOST = 2**31 - 1
"""Largest number of characters of a text in memory, since a training step computes their positions in int32."""


def _gather(length: int, step: int) -> Callable[[Any, Any], Any]:
    """Return a function gather(text, numbers) that cuts the B examples of a batch out of a text.

    `numbers` (B,) holds one integer for each example. The example with the integer n begins at position n * step of the text. It consists
    of `length` characters that the model reads and the character after them. The function `gather` returns character ids (B, length + 1).
    Its arguments `text` and `numbers` are JAX or NumPy arrays.
    """

    def gather(text: Any, numbers: jax.Array | np.ndarray) -> Any:
        positions = (numbers * step)[:, None] + np.arange(length + 1, dtype=numbers.dtype)[None, :]
        return text.take(positions, mode="clip").astype(np.int32)

    return gather


def window_examples(text: np.ndarray | data.ShardedText, length: int, step: int) -> Examples:
    """Return the training examples of a text that is read in windows. Each epoch reads the windows in random order.

    Each example consists of a window of `length` characters and the character after it. A window begins `step` characters after the
    previous one, as in `data.windows`. `text` holds character ids (N,).

    Raises:
        InputError: if the text has fewer than `length` + 1 characters, or is a NumPy array of more than `MOST` characters.
    """
    count = data.some_windows(len(text), length, step)
    streamed = _is_streamed(text)
    return Examples(text, count, _gather(length, step), epoch_order, streamed, stream_order.shuffled if streamed else None)


def stream_examples(text: np.ndarray | data.ShardedText, length: int, batch: int, starts: np.ndarray | None = None) -> Examples:
    """Return the training examples of a text that is read as streams.

    The text is cut into `batch` consecutive sections, and each section is read as one stream. A training step reads the next `length`
    characters of every stream, so that row b of a batch continues where row b of the previous batch ended.

    For each epoch, a random integer from 0 to `length` - 1 is drawn, and the beginnings of all streams are shifted forward by this number
    of characters. The positions at which the gradient is truncated therefore differ between epochs.

    Args:
        text: character ids (N,).
        length: number of characters of each stream that a training step reads.
        batch: number of streams.
        starts: positions in the text before which the recurrent state is reset, such as the beginnings of articles. If they are given, a
            batch is a pair of arrays: ids (`batch`, `length` + 1), and bool resets (`batch`, `length`). If they are None, a batch is the
            ids alone. The ids have one more column than the model reads, because the last character of each row is only a target.

    Raises:
        InputError: in one of these cases.

            - `starts` is given and `text` is a `ShardedText`.
            - The text has fewer than (batch + 1) * length characters: a training step reads batch * length characters, and `length` more
              are needed for the random shift and the last target.
            - The text is a NumPy array of more than `MOST` characters.
    """
    needed = (batch + 1) * length  # the random shift is at most length - 1, and the last chunk needs one more character as target
    remedy = f"{batch} streams of {length} characters need {needed}: give more text, a smaller batch or length"
    require(len(text) >= needed, "text", f"{len(text)} characters", remedy)
    count = (len(text) - length) // (length * batch) * batch
    plans, streamed = partial(stream_order.streams, length=length), _is_streamed(text)

    def order(key: jax.Array, count: int, batch_size: int) -> Order:
        return Order(*map(jnp.asarray, plans(key, count, batch_size)(0, count // batch_size)[:3]))

    gather = _gather(length, 1)
    if starts is None:
        return Examples(text, count, gather, order, streamed, plans)
    require(not streamed, "article_resets", True, "shards hold no beginnings of articles: read the text with input memory")
    flags = np.zeros(len(text), bool)
    flags[starts] = True

    def gather_both(arrays: tuple[Any, Any], numbers: jax.Array | np.ndarray) -> tuple[Any, Any]:
        ids, resets = arrays
        return gather(ids, numbers), gather(resets, numbers)[:, :-1] > 0

    return Examples((text, flags), count, gather_both, order, plans=plans)


def _is_streamed(text: np.ndarray | data.ShardedText) -> bool:
    """Return whether a text is a `ShardedText`, whose shards are read during the training.

    Raises:
        InputError: if the text is a NumPy array of more than `MOST` characters.
    """
    streamed = isinstance(text, data.ShardedText)
    remedy = f"at most {MOST} fit in memory: write shards with lstm-jax data shard, and read them with --input stream"
    require(streamed or len(text) <= MOST, "text", f"{len(text)} characters", remedy)
    return streamed


def _metrics(logits: jax.Array, targets: jax.Array, weight: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Return the loss of a batch, and a dict with the metrics "loss" and "accuracy".

    The loss is the cross-entropy in nats. For each of the B examples, both metrics are averaged over all leading axes, such as a time axis.
    The averages are then multiplied by the weights of the examples and added up.

    Args:
        logits: (..., B, V), where ... are the leading axes, B is the batch size and V the size of the vocabulary.
        targets: (..., B): ids of the correct characters.
        weight: (B,): weights that sum to 1.
    """
    nats = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    correct = (jnp.argmax(logits, axis=-1) == targets).astype(nats.dtype)
    leading = tuple(range(nats.ndim - 1))
    loss, accuracy = ((metric.mean(leading) * weight).sum() for metric in (nats, correct))
    return loss, {"loss": loss, "accuracy": accuracy}


def window_objective(rebuild: Rebuild) -> Objective:
    """Return the training objective for windows: the cross-entropy, in nats, of the character after each window.

    The result is a `training.step.Objective`, whose batch is an array of character ids (B, length + 1). The model reads the first `length`
    characters of each row from a zero state, and predicts the last character.

    Args:
        rebuild: function that returns the model with the given parameters.
    """

    def objective(params, ids, weight, key):
        logits, _ = rebuild(params)(ids[:, :-1], last=True, deterministic=False, rngs=key)
        return _metrics(logits, ids[:, -1], weight)

    return objective


def stream_objective(rebuild: Rebuild) -> Objective:
    """Return the training objective for streams: the mean cross-entropy, in nats, of each character given those before it.

    The result is a `training.step.Objective` that also takes the recurrent state before a batch, and returns the state after the batch. A
    batch is an array of character ids (B, length + 1). Row b consists of a chunk, which is the next `length` characters of stream b, and
    the character after the chunk. After each character of the chunk, the model predicts the next character of the row. It thus predicts the
    last character of the row, but does not read it.

    The model starts a chunk from its state at the end of the previous chunk. The gradient does not flow back into the previous chunk. This
    is truncated back-propagation through time (Williams & Peng 1990).

    A batch may also be a pair (ids, resets). The array `resets`, bool (B, length), has one entry for each character that the model reads.
    If it is True, the state is replaced by zeros before the model reads the character.

    Args:
        rebuild: function that returns the model with the given parameters.
    """

    def objective(params, batch, weight, key, state):
        model = rebuild(params)
        ids, resets = batch if isinstance(batch, tuple) else (batch, None)
        h, state = model.hidden(ids[:, :-1], resets=resets, state=state, deterministic=False, rngs=key)
        loss, metrics = _metrics(model.logits(h), ids[:, 1:].T, weight)
        return loss, (metrics, state)

    return objective
