"""Sentiment task: training a classifier of reviews, and classifying texts with the
trained model.
"""

import json
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import IO, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import lax
from jax.sharding import Mesh
from numpy import ndarray

from lstm_jax import convert
from lstm_jax.base import processes
from lstm_jax.base.checks import as_tuple, frozen
from lstm_jax.base.errors import check_class, parsing, require
from lstm_jax.lab import task as base
from lstm_jax.lab.files.text import counted
from lstm_jax.lab.inspection import embedding_space, figures
from lstm_jax.lab.machine.console import say
from lstm_jax.lab.predict import make_predict
from lstm_jax.lab.runs.folder import RunFolder
from lstm_jax.lab.runs.reports import metrics_file, print_row, progress
from lstm_jax.lab.sentiment import pretraining
from lstm_jax.lab.sentiment.adversarial import perturbation, with_gradient
from lstm_jax.lab.sentiment.config import SentimentConfig
from lstm_jax.lab.sentiment.data import (
    EncodedReviews,
    EncodedSplit,
    PaddedReviews,
    Vocabulary,
)
from lstm_jax.lab.sentiment.metrics import BinaryMetrics, binary_metrics, reliability
from lstm_jax.lab.sentiment.model import EMBEDDING, SentimentClassifier
from lstm_jax.lab.sentiment.rows import (
    NONE,
    PackedRows,
    Rows,
    Split,
    Splits,
    encoded_reviews,
    padded_ids,
    padded_rows,
    rows_of,
    split_reviews,
)
from lstm_jax.lab.task import initial_rngs
from lstm_jax.layers.products import set_products
from lstm_jax.training.parts import functional
from lstm_jax.training.step import Objective, row_sparse

DENSE = (
    "each step updates the whole embedding; adam, compiled, on a CPU, updates "
    "only the rows that it reads"
)
"""Note that is printed before training if each step updates the whole embedding."""

COMMON = 50
"""Least number of training reviews that must contain a word on the map. In a small data
set, the limit is lower (`WordSpace.common`)."""


def make_model(config: SentimentConfig, vocabulary: int) -> SentimentClassifier:
    """Return a new model, whose random initial weights are drawn from the seed in the
    config.

    A model of packed reviews skips padding (`mask_zero`), because it is trained without
    padding, but may be given padded reviews later.
    """
    model = replace(
        config.model, mask_zero=config.model.mask_zero or config.data.packed > 0
    )
    return SentimentClassifier(model, vocabulary, rngs=initial_rngs(config.train.seed))


def objective(rebuild: Callable, adversarial: float = 0.0) -> Objective:
    """Return the training objective: the mean binary cross-entropy of the reviews, in
    nats.

    If `adversarial` is above 0, that of the reviews with a `perturbation` of this size
    and the same dropout masks is added. The metrics are those without perturbation.

    A batch is a pair (ids, labels) with the shapes (B, T) and (B,), or a triple (ids,
    labels, places) of packed reviews; see `PackedRows`.
    """

    def cross_entropy(params, vectors, ids, labels, places, weight, key):
        logits = rebuild(params)(
            ids, vectors=vectors, packed=places, deterministic=False, rngs=key
        )
        losses = optax.sigmoid_binary_cross_entropy(logits, labels.astype(logits.dtype))
        return (losses * weight).sum(), logits

    def loss(params, batch, weight, key):
        ids, labels, *packed = batch
        places = packed[0] if packed else None
        # of each review
        each = (
            weight
            if places is None
            else (labels != NONE).astype(weight.dtype) * weight[:, None]
        )
        rest = ids, labels, places, each, key
        if adversarial:
            table = jax.typeof(params[EMBEDDING])
            vectors = rebuild(params).embedding(ids.T, 1)
            others = {
                name: param for name, param in params.items() if name != EMBEDDING
            }

            def without_table(others, *rest):
                # which is not read
                return cross_entropy(
                    others | {EMBEDDING: jnp.zeros(table.shape, table.dtype)}, *rest
                )

            found: Any = with_gradient(without_table, others, vectors, *rest)
            mean, logits, gradient = found
            moved = perturbation(
                lax.stop_gradient(vectors), gradient, ids, places, adversarial
            )
            more = cross_entropy(params, vectors + moved, *rest)[0]
        else:
            mean, logits = cross_entropy(params, None, *rest)
            more = 0.0
        correct = ((logits > 0) == (labels == 1)).astype(logits.dtype)
        return mean + more, {"loss": mean, "accuracy": (correct * each).sum()}

    return loss


