"""`lstm-jax train generation`, and the commands that read a text-generation run."""

import codecs
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from lstm_jax.bounds import CharactersOrAll, Checked, Count, CountOrAll, DrawingSeed, Temperature, UnitCount, Written
from lstm_jax.commands.common import Flat, Positional, Train, load_run, say, start
from lstm_jax.config import GenerationConfig
from lstm_jax.files.writing import check_output

Mode = Literal["auto", "carried", "window"]


@dataclass(frozen=True)
class TrainGeneration(Train):
    """Train the LSTM of the Keras example lstm_text_generation on a text: one-hot characters -> LSTM -> softmax."""

    config: Flat[GenerationConfig] = field(default_factory=GenerationConfig)
    run: Path = Path("runs/generation")
    """Folder of the run: config, environment, metrics.jsonl, samples.jsonl, TensorBoard events, figures, checkpoints."""

    def report(self, result: dict[str, Any]) -> Iterator[str]:
        if "validation_bits" in result:
            yield f"held-out text: {result['validation_bits']:.4f} bits a character (epoch {result['best_epoch']})"
        yield f"run in {self.run}: lstm-jax generate --run {self.run} --prompt '...'"


@dataclass(frozen=True)
class Generate(Checked):
    """Continue a prompt, character by character, with a trained run."""

    run: Path = Path("runs/generation")
    """Folder of a run."""
    prompt: str = ""
    """Text to continue. Empty: the text begins from a zero state. In window mode only the last window of a longer prompt is read."""
    chars: Written = 400
    """Characters to draw. 0: print the prompt alone."""
    temperature: Temperature = 1.0
    """Below 1 likely characters are drawn more often, above 1 less often; 0: always the likeliest."""
    top_k: CountOrAll = 0
    """Draw from the k likeliest characters only. 0: from all."""
    top_p: float = 1.0
    """Draw from the likeliest characters that together reach this probability. 1: from all."""
    samples: Count = 1
    """Number of texts to draw."""
    seed: DrawingSeed = 0
    """The same seed gives the same texts."""
    mode: Mode = "auto"
    """'carried': one step per character; 'window': a window from a zero state before each character; 'auto': as it was trained."""
    clean: bool = False
    """Clean the prompt as the text of the run was cleaned."""
    unknown: str = ""
    """Character that replaces characters which the run does not know. Empty: refuse them."""
    json: bool = False
    """Print JSON objects, one per line and text."""

    def __call__(self, console: Console) -> None:
        start()
        trained = load_run("generation", self.run)
        prompt = trained.encode(self.prompt, self.clean, self.unknown)
        rules = trained.rules(self.temperature, self.top_k, self.top_p)
        pieces = trained.write(prompt, self.chars, rules, seed=self.seed, samples=self.samples, mode=self.mode)
        shown = trained.characters.decode(prompt)
        if self.samples == 1 and not self.json:
            decode = codecs.getincrementaldecoder("utf-8")(errors="replace").decode  # a character of several bytes may come in two pieces
            sys.stdout.write(shown)
            for piece in pieces:
                sys.stdout.write(decode(trained.characters.decode_bytes(piece[0])))
                sys.stdout.flush()
            print(decode(b"", final=True))
            return
        with console.status(f"drawing {self.samples} texts"):
            texts = trained.texts(pieces, self.samples)
        for number, text in enumerate(texts, 1):
            row = {"sample": number, "seed": self.seed, "temperature": self.temperature, "prompt": shown, "text": text}
            print(json.dumps(row, ensure_ascii=False) if self.json else f"--- {number}\n{shown}{text}")


@dataclass(frozen=True)
class Score:
    """Print the bits per character of a text under a run; of its own held-out text if none is named."""

    data: Positional[tuple[str, ...]] = ()
    """Text files, folders, tables, or - for standard input."""
    run: Path = Path("runs/generation")
    """Folder of a run."""
    text: str | None = None
    """A text, instead of files."""
    text_column: str = ""
    """Column or key of the text in a table."""
    mode: Mode = "auto"
    """'carried': one pass with the state carried; 'window': a window from a zero state before each character; 'auto': as trained."""
    clean: bool = False
    """Clean the text as the text of the run was cleaned."""
    unknown: str = ""
    """Character that replaces characters which the run does not know. Empty: refuse them."""
    html: Path | None = None
    """HTML page to write: the text coloured by surprise."""
    force: bool = False
    """Replace the file at --html, even if another program wrote it."""
    json: bool = False
    """Print JSON."""

    def __call__(self, console: Console) -> None:
        start()
        from lstm_jax.tasks import generation, text_pages

        trained = load_run("generation", self.run)
        if self.html is not None:
            check_output(self.html, (self.run, *(self.data or trained.config.data.data)), self.force)
        ids = generation.read_ids(trained, self.data, self.text, self.text_column, self.clean, self.unknown)
        scores = trained.score(ids, self.mode)
        row = {"characters": len(scores.nats)} | scores.metrics()
        if self.json:
            print(json.dumps(row))
        else:
            say(console, f"{row['bits']:.4f} bits a character ({row['loss']:.4f} nats, perplexity {row['perplexity']:.3f})")
            say(console, f"{row['characters']:,} characters, {row['accuracy']:.1%} of them were the likeliest")
        if self.html is not None:
            text_pages.draw_surprise(trained.characters, ids, scores, self.html, "Surprise", self.force)
            say(Console(stderr=True), f"{self.html}")


@dataclass(frozen=True)
class Units(Checked):
    """Write a page of text coloured by the most active hidden units of a run."""

    data: Positional[tuple[str, ...]] = ()
    """Text files, folders, tables, or - for standard input. None: the held-out text of the run."""
    run: Path = Path("runs/generation")
    """Folder of a run."""
    text: str | None = None
    """A text, instead of files."""
    text_column: str = ""
    """Column or key of the text in a table."""
    clean: bool = False
    """Clean the text as the text of the run was cleaned."""
    unknown: str = ""
    """Character that replaces characters which the run does not know. Empty: refuse them."""
    count: UnitCount = 12
    """Number of hidden units."""
    chars: CharactersOrAll = 3000
    """Characters shown, from the beginning of the text. 0: all."""
    out: Path = Path("units.html")
    """HTML page to write."""
    force: bool = False
    """Replace the file at --out, even if another program wrote it."""

    def __call__(self, console: Console) -> None:
        start()
        from lstm_jax.tasks import generation, text_pages

        trained = load_run("generation", self.run)
        check_output(self.out, (self.run, *(self.data or trained.config.data.data)), self.force)
        ids = generation.read_ids(trained, self.data, self.text, self.text_column, self.clean, self.unknown, self.chars)
        text_pages.draw_units(trained.characters, ids, trained.activations(ids), self.out, self.count, self.force)
        say(console, f"{self.out}")
