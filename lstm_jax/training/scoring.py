"""How surprised a character model is by a text: nats of each character given those before it.

Two ways to read, those of `sampling`. `carried`: the state runs through the text. `window`: each character from the `length` before it and
a zero state, as the source trains; the first `length` characters from all that precede them.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Integer
from numpy.lib.stride_tricks import sliding_window_view

from lstm_jax.errors import require
from lstm_jax.runtime import sharding
from lstm_jax.sampling import Mode
from lstm_jax.training.predict import make_predict

STRETCH = 1024
STREAM = 10_000
"""Characters of a stream at least, where a long text is read as several at once."""
STREAMS = 32
WARM_UP = 1000
"""Characters that a stream reads before its own first one."""


class Scores(NamedTuple):
    """Of N characters: nats float32 (N,), -log p; correct bool (N,), whether the character was the likeliest."""

    nats: np.ndarray
    correct: np.ndarray

    def metrics(self, prefix: str = "") -> dict[str, float]:
        """loss (mean nats), bits, perplexity, accuracy."""
        loss = float(self.nats.mean(dtype=np.float64))
        metrics = {"loss": loss, **bits_and_perplexity(loss), "accuracy": float(self.correct.mean())}
        return {prefix + name: value for name, value in metrics.items()}


def bits_and_perplexity(nats: float) -> dict[str, float]:
    """bits = nats / ln 2 and perplexity = e^nats of a character."""
    return {"bits": nats / float(np.log(2)), "perplexity": float(np.exp(nats))}


def _score(logits: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Nats and hits, logits (..., V), targets (...)."""
    p = jax.nn.log_softmax(logits.astype(jnp.float32))
    return -jnp.take_along_axis(p, targets[..., None], axis=-1)[..., 0], jnp.argmax(logits, axis=-1) == targets


class Scorer:
    """Scores texts under a model that `rebuild(params)` makes.

    Args:
        rebuild: params -> CharGenerator.
        mesh: windows and streams are split over its devices.
        mode: "carried" or "window".
        length: of the window.
    """

    def __init__(self, rebuild: Callable, mesh: Mesh, mode: Mode, length: int = 40):
        self.mode, self.length, self.mesh = mode, length, mesh
        # outside of jit, where `rebuild` wants JAX's arrays
        self._initial_state = lambda params, batch: rebuild(jax.tree.map(jnp.asarray, params)).initial_state(batch)

        def window(params, ids):
            ids = ids.astype(jnp.int32)
            logits, _ = rebuild(params)(ids[:, :-1], last=True, deterministic=True)
            return jnp.stack(_pair(_score(logits, ids[:, -1])), axis=-1)

        @jax.jit
        def stretch(params, state, ids, valid):
            model = rebuild(params)
            h, state = model.hidden(ids[:, :-1], mask=valid, state=state, deterministic=True)
            return state, _score(model.logits(h), ids[:, 1:].T)

        @jax.jit
        def hidden(params, state, ids):
            return rebuild(params).hidden(ids, state=state, deterministic=True)

        self._window, self._stretch, self._hidden = make_predict(window, mesh), stretch, hidden

    def windows(self, params: Any, ids: Integer[np.ndarray, "N L"]) -> Scores:
        """The last character of each row, given those before it in the row."""
        scored = self._window(params, ids)
        return Scores(scored[:, 0], scored[:, 1] > 0)

    def text(self, params: Any, ids: Integer[np.ndarray, "N"]) -> Scores:
        """Characters 1 .. N - 1 of a text.

        A carried text of `2 * STREAM` characters or more is cut into streams, each of which first reads the `WARM_UP` characters before its
        own; a shorter one is read in one piece.

        Raises:
            InputError: if N is below 2.
        """
        require(len(ids) >= 2, "text", f"{len(ids)} characters", "give 2 or more: the first has nothing before it")
        if self.mode == "carried":
            return self._carried(params, ids)
        parts = [self._carried(params, ids[: self.length + 1])]
        if len(ids) > self.length + 1:
            rows = sliding_window_view(ids[1:], self.length + 1)
            block = 1 << 16  # a copy of so many windows at a time
            parts += [self.windows(params, rows[begin : begin + block]) for begin in range(0, len(rows), block)]
        return Scores(*map(np.concatenate, zip(*parts, strict=True)))

    def _carried(self, params: Any, ids: np.ndarray) -> Scores:
        count = len(ids) - 1
        streams = max(1, min(STREAMS, count // STREAM))
        own = -(-count // streams)
        warm = WARM_UP if streams > 1 else 0
        size = min(STRETCH, 1 << max(0, warm + own - 1).bit_length())
        stretches = -(-(warm + own) // size)
        # stream s reads from s * own - warm on; what lies outside the text is masked
        places = np.arange(streams)[:, None] * own - warm + np.arange(stretches * size + 1)[None, :]
        rows = np.asarray(ids, np.int32)[np.clip(places, 0, count)]
        valid = (places[:, :-1] >= 0) & (places[:, :-1] < count)
        nats, correct = [], []
        with sharding.on(self.mesh):
            state = self._initial_state(params, streams)
            for begin in range(0, stretches * size, size):
                part = slice(begin, begin + size)
                state, scored = self._stretch(params, state, rows[:, begin : begin + size + 1], valid[:, part])
                nats.append(np.asarray(scored[0]))
                correct.append(np.asarray(scored[1]))

        def joined(parts: list[np.ndarray]) -> np.ndarray:
            return np.concatenate(parts)[warm : warm + own].T.reshape(-1)[:count]

        return Scores(joined(nats), joined(correct))

    def activations(self, params: Any, ids: Integer[np.ndarray, "N"]) -> np.ndarray:
        """The last LSTM's output after each character, the state carried: float32 (N, H).

        Raises:
            InputError: if N is 0.
        """
        require(len(ids) >= 1, "text", "0 characters", "give 1 or more")
        size = min(STRETCH, 1 << max(0, len(ids) - 1).bit_length())
        padded = np.concatenate([ids, np.zeros(-len(ids) % size, ids.dtype)]).astype(np.int32)
        state, parts = self._initial_state(params, 1), []
        for begin in range(0, len(padded), size):
            h, state = self._hidden(params, state, padded[None, begin : begin + size])
            parts.append(np.asarray(h[:, 0]))
        return np.concatenate(parts)[: len(ids)]


def _pair(scored: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
    """Both as float32, to travel in one array."""
    nats, correct = scored
    return nats, correct.astype(nats.dtype)