def make_logits(
    rebuild: Callable, mesh: Mesh, fold: bool | None = None
) -> Callable[[Any, ndarray], ndarray]:
    """Return a compiled function logits(params, ids) that computes the logits (N,) of N
    reviews with the word ids (N, T), without dropout.

    `fold` says whether to fold the model (see `SentimentClassifier.fold`). If None,
    only for more reviews than the vocabulary has words.
    """

    def prepare(params, count):
        model = rebuild(params)
        words = params[EMBEDDING].shape[0]
        # folding multiplies each word of the vocabulary by the kernels once; otherwise
        # each word of each review is multiplied by them
        return model.fold() if (count > words if fold is None else fold) else model

    return make_predict(
        lambda model, ids: model(ids, deterministic=True), mesh, prepare=prepare
    )


def probabilities(logits: ndarray) -> ndarray:
    """Return the sigmoid of logits, computed in float64."""
    from scipy.special import expit

    return expit(logits.astype(np.float64))


Logits = Callable[[Any, Split | ndarray], ndarray]
"""Function that `logits_of` returns."""


def logits_of(rebuild: Callable, mesh: Mesh) -> Logits:
    """Return a function logits(params, reviews) that computes N logits from `Rows`,
    `PackedRows` or the ids (N, T) of padded reviews.

    The returned function raises `InputError` if `reviews` is something else.
    """
    padded = make_logits(rebuild, mesh)
    packed = make_predict(
        lambda model, batch: model(batch[0], packed=batch[1], deterministic=True),
        mesh,
        32,
        lambda p, _: rebuild(p),
    )

    def logits(params, rows):
        if isinstance(rows, PackedRows):
            return rows.by_review(packed(params, (rows.ids, rows.places)))
        ids = (
            rows.ids
            if isinstance(rows, Rows)
            else padded_ids(rows, params[EMBEDDING].shape[0])
        )
        blocks = ids.blocks() if isinstance(ids, PaddedReviews) else [ids]
        return np.concatenate([padded(params, block) for block in blocks])

    return logits


