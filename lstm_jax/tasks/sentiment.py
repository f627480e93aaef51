"""Sentiment of reviews: config -> run folder, and what a trained run answers."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, Literal

import jax
import numpy as np
import optax
from rich.console import Console

from lstm_jax import data
from lstm_jax.config import SentimentConfig, sentiment_from_json
from lstm_jax.errors import InputError, require
from lstm_jax.models import SentimentClassifier, functional, replaced
from lstm_jax.runtime import sharding
from lstm_jax.tasks.memory import require_memory
from lstm_jax.tasks.running import Takes, begin, check_own_data, initial_rngs, load_params, mesh_of, open_run, summary, write_result
from lstm_jax.training.callbacks import Callback
from lstm_jax.training.loop import FitResult, fit
from lstm_jax.training.metrics import BinaryMetrics, binary_metrics, reliability
from lstm_jax.training.run_folder import RunFolder
from lstm_jax.training.step import Examples, LookupObjective, by_rows, make_predict

DENSE = "each step updates the whole embedding; adam, compiled, on a CPU, updates only the rows that it reads"
"""Said of a run whose steps do not update by rows."""


@dataclass(frozen=True)
class Rows:
    """ids: int32 (N, T); labels: int32 (N,)."""

    ids: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Splits:
    """Padded rows of a run."""

    train: Rows
    validation: Rows | None
    test: Rows | None


def padded_rows(encoded: data.EncodedReviews, config: SentimentConfig) -> Splits:
    """Pad, and hold out the validation part: no movie and no text in both parts."""

    def rows(split: data.EncodedSplit) -> Rows:
        return Rows(split.padded(config.data.maxlen, config.data.padding, config.data.truncating), split.labels)

    train, validation = encoded.train, None
    if config.data.validation:
        keep, held = data.grouped_split(train.labels, train.groups, config.data.validation, config.train.seed, train.hashes())
        train, validation = train.select(keep), rows(train.select(held))
    return Splits(rows(train), validation, rows(encoded.test) if encoded.test else None)


def load_reviews(config: SentimentConfig, on_progress: Callable[[str, int, int], None] | None = None) -> data.EncodedReviews:
    """The config's reviews, tokenised, from the cache where there is one."""
    fields = {name: value for name, value in asdict(config.data).items() if name not in ("maxlen", "padding", "truncating", "validation")}
    return data.prepare(**fields, on_progress=on_progress)


def make_model(config: SentimentConfig, vocabulary: int) -> SentimentClassifier:
    """The model with its initial weights; deterministic in the seed."""
    return SentimentClassifier(config.model, vocabulary, rngs=initial_rngs(config.train.seed))


def objective(rebuild: Callable) -> Callable:
    """Binary cross-entropy from logits, in nats, as a `training.step.Objective` over (ids, labels)."""

    def loss(params, batch, weight, key, vectors=None):
        ids, labels = batch
        logits = rebuild(params)(ids, vectors=vectors, summed=True, deterministic=False, rngs=key)
        target = labels.astype(logits.dtype)
        losses = optax.sigmoid_binary_cross_entropy(logits, target)
        correct = ((logits > 0) == (labels == 1)).astype(logits.dtype)
        mean = (losses * weight).sum()
        return mean, {"loss": mean, "accuracy": (correct * weight).sum()}

    return LookupObjective(loss, "embedding/embedding", lambda batch: batch[0].T)


def make_logits(rebuild: Callable, mesh: jax.sharding.Mesh, fold: bool | None = None) -> Callable[[Any, np.ndarray], np.ndarray]:
    """logits(params, ids (N, T)) -> (N,), without dropout.

    `fold`: multiply embedding and projection first, see `SentimentClassifier.fold`; None does so where there are more rows than words.
    """

    def prepare(params, count: int):
        model = rebuild(params)
        words = params["embedding/embedding"].shape[0]
        # of T words in a row; with as many words to read as there are in the table, it is as dear as what it saves
        return model.fold() if (count > words if fold is None else fold) else model

    return make_predict(lambda model, ids: model(ids, deterministic=True), mesh, prepare=prepare)


