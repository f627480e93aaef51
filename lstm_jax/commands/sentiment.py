"""`lstm-jax train sentiment`, and what a run of it answers."""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lstm_jax.bounds import Checked, Count, CountOrNone
from lstm_jax.commands.common import Flat, Positional, say, start, start_training, warn
from lstm_jax.config import SentimentConfig
from lstm_jax.errors import InputError
from lstm_jax.files.reading import STANDARD_INPUT, read_input
from lstm_jax.files.writing import check_output


@dataclass(frozen=True)
class TrainSentiment:
    """Train the LSTM of the source on reviews: Embedding -> LSTM -> Dense(1, sigmoid)."""

    config: Flat[SentimentConfig] = field(default_factory=SentimentConfig)
    run: Path = Path("runs/sentiment")
    """Folder of the run: config, environment, metrics.jsonl, TensorBoard events, figures, checkpoints."""
    resume: bool = False
    """Go on with the interrupted run in that folder."""
    allow_other_machine: bool = False
    """Resume where devices, versions or compiled code are others than before: the last bits of what follows will differ."""
    figures: bool = True
    """Draw the figures at the end."""

    def __call__(self, console: Console) -> None:
        start_training(self.config.train.devices, self.config.model)
        from lstm_jax.tasks import sentiment

        sentiment.train(
            self.config,
            self.run,
            resume=self.resume,
            allow_other_machine=self.allow_other_machine,
            console=console,
            figures=self.figures,
        )
        result = json.loads((self.run / "result.json").read_text())
        for part in ("test", "validation"):
            if f"{part}_accuracy" in result:
                accuracy, auc = result[f"{part}_accuracy"], result[f"{part}_auc"]
                say(console, f"{part} accuracy {accuracy:.4f}, AUC {auc or float('nan'):.4f} (epoch {result['best_epoch']})")
                break
        say(console, f"run in {self.run}: lstm-jax predict --run {self.run} --text '...'")


@dataclass(frozen=True)
class Evaluate:
    """Loss, accuracy, AUC, confusion matrix and calibration of a run."""

    run: Path = Path("runs/sentiment")
    """Folder of a run."""
    split: Literal["test", "validation", "train"] = "test"
    """Which part of the run's reviews."""
    json: bool = False
    """Print JSON."""

    def __call__(self, console: Console) -> None:
        start()
        from lstm_jax.tasks import sentiment

        trained = _load(self.run)
        row = sentiment.evaluate(trained, split=self.split).to_row()
        if self.json:
            print(json.dumps(row))
            return
        table = Table(title=Text(f"{self.run}, {self.split} reviews"))
        table.add_column("figure")
        table.add_column("value", justify="right")
        for name, value in row.items():
            table.add_row(name, f"{value:.4f}" if isinstance(value, float) else str(value))
        console.print(table)


@dataclass(frozen=True)
class Predict:
    """Probability that a review is positive: one a line, for --text, --file, or each line of standard input."""

    run: Path = Path("runs/sentiment")
    """Folder of a run."""
    text: tuple[str, ...] = ()
    """Reviews."""
    file: Path | None = None
    """A file with a review a line."""
    json: bool = False
    """A JSON object a line, with the text."""

    def __call__(self, console: Console) -> None:
        del console
        texts: list[str | bytes] = list(self.text)
        if self.file is not None:
            texts += read_input(self.file).splitlines()
        if not self.text and self.file is None:
            if sys.stdin.isatty():
                raise InputError("text", "none given", "give --text, --file, or reviews on standard input")
            texts += read_input(STANDARD_INPUT).splitlines()
        start()
        for text, p in zip(texts, _load(self.run).probabilities(texts), strict=True):
            shown = (text.encode(errors="surrogateescape") if isinstance(text, str) else text).decode(errors="replace")
            print(json.dumps({"probability": round(float(p), 6), "text": shown}, ensure_ascii=False) if self.json else f"{p:.6f}")


@dataclass(frozen=True)
class Neighbours(Checked):
    """The words nearest to a word in the learned embedding."""

    words: Positional[tuple[str, ...]]
    """Words."""
    run: Path = Path("runs/sentiment")
    """Folder of a run."""
    count: Count = 10
    """How many neighbours."""
    metric: Literal["cosine", "euclidean"] = "cosine"
    """Cosine similarity or Euclidean distance."""
    min_reviews: CountOrNone = 100
    """Only words that so many training reviews hold; a rarer word has hardly moved from where it was drawn."""

    def __call__(self, console: Console) -> None:
        start()
        from lstm_jax.inspection import embedding_space
        from lstm_jax.tasks import sentiment

        trained = _load(self.run)
        for word in self.words:
            near = sentiment.neighbours(trained, word, self.count, self.metric, self.min_reviews)
            say(console, f"{word}: " + ", ".join(f"{embedding_space.escape(found)} {score:.2f}" for found, score in near))


@dataclass(frozen=True)
class PlotEmbedding(Checked):
    """The learned space in two dimensions, coloured by what the words say about a review."""

    run: Path = Path("runs/sentiment")
    """Folder of a run."""
    out: Path = Path("embedding_map.png")
    """PNG to write; an SVG is put beside it."""
    words: Count = 400
    """How many words."""
    force: bool = False
    """Replace what is at --out or beside it, even where something else wrote it."""

    def __call__(self, console: Console) -> None:
        start()
        from lstm_jax.inspection.figures import figure_paths
        from lstm_jax.tasks import sentiment

        for path in figure_paths(self.out):
            check_output(path, (self.run,), self.force)
        trained = _load(self.run)
        sentiment.draw_embedding(trained.run, trained.params["embedding/embedding"], self.out, self.words, self.force)
        say(console, f"{self.out}")


@dataclass(frozen=True)
class ExportEmbedding:
    """Write the embedding in word2vec text format, or for TensorBoard's projector."""

    out: Positional[Path]
    """A file (word2vec) or a folder (projector)."""
    run: Path = Path("runs/sentiment")
    """Folder of a run."""
    format: Literal["word2vec", "projector"] = "word2vec"
    """What to write."""
    force: bool = False
    """Replace what is there, even where something else wrote it."""

    def __call__(self, console: Console) -> None:
        start()
        from lstm_jax.inspection.embedding_space import PROJECTOR
        from lstm_jax.tasks import sentiment

        for path in [self.out] if self.format == "word2vec" else [self.out / name for name in PROJECTOR]:
            check_output(path, (self.run,), self.force)
        count = sentiment.export_embedding(_load(self.run), self.out, self.format, self.force)
        say(console, f"{count:,} vectors in {self.out}")


def _load(folder: Path):
    from lstm_jax.tasks import sentiment

    trained = sentiment.load(folder)
    warn(trained.notes)
    return trained
