"""Training examples and objectives of a character model. The model reads a text either
in windows or as streams.

The model starts each window from a zero state. In a stream it carries its recurrent
state from one training step to the next.

The text is stored as character ids, in an array or in shards on disk, and the examples
are not stored: `Examples.gather` cuts an example out of the text, at a position that it
computes from the number of the example.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax
from numpy import ndarray

from lstm_jax.base.checks import MOST
from lstm_jax.base.errors import require
from lstm_jax.lab.files.shuffled import shuffled
from lstm_jax.lab.generation import data
from lstm_jax.lab.generation.data import ShardedText
from lstm_jax.training.examples import Examples, Plan, order_of, permuted
from lstm_jax.training.step import Objective


def _gather(length: int, step: int) -> Callable[[Any, Any], Any]:
    def gather(text, numbers):
        positions = (numbers * step)[:, None] + np.arange(
            length + 1, dtype=numbers.dtype
        )[None, :]
        return text.take(positions, mode="clip").astype(np.int32)

    return gather


def window_examples(text: ndarray | ShardedText, length: int, step: int) -> Examples:
    """Return the training examples of a text that is read in windows. Each epoch reads
    the windows in random order.
    """
    count = data.some_windows(len(text), length, step)
    streamed = _is_streamed(text)
    return Examples(
        text, count, _gather(length, step), shuffled if streamed else permuted, streamed
    )


def streams(key: Array, count: int, batch_size: int, length: int) -> Plan:
    """Return a function that gives the order in which a text is read in parallel
    streams; see `data.stream_chunks`.
    """
    steps, shift = count // batch_size, int(jax.random.randint(key, (), 0, length))

    def plan(first, stop):
        chunks = (
            np.arange(batch_size, dtype=np.int64) * steps
            + np.arange(first, stop, dtype=np.int64)[:, None]
        )
        return order_of(np, chunks * length + shift, chunks.size, first)

    return plan


def stream_examples(
    text: ndarray | ShardedText,
    length: int,
    batch: int,
    starts: ndarray | None = None,
    noun: str = "character",
) -> Examples:
    """Return the training examples of a text that is read as streams."""
    # the random shift is at most length - 1, and the last chunk needs one more
    # character as target
    needed = (batch + 1) * length
    remedy = (
        f"{batch} streams of {length} {noun}s need {needed}: give more text, a "
        "smaller batch or length"
    )
    require(len(text) >= needed, "text", f"{len(text)} {noun}s", remedy)
    count = (len(text) - length) // (length * batch) * batch
    plan, streamed, gather = (
        partial(streams, length=length),
        _is_streamed(text),
        _gather(length, 1),
    )

    def gather_both(arrays, numbers):
        ids, resets = arrays
        return gather(ids, numbers), gather(resets, numbers)[:, :-1] > 0

    if starts is None:
        return Examples(text, count, gather, plan, streamed)
    require(
        not streamed,
        "article_resets",
        True,
        "shards hold no beginnings of articles: read the text with input memory",
    )
    flags = np.zeros(len(text), bool)
    flags[starts] = True
    return Examples((text, flags), count, gather_both, plan)


def _is_streamed(text: ndarray | ShardedText) -> bool:
    # else a training step computes positions in int32
    streamed = isinstance(text, ShardedText)
    remedy = (
        f"at most {MOST} fit in memory: write shards with lstm-jax data shard, "
        "and read them with --input stream"
    )
    require(streamed or len(text) <= MOST, "text", f"{len(text)} characters", remedy)
    return streamed


def _metrics(
    logits: Array, targets: Array, weight: Array
) -> tuple[Array, dict[str, Array]]:
    nats = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    # right is a target that is the first of the largest; over many words XLA computes
    # this much faster than argmax
    chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)
    earlier = (
        lax.broadcasted_iota(targets.dtype, logits.shape, logits.ndim - 1)
        < targets[..., None]
    )
    correct = (
        jnp.where(earlier, logits < chosen, logits <= chosen).all(-1).astype(nats.dtype)
    )
    loss, accuracy = (
        (metric.reshape(len(weight), -1).mean(1) * weight).sum()
        for metric in (nats, correct)
    )
    return loss, {"loss": loss, "accuracy": accuracy}


def window_objective(rebuild: Callable) -> Objective:
    """Return the training objective for windows: the cross-entropy, in nats, of the
    character after each window.
    """

    def objective(params, ids, weight, key):
        logits, _ = rebuild(params)(
            ids[:, :-1], last=True, deterministic=False, rngs=key
        )
        return _metrics(logits, ids[:, -1], weight)

    return objective


def stream_objective(rebuild: Callable) -> Objective:
    """Return the training objective for streams: the mean cross-entropy, in nats, of
    each character given those before it.
    """

    def objective(params, batch, weight, key, state):
        model = rebuild(params)
        ids, resets = batch if isinstance(batch, tuple) else (batch, None)
        h, state = model.hidden(
            ids[:, :-1], resets=resets, state=state, deterministic=False, rngs=key
        )
        # with one axis for all steps, XLA need not transpose the gradient of the logits
        logits = model.logits(jnp.swapaxes(h, 0, 1).reshape(-1, h.shape[-1]))
        loss, metrics = _metrics(logits, ids[:, 1:].ravel(), weight)
        return loss, (metrics, state)

    return objective
