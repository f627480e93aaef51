"""Scores of a text under a character model: the negative log-probability of each
character given the characters before it, in nats.

The model reads the text in one of the two modes of `sampling`. In mode "carried" a long
text is divided into sections, called streams, which are read in parallel. In mode
"window" the model predicts each character from a zero state and the `length` characters
before it, or all of them if there are fewer.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh
from jaxtyping import Array, Integer
from numpy import ndarray
from numpy.lib.stride_tricks import sliding_window_view

from lstm_jax.base import processes, sharding
from lstm_jax.base.checks import Count, check_number, checked
from lstm_jax.base.errors import require
from lstm_jax.lab.config import flatten
from lstm_jax.lab.generation.sampling import Mode, check_tokens
from lstm_jax.lab.predict import make_predict
from lstm_jax.recurrence import as_int32

LOGITS = 2**23
"""Largest number of logits that are in memory at a time."""
CHUNK = 1024
"""Largest number of characters that one compiled call reads from each stream."""
STREAM = 10_000
"""Least mean length of the streams, in characters."""
STREAMS = 32
"""Largest number of streams into which a long text is divided. The model reads all
streams at once."""
WARM_UP = 1000
"""Number of preceding characters that the model reads, without scoring them, before
each stream but the first."""


class Scores(NamedTuple):
    """Scores of N characters of a text.

    `nats`, float32 (N,), is the negative log-probability of each character. `correct`,
    bool (N,), says whether the model gave the character the highest probability of all.
    """

    nats: ndarray
    correct: ndarray

    def metrics(self, prefix: str = "") -> dict[str, float]:
        """Return the metrics of the whole text, with `prefix` before each of their
        names.

        They are "loss" (the mean of `nats`), "bits" (bits per character), "perplexity"
        and "accuracy" (the share of true entries in `correct`).
        """
        loss = float(self.nats.mean(dtype=np.float64))
        return flatten(
            {
                "loss": loss,
                **bits_and_perplexity(loss),
                "accuracy": float(self.correct.mean()),
            },
            prefix,
        )


def bits_and_perplexity(nats: float) -> dict[str, float]:
    """Return the metrics "bits" (nats / ln 2) and "perplexity" (e^nats) of a mean loss
    in nats.
    """
    return {"bits": nats / float(np.log(2)), "perplexity": float(np.exp(nats))}


def _score(logits: Array, targets: Array) -> tuple[Array, Array]:
    p = jax.nn.log_softmax(logits.astype(jnp.float32))
    return -jnp.take_along_axis(p, targets[..., None], axis=-1)[..., 0], jnp.argmax(
        logits, axis=-1
    ) == targets


class Scorer:
    """Scorer of texts under a character model.

    Args:
        rebuild: function from parameters to the character model, a `CharGenerator`.
        mesh: device mesh over which windows and streams are sharded.
        mode: "carried" or "window".
        length: number of characters before the predicted character in a window.

    Raises:
        InputError: if `mode` or `length` is not as described.
    """

    def __init__(self, rebuild: Callable, mesh: Mesh, mode: Mode, length: int = 40):
        self.mode = checked("mode", mode, Mode)
        self.length = check_number("length", length, Count)
        self.mesh = mesh
        # each process reads the scores of all streams
        whole = sharding.replicated(mesh) if processes.several() else None
        self._initial_state = jax.jit(
            lambda params, batch: rebuild(params).initial_state(batch), static_argnums=1
        )

        def window(params, ids):
            ids = as_int32("ids", ids)
            logits, _ = rebuild(params)(ids[:, :-1], last=True, deterministic=True)
            return _score(logits, ids[:, -1])

        @partial(jax.jit, out_shardings=whole)
        def score(params, state, ids, resets, targets, valid):
            model = rebuild(params)
            h, state = model.hidden(
                ids, mask=valid, resets=resets, state=state, deterministic=True
            )
            steps = LOGITS // jax.eval_shape(model.logits, h[0]).size
            if steps >= len(h):
                return _score(model.logits(h), targets.T), state
            return lax.map(
                lambda read: _score(model.logits(read[0]), read[1]),
                (h, targets.T),
                batch_size=max(1, steps),
            ), state

        @partial(jax.jit, out_shardings=whole)
        def hidden(params, state, ids, resets, *_):
            return rebuild(params).hidden(
                ids, resets=resets, state=state, deterministic=True
            )

        self._window = make_predict(window, mesh)
        self._score = score
        self._hidden = hidden

    def _read(
        self, compiled: Callable, params, ids, count: int, starts, streams: int = 1
    ):
        """Read `count` characters of a text in parallel streams, and return the outputs
        (count, ...) of a compiled function.
        """
        own, warm = -(-count // streams), WARM_UP if streams > 1 else 0
        size = min(CHUNK, 1 << max(0, warm + own - 1).bit_length())
        steps = -(-(warm + own) // size) * size
        # stream s begins to read at position s * own - warm; positions outside the text
        # are masked
        positions = np.arange(streams)[:, None] * own - warm + np.arange(steps)[None, :]
        ids, last = np.asarray(ids, np.int32), len(ids) - 1
        read, targets = (ids[np.clip(positions + ahead, 0, last)] for ahead in (0, 1))
        resets = None if starts is None else np.isin(positions, starts)
        arrays = (read, resets, targets, (positions >= 0) & (positions < count))
        parts = []
        with sharding.on(self.mesh):
            state = self._initial_state(params, streams)
            for begin in range(0, steps, size):
                chunk = jax.tree.map(
                    lambda array, begin=begin: array[:, begin : begin + size], arrays
                )
                outputs, state = compiled(params, state, *chunk)
                parts.append(jax.tree.map(np.asarray, outputs))

        def joined(*chunks):
            by_stream = np.concatenate(chunks)[warm : warm + own].swapaxes(0, 1)
            return by_stream.reshape(-1, *by_stream.shape[2:])[:count]

        return jax.tree.map(joined, *parts)

    def windows(self, params, ids: Integer[ndarray, "N L"]) -> Scores:
        """Score the last character of each of N windows of L characters, whose ids are
        (N, L), given the other characters.
        """
        return Scores(*self._window(params, check_tokens("ids", ids, axes=2)))

    def text(
        self, params, ids: Integer[ndarray, "N"], starts: ndarray | None = None
    ) -> Scores:
        """Compute the negative log-probability of each character of a text, given the
        characters before it: the scores of the last N - 1 characters.

        In mode "carried", a text with at least `2 * STREAM` characters to score is read
        in streams, each of which first reads the `WARM_UP` characters that precede it.
        `starts` are positions before which the recurrent state is then replaced by
        zeros.

        Raises:
            InputError: if `ids` are not ints (N,), or if N is below 2.
        """
        ids = check_tokens("ids", ids)
        require(
            len(ids) >= 2,
            "text",
            f"{len(ids)} characters",
            "give 2 or more: the first has nothing before it",
        )
        first, starts = (
            (ids, starts) if self.mode == "carried" else (ids[: self.length + 1], None)
        )
        count = len(first) - 1
        parts = [
            self._read(
                self._score,
                params,
                first,
                count,
                starts,
                max(1, min(STREAMS, count // STREAM)),
            )
        ]
        if len(ids) > len(first):
            rows = sliding_window_view(ids[1:], self.length + 1)
            block = 1 << 16  # number of windows that are copied at a time
            parts += [
                self.windows(params, rows[begin : begin + block])
                for begin in range(0, len(rows), block)
            ]
        return Scores(*map(np.concatenate, zip(*parts, strict=True)))

    def activations(
        self, params, ids: Integer[ndarray, "N"], starts: ndarray | None = None
    ) -> ndarray:
        """Return the outputs (N, H), float32, of the last recurrent layer after each of
        N characters, read in one pass; see `text`.
        """
        ids = check_tokens("ids", ids)
        require(len(ids) >= 1, "text", "0 characters", "give 1 or more")
        return self._read(self._hidden, params, ids, len(ids), starts)