def train(
    config: SentimentConfig,
    folder: Path,
    *,
    reviews: data.EncodedReviews | None = None,
    initial: Mapping[str, jax.Array | np.ndarray] | None = None,
    resume: bool = False,
    allow_other_machine: bool = False,
    console: Console | None = None,
    callbacks: Sequence[Callback] = (),
    figures: bool = True,
) -> FitResult:
    """Train a run in `folder`: the whole of `lstm-jax train sentiment`.

    Args:
        config: all of it is written to the folder.
        folder: new, or with `resume` that of an interrupted run.
        reviews: in memory already; else those that the config names.
        initial: parameters by name, as in `Functional.params`, that take the place of those drawn from the seed; some or all.
        allow_other_machine: resume where devices, versions or compiled code are others than before: the last bits will differ.
        console: where to show progress and the table of layers.
        callbacks: called after each epoch, behind the built-in ones.
        figures: draw them at the end.

    Returns:
        What `fit` gives; rows have test_* and validation_* figures where there are such parts.

    Raises:
        InputError: for bad input, such as an initial parameter that the model does not have. Interrupted: after SIGINT or SIGTERM, when
            the state is saved.
    """
    console = console or Console(quiet=True)
    mesh = sharding.make_mesh(config.train.devices)
    if reviews is None:
        reviews = _load_with_spinner(config, console)
    _require_memory(config, reviews, mesh)
    splits = padded_rows(reviews, config)
    model = make_model(config, reviews.vocabulary.size)
    params, rebuild = functional(model)
    params = replaced(params, initial or {})
    files = {"vocabulary.json": reviews.vocabulary.to_json(), "words.npz": partial(_save_words, reviews)}
    takes = Takes(resume, allow_other_machine)
    with begin(config, folder, mesh, len(splits.train.labels), reviews.fingerprint, files, takes, console) as run:
        console.print(summary(model, f"ids (B, {config.data.maxlen}) -> logit (B,)"))
        held = f"{len(splits.validation.labels):,} held out, " if splits.validation else ""
        tested = f"{len(splits.test.labels):,} test, " if splits.test else ""
        console.print(
            f"{len(splits.train.labels):,} training reviews, {held}{tested}backend {run.backend}, {mesh.size} devices", highlight=False
        )

        loss = objective(rebuild)
        if not by_rows(loss, run.optimizer, params):
            console.print(f"optimizer {config.train.optimizer}: {DENSE}", highlight=False, soft_wrap=True)

        logits = make_logits(rebuild, mesh)
        parts = {name: rows for name, rows in (("validation", splits.validation), ("test", splits.test)) if rows is not None}

        def evaluate(params) -> dict[str, float]:
            figures = {}
            for name, rows in parts.items():
                began = time.perf_counter()
                row = binary_metrics(logits(params, rows.ids), rows.labels).to_row()
                figures |= {f"{name}_{figure}": row[figure] for figure in ("loss", "accuracy", "auc", "ece")}
                figures[f"{name}_seconds"] = time.perf_counter() - began
            return figures

        result = fit(
            params,
            loss,
            run.optimizer,
            Examples.of_rows((splits.train.ids, splits.train.labels)),
            config.train,
            mesh,
            evaluate=evaluate,
            monitor="validation_loss" if splits.validation else "",
            checkpoints=run.folder.checkpoints,
            resume=resume,
            callbacks=run.callbacks(console, callbacks),
            console=console,
        )
        _finish(run.folder, result, splits, logits, figures)
        return result


def _save_words(reviews: data.EncodedReviews, file: IO[bytes]) -> None:
    """Write what `embedding` says of each word: the share of positive reviews among those that hold it, and their number."""
    from lstm_jax.inspection import embedding_space

    train = reviews.train
    share, count = embedding_space.word_polarity(train.values, train.offsets, train.labels, reviews.vocabulary.size)
    np.savez_compressed(file, share=share, count=count)


def _words(run: RunFolder) -> tuple[np.ndarray, np.ndarray]:
    """By id, the share of positive reviews and the number of reviews.

    Raises:
        InputError: if the file is absent or damaged.
    """
    try:
        with run.words.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            return file["share"], file["count"]
    except OSError as error:
        raise InputError(f"words {run.words}", error.strerror or error, "resume the run, which writes them") from error
    except Exception as error:  # whatever NumPy says of a file that is none of its own
        raise InputError(f"words {run.words}", error, "remove the file and resume the run, which writes it anew") from error


