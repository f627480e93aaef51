"""The command `lstm-jax train sentiment`, and the commands that use a sentiment run."""

import sys
from pathlib import Path
from typing import Literal

from rich.table import Column, Table
from rich.text import Text

from lstm_jax.base.checks import Count, CountOrNone, frozen
from lstm_jax.base.errors import InputError, require
from lstm_jax.base.writing import check_output
from lstm_jax.lab.commands.common import (
    Command,
    Flat,
    Positional,
    Products,
    Train,
    load_run,
    metric_text,
    say,
    suggest,
    warn,
)
from lstm_jax.lab.files.reading import STANDARD_INPUT
from lstm_jax.lab.files.text import counted, json_text
from lstm_jax.lab.sentiment.config import PRESETS, SentimentConfig

MEANINGS = {
    "loss": "mean binary cross-entropy, nats",
    "accuracy": "share of reviews on the right side of 0.5",
    "auc": "area under the ROC curve",
    "ece": "expected calibration error: mean distance of probability and frequency",
    "brier": "Brier score: mean squared distance of probability and label",
    "count": "reviews",
    "tn": "negative reviews called negative",
    "fp": "negative reviews called positive",
    "fn": "positive reviews called negative",
    "tp": "positive reviews called positive",
}
"""Dict from the name of a metric to what it says."""


@frozen
class TrainSentiment(Train):
    """Train the LSTM of the Keras example imdb_lstm on reviews.

    The model is Embedding -> LSTM -> Dense(1, sigmoid).
    """

    config: Flat[SentimentConfig] = SentimentConfig()
    run: Path = Path("runs/sentiment")
    preset: Literal["none", "best"] = "none"
    """Named set of values that replaces the defaults of the other flags. A flag that is
    given replaces the value of the preset. 'best' is the recipe with the highest
    validation accuracy in the study `best` of docs/studies.md. The models of this study
    are trained on the labelled reviews of IMDB alone."""
    following = "predict --text '...'"
    presets = PRESETS

    def report(self, result):
        for part in ("test", "validation"):
            if f"{part}_accuracy" in result:
                accuracy, auc = (
                    metric_text(result[f"{part}_{metric}"], ".4f")
                    for metric in ("accuracy", "auc")
                )
                yield (
                    f"{part} accuracy {accuracy}, AUC {auc} (epoch "
                    f"{result['best_epoch']})"
                )
                break


@frozen
class Evaluate(Command):
    """Print loss, accuracy, AUC and further metrics of a trained sentiment model."""

    run: Path = Path("runs/sentiment")
    """Folder of a trained run."""
    split: Literal["test", "validation", "train"] = "test"
    """Split of the run's reviews on which the metrics are computed."""
    dtype: Products = ""
    """Dtype of the matrix products of the recurrent layers. If empty, the dtype of the
    training is used. For int8, each row of the inputs and each column of the kernels is
    scaled and rounded to 8 bits."""
    json: bool = False
    """Print the metrics as JSON."""

    def __call__(self, console):
        from lstm_jax.lab.sentiment import task as sentiment

        trained = load_run("sentiment", self.run, self.dtype)
        row = sentiment.evaluate(trained, split=self.split).to_row()
        if self.json:
            print(json_text(row))
            return
        table = Table(
            "metric",
            Column("value", justify="right"),
            "meaning",
            title=Text(f"{self.run}, {self.split} reviews"),
        )
        for name, value in row.items():
            shown = f"{value:.4f}" if isinstance(value, float) else str(value)
            table.add_row(name, shown, MEANINGS[name])
            if not console.is_terminal:
                print(name, shown)
        if console.is_terminal:
            console.print(table)
            suggest(console, "inspect", self.run)


@frozen
class Predict(Command):
    """Print the probability that a review is positive, one line for each review.

    The reviews are those of --text, --file or standard input.
    """

    run: Path = Path("runs/sentiment")
    """Folder of a trained run."""
    text: tuple[str, ...] = ()
    """Reviews to classify."""
    file: Path | None = None
    """Text file with one review per line, or table (.csv or .jsonl, .xz too)."""
    text_column: str = ""
    """Column or key that contains the text in a table. If empty, the --text-column of
    the training is used."""
    dtype: Products = ""
    """Dtype of the matrix products of the recurrent layers. If empty, the dtype of the
    training is used. For int8, each row of the inputs and each column of the kernels is
    scaled and rounded to 8 bits."""
    json: bool = False
    """Print one JSON object per line, with the probability and the text of the review.
    """

    def __call__(self, console):
        if not self.text and self.file is None and sys.stdin.isatty():
            raise InputError(
                "text",
                "none given",
                "give --text, --file, or reviews on standard input",
            )
        require(all(map(str.strip, self.text)), "text", "empty", "give --text a review")
        from lstm_jax.lab.sentiment.data.reviews import read_texts

        trained = load_run("sentiment", self.run, self.dtype)
        texts = list[str | bytes](self.text)
        if self.file is not None or not texts:
            texts += read_texts(
                self.file or Path(STANDARD_INPUT),
                self.text_column or trained.config.data.text_column,
            )
        words, unknown = trained.vocabulary.count_words(texts)
        warn([f"{self.file}: no review in it"] if self.file and not texts else [])
        warn(
            [f"the run does not know {unknown:,} of {counted(words, 'word')}"]
            if unknown
            else []
        )
        for text, p in zip(texts, trained.probabilities(texts), strict=True):
            shown = (
                text.encode(errors="surrogateescape") if isinstance(text, str) else text
            ).decode(errors="replace")
            if self.json:
                print(
                    json_text(
                        {"probability": round(float(p), 6), "text": shown},
                        ensure_ascii=False,
                    )
                )
            elif console.is_terminal:
                line = "".join(
                    letter if letter.isprintable() else " " for letter in shown
                )
                label = f"{p:.6f}  {'positive' if p > 0.5 else 'negative'}  {line}"
                console.print(Text(label), no_wrap=True, overflow="ellipsis")
            else:
                print(f"{p:.6f}")


