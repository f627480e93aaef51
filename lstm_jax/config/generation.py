"""Config of text-generation runs: text, model, training and samples."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from lstm_jax.bounds import Characters, CharactersOrNone, Drawn, Features, Share, Temperature
from lstm_jax.config.shared import RecurrentConfig, RunConfig, TrainConfig, check_fields
from lstm_jax.errors import require


@dataclass(frozen=True)
class GenerationModelConfig(RecurrentConfig):
    """One-hot characters or an embedding -> LSTM -> softmax over the characters."""

    embed: Features = 0
    """Features of an embedding of the characters. 0: one-hot."""
    tied: bool = False
    """Use the embedding table as the kernel of the head too; needs embed = units."""

    def __post_init__(self):
        super().__post_init__()
        require(
            not self.tied or self.embed == self.units, "tied", f"embed {self.embed}, units {self.units}", "tied weights need embed = units"
        )


@dataclass(frozen=True)
class TextConfig:
    """Source, cleaning and windows of the text."""

    data: tuple[str, ...] = ()
    """Text files, folders, .csv, .json or .jsonl files, or - for standard input; one or several. Empty: Python's documentation."""
    text_column: str = ""
    """Column or key of the text in a table. Empty: the only candidate."""
    clean: Literal["source", "source-cased", "lower", "none", "exact"] = "source"
    """'source': as the Keras example lstm_text_generation, lower-case English letters and . , ' ! ; ? alone; 'source-cased': the same with
    both cases; 'lower': lower case; 'none': as it is. These make all line ends Unix line ends; 'exact' keeps them."""
    unit: Literal["character", "byte"] = "character"
    """Token unit: Unicode characters, or bytes of any encoding."""
    regime: Literal["windows", "stream"] = "windows"
    """'windows': predict the one character after each window, from a zero state, as the Keras example lstm_text_generation does. 'stream':
    predict the character after every character, the state carried from batch to batch (truncated back-propagation through time)."""
    length: Characters = 40
    """Characters of a window, or steps of truncated back-propagation in a stream."""
    step: Characters = 5
    """Characters between the starts of two windows."""
    validation: Share = 0.1
    """Share of the text, at its end, held out for validation. 0: none."""
    unseen: Literal["include", "error", "drop"] = "include"
    """Characters that only the held-out part contains: give them ids too, refuse them, or drop them from it."""

    def __post_init__(self):
        check_fields(self)


@dataclass(frozen=True)
class SampleConfig:
    """Texts drawn after each epoch."""

    sample_chars: Drawn = 400
    """Characters drawn after each epoch. 0: none."""
    sample_prompt: CharactersOrNone = 40
    """Characters of the prompt, a random piece of the training text."""
    sample_temperatures: tuple[Temperature, ...] = (0.5, 1.0)
    """Temperatures, one sample each; 0: always the likeliest character."""

    def __post_init__(self):
        check_fields(self)


@dataclass(frozen=True)
class GenerationConfig(RunConfig):
    """Text, model, training and samples of one run of the text-generation task."""

    task: ClassVar[str] = "generation"
    commands: ClassVar[str] = "generate or score"

    data: TextConfig = field(default_factory=TextConfig)
    model: GenerationModelConfig = field(default_factory=GenerationModelConfig)
    train: TrainConfig = field(default_factory=lambda: TrainConfig(epochs=10))
    sample: SampleConfig = field(default_factory=SampleConfig)
