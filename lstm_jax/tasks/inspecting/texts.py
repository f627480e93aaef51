"""HTML page about a text-generation run, which shows what the trained model computes for each character of some texts.

N is the number of characters of a text, V the size of the vocabulary and E the number of input features of a character.
"""

from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lstm_jax.errors import require
from lstm_jax.inspection.attribution import gradient_norms, reach
from lstm_jax.inspection.window import Curve, Frame, Strip
from lstm_jax.tasks.generation import ReadText
from lstm_jax.tasks.inspecting.common import Network, Request

LIKELY = 6
"""Number of likeliest next characters that are shown for a step."""
READ = 20_000
"""Number of held-out characters from which the examples are chosen."""


class TextNetwork(Network):
    """Trained character model of a text-generation run, which reads each text from a zero state."""

    title, kind = "Text, character by character", "character"

    def _logits(self, vectors: jax.Array, params: Any, resets: jax.Array | None) -> jax.Array:
        model, cuts = self.rebuild(params), None if resets is None else resets[:, None]
        hidden, _ = model.recurrent(vectors[:, None], resets=cuts, deterministic=True, time_major=True)
        return model.logits(hidden)[:, 0]

    def outputs(self, vectors: jax.Array, params: Any, following: jax.Array, resets: jax.Array | None = None) -> jax.Array:
        """Return the surprise (N,) of N characters, which is their negative log-probability in nats."""
        log_p = jax.nn.log_softmax(self._logits(vectors, params, resets))
        return -jnp.take_along_axis(log_p, following[:, None], axis=-1)[:, 0]

    @cached_property
    def log_probabilities(self) -> Any:
        """Compiled function f(vectors, params, resets) that returns the log-probabilities (N, V) of the next character."""
        return jax.jit(lambda vectors, params, resets: jax.nn.log_softmax(self._logits(vectors, params, resets)))

    @cached_property
    def vectors(self) -> Any:
        """Compiled function f(params, ids) that returns the input features (N, E) of N characters with the ids (N,)."""

        def vectors(params: Any, ids: jax.Array) -> jax.Array:
            model = self.rebuild(params)
            if model.embedding is None:
                return jax.nn.one_hot(ids, self.trained.characters.size)
            return model.embedding(ids[:, None], 1)[:, 0]

        return jax.jit(vectors)

    def examples(self, request: Request) -> dict[str, ReadText]:
        sources: dict[str, dict[str, Any]] = {f"text {n}": {"text": text} for n, text in enumerate(request.texts, 1)}
        if request.file is not None:
            sources[request.file.name] = {"paths": (str(request.file),)}
        config, found = self.trained.config.data, {}
        for name, source in sources.items():
            options: dict[str, Any] = {"text_column": request.text_column or config.text_column, "clean": config.clean != "exact"}
            found[name] = self.trained.read_text(**source, **options, unknown=request.unknown, most=request.chars + 1)
            require(len(found[name].ids) >= 3, name, f"{len(found[name].ids)} characters", "give 3 or more")
        return found or self._chosen(request)

    def _chosen(self, request: Request) -> dict[str, ReadText]:
        """Choose easy and hard parts of the held-out text, and parts of median difficulty."""
        held_out, articles = self.trained.read_text(most=READ)
        size = min(request.chars, len(held_out) - 1)
        require(size >= 2, "held-out text", f"{len(held_out)} characters", "give --text or --file")
        bits = self.trained.score(held_out, starts=articles).nats / np.log(2)
        starts = np.arange(0, len(held_out) - size, size)
        means = np.asarray([bits[start : start + size].mean() for start in starts])
        order = np.argsort(means, kind="stable")
        middle = order[np.argsort(np.abs(means[order] - np.median(means)), kind="stable")]
        kinds: dict[int, str] = {}
        for kind, ranked in {"surest": order, "most surprised": order[::-1], "median": middle}.items():
            for n in ranked[: request.examples].tolist():
                kinds.setdefault(n, kind)
        return {
            f"{kind}: held-out text from character {starts[n]}, {means[n]:.2f} bits a character": ReadText(
                held_out[starts[n] : starts[n] + size + 1], None if articles is None else articles - starts[n]
            )
            for n, kind in kinds.items()
        }

    def steps(self, example: ReadText) -> list[str]:
        return [self.trained.characters.characters[i] for i in example.ids[:-1]]

    @property
    def about(self) -> str:
        resets = " At the beginning of each article, the state is replaced by zeros."
        return ". Each text is read in one pass from a state of zeros." + (resets if self.trained.config.data.article_resets else "")

    def frame(self, params: Any, example: ReadText) -> Frame:
        characters, ids = self.trained.characters.characters, np.asarray(example.ids, np.int32)
        resets = None if example.starts is None else jnp.asarray(np.isin(np.arange(len(ids) - 1), example.starts))
        read, following = jnp.asarray(ids[:-1]), jnp.asarray(ids[1:])
        vectors = self.vectors(params, read)
        log_p = np.asarray(self.log_probabilities(vectors, params, resets), np.float64)
        bits = -log_p[np.arange(len(read)), ids[1:]] / np.log(2)
        norms = np.asarray(gradient_norms(self.outputs, vectors, params, following, resets))
        best = np.argsort(-log_p, axis=1, kind="stable")[:, :LIKELY]
        own = np.concatenate([[0.0], bits[:-1]])
        return Frame(
            f"{bits.mean():.3f} bits a character on this text.",
            Curve("surprise of the next character, bits", bits.tolist(), (0.0, float(bits.max()))),
            self.trace(params, ids[None, :-1], resets=None if resets is None else resets[None]),
            (Strip("surprise", own.tolist(), "Bits of each character, given those before it."),),
            norms,
            True,
            reach(norms).astype(float).tolist(),
            [[(characters[i], float(np.exp(row[i]))) for i in chosen] for row, chosen in zip(log_p, best, strict=True)],
        )
