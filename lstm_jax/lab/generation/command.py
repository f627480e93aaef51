"""The command `lstm-jax train generation`, and the commands that use a text-generation
run.
"""

import codecs
import json
import sys
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from lstm_jax.base.checks import Count, CountOrNone, Seed, frozen
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
)
from lstm_jax.lab.files.text import counted, json_text
from lstm_jax.lab.generation.config import (
    PRESETS,
    GenerationConfig,
    Temperature,
    WantedMode,
    Written,
)


@frozen
class TrainGeneration(Train):
    """Train the LSTM of the Keras example lstm_text_generation on a text.

    The model is one-hot characters -> LSTM -> softmax.
    """

    config: Flat[GenerationConfig] = GenerationConfig()
    run: Path = Path("runs/generation")
    """Folder in which the run stores its config, environment, metrics.jsonl,
    samples.jsonl, TensorBoard events, figures, checkpoints."""
    preset: Literal["none", "shakespeare", "words", "ptb-small", "ptb-medium"] = "none"
    """Named set of values that replaces the defaults of the other flags. A flag that is
    given replaces the value of the preset. 'shakespeare' is the recipe for the text
    tiny Shakespeare, 'words' one for --unit word, 'ptb-small' and 'ptb-medium' those of
    Zaremba et al. 2014 for the Penn Treebank. No preset contains a text: give it by
    --data, and another one by --validation-data."""
    following = "generate --prompt '...'"

    presets = PRESETS

    @classmethod
    def with_defaults(cls, given):
        # words need an embedding, and a text with its line ends
        named = given.keys() & {"--preset", "--config", "--resume"}
        if given.get("--unit") == "word" and not named:
            given = {**given, "--preset": "words"}
        return super().with_defaults(given)

    def report(self, result):
        if "validation_bits" in result and self.config.data.unit == "word":
            yield (
                "held-out text: perplexity "
                f"{metric_text(result['validation_perplexity'], '.3f')} a word "
                f"(epoch {result['best_epoch']})"
            )
        elif "validation_bits" in result:
            yield (
                f"held-out text: {metric_text(result['validation_bits'], '.4f')} "
                f"bits a character (epoch {result['best_epoch']})"
            )


@frozen
class Generate(Command):
    """Continue a prompt, character by character, with a trained model."""

    run: Path = Path("runs/generation")
    """Folder of a trained run."""
    prompt: str = ""
    """Text to continue. If empty, a text is generated from a zero state. If the prompt
    is longer than a window, the mode 'window' reads only the last characters of the
    prompt."""
    chars: Written = 400
    """Number of characters to draw. 0 prints the prompt alone."""
    temperature: Temperature = 1.0
    """Sampling temperature. Below 1, likely characters become more frequent; above 1,
    less frequent. 0 always takes the likeliest one."""
    top_k: CountOrNone = 0
    """Draw only from the k likeliest characters. 0 draws from all characters."""
    top_p: float = 1.0
    """Draw only from the likeliest characters whose probabilities together reach this
    value. 1 draws from all characters."""
    samples: Count = 1
    """Number of texts to draw."""
    seed: Seed = 0
    """Seed of the draws; the same seed gives the same texts."""
    mode: WantedMode = "auto"
    """'carried' keeps the state and runs one step per character. 'window' starts from a
    zero state for each character and reads the window of characters before it. 'auto'
    uses the mode in which the model was trained."""
    clean: bool = False
    """Clean the prompt in the same way as the training text was cleaned."""
    unknown: str = ""
    """Character that replaces characters outside the vocabulary. If empty, such
    characters raise an error."""
    json: bool = False
    """Print each text as a JSON object on its own line."""

    def __call__(self, console):
        from lstm_jax.lab.generation import task as generation

        trained = load_run("generation", self.run)
        prompt = trained.encode(self.prompt, self.clean, self.unknown)
        rules = trained.rules(self.temperature, self.top_k, self.top_p)
        last = generation.last_of(prompt)
        pieces = trained.write(
            prompt,
            self.chars,
            rules,
            seed=self.seed,
            samples=self.samples,
            mode=self.mode,
        )
        shown = trained.characters.decode(prompt)
        if self.samples == 1 and not self.json:
            # a character of several bytes may come in two pieces
            decode = codecs.getincrementaldecoder("utf-8")(errors="replace").decode
            sys.stdout.write(shown)
            for piece in pieces:
                sys.stdout.write(
                    decode(trained.characters.decode_bytes(piece[0], last))
                )
                last = generation.last_of(piece[0])
                sys.stdout.flush()
            print(decode(b"", final=True))
            return
        with console.status(f"drawing {self.samples} texts"):
            texts = trained.texts(pieces, self.samples, last)
        for number, text in enumerate(texts, 1):
            row = {
                "sample": number,
                "seed": self.seed,
                "temperature": self.temperature,
                "prompt": shown,
                "text": text,
            }
            print(
                json.dumps(row, ensure_ascii=False)
                if self.json
                else f"--- {number}\n{shown}{text}"
            )