def _require_memory(config: SentimentConfig, reviews: data.EncodedReviews, mesh: jax.sharding.Mesh) -> None:
    size, length = config.train.batch_size, config.data.maxlen
    batch = (jax.ShapeDtypeStruct((size, length), np.int32), jax.ShapeDtypeStruct((size,), np.int32))
    flags = {
        "parameters": "--units, --layers, --embed or --num-words",
        "residuals": "--batch-size, --maxlen, --units or --layers, or give --remat sqrt",
        "data": "--maxlen",
    }
    make = partial(make_model, config, reviews.vocabulary.size)
    require_memory(config, make, objective, batch, mesh, flags, rows=4 * length * len(reviews.train))


def _load_with_spinner(config: SentimentConfig, console: Console) -> data.EncodedReviews:
    with console.status("reading reviews") as status:
        return load_reviews(config, lambda what, done, total: status.update(f"{what} ({done}/{total})"))


def _finish(run, result, splits, logits, figures: bool) -> None:
    """Final figures of the chosen parameters, and the pictures."""
    shown = "test" if splits.test else "validation" if splits.validation else ""
    row, scored = {}, None
    if shown:
        rows = getattr(splits, shown)
        scored = (logits(result.params, rows.ids), rows.labels)
        row = binary_metrics(*scored).to_row(f"{shown}_")
    write_result(run, result, row)
    if figures:
        draw_figures(run, result, scored, shown)


