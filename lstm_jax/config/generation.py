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
    """Number of features of an embedding of the characters. 0 uses one-hot characters."""
    tied: bool = False
    """Use the embedding table also as the kernel of the output layer. This needs embed = units."""

    def __post_init__(self):
        super().__post_init__()
        require(
            not self.tied or self.embed == self.units, "tied", f"embed {self.embed}, units {self.units}", "tied weights need embed = units"
        )


@dataclass(frozen=True)
class TextConfig:
    """Source, cleaning and windows of the text."""

    data: tuple[str, ...] = ()
    """One or several text files, folders, .csv, .json or .jsonl files, or - for standard input. By default, Python's documentation."""
    text_column: str = ""
    """Column or key of the text in a table. If empty, the only candidate is used."""
    clean: Literal["source", "source-cased", "lower", "none", "exact"] = "source"
    """'source' keeps only English letters, in lower case, and . , ' ! ; ? as the Keras example lstm_text_generation does; 'source-cased'
    keeps both cases; 'lower' only changes to lower case; 'none' and 'exact' change nothing. All but 'exact' use Unix line endings."""
    unit: Literal["character", "byte"] = "character"
    """Token of the model: a Unicode character, or a byte of any encoding."""
    regime: Literal["windows", "stream"] = "windows"
    """'windows' predicts the character after each window from a zero state, as the Keras example lstm_text_generation does. 'stream'
    predicts every next character and carries the state from batch to batch (truncated back-propagation through time)."""
    length: Characters = 40
    """Number of characters in a window, or number of steps of truncated back-propagation in a stream."""
    step: Characters = 5
    """Number of characters from the start of one window to the start of the next."""
    validation: Share = 0.1
    """Share of the text, at its end, that is held out for validation. 0 holds out nothing."""
    unseen: Literal["include", "error", "drop"] = "include"
    """Characters that occur only in the held-out text are included in the vocabulary, raise an error, or are dropped."""

    def __post_init__(self):
        check_fields(self)


@dataclass(frozen=True)
class SampleConfig:
    """Texts drawn after each epoch."""

    sample_chars: Drawn = 400
    """Number of characters of each text that is drawn after an epoch. 0 draws no texts."""
    sample_prompt: CharactersOrNone = 40
    """Number of characters of the prompt, which is a random excerpt of the training text."""
    sample_temperatures: tuple[Temperature, ...] = (0.5, 1.0)
    """Temperatures; one text is drawn at each of them. 0 always takes the likeliest character."""

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
