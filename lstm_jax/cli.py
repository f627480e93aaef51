"""The command line: parses, calls, prints; no logic of its own."""

import contextlib
import io
import json
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import tyro
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lstm_jax.config import DataConfig, SentimentConfig
from lstm_jax.errors import InputError, Interrupted

Flat = tyro.conf.OmitArgPrefixes
Positional = tyro.conf.Positional


def _start(devices: int = 0) -> None:
    from lstm_jax.sharding import use_cpu_cores

    use_cpu_cores(devices)


@dataclass(frozen=True)
class TrainSentiment:
    """Train the LSTM of the source on reviews: Embedding -> LSTM -> Dense(1, sigmoid)."""

    config: Flat[SentimentConfig] = field(default_factory=SentimentConfig)
    run: Path = Path("runs/sentiment")
    """Folder of the run: config, environment, metrics.jsonl, TensorBoard events, figures, checkpoints."""
    resume: bool = False
    """Go on with the interrupted run in that folder."""
    figures: bool = True
    """Draw the figures at the end."""

    def __call__(self, console: Console) -> None:
        _start(self.config.train.devices)
        from lstm_jax.tasks import sentiment

        sentiment.train(self.config, self.run, resume=self.resume, console=console, figures=self.figures)
        result = json.loads((self.run / "result.json").read_text())
        for part in ("test", "validation"):
            if f"{part}_accuracy" in result:
                accuracy, auc = result[f"{part}_accuracy"], result[f"{part}_auc"]
                _say(console, f"{part} accuracy {accuracy:.4f}, AUC {auc or float('nan'):.4f} (epoch {result['best_epoch']})")
                break
        _say(console, f"run in {self.run}: lstm-jax predict --run {self.run} --text '...'")


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
        _start()
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
            try:
                texts += self.file.read_bytes().splitlines()
            except OSError as error:
                raise InputError(f"file {self.file}", error.strerror, "give a file that can be read") from error
        if not self.text and self.file is None:
            if sys.stdin.isatty():
                raise InputError("text", "none given", "give --text, --file, or reviews on standard input")
            texts += sys.stdin.buffer.read().splitlines()
        _start()
        for text, p in zip(texts, _load(self.run).probabilities(texts), strict=True):
            shown = (text.encode(errors="surrogateescape") if isinstance(text, str) else text).decode(errors="replace")
            print(json.dumps({"probability": round(float(p), 6), "text": shown}, ensure_ascii=False) if self.json else f"{p:.6f}")


@dataclass(frozen=True)
class Neighbours:
    """The words nearest to a word in the learned embedding."""

    words: Positional[tuple[str, ...]]
    """Words."""
    run: Path = Path("runs/sentiment")
    """Folder of a run."""
    count: int = 10
    """How many neighbours."""
    metric: Literal["cosine", "euclidean"] = "cosine"
    """Cosine similarity or Euclidean distance."""
    min_reviews: int = 100
    """Only words that so many training reviews hold; a rarer word has hardly moved from where it was drawn."""

    def __call__(self, console: Console) -> None:
        _start()
        from lstm_jax import embedding_space
        from lstm_jax.tasks import sentiment

        trained = _load(self.run)
        for word in self.words:
            near = sentiment.neighbours(trained, word, self.count, self.metric, self.min_reviews)
            _say(console, f"{word}: " + ", ".join(f"{embedding_space.escape(found)} {score:.2f}" for found, score in near))


@dataclass(frozen=True)
class PlotEmbedding:
    """The learned space in two dimensions, coloured by what the words say about a review."""

    run: Path = Path("runs/sentiment")
    """Folder of a run."""
    out: Path = Path("embedding_map.png")
    """PNG to write; an SVG is put beside it."""
    words: int = 400
    """How many words."""

    def __call__(self, console: Console) -> None:
        _start()
        from lstm_jax.tasks import sentiment

        trained = _load(self.run)
        sentiment.draw_embedding(trained.run, trained.params["embedding/embedding"], self.out, self.words)
        _say(console, f"{self.out}")


@dataclass(frozen=True)
class ExportEmbedding:
    """Write the embedding in word2vec text format, or for TensorBoard's projector."""

    out: Positional[Path]
    """A file (word2vec) or a folder (projector)."""
    run: Path = Path("runs/sentiment")
    """Folder of a run."""
    format: Literal["word2vec", "projector"] = "word2vec"
    """What to write."""

    def __call__(self, console: Console) -> None:
        _start()
        from lstm_jax.tasks import sentiment

        count = sentiment.export_embedding(_load(self.run), self.out, self.format)
        _say(console, f"{count:,} vectors in {self.out}")


@dataclass(frozen=True)
class PrepareData:
    """Read, tokenise and cache reviews; with --tfds also build them as a TensorFlow Datasets data set."""

    config: Flat[DataConfig] = field(default_factory=DataConfig)
    tfds: bool = False
    """Build the data set lstm_jax_imdb under TFDS_DATA_DIR from --data, or from the archive's address where --data is empty."""

    def __call__(self, console: Console) -> None:
        from lstm_jax.tasks import prepare

        prepare.prepare(self.config, self.tfds, console)