class Sentiment(base.Task[SentimentConfig, EncodedReviews]):
    """Task that trains a model to classify reviews as positive or negative."""

    table = EMBEDDING
    flags = {  # noqa: RUF012
        "parameters": "--units, --layers, --embed or --num-words",
        "residuals": (
            "--batch-size, --maxlen (or --packed), --units or --layers, or give "
            "--microbatches or --remat sqrt"
        ),
        "data": "--maxlen (or --packed)",
    }

    def __init__(self, config, data, mesh):
        for name, found in (
            ("vocabulary", data.vocabulary.kind),
            ("num_words", data.vocabulary.size),
        ):
            given = getattr(config.data, name)
            require(
                given == found,
                f"{name} of the config",
                given,
                f"the reviews have {found}: give the same to both",
            )
        super().__init__(config, data, mesh)

    @classmethod
    def read(cls, config, console):
        with console.status("reading reviews") as status:
            return encoded_reviews(
                config,
                lambda what, done, total: status.update(f"{what} ({done}/{total})"),
            )

    def batch(self):
        size, length = self.config.train.batch_size, self.config.data.maxlen
        if self.config.data.packed:
            return jax.tree.map(
                lambda a: jax.ShapeDtypeStruct((size, *a.shape[1:]), a.dtype),
                self.examples().arrays,
            )
        return jax.ShapeDtypeStruct((size, length), np.int32), jax.ShapeDtypeStruct(
            (size,), np.int32
        )

    def data_bytes(self):
        texts, reviews = self.config.data, self.data
        if texts.packed:  # ids and segment ids
            return 8 * int(np.minimum(reviews.train.lengths, texts.packed).sum())
        held_out = texts.validation * len(reviews.train) + (
            len(reviews.test) if reviews.test else 0
        )
        return (
            4
            * texts.maxlen
            * (round(held_out) if texts.input == "stream" else len(reviews.train))
        )

    @cached_property
    def splits(self) -> Splits:
        """Padded or packed reviews of the training, validation and test splits."""
        return padded_rows(self.data, self.config)

    def examples(self):
        return self.splits.train.examples()

    def files(self):
        return {
            "vocabulary.json": self.data.vocabulary.to_json(),
            "words.npz": partial(write_words, self.data),
        }

    def make_model(self):
        return make_model(self.config, self.data.vocabulary.size)

    def shapes(self):
        if isinstance(rows := self.splits.train, PackedRows):
            return f"ids (B, {rows.ids.shape[1]}) -> logits (B, {rows.labels.shape[1]})"
        return f"ids (B, {self.config.data.maxlen}) -> logit (B,)"

    def objective(self, rebuild):
        return objective(rebuild, self.config.model.adversarial)

    def notes(self, start):
        held = "".join(
            f"{rows.count:,} {'test' if name == 'test' else 'held out'}, "
            for name, rows in self.splits.held_out().items()
        )
        if isinstance(rows := self.splits.train, PackedRows):
            yield (
                f"reviews packed in {len(rows.ids):,} rows of {rows.ids.shape[1]} "
                f"words, {100 * rows.padding:.2f} % padding"
            )
        yield (
            f"{counted(self.splits.train.count, 'training review')}, "
            f"{held}backend {start.backend}, {counted(self.mesh.size, 'device')}"
        )
        if not row_sparse(self.table, start.optimizer, self.functional.params):
            yield f"optimizer {self.config.train.optimizer}: {DENSE}"

    def check_memory(self):
        super().check_memory()
        if self.config.pretraining.lm_epochs:
            pretraining.LanguageModel(
                self.config,
                self.data.vocabulary.size,
                self.data.train.values,
                self.mesh,
            ).check_memory()

    def pretrained(self, run, resume, console):
        epochs = self.config.pretraining.lm_epochs
        if not epochs:
            return {}
        say(console, f"language model, {counted(epochs, 'epoch')}")
        train, held_out = split_reviews(self.data, self.config)
        with progress(console) as watch:
            trained = pretraining.pretrain(
                self.config,
                self.data.vocabulary.size,
                train.values,
                held_out.values if held_out else None,
                self.mesh,
                checkpoints=run.language_model,
                resume=resume,
                callbacks=(metrics_file(run.pretraining_metrics), print_row(console)),
                watch=watch,
            )
        say(console, "classifier")
        return pretraining.shared_params(self.functional.params, trained.params)

    @property
    def monitor(self):
        return "validation_loss" if self.splits.validation else ""

    @cached_property
    def logits(self) -> Logits:
        """Function from parameters and reviews to the logits (N,) of the N reviews."""
        return logits_of(self.functional.rebuild, self.mesh)

    def evaluate(self, params):
        metrics = {}
        for name, rows in self.splits.held_out().items():
            began = time.perf_counter()
            row = binary_metrics(self.logits(params, rows), rows.targets).to_row()
            metrics |= {
                f"{name}_{metric}": row[metric]
                for metric in ("loss", "accuracy", "auc", "ece")
            }
            metrics[f"{name}_seconds"] = time.perf_counter() - began
        return metrics

    def results(self, run, params):
        """Return the metrics of the test split, or else of the validation split if
        there is one.

        If a language model was trained first, its training time is returned as
        "pretraining_seconds", and its checkpoints are removed.
        """
        held_out = self.splits.held_out()
        name = next(reversed(held_out), "")
        scored = (
            (self.logits(params, held_out[name]), held_out[name].targets)
            if name
            else None
        )
        row = binary_metrics(*scored).to_row(f"{name}_") if scored else {}
        if self.config.pretraining.lm_epochs:
            lines = (
                run.pretraining_metrics.read_text().splitlines()
                if run.pretraining_metrics.exists()
                else ()
            )
            row["pretraining_seconds"] = sum(
                json.loads(line)["seconds"] for line in lines
            )
            if processes.first():
                # only an unfinished run needs it
                shutil.rmtree(run.language_model, ignore_errors=True)
        return row, lambda: draw_figures(run, params, scored, name)