@frozen
class ReadsText(Command):
    """Base class of the commands that read a text with a trained model."""

    data: Positional[tuple[str, ...]] = ()
    """Text files, folders, tables, or - for standard input. If no text is given, the
    held-out text of the run is read."""
    run: Path = Path("runs/generation")
    """Folder of a trained run."""
    text: str | None = None
    """A text to read instead of files."""
    text_column: str = ""
    """Column or key that contains the text in a .csv, .json or .jsonl file. If empty,
    it is guessed."""
    clean: bool = False
    """Clean the text in the same way as the training text was cleaned."""
    unknown: str = ""
    """Character that replaces characters outside the vocabulary. If empty, such
    characters raise an error."""
    force: bool = False
    """Replace the HTML page, even if another program wrote it."""

    def read(self, trained: Any, page: Path | None, most: int = 0) -> Any:
        """Check that the page can be written, and return the ids of the text and the
        beginnings of its articles.
        """
        if page is not None:
            check_output(
                page, (self.run, *(self.data or trained.config.data.data)), self.force
            )
        return trained.read_text(
            self.data, self.text, self.text_column, self.clean, self.unknown, most
        )


@frozen
class Score(ReadsText):
    """Print the bits per character that a trained model needs for a text.

    If no text is given, the held-out text of the run is used.
    """

    mode: WantedMode = "auto"
    """'carried' keeps the state and reads the text in one pass. 'window' starts from a
    zero state for each character and reads the window of characters before it. 'auto'
    uses the mode in which the model was trained."""
    dtype: Products = ""
    """Dtype of the matrix products of the recurrent layers. If empty, the dtype of the
    training is used. For int8, each row of the inputs and each column of the kernels is
    scaled and rounded to 8 bits."""
    html: Path | None = None
    """HTML page to write, which colours each character of the text by its surprise,
    -log of its probability."""
    json: bool = False
    """Print the result as JSON."""

    def __call__(self, console):
        from lstm_jax.lab.generation import task as generation

        trained = load_run("generation", self.run, self.dtype)
        read = self.read(trained, self.html)
        scores = trained.score(read.ids, self.mode, read.starts)
        noun = generation.noun_of(trained.config)
        row = {f"{noun}s": len(scores.nats)} | scores.metrics()
        if self.json:
            print(json_text(row))
        else:
            say(
                console,
                f"{row['bits']:.4f} bits a {noun} ({row['loss']:.4f} nats, "
                f"perplexity {row['perplexity']:.3f})",
            )
            say(
                console,
                f"{row[f'{noun}s']:,} {noun}s, {row['accuracy']:.1%} of them "
                "were the likeliest",
            )
            if console.is_terminal:
                suggest(console, "units", self.run)
        # if standard output is full, the error comes before the page is written
        sys.stdout.flush()
        if self.html is not None:
            generation.draw_surprise(
                trained.characters, read.ids, scores, self.html, "Surprise", self.force
            )
            say(Console(stderr=True), f"{self.html}")


@frozen
class Units(ReadsText):
    """Write an HTML page of a text that is coloured by activations of hidden units."""

    count: Count = 12
    """Number of hidden units to show. The most active units are shown."""
    chars: CountOrNone = 3000
    """Number of characters to show, from the beginning of the text. 0 shows all
    characters."""
    out: Path = Path("units.html")
    """HTML page to write."""

    def __call__(self, console):
        from lstm_jax.lab.generation import task as generation

        trained = load_run("generation", self.run)
        read = self.read(trained, self.out, self.chars)
        generation.draw_units(
            trained.characters,
            read.ids,
            trained.activations(*read),
            self.out,
            self.count,
            self.force,
        )
        say(
            console,
            f"{self.out}: {counted(len(read.ids), 'character')}; open it in a browser"
            if console.is_terminal
            else f"{self.out}",
        )


COMMANDS = {
    "train generation": TrainGeneration,
    "generate": Generate,
    "score": Score,
    "units": Units,
}
"""Dict from the name of each command of the text-generation task to the class of the
command."""
