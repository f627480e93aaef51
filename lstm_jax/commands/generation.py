"""`lstm-jax train generation`, and what a run of it writes and scores."""

import codecs
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from rich.console import Console

from lstm_jax.bounds import CharactersOrAll, Checked, Count, CountOrAll, DrawingSeed, Temperature, UnitCount, Written
from lstm_jax.commands.common import Flat, Positional, say, start, start_training, warn
from lstm_jax.config import GenerationConfig
from lstm_jax.files.writing import check_output

Mode = Literal["auto", "carried", "window"]


@dataclass(frozen=True)
class TrainGeneration:
    """Train the LSTM of the source on the characters of a text: one-hot -> LSTM -> softmax; samples after each epoch."""

    config: Flat[GenerationConfig] = field(default_factory=GenerationConfig)
    run: Path = Path("runs/generation")
    """Folder of the run: config, environment, metrics.jsonl, samples.jsonl, TensorBoard events, figures, checkpoints."""
    resume: bool = False
    """Go on with the interrupted run in that folder."""
    allow_other_machine: bool = False
    """Resume where devices, versions or compiled code are others than before: the last bits of what follows will differ."""
    figures: bool = True
    """Draw the figures at the end."""

    def __call__(self, console: Console) -> None:
        start_training(self.config.train.devices, self.config.model)
        from lstm_jax.tasks import generation

        generation.train(
            self.config,
            self.run,
            resume=self.resume,
            allow_other_machine=self.allow_other_machine,
            console=console,
            figures=self.figures,
        )
        result = json.loads((self.run / "result.json").read_text())
        if "validation_bits" in result:
            say(console, f"held-out text: {result['validation_bits']:.4f} bits a character (epoch {result['best_epoch']})")
        say(console, f"run in {self.run}: lstm-jax generate --run {self.run} --prompt '...'")


@dataclass(frozen=True)
class Generate(Checked):
    """Go on with a prompt, character by character, as a run would."""

    run: Path = Path("runs/generation")
    """Folder of a run."""
    prompt: str = ""
    """Text to go on from. Empty: none, the run begins by itself. Of one longer than the window, a window reads the end alone."""
    chars: Written = 400
    """Characters to draw. 0: none, the prompt alone is printed."""
    temperature: Temperature = 1.0
    """Below 1 the likelier characters come more often, above 1 less; 0: always the likeliest."""
    top_k: CountOrAll = 0
    """Draw from the k likeliest characters only. 0: from all."""
    top_p: float = 1.0
    """Draw from the likeliest characters that together reach this probability. 1: from all."""
    samples: Count = 1
    """Texts to draw, at once."""
    seed: DrawingSeed = 0
    """The same seed gives the same texts."""
    mode: Mode = "auto"
    """'carried': one step a character; 'window': each character re-reads the last ones from a zero state; 'auto': as it was trained."""
    clean: bool = False
    """Clean the prompt as the run's text was."""
    unknown: str = ""
    """Character that stands for those of the prompt that the run does not know. Empty: they are refused."""
    json: bool = False
    """A JSON object a text, a line each."""

    def __call__(self, console: Console) -> None:
        start()
        trained = _load(self.run)
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
    """Bits a character of any text under a run; of the run's own held-out text if none is named."""

    data: Positional[tuple[str, ...]] = ()
    """Text files, folders, tables, or - for standard input."""
    run: Path = Path("runs/generation")
    """Folder of a run."""
    text: str | None = None
    """A text, instead of files."""
    text_column: str = ""
    """Column or key of the text in a table."""
    mode: Mode = "auto"
    """'carried': the state runs through the text; 'window': each character from those of a window before it; 'auto': as trained."""
    clean: bool = False
    """Clean the text as the run's was."""
    unknown: str = ""
    """Character that stands for those that the run does not know. Empty: they are refused."""
    html: Path | None = None
    """Page to write: the text coloured by surprise."""
    force: bool = False
    """Replace what is at --html, even where something else wrote it."""
    json: bool = False
    """Print JSON."""

    def __call__(self, console: Console) -> None:
        start()
        from lstm_jax.tasks import generation

        trained = _load(self.run)
        if self.html is not None:
            check_output(self.html, (self.run, *(self.data or trained.config.data.data)), self.force)
        ids = generation.read_ids(trained, self.data, self.text, self.text_column, self.clean, self.unknown)
        scores = trained.score(ids, self.mode)
        row = {"characters": len(scores.nats)} | scores.figures()
        if self.json:
            print(json.dumps(row))
        else:
            say(console, f"{row['bits']:.4f} bits a character ({row['loss']:.4f} nats, perplexity {row['perplexity']:.3f})")
            say(console, f"{row['characters']:,} characters, {row['accuracy']:.1%} of them were the likeliest")
        if self.html is not None:
            generation.draw_surprise(trained.characters, ids, scores, self.html, "Surprise", self.force)
            say(Console(stderr=True), f"{self.html}")


@dataclass(frozen=True)
class Units(Checked):
    """A page of text coloured by the most active hidden units of a run."""

    data: Positional[tuple[str, ...]] = ()
    """Text files, folders, tables, or - for standard input. None: the run's held-out text."""
    run: Path = Path("runs/generation")
    """Folder of a run."""
    text: str | None = None
    """A text, instead of files."""
    text_column: str = ""
    """Column or key of the text in a table."""
    clean: bool = False
    """Clean the text as the run's was."""
    unknown: str = ""
    """Character that stands for those that the run does not know. Empty: they are refused."""
    count: UnitCount = 12
    """How many units."""
    chars: CharactersOrAll = 3000
    """At most so many characters, from the text's beginning."""
    out: Path = Path("units.html")
    """Page to write."""
    force: bool = False
    """Replace what is at --out, even where something else wrote it."""

    def __call__(self, console: Console) -> None:
        start()
        from lstm_jax.tasks import generation

        trained = _load(self.run)
        check_output(self.out, (self.run, *(self.data or trained.config.data.data)), self.force)
        ids = generation.read_ids(trained, self.data, self.text, self.text_column, self.clean, self.unknown, self.chars)
        generation.draw_units(trained.characters, ids, trained.activations(ids), self.out, self.count, self.force)
        say(console, f"{self.out}")


def _load(folder: Path):
    from lstm_jax.tasks import generation

    trained = generation.load(folder)
    warn(trained.notes)
    return trained