@frozen
class Neighbours(Command):
    """Print the words whose learned vectors are nearest to the vector of a given word."""

    words: Positional[tuple[str, ...]]
    """Words whose neighbours are printed."""
    run: Path = Path("runs/sentiment")
    """Folder of a trained run."""
    count: Count = 10
    """Number of neighbours to print for each word."""
    metric: Literal["cosine", "euclidean"] = "cosine"
    """Measure of nearness: cosine similarity or Euclidean distance of word vectors."""
    min_reviews: CountOrNone = 100
    """Leave out words that occur in fewer training reviews than this number. Training
    has hardly changed the vectors of such words."""
    json: bool = False
    """Print one JSON object per line, with a word and its neighbours."""

    def __call__(self, console):
        from lstm_jax.lab.inspection import embedding_space

        require(self.words, "words", "none given", "name one or more")
        trained = load_run("sentiment", self.run)
        for word in self.words:
            near = trained.words.neighbours(
                word, self.count, self.metric, self.min_reviews
            )
            if self.json:
                found = [
                    [embedding_space.escape(other), round(score, 6)]
                    for other, score in near
                ]
                print(json_text({"word": word, "neighbours": found}))
                continue
            if console.is_terminal:
                table = Table(
                    "word",
                    Column(self.metric, justify="right"),
                    title=Text(f"nearest to {word}"),
                )
                for found, score in near:
                    table.add_row(Text(embedding_space.escape(found)), f"{score:.2f}")
                console.print(table)
            else:
                say(
                    console,
                    f"{word}: "
                    + ", ".join(
                        f"{embedding_space.escape(found)} {score:.2f}"
                        for found, score in near
                    ),
                )


@frozen
class PlotEmbedding(Command):
    """Draw the learned word vectors in two dimensions.

    A word's colour shows which share of the reviews with this word is positive.
    """

    run: Path = Path("runs/sentiment")
    """Folder of a trained run."""
    out: Path = Path("embedding_map.png")
    """PNG file to write; an SVG file is written beside it."""
    words: Count = 400
    """Largest number of words to draw."""
    force: bool = False
    """Replace the files at --out, even if another program wrote them."""

    def __call__(self, console):
        from lstm_jax.lab.inspection.figures import figure_paths

        for path in figure_paths(self.out):
            check_output(path, (self.run,), self.force)
        load_run("sentiment", self.run).words.draw(self.out, self.words, self.force)
        say(console, " and ".join(map(str, figure_paths(self.out))))


@frozen
class ExportEmbedding(Command):
    """Write the learned word vectors to files for other programs."""

    out: Positional[Path]
    """File to write if the format is word2vec, or folder to write to if the format is
    projector."""
    run: Path = Path("runs/sentiment")
    """Folder of a trained run."""
    format: Literal["word2vec", "projector"] = "word2vec"
    """Format of the files: word2vec's text format, or three files for TensorBoard's
    embedding projector."""
    force: bool = False
    """Replace existing files of other formats."""

    def __call__(self, console):
        from lstm_jax.lab.inspection.embedding_space import PROJECTOR, WORD2VEC

        files = (
            {self.out: WORD2VEC}
            if self.format == "word2vec"
            else {self.out / name: own for name, own in PROJECTOR.items()}
        )
        for path, own in files.items():
            check_output(path, (self.run,), self.force, own)
        count = load_run("sentiment", self.run).words.export(self.out, self.format)
        say(console, f"{counted(count, 'vector')} in {self.out}")


COMMANDS = {
    "train sentiment": TrainSentiment,
    "evaluate": Evaluate,
    "predict": Predict,
    "embedding neighbours": Neighbours,
    "embedding plot": PlotEmbedding,
    "embedding export": ExportEmbedding,
}
"""Dict from the name of each command of the sentiment task to the class of the command.
"""
