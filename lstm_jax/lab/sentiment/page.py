"""HTML page about a trained sentiment model, which shows reviews word by word.

T is the number of word ids of a review with padding, W the number of its words without
padding, N the number of reviews, and E the number of features of a word.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy import ndarray

from lstm_jax.base.errors import require
from lstm_jax.base.types import Values
from lstm_jax.lab.files import padding as data
from lstm_jax.lab.inspection.attribution import (
    gradient_norms,
    integrated_gradients,
    reach,
)
from lstm_jax.lab.inspection.common import Network
from lstm_jax.lab.inspection.window import Curve, Frame, Strip
from lstm_jax.lab.sentiment import task as sentiment
from lstm_jax.lab.sentiment.data.reviews import read_texts

NEIGHBOURS = 8
"""Number of nearest words that are shown for a word."""
LEAST_REVIEWS = 100
"""Least number of training reviews that must contain a word that is shown as a nearest
word. In a small data set, the limit is lower."""


class ReviewNetwork(Network):
    """Trained sentiment model, with methods that take parameters and the word ids (T,)
    of one review, padding (id 0) included.
    """

    title, kind = "Sentiment, word by word", "word"

    def __init__(self, trained: sentiment.Trained):
        super().__init__(trained)
        self.config, model = trained.config.data, trained.config.model
        # the outputs of such a model are its answers after each word; one that also
        # reads padding after the words answers later
        reads_on = (
            self.config.padding == "post"
            and not model.mask_zero
            and not self.config.packed
        )
        self.stepwise = (
            model.pooling == "last" and not model.bidirectional and not reads_on
        )
        # function from parameters and the ids (T,) of a review to its word vectors (T,
        # E)
        self.vectors = jax.jit(
            lambda params, ids: self.rebuild(params).embedding(ids[:, None], 1)[:, 0]
        )
        self._logits = sentiment.make_logits(trained.rebuild, trained.mesh, fold=False)

    def verdict(self, vectors: Array, params, ids: Array) -> Array:
        """Return the logit of one review. `vectors` (T, E) are its word vectors."""
        return self.rebuild(params)(
            ids[None], vectors=vectors[:, None], deterministic=True
        )[0]

    def verdicts(self, vectors: Array, params, ids: Array) -> Array:
        return self.verdict(vectors, params, ids)[None]

    def outputs(self, vectors: Array, params, ids: Array) -> Array:
        """Return the logits (T,) that the model gives after each of the T ids of a
        review.
        """
        if not self.stepwise:
            return self.verdicts(vectors, params, ids)
        model = self.rebuild(params)
        options: Values = {
            "return_sequences": True,
            "deterministic": True,
            "time_major": True,
        }
        return model.head(
            model.recurrent(
                vectors[:, None], mask=model.embedding.mask(ids[:, None]), **options
            )
        )[:, 0, 0]

    def whole(self, params, ids: ndarray) -> float:
        return float(self._logits(params, ids[None])[0])

    def of_words(self, params, reviews: list[ndarray], length: int) -> ndarray:
        """Return the logits of reviews that are given as the ids of their words, and
        are padded to `length` ids.
        """
        return self._logits(
            params, data.pad_sequences(reviews, length, padding=self.config.padding)
        ).astype(np.float64)

    def without_each(self, params, ids: ndarray) -> ndarray:
        """Return W logits for a review of W words. Entry n is the logit of the review
        without its word n.
        """
        words = ids[ids != 0]
        return self.of_words(
            params, [np.delete(words, n) for n in range(len(words))], len(ids)
        )

    @property
    def about(self):
        end = "last" if self.config.truncating == "pre" else "first"
        return (
            f". It reads the {end} {self.config.packed or self.config.maxlen} "
            "words of a review."
        )

    def steps(self, example: ndarray):
        return [
            _shown(self.trained.vocabulary.word(int(identity)))
            for identity in example[example != 0]
        ]

    def examples(self, request):
        texts = list[str | bytes](request.texts)
        if request.file is not None:
            texts += [
                text
                for text in read_texts(request.file, self.config.text_column)
                if text.strip()
            ]
            require(texts, "file", str(request.file), "give one review per line")
        if texts:
            given = self.trained.rows(texts)
            return {f"text {n + 1}": given.review(n) for n in range(len(texts))}
        held_out = sentiment.padded_rows(
            self.trained.reviews(), self.trained.config
        ).held_out()
        require(held_out, "reviews", "none held out", "give --text or --file")
        name, rows = held_out.popitem()
        logits, labels = self.trained.logits(rows), rows.targets
        margin = np.where(labels == 1, logits, -logits)
        surest = np.argsort(-margin)[: (margin > 0).sum()]
        worst = np.argsort(margin)[: (margin < 0).sum()]
        orders = {
            "surest and right": surest,
            "most wrong": worst,
            "most torn": np.argsort(np.abs(logits)),
        }
        return {
            f"{kind}: {name} review {n}, {('negative', 'positive')[labels[n]]}": rows.review(
                n
            )
            for kind, order in orders.items()
            for n in order[: request.examples].tolist()
        }

    def neighbours(self, examples):
        space, vocabulary = self.trained.words, self.trained.vocabulary
        words = {
            vocabulary.word(identity)
            for ids in examples
            for identity in ids[ids != 0].tolist()
        }
        least = min(LEAST_REVIEWS, max(1, int(space.statistics[1].max()) // 20))
        found = {}
        for word in sorted(words & space.index.keys()):
            near = space.neighbours(word, NEIGHBOURS, min_reviews=least)
            found[_shown(word)] = [
                (_shown(other), round(score, 2)) for other, score in near
            ]
        return found

    def frame(self, params, example: ndarray):
        ids, words = jnp.asarray(example), np.flatnonzero(example)
        vectors = self.vectors(params, ids)
        verdict = self.whole(params, example)
        path = integrated_gradients(self.verdict, vectors, params, ids)
        without = verdict - self.without_each(params, example)
        norms = np.asarray(gradient_norms(self.outputs, vectors, params, ids))[:, words]
        if self.stepwise:
            after = np.asarray(self.outputs(vectors, params, ids), np.float64)[words]
            norms = norms[words]
        else:
            after = self.of_words(
                params, [example[words[: n + 1]] for n in range(len(words))], len(ids)
            )
        padding = float(path.values.sum() - path.values[words].sum())
        sums = (
            f"They sum to {path.values.sum():+.3f}, of which padding has "
            f"{padding:+.3f}; the difference is {path.difference:+.3f}."
        )
        probability = float(sentiment.probabilities(np.asarray([verdict]))[0])
        return Frame(
            f"The probability of a positive review is {probability:.4f} "
            f"(logit {verdict:+.3f}).",
            Curve(
                "probability of a positive review after each word",
                sentiment.probabilities(after).tolist(),
                (0.0, 1.0),
            ),
            self.trace(params, ids[None], steps=words),
            (
                Strip(
                    "integrated gradients",
                    path.values[words].tolist(),
                    f"Shares of the words in the logit, against no words. {sums}",
                ),
                Strip(
                    "leaving the word out",
                    without.tolist(),
                    "Logit of the review minus its logit without the word.",
                ),
            ),
            norms,
            self.stepwise,
            reach(norms).astype(float).tolist() if self.stepwise else (),
        )


def _shown(word: str) -> str:
    return word.encode(errors="surrogateescape").decode(errors="replace")
