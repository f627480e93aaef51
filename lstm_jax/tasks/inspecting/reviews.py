"""HTML page about a trained sentiment model, which shows reviews word by word.

T is the number of word ids of a review with padding, W the number of its words without padding, N the number of reviews, and E the number
of features of a word.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lstm_jax import data
from lstm_jax.data.reviews.tables import read_texts
from lstm_jax.errors import require
from lstm_jax.inspection.attribution import gradient_norms, integrated_gradients, reach
from lstm_jax.inspection.window import Curve, Example, Frame, Strip, Window
from lstm_jax.packing import PackedPlaces
from lstm_jax.tasks import sentiment
from lstm_jax.tasks.inspecting.common import Request, Tracer, first_of, kept_epochs
from lstm_jax.tasks.running import check_own_data

NEIGHBOURS = 8
"""Number of nearest words that are shown for a word."""
LEAST_REVIEWS = 100
"""Least number of training reviews that must contain a word that is shown as a nearest word. In a small data set, the limit is lower."""


@dataclass(frozen=True)
class Review:
    """Review that the HTML page shows: its title, and its word ids with the padding that the model reads."""

    name: str
    """Title of the review on the page."""
    ids: np.ndarray
    """Word ids (T,) of the review, padding included."""

    @property
    def words(self) -> np.ndarray:
        """Indices in `ids` of the W words of the review, as an array (W,). All other ids are padding."""
        return np.flatnonzero(self.ids)


class ReviewNetwork:
    """Trained sentiment model, with methods that take parameters and one review."""

    def __init__(self, trained: sentiment.Trained):
        self.rebuild, self.config = trained.rebuild, trained.config.data
        model = trained.config.model
        # the outputs of such a model are its answers after each word; one that also reads padding after the words answers later
        reads_on = self.config.padding == "post" and not model.mask_zero and not self.config.packed
        self.stepwise = model.pooling == "last" and not model.bidirectional and not reads_on
        self.trace = Tracer(trained.rebuild)

    @cached_property
    def _logits(self) -> Any:
        """Compiled function that takes parameters, the ids (N, T) of N reviews and `packed`, and returns logits (N,)."""

        def logits(params: Any, ids: jax.Array, packed: PackedPlaces | None) -> jax.Array:
            found = self.rebuild(params)(ids, packed=packed, deterministic=True)
            return found if packed is None else found[:, 0]

        return jax.jit(logits)

    @cached_property
    def vectors(self) -> Any:
        """Compiled function from parameters and the ids (T,) of a review to its word vectors (T, E)."""
        return jax.jit(lambda params, ids: self.rebuild(params).embedding(ids[:, None], 1)[:, 0])

    def verdict(self, vectors: jax.Array, params: Any, ids: jax.Array) -> jax.Array:
        """Return the logit of one review. `vectors` (T, E) are its word vectors, and `ids` (T,) its word ids."""
        return self.rebuild(params)(ids[None], vectors=vectors[:, None], deterministic=True)[0]

    def verdicts(self, vectors: jax.Array, params: Any, ids: jax.Array) -> jax.Array:
        """Return the logit of one review as an array (1,). The arguments are those of the method `verdict`."""
        return self.verdict(vectors, params, ids)[None]

    def outputs(self, vectors: jax.Array, params: Any, ids: jax.Array) -> jax.Array:
        """Return the logits (T,) that the model gives after each of the T ids of a review."""
        if not self.stepwise:
            return self.verdicts(vectors, params, ids)
        model = self.rebuild(params)
        options: dict[str, Any] = {"return_sequences": True, "deterministic": True, "time_major": True}
        return model.head(model.recurrent(vectors[:, None], mask=model.embedding.mask(ids[:, None]), **options))[:, 0, 0]

    def whole(self, params: Any, review: Review) -> float:
        """Return the logit of the review."""
        return float(self._batch(params, [review.ids[review.words]], len(review.ids))[0])

    def without_each(self, params: Any, review: Review) -> np.ndarray:
        """Return W logits for a review of W words. Entry n is the logit of the review without its word n."""
        words = review.ids[review.words]
        return self._batch(params, [np.delete(words, n) for n in range(len(words))], len(review.ids))

    def after_each(self, params: Any, review: Review) -> np.ndarray:
        """Return W logits for a review of W words. Entry n is the logit of a review of only the words 0 to n, padded as usual."""
        words = review.ids[review.words]
        return self._batch(params, [words[: n + 1] for n in range(len(words))], len(review.ids))

    def _batch(self, params: Any, rows: list[np.ndarray], length: int) -> np.ndarray:
        """Pad N reviews to `length` ids each, on the side that the run pads, and return their logits (N,)."""
        post, count = bool(self.config.packed) or self.config.padding == "post", np.asarray([len(row) for row in rows])
        full = np.zeros((length, length), np.int32)  # one shape, so that one program serves all reviews of a length
        for n, row in enumerate(rows):
            full[n, (slice(len(row)) if post else slice(length - len(row), None))] = row
        packed = None
        if self.config.packed:
            last = np.zeros((length, 1), np.int32)
            last[: len(rows), 0] = np.maximum(count - 1, 0)
            packed = PackedPlaces((full != 0).astype(np.int32), np.zeros_like(last), last)
        return np.asarray(self._logits(params, full, packed), np.float64)[: len(rows)]


def review_window(trained: sentiment.Trained, request: Request) -> Window:
    """Return the content of the page that shows a trained sentiment model on the reviews of `request`; see `inspecting.make_window`."""
    reviews = _given(trained, request) or _chosen(trained, request.examples)
    epochs, network = kept_epochs(trained, request.epochs), ReviewNetwork(trained)
    examples, seen = [], set[str]()
    for review in reviews:
        frames = [_frame(network, params, review) for params in epochs.params]
        words = _words(trained, review)
        seen |= set(words)
        examples.append(Example(review.name, [_shown(word) for word in words], frames))
    about = f"{trained.run.path}: {trained.config.model.cell}, {trained.config.model.layers} x {trained.config.model.units} units."
    return Window("Sentiment, word by word", about, "word", epochs.numbers, epochs.shown, examples, _neighbours(trained, seen))


def _words(trained: sentiment.Trained, review: Review) -> list[str]:
    return [trained.vocabulary.word(int(identity)) for identity in review.ids[review.words]]


def _rows(trained: sentiment.Trained, split: data.EncodedSplit) -> np.ndarray:
    config = trained.config.data
    length = min(config.packed, int(split.lengths.max())) if config.packed else config.maxlen
    return split.padded(length, config.padding, config.truncating)


def _given(trained: sentiment.Trained, request: Request) -> list[Review]:
    texts: list[str | bytes] = list(request.texts)
    if request.file is not None:
        column = request.text_column or trained.config.data.text_column
        texts += [text for text in read_texts(request.file, column) if text.strip()]
    require(bool(texts) or request.file is None, "file", str(request.file), "give one review per line")
    found = []
    for number, text in enumerate(texts, 1):
        values, offsets = trained.vocabulary.encode_all([text])
        one = np.zeros(1, np.int32)
        found.append(Review(f"text {number}", _rows(trained, data.EncodedSplit(values, offsets, one, one))[0]))
    return found


def _chosen(trained: sentiment.Trained, count: int) -> list[Review]:
    """Choose held-out reviews of three kinds, up to `count` of each."""
    reviews = sentiment.load_reviews(trained.config)
    check_own_data(trained.run, reviews.fingerprint)
    parts = sentiment.padded_rows(reviews, trained.config).held_out()
    require(bool(parts), "reviews", "none held out", "give --text or --file")
    name, rows = list(parts.items())[-1]
    logits, labels = trained.logits(rows), rows.targets
    margin = np.where(labels == 1, logits, -logits)
    names = ("negative", "positive")
    found = []
    surest, worst = np.argsort(-margin)[: (margin > 0).sum()], np.argsort(margin)[: (margin < 0).sum()]
    orders = {"surest and right": surest, "most wrong": worst, "most torn": np.argsort(np.abs(logits))}
    for kind, order in orders.items():
        for n in first_of(order, count):
            found.append(Review(f"{kind}: {name} review {n}, {names[labels[n]]}", _ids(rows, n)))
    return found


def _ids(rows: sentiment.Split, number: int) -> np.ndarray:
    """Return the ids (T,) of the review with the index `number` in a split."""
    if isinstance(rows, sentiment.Rows):
        taken = rows.ids[number] if isinstance(rows.ids, np.ndarray) else rows.ids.take(np.asarray([number]))[0]
        return np.asarray(taken, np.int32)
    return rows.review(number)


def _frame(network: ReviewNetwork, params: Any, review: Review) -> Frame:
    ids, words = jnp.asarray(review.ids), review.words
    vectors = network.vectors(params, ids)
    logits = np.asarray(network.outputs(vectors, params, ids), np.float64)
    verdict = network.whole(params, review)
    path = integrated_gradients(network.verdict, vectors, params, ids)
    without = verdict - network.without_each(params, review)
    norms = np.asarray(gradient_norms(network.outputs, vectors, params, ids))
    after = logits[words] if network.stepwise else network.after_each(params, review)
    norms = norms[np.ix_(words, words)] if network.stepwise else norms[:, words]
    padding = float(path.values.sum() - path.values[words].sum())
    sums = f"They sum to {path.values.sum():+.3f}, of which padding has {padding:+.3f}; the difference is {path.difference:+.3f}."
    return Frame(
        f"The probability of a positive review is {float(sentiment.probabilities(np.asarray([verdict]))[0]):.4f} (logit {verdict:+.3f}).",
        Curve("probability of a positive review after each word", sentiment.probabilities(after).tolist(), (0.0, 1.0)),
        network.trace(params, ids[None], steps=words),
        (
            Strip("integrated gradients", path.values[words].tolist(), f"Shares of the words in the logit, against no words. {sums}"),
            Strip("leaving the word out", without.tolist(), "Logit of the review minus its logit without the word."),
        ),
        norms,
        network.stepwise,
        reach(norms).astype(float).tolist() if network.stepwise else (),
    )


def _neighbours(trained: sentiment.Trained, words: set[str]) -> dict[str, Sequence[tuple[str, float]]]:
    """Return the words whose vectors are nearest to the vectors of the given words."""
    space = trained.words
    least = min(LEAST_REVIEWS, max(1, int(space.statistics[1].max()) // 20))
    found = {}
    for word in sorted(words & space.index.keys()):
        near = space.neighbours(word, NEIGHBOURS, min_reviews=least)
        found[_shown(word)] = [(_shown(other), round(score, 2)) for other, score in near]
    return found


def _shown(word: str) -> str:
    return word.encode(errors="surrogateescape").decode(errors="replace")
