"""Sentiment of reviews: config -> run folder, and what a trained run answers."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import optax
from rich.console import Console

from lstm_jax import data, sharding
from lstm_jax.config import SentimentConfig, sentiment_from_json
from lstm_jax.errors import require
from lstm_jax.files import write_atomically
from lstm_jax.models import SentimentClassifier, functional, replaced
from lstm_jax.tasks.memory import require_memory
from lstm_jax.tasks.running import begin, initial_rngs, load_params, mesh_of, summary, write_result
from lstm_jax.training.callbacks import Callback
from lstm_jax.training.loop import FitResult, fit
from lstm_jax.training.metrics import BinaryMetrics, binary_metrics, reliability
from lstm_jax.training.run_folder import RunFolder
from lstm_jax.training.step import Examples, LookupObjective, make_predict


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
    run = begin(config, folder, mesh, len(splits.train.labels), reviews.fingerprint, resume)
    reviews.vocabulary.save(run.folder.vocabulary)
    console.print(summary(model, f"ids (B, {config.data.maxlen}) -> logit (B,)"))
    held = f"{len(splits.validation.labels):,} held out, " if splits.validation else ""
    tested = f"{len(splits.test.labels):,} test, " if splits.test else ""
    console.print(
        f"{len(splits.train.labels):,} training reviews, {held}{tested}backend {run.backend}, {mesh.size} devices", highlight=False
    )

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
        objective(rebuild),
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
    _finish(run.folder, config, result, reviews, splits, logits, figures)
    return result


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


def _finish(run, config, result, reviews, splits, logits, figures: bool) -> None:
    """Final figures of the chosen parameters, what `embedding` needs later, and the pictures."""
    from lstm_jax import embedding_space

    share, count = embedding_space.word_polarity(reviews.train.values, reviews.train.offsets, reviews.train.labels, reviews.vocabulary.size)
    write_atomically(run.words, lambda file: np.savez_compressed(file, share=share, count=count))
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
    from lstm_jax import plots

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
    """sigmoid, in float64."""
    return 1 / (1 + np.exp(-logits.astype(np.float64)))


def draw_embedding(run: RunFolder, table: np.ndarray, path: Path, words: int = 400, force: bool = True) -> None:
    """The learned space in two dimensions: of the words in 50 reviews or more, the `words` that say most about a review.

    Raises:
        InputError: for fewer than 3 such words or 2 features.
    """
    from lstm_jax import embedding_space, plots

    vocabulary = data.Vocabulary.load(run.vocabulary)
    common, share, count = _common_words(run)
    require(len(common) >= 3, "words for a map", len(common), "train on more reviews or with a larger --num-words")
    one_sided = common[np.argsort(-np.abs(share[common] - 0.5) * np.sqrt(count[common]), kind="stable")][:words]
    plane = embedding_space.project(table[one_sided])
    plots.embedding_map(
        plane, [vocabulary.word(int(i)) for i in one_sided], share[one_sided], path, "Learned embedding, first two principal axes", force
    )


def _common_words(run: RunFolder) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ids of the words in 50 reviews or more (fewer in a small data set); of all ids the positive share and the number of reviews."""
    with np.load(run.words) as file:
        share, count = file["share"], file["count"]
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
    run = RunFolder(folder)
    config = sentiment_from_json(run.config)
    vocabulary = data.Vocabulary.load(run.vocabulary)
    like, rebuild = functional(make_model(config, vocabulary.size))
    params, notes = load_params(run, like)
    return Trained(run, config, vocabulary, params, notes, make_logits(rebuild, mesh_of(config)))


def evaluate(trained: Trained, reviews: data.EncodedReviews | None = None, split: str = "test") -> BinaryMetrics:
    """Metrics of a run on a split of its own reviews, or of `reviews`.

    Raises:
        InputError: if there is no such split.
    """
    splits = padded_rows(reviews or load_reviews(trained.config), trained.config)
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
    from lstm_jax import embedding_space

    table = trained.params["embedding/embedding"]
    index = {known: number for known, number in trained.vocabulary.index.items() if number < len(table)}
    own = embedding_space.lookup(index, word)
    with np.load(trained.run.words) as file:
        seen = file["count"]
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
    from lstm_jax import embedding_space

    table = trained.params["embedding/embedding"]
    ids = range(4, min(len(table), 4 + len(trained.vocabulary.words)))
    words = [trained.vocabulary.word(i) for i in ids]
    vectors = table[4 : 4 + len(words)]
    if form == "word2vec":
        embedding_space.export_word2vec(out, words, vectors, force)
    else:
        with np.load(trained.run.words) as file:
            columns = {"reviews": file["count"][4 : 4 + len(words)], "positive_share": file["share"][4 : 4 + len(words)].round(4)}
        embedding_space.export_projector(out, words, vectors, columns, force)
    return len(words)
