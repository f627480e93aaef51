"""HTML page about a text-generation run, which shows what the trained model computes
for each character of some texts.

N is the number of characters of a text, V the size of the vocabulary and E the number
of input features of a character.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from lstm_jax.base.errors import require
from lstm_jax.lab.generation import task as generation
from lstm_jax.lab.generation.task import ReadText
from lstm_jax.lab.inspection.attribution import gradient_norms, reach
from lstm_jax.lab.inspection.common import Network, first_kinds
from lstm_jax.lab.inspection.window import Curve, Frame, Strip

LIKELY = 6
"""Number of likeliest next characters that are shown for a step."""
READ = 20_000
"""Number of held-out characters from which the examples are chosen."""


class TextNetwork(Network):
    """Trained character model of a text-generation run, which reads each text from a
    zero state.
    """

    title, kind = "Text, character by character", "character"

    def __init__(self, trained: generation.Trained):
        super().__init__(trained)
        self.vectors = jax.jit(self._vectors)
        self._log_p = jax.jit(self.log_probabilities)

    def _vectors(self, params, ids: Array) -> Array:
        model = self.rebuild(params)
        if model.embedding is None:
            return jax.nn.one_hot(ids, self.trained.characters.size)
        return model.embedding(ids[:, None], 1)[:, 0]

    def log_probabilities(self, vectors: Array, params, resets: Array | None) -> Array:
        """Return the log-probabilities (N, V) of the character after each of N
        characters with the input features `vectors`.
        """
        model, cuts = self.rebuild(params), None if resets is None else resets[:, None]
        hidden, _ = model.recurrent(
            vectors[:, None], resets=cuts, deterministic=True, time_major=True
        )
        return jax.nn.log_softmax(model.logits(hidden)[:, 0])

    def outputs(
        self, vectors: Array, params, following: Array, resets: Array | None = None
    ) -> Array:
        """Return the surprise (N,) of N characters, which is their negative
        log-probability in nats.
        """
        return -jnp.take_along_axis(
            self.log_probabilities(vectors, params, resets), following[:, None], axis=-1
        )[:, 0]

    def examples(self, request):
        config, found = self.trained.config.data, {}
        options = {
            "text_column": request.text_column or config.text_column,
            "clean": config.clean != "exact",
            "unknown": request.unknown,
        }
        read = partial(self.trained.read_text, **options, most=request.chars + 1)
        for number, text in enumerate(request.texts, 1):
            found[f"text {number}"] = read(text=text)
        if request.file is not None:
            found[request.file.name] = read((str(request.file),))
        for name, text in found.items():
            require(
                len(text.ids) >= 3,
                name,
                f"{len(text.ids)} characters",
                "give 3 or more",
            )
        if found:
            return found
        held_out, articles = self.trained.read_text(most=READ)
        size = min(request.chars, len(held_out) - 1)
        require(
            size >= 2,
            "held-out text",
            f"{len(held_out)} characters",
            "give --text or --file",
        )
        count = (len(held_out) - 1) // size
        bits = self.trained.score(held_out, starts=articles).nats[
            : count * size
        ] / np.log(2)
        means = bits.reshape(count, size).mean(1)
        order, middle = (
            np.argsort(values, kind="stable")
            for values in (means, np.abs(means - np.median(means)))
        )
        for n, kind in first_kinds(
            {"surest": order, "most surprised": order[::-1], "median": middle},
            request.examples,
        ).items():
            begin = n * size
            name = (
                f"{kind}: held-out text from character {begin}, {means[n]:.2f} "
                "bits a character"
            )
            found[name] = ReadText(
                held_out[begin : begin + size + 1],
                None if articles is None else articles - begin,
            )
        return found

    def steps(self, example: ReadText):
        return [self.trained.characters.characters[i] for i in example.ids[:-1]]

    @property
    def about(self):
        resets = " At the beginning of each article, the state is replaced by zeros."
        return ". Each text is read in one pass from a state of zeros." + (
            resets if self.trained.config.data.article_resets else ""
        )

    def frame(self, params, example: ReadText):
        characters = self.trained.characters.characters
        ids = np.asarray(example.ids, np.int32)
        resets = (
            None
            if example.starts is None
            else np.isin(np.arange(len(ids) - 1), example.starts)
        )
        vectors = self.vectors(params, ids[:-1])
        log_p = np.asarray(self._log_p(vectors, params, resets), np.float64)
        bits = -log_p[np.arange(len(log_p)), ids[1:]] / np.log(2)
        norms = np.asarray(
            gradient_norms(self.outputs, vectors, params, ids[1:], resets)
        )
        best = np.argsort(-log_p, axis=1, kind="stable")[:, :LIKELY]
        return Frame(
            f"{bits.mean():.3f} bits a character on this text.",
            Curve(
                "surprise of the next character, bits",
                bits.tolist(),
                (0.0, float(bits.max())),
            ),
            self.trace(
                params, ids[None, :-1], resets=None if resets is None else resets[None]
            ),
            (
                Strip(
                    "surprise",
                    [0.0, *bits[:-1].tolist()],
                    "Bits of each character, given those before it.",
                ),
            ),
            norms,
            True,
            reach(norms).astype(float).tolist(),
            [
                [(characters[i], float(np.exp(row[i]))) for i in chosen]
                for row, chosen in zip(log_p, best, strict=True)
            ],
        )