def write_words(reviews: EncodedReviews, file: IO[bytes]) -> None:
    """Write word statistics of the training reviews to an .npz file, as two arrays
    `share` and `count`.
    """
    size = reviews.vocabulary.size
    counts = [
        embedding_space.word_counts(block.values, block.offsets, block.labels, size)
        for block in reviews.train.blocks()
    ]
    positive, count = (np.sum(parts, axis=0) for parts in zip(*counts, strict=True))
    with np.errstate(invalid="ignore"):
        np.savez_compressed(file, share=positive / count, count=count)


FIRST = embedding_space.RESERVED_IDS
"""Id of the first word. The ids below it stand for no word."""


@frozen
class WordSpace:
    """Word vectors that a trained sentiment model has learned. Row i of `table` (V, E)
    is the vector of the word with id i.
    """

    run: RunFolder
    vocabulary: Vocabulary
    table: ndarray

    @cached_property
    def statistics(self) -> tuple[ndarray, ndarray]:
        """Two arrays (V,), `share` and `count`. Each array has one entry for each id of
        the vocabulary.
        """
        remedy = "remove the file, if there is one, and resume the run to write it anew"
        with (
            parsing(f"words {self.run.words}", remedy),
            self.run.words.open("rb") as raw,
            np.load(raw, allow_pickle=False) as file,
        ):
            return file["share"], file["count"]

    @cached_property
    def index(self) -> dict[str, int]:
        """Dict from each word that has a vector to its id."""
        return {
            word: number
            for word, number in self.vocabulary.index.items()
            if number < len(self.table)
        }

    @cached_property
    def common(self) -> ndarray:
        """Ids of the common words, which are the words that occur in many training
        reviews.
        """
        _, count = self.statistics
        common = np.flatnonzero(count >= min(COMMON, max(1, count.max() // 20)))
        return common[common >= FIRST]

    def draw(self, path: Path, words: int = 400, force: bool = True) -> None:
        """Draw a map of common words (see `common`)."""
        require(words >= 2, "words on a map", words, "give 2 or more")
        (share, count), common = self.statistics, self.common
        require(
            len(common) >= 3,
            "words for a map",
            len(common),
            "train on more reviews or with a larger --num-words",
        )
        one_sided = common[
            np.argsort(
                -np.abs(share[common] - 0.5) * np.sqrt(count[common]), kind="stable"
            )
        ][:words]
        # the most frequent word first
        drawn = one_sided[np.argsort(-count[one_sided], kind="stable")]
        plane = embedding_space.project(self.table[drawn])
        names = [self.vocabulary.word(int(i)) for i in drawn]
        figures.embedding_map(
            plane,
            names,
            share[drawn],
            path,
            "Learned embedding, first two principal axes",
            force,
        )

    def neighbours(
        self,
        word: str,
        count: int = 10,
        metric: Literal["cosine", "euclidean"] = "cosine",
        min_reviews: int = 100,
    ) -> list[tuple[str, float]]:
        """Return the words nearest to `word`, nearest first, as a list of pairs."""
        own = embedding_space.lookup(self.index, word)
        # the reserved ids stay in front, because `embedding_space.neighbours` skips the
        # first rows of the table
        kept = self.statistics[1][: FIRST + len(self.index)] >= min_reviews
        kept[:FIRST] = kept[own] = True
        ids = np.flatnonzero(kept)
        found, scores = embedding_space.neighbours(
            self.table[ids], int(np.searchsorted(ids, own)), count, metric
        )
        return [
            (self.vocabulary.word(int(ids[i])), float(score))
            for i, score in zip(found, scores, strict=True)
        ]

    def export(self, out: Path, form: str) -> int:
        """Write the vectors of all words to a file or a folder, and return the number
        of words.
        """
        words, part = list(self.index), slice(FIRST, FIRST + len(self.index))
        if form == "word2vec":
            embedding_space.export_word2vec(out, words, self.table[part])
        else:
            share, count = self.statistics
            columns = {"reviews": count[part], "positive_share": share[part].round(4)}
            embedding_space.export_projector(out, words, self.table[part], columns)
        return len(words)


def draw_figures(
    run: RunFolder, params, scored: tuple[ndarray, ndarray] | None, split: str
) -> None:
    """Draw a reliability curve and an embedding map into the folder of a run.

    `scored` holds the logits (N,) and labels (N,) of N reviews of the split `split`, or
    is None. The map needs 3 common words and word vectors with 2 entries.
    """
    if scored is not None:
        metrics = binary_metrics(*scored)
        curve = reliability(probabilities(scored[0]), scored[1])
        figures.reliability_curve(
            curve,
            metrics.ece,
            run.figures / "reliability.png",
            f"Reliability, {split} reviews",
        )
    words = WordSpace(
        run, Vocabulary.load(run.vocabulary), np.asarray(params[EMBEDDING])
    )
    if words.table.shape[1] >= 2 and len(words.common) >= 3:
        words.draw(run.figures / "embedding_map.png")


@frozen
class Trained(base.Trained[SentimentConfig, Vocabulary]):
    """The trained model of a sentiment run, loaded from the folder of the run. The
    method `probabilities` classifies texts.
    """

    kind = SentimentConfig

    @property
    def vocabulary(self) -> Vocabulary:
        """Vocabulary of the run: its words and their ids."""
        return self.own

    @staticmethod
    def _open(run, config):
        vocabulary = Vocabulary.load(run.vocabulary)
        return vocabulary, make_model(config, vocabulary.size)

    def network(self):
        from lstm_jax.lab.sentiment.page import ReviewNetwork

        return ReviewNetwork(self)

    def to_onnx(self):
        data, model = self.config.data, self.config.model
        settings = {
            "padding": data.padding,
            "truncating": data.truncating,
            "maxlen": data.packed or data.maxlen,
        }
        return self._to_onnx(
            convert.sentiment_to_onnx,
            settings,
            merge=model.merge,
            pooling=model.pooling,
            # a packed review has no padding
            skip_padding=model.mask_zero or data.packed > 0,
        )

    def reviews(self) -> EncodedReviews:
        """Load the reviews that the run was trained on, or raise an `InputError` if
        they have changed.
        """
        reviews = encoded_reviews(self.config)
        self.check_own(reviews)
        return reviews

    @cached_property
    def words(self) -> WordSpace:
        """Word vectors of the trained embedding."""
        return WordSpace(self.run, self.vocabulary, self.params[EMBEDDING])

    @cached_property
    def _logits(self) -> Logits:
        return logits_of(self.rebuild, self.mesh)

    def logits(self, reviews: Split | ndarray) -> ndarray:
        """Return the logits (N,) of N reviews, which are given as `Rows`, as
        `PackedRows`, or as the word ids (N, T) of padded reviews.

        Raises:
            InputError: if `reviews` is something else.
        """
        return self._logits(self.params, reviews)

    def probabilities(self, texts: Iterable[str | bytes]) -> ndarray:
        """Return the probability that each of N texts is a positive review, as float64
        (N,).

        The texts are encoded in the same way as the training reviews. An `InputError`
        is raised if `texts` is a single text, or if one of them is neither a str nor
        bytes.
        """
        listed = as_tuple("texts", texts, "give a list of texts")
        for text in listed:
            require(
                isinstance(text, str | bytes), "text", repr(text), "give str or bytes"
            )
        return probabilities(self.logits(self.rows(listed))) if listed else np.zeros(0)

    def rows(self, texts: Sequence[str | bytes]) -> Split:
        """Return one text or more as padded or packed reviews, encoded in the same way
        as the training reviews, with labels of 0.
        """
        values, offsets = self.vocabulary.encode_all(texts)
        unknown = np.zeros(len(texts), np.int32)
        return rows_of(EncodedSplit(values, offsets, unknown, unknown), self.config)


def evaluate(
    trained: Trained, reviews: EncodedReviews | None = None, split: str = "test"
) -> BinaryMetrics:
    """Return the metrics of a trained model on one split of its reviews: "train",
    "validation" or "test".

    If `reviews` is None, the reviews that the config of the run names are loaded.

    Raises:
        InputError: if the reviews do not have this split, or have another vocabulary
            than the run, or if the data of the run have changed.
    """
    require(
        split in ("train", "validation", "test"),
        "split",
        split,
        "give train, validation or test",
    )
    reviews = trained.reviews() if reviews is None else reviews
    check_class(
        "reviews",
        reviews,
        EncodedReviews,
        "give what sentiment.encoded_reviews returns",
    )
    same = reviews.vocabulary == trained.vocabulary
    require(
        same,
        "vocabulary of the reviews",
        "not the run's",
        "give the reviews that the run was trained on",
    )
    splits = padded_rows(reviews, trained.config)
    rows = getattr(splits, split)
    require(
        rows is not None,
        "split",
        split,
        "this run's data has no such part: give "
        f"{' or '.join(['train', *splits.held_out()])}",
    )
    return binary_metrics(trained.logits(rows), rows.targets)


def make_server(
    model: SentimentClassifier, dtype: str | None = None
) -> Callable[[ndarray], ndarray]:
    """Return a function logits(ids) that computes the logits (B,) of the word ids (B,
    T) of B reviews in one compiled call, as a server needs it for a few reviews at a
    time.

        trained = sentiment.load("runs/sentiment")
        logits = make_server(trained.rebuild(trained.params))

    The model is folded (see `SentimentClassifier.fold`): for V words, H units and G
    gates, a table of V * G * H numbers per direction replaces a matrix product. JAX
    compiles the function for each shape of `ids`. `dtype` is that of the matrix
    products, "float32", "bfloat16" or "int8", or None for that of `model`, which is not
    changed.

    Raises:
        InputError: if `model` is no `SentimentClassifier`, or already folded. The
            returned function raises it unless `ids` are integers (B, T) from 0 to V -
            1, where T is at least 1.
    """
    remedy = "give a SentimentClassifier, such as trained.rebuild(trained.params)"
    check_class("model", model, SentimentClassifier, remedy)
    vocabulary, folded = model.embedding.embedding.shape[0], nnx.clone(model)
    folded.eval()
    if dtype is not None:
        set_products(folded, dtype)
    # no longer read, so it need not stay in memory
    folded.fold().embedding.embedding = nnx.Param(jnp.zeros((0, 0)))
    params, rebuild = functional(folded)
    given = list(params.values())

    # each argument of a compiled call takes some tenths of a microsecond, and a dict
    # takes longer than a flat list
    @jax.jit
    def compiled(ids, *given):
        return rebuild(dict(zip(params, given, strict=True)))(ids, deterministic=True)

    def logits(ids):
        return np.asarray(compiled(padded_ids(ids, vocabulary), *given))

    return logits


train, load = Sentiment.train, Trained.load