@dataclass(frozen=True)
class Backends:
    """The recurrence backends, what each can do, and whether it serves here."""

    json: bool = False
    """Print JSON lines."""

    def __call__(self, console: Console) -> None:
        _start()
        from lstm_jax.recurrence import capability_rows

        rows = capability_rows()
        if self.json:
            for row in rows:
                print(json.dumps(row))
            return
        table = Table(title="recurrence backends, in the order of choice")
        for name in ("", *(row["backend"] for row in rows)):
            table.add_column(name)
        for name in rows[0]:
            if name != "backend":
                table.add_row(name, *(row[name] for row in rows))
        console.print(table)


@dataclass(frozen=True)
class Demo:
    """Train without any download, on synthetic reviews, in about a minute; then predict."""

    run: Path = Path("runs/demo")
    """Folder of the run; an earlier demo there is replaced."""
    seed: int = 0
    """Seed of reviews and weights."""

    def __call__(self, console: Console) -> None:
        _start()
        from lstm_jax.tasks import demo

        demo.run(self.run, self.seed, console)


COMMANDS: dict[str, Callable] = {
    "demo": Demo,
    "train sentiment": TrainSentiment,
    "evaluate": Evaluate,
    "predict": Predict,
    "embedding neighbours": Neighbours,
    "embedding plot": PlotEmbedding,
    "embedding export": ExportEmbedding,
    "data prepare": PrepareData,
    "backends": Backends,
}


def _load(folder: Path):
    from lstm_jax.tasks import sentiment

    trained = sentiment.load(folder)
    for note in trained.notes:
        print(f"warning: {note}", file=sys.stderr)
    return trained


def _say(console: Console, line: str) -> None:
    """A line as it is: not wrapped, brackets are no markup."""
    console.print(line, highlight=False, markup=False, soft_wrap=True)


def _usage() -> str:
    lines = [f"  {name:22} {(command.__doc__ or '').splitlines()[0]}" for name, command in COMMANDS.items()]
    return "\n".join(["usage: lstm-jax COMMAND [options]; lstm-jax COMMAND --help lists them", "", *lines])


def _parse(arguments: list[str]) -> Callable[[Console], None]:
    """The command object of these arguments.

    Raises:
        InputError: for an unknown command, flag or value.
    """
    for size in (1, 2):
        name = " ".join(arguments[:size])
        if name in COMMANDS:
            break
    else:
        raise InputError("command", name or "none", f"give one of {', '.join(COMMANDS)}")
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(COMMANDS[name], args=arguments[size:], prog=f"lstm-jax {name}")
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise _complaint(name, stop, said.getvalue()) from stop


def _complaint(name: str, stop: BaseException, said: str) -> InputError:
    """What tyro found wrong: the InputError of a config behind it, else the text of its box, as one line."""
    cause = stop.__context__
    while cause is not None:
        if isinstance(cause, InputError):
            return InputError(f"--{cause.thing.replace('_', '-')}", cause.value, cause.remedy)
        cause = cause.__context__
    lines = [" ".join(line.strip("│ ").split()) for line in said.splitlines() if not line.startswith(("╭", "╰"))]
    blocks = " ".join("\n" if set(line) == {"─"} else line for line in lines).split("\n")
    message, help_lines = blocks[0].strip(), f"see lstm-jax {name} --help"
    if choice := re.search(r"invalid choice '(.*)' for argument '(.*)'\. Expected one of \((.*?),?\)", message):
        return InputError(choice[2], choice[1], f"give one of {choice[3]}")
    if value := re.fullmatch(r"Error parsing (--?[\w-]+): (.*)", message):
        return InputError(value[1], value[2], help_lines)
    if meant := next((re.findall(r"--[\w-]+", block) for block in blocks if "Perhaps you meant" in block), []):
        help_lines = f"did you mean {' or '.join(dict.fromkeys(meant))}? {help_lines}"
    return InputError(f"lstm-jax {name}", message, help_lines)


def main(arguments: list[str] | None = None) -> int:
    """Run a command; 0 if all went well, 2 for bad input, 130 if it was interrupted."""
    arguments = sys.argv[1:] if arguments is None else arguments
    command = None
    try:
        if not arguments or arguments[0] in ("-h", "--help"):
            print(_usage())
        elif arguments[0] == "--version":
            from importlib.metadata import version

            print(version("lstm-jax"))
        else:
            command = _parse(arguments)
            command(Console())
        sys.stdout.flush()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader has left (`| head`); Python flushes once more on its way out
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except Interrupted as error:
        saved = "; the state is saved: run the same command with --resume to go on" if hasattr(command, "resume") else ""
        print(f"{error}{saved}", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