def draw_figures(run: RunFolder, result: FitResult, scored: tuple[np.ndarray, np.ndarray] | None, part: str) -> None:
    """Learning curves, confusion matrix, reliability curve and embedding map, as PNG and SVG in the run's folder.

    Args:
        scored: logits (N,) and labels (N,) of the part of that name.
    """
    from lstm_jax.inspection import plots

    plots.learning_curves(list(result.rows), run.figures / "learning_curves.png", "Learning curves")
    if scored is not None:
        metrics = binary_metrics(*scored)
        plots.confusion_matrix(metrics.confusion, run.figures / "confusion_matrix.png", f"Confusion matrix, {part} reviews")
        curve = reliability(probabilities(scored[0]), scored[1])
        plots.reliability_curve(curve, metrics.ece, run.figures / "reliability.png", f"Reliability, {part} reviews")
    table = np.asarray(result.params["embedding/embedding"])
    if table.shape[1] >= 2 and len(_common_words(run)[0]) >= 3:
        draw_embedding(run, table, run.figures / "embedding_map.png")


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Return the sigmoid of logits in float64."""
    from scipy.special import expit

    return expit(logits.astype(np.float64))


def draw_embedding(run: RunFolder, table: np.ndarray, path: Path, words: int = 400, force: bool = True) -> None:
    """The learned space in two dimensions: of the words in 50 reviews or more, the `words` that say most about a review.

    Raises:
        InputError: for fewer than 3 such words or 2 features.
    """
    from lstm_jax.inspection import embedding_map, embedding_space

    vocabulary = data.Vocabulary.load(run.vocabulary)
    common, share, count = _common_words(run)
    require(len(common) >= 3, "words for a map", len(common), "train on more reviews or with a larger --num-words")
    one_sided = common[np.argsort(-np.abs(share[common] - 0.5) * np.sqrt(count[common]), kind="stable")][:words]
    plane = embedding_space.project(table[one_sided])
    embedding_map.embedding_map(
        plane, [vocabulary.word(int(i)) for i in one_sided], share[one_sided], path, "Learned embedding, first two principal axes", force
    )


def _common_words(run: RunFolder) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ids of the words in 50 reviews or more (fewer in a small data set); of all ids the positive share and the number of reviews."""
    share, count = _words(run)
    common = np.flatnonzero(count >= min(50, max(1, count.max() // 20)))
    return common[common >= 4], share, count


@dataclass(frozen=True)
class Trained:
    """A run read back: `probabilities(texts)` answers."""

    run: RunFolder
    config: SentimentConfig
    vocabulary: data.Vocabulary
    params: dict[str, np.ndarray]
    notes: tuple[str, ...]
    _logits: Callable[[Any, np.ndarray], np.ndarray]

    def logits(self, ids: np.ndarray) -> np.ndarray:
        """Padded ids (N, T) -> logits (N,)."""
        return self._logits(self.params, ids)

    def probabilities(self, texts: Sequence[str | bytes]) -> np.ndarray:
        """Probability that each review is positive, float64 (N,); encoded exactly as the training reviews were."""
        if not texts:
            return np.zeros(0)
        values, offsets = self.vocabulary.encode_all(texts)
        ids = data.pad_ragged(values, offsets, self.config.data.maxlen, self.config.data.padding, self.config.data.truncating)
        return probabilities(self.logits(ids))


def load(folder: Path) -> Trained:
    """Read a run: the parameters of its best epoch where a validation part chose it, else of its newest.

    Raises:
        InputError: if the folder is no run, or no good checkpoint is left in it.
    """
    run, notes = open_run(folder)
    config = sentiment_from_json(run.config)
    vocabulary = data.Vocabulary.load(run.vocabulary)
    like, rebuild = functional(make_model(config, vocabulary.size))
    params, damaged = load_params(run, like)
    return Trained(run, config, vocabulary, params, notes + damaged, make_logits(rebuild, mesh_of(config)))


def evaluate(trained: Trained, reviews: data.EncodedReviews | None = None, split: str = "test") -> BinaryMetrics:
    """Metrics of a run on a split of its own reviews, or of `reviews`, whose vocabulary must be the run's.

    Raises:
        InputError: if there is no such split, the run's data have changed, or the reviews' ids are other words than the run's.
    """
    if reviews is None:
        reviews = load_reviews(trained.config)
        check_own_data(trained.run, reviews.fingerprint)
    same = reviews.vocabulary == trained.vocabulary
    require(same, "vocabulary of the reviews", "not the run's", "give the reviews that the run was trained on")
    splits = padded_rows(reviews, trained.config)
    rows = getattr(splits, split)
    require(rows is not None, "split", split, "this run's data has no such part")
    return binary_metrics(trained.logits(rows.ids), rows.labels)


def neighbours(
    trained: Trained, word: str, count: int = 10, metric: Literal["cosine", "euclidean"] = "cosine", min_reviews: int = 100
) -> list[tuple[str, float]]:
    """The `count` words nearest to `word` in the embedding, with similarity or distance.

    Args:
        min_reviews: only words that so many training reviews hold; a rarer one has hardly moved from where it was drawn.

    Raises:
        InputError: for a word that the run does not know.
    """
    from lstm_jax.inspection import embedding_space

    table = trained.params["embedding/embedding"]
    index = {known: number for known, number in trained.vocabulary.index.items() if number < len(table)}
    own = embedding_space.lookup(index, word)
    _, seen = _words(trained.run)
    # reserved ids stay in front, as `embedding_space.neighbours` leaves them out
    kept = [*range(4), *(number for number in sorted(index.values()) if seen[number] >= min_reviews or number == own)]
    ids, scores = embedding_space.neighbours(table[kept], kept.index(own), count, metric)
    return [(trained.vocabulary.word(kept[int(i)]), float(score)) for i, score in zip(ids, scores, strict=True)]


def export_embedding(trained: Trained, out: Path, form: str, force: bool = True) -> int:
    """Write the vectors of all words with their figures; returns how many.

    Args:
        out: a file for "word2vec", a folder for "projector".
        force: see `files.check_output`.
    """
    from lstm_jax.inspection import embedding_space

    table = trained.params["embedding/embedding"]
    ids = range(4, min(len(table), 4 + len(trained.vocabulary.words)))
    words = [trained.vocabulary.word(i) for i in ids]
    vectors = table[4 : 4 + len(words)]
    if form == "word2vec":
        embedding_space.export_word2vec(out, words, vectors, force)
    else:
        share, count = _words(trained.run)
        columns = {"reviews": count[4 : 4 + len(words)], "positive_share": share[4 : 4 + len(words)].round(4)}
        embedding_space.export_projector(out, words, vectors, columns, force)
    return len(words)
