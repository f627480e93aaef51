"""Configs of a run: frozen dataclasses, free of JAX so that `lstm-jax --help` answers at once.

Each field's docstring is the help line of the flag of that name. What is derived is a property.
"""

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

from lstm_jax.backend_names import with_current_names
from lstm_jax.bounds import (
    MOST,
    Characters,
    CharactersOrNone,
    Count,
    CountOrNone,
    Devices,
    Drawn,
    Entries,
    Features,
    Layers,
    Part,
    Rate,
    RateOrNone,
    Rows,
    Seed,
    Share,
    Steps,
    Temperature,
    Words,
    check_numbers,
)
from lstm_jax.cell_names import CellName as CellName
from lstm_jax.cell_names import cell_traits
from lstm_jax.errors import InputError, require

T = TypeVar("T")


def _check(config: Any) -> None:
    """Check numbers, and that a field of named choices holds one of them; the command line has seen to the second, a file has not."""
    check_numbers(config)
    for field in dataclasses.fields(config):
        if get_origin(field.type) is Literal:
            value = getattr(config, field.name)
            require(value in get_args(field.type), field.name, value, f"give one of {', '.join(map(str, get_args(field.type)))}")


def _require_segments(remat: Any) -> None:
    count = isinstance(remat, int) and not isinstance(remat, bool) and 1 <= remat <= MOST
    require(count or remat in ("none", "sqrt"), "remat", remat, "give none, sqrt, or 1 or more segments")


@dataclass(frozen=True)
class DataConfig:
    """Which reviews, as which integers, padded how."""

    data: str = ""
    """aclImdb_v1.tar.gz, a folder aclImdb/, a folder or file of .jsonl[.xz], imdb.npz, a .csv, or 'tfds'. Empty: $LSTM_JAX_DATA/imdb."""
    test_data: str = ""
    """A second .csv or .jsonl file that holds the test split, for sources that have no split of their own."""
    text_column: str = "text"
    """Column or key of the text in a CSV or JSON-lines file."""
    label_column: str = "label"
    """Column or key of the label (0 or 1) in a CSV or JSON-lines file."""
    vocabulary: Literal["keras", "frequency"] = "keras"
    """'keras': Keras' word index, its ids and its order of reviews. 'frequency': built from the training text."""
    num_words: Words = 20_000
    """Ids at or above this become 2 (out of vocabulary)."""
    maxlen: Steps = 80
    """Reviews are padded or cut to this many ids (steps)."""
    padding: Literal["pre", "post"] = "pre"
    """Where the zeros go."""
    truncating: Literal["pre", "post"] = "pre"
    """Which end of a long review is cut away."""
    validation: Share = 0.0
    """Share of the training reviews held out for validation, no movie in both parts. 0: none."""
    cache_dir: str = ""
    """Folder of tokenised copies. Empty: $XDG_CACHE_HOME/lstm_jax or ~/.cache/lstm_jax."""

    def __post_init__(self):
        _check(self)


@dataclass(frozen=True)
class RecurrentConfig:
    """What the recurrent layers of every task have."""

    units: Count = 128
    """Units of each recurrent layer."""
    layers: Layers = 1
    """Stacked recurrent layers."""
    dropout: Share = 0.0
    """Share of each recurrent layer's input features dropped, the same ones at every step."""
    recurrent_dropout: Share = 0.0
    """Share of the recurrent state dropped, the same units at every step."""
    dropout_masks: Literal["keras", "per_gate", "variational"] = "keras"
    """'keras': a mask a gate if recurrent dropout is on, else one shared; 'variational': one shared mask each (Gal, Ghahramani 2016)."""
    weight_drop: Share = 0.0
    """Share of each recurrent kernel's entries dropped, the same at every step of a batch (DropConnect; Merity et al. 2018)."""
    zoneout: Share = 0.0
    """Share of the units whose state a step leaves as it was, drawn anew at each step (Krueger et al. 2017)."""
    zoneout_cell: Share = 0.0
    """The same of the LSTM's cell state c."""
    cell: str = "lstm"
    """Recurrent cell: lstm, gru, simple_rnn, min_gru, ..., or one that a module in $LSTM_JAX_CELLS registers; see `lstm_jax.cells`."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the matrix products; parameters and state stay float32."""
    backend: Literal["auto", "reference", "hoisted", "compiled", "cudnn", "pallas", "associative"] = "auto"
    """Recurrence backend; see `lstm-jax backends`."""
    remat: Literal["none", "sqrt"] | int = "none"
    """For long sequences: run each of so many segments of time once more in the backward pass instead of keeping it. 'sqrt': the square
    root of the steps, least memory. 'none': keep all."""

    def __post_init__(self):
        _check(self)
        require(self.cell in cell_traits(), "cell", self.cell, f"give one of {', '.join(map(repr, cell_traits()))}")
        _require_segments(self.remat)
        for name in ("recurrent_dropout", "weight_drop"):  # gates that do not see the state have no product with it
            have, rate = cell_traits()[self.cell].has_recurrent_kernel, getattr(self, name)
            require(have or not rate, name, rate, f"the cell {self.cell} multiplies no state by a kernel: give 0")
        has_c = cell_traits()[self.cell].has_cell_state
        require(has_c or not self.zoneout_cell, "zoneout_cell", self.zoneout_cell, f"the cell {self.cell} has no c: give 0")
        zoned = self.zoneout or self.zoneout_cell
        require(self.remat == "none" or not zoned, "remat", self.remat, "segments have no zoneout: give none, or no zoneout")


@dataclass(frozen=True)
class SentimentModelConfig(RecurrentConfig):
    """Embedding -> LSTM -> Dense(1, sigmoid)."""

    dropout: Share = 0.2
    """Share of each recurrent layer's input features dropped, the same ones at every step."""
    recurrent_dropout: Share = 0.2
    """Share of the recurrent state dropped, the same units at every step."""
    embed: Count = 128
    """Features of the embedding."""
    bidirectional: bool = False
    """Read each layer's input in both directions."""
    merge: Literal["concat", "sum", "ave", "mul"] = "concat"
    """How the two directions are joined."""
    pooling: Literal["last", "mean", "max", "mean+max"] = "last"
    """What the head reads of the last layer: its last output, or the mean, the largest or both over all words, padding (id 0) left out."""
    word_dropout: Share = 0.0
    """Share of the words whose vectors are zeros in training, drawn anew each time."""
    mask_zero: bool = False
    """Skip padding (id 0) instead of reading it as a word; the source reads it."""


@dataclass(frozen=True)
class TrainConfig:
    """How long, how fast, from which seed."""

    epochs: Count = 3
    """Passes over the training rows."""
    batch_size: Rows = 32
    """Rows a step, over all devices."""
    optimizer: str = "adam"
    """'adam' and 'rmsprop' are Keras'; any other name is looked up in optax (sgd, lion, adamw, ...)."""
    learning_rate: Rate = 1e-3
    """Peak learning rate."""
    schedule: Literal["constant", "cosine", "linear", "exponential"] = "constant"
    """Decay of the learning rate over the run, to `final_learning_rate`."""
    final_learning_rate: RateOrNone = 0.0
    """Where a decaying schedule ends (exponential needs more than 0)."""
    warmup_steps: CountOrNone = 0
    """Steps of linear warm-up from 0."""
    clip_norm: RateOrNone = 0.0
    """Largest global norm of the gradient. 0: no clipping."""
    patience: CountOrNone = 0
    """Stop after this many epochs without a better validation loss. 0: never."""
    seed: Seed = 0
    """Seed of initial weights, dropout and order."""
    checkpoint_steps: CountOrNone = 0
    """Also save every so many steps inside an epoch. 0: at the end of each epoch only."""
    devices: Devices = 0
    """Devices in the mesh. 0: all; on a CPU one a core, or where the backend compiled runs one that shares out all cores."""

    def __post_init__(self):
        _check(self)
        require(
            self.schedule != "exponential" or self.final_learning_rate > 0,
            "final_learning_rate",
            self.final_learning_rate,
            "an exponential schedule ends above 0",
        )


@dataclass(frozen=True)
class SentimentConfig:
    """The sentiment task: data, model and training of one run."""

    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    model: SentimentModelConfig = dataclasses.field(default_factory=SentimentModelConfig)
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)


@dataclass(frozen=True)
class GenerationModelConfig(RecurrentConfig):
    """One-hot characters (or an embedding) -> LSTM -> softmax over the characters."""

    embed: Features = 0
    """Features of an embedding of the characters. 0: one-hot."""
    tied: bool = False
    """Use the embedding's table as the head's kernel too; needs embed = units."""

    def __post_init__(self):
        super().__post_init__()
        require(
            not self.tied or self.embed == self.units, "tied", f"embed {self.embed}, units {self.units}", "tied weights need embed = units"
        )


@dataclass(frozen=True)
class TextConfig:
    """Which text, as which characters, cut how."""

    data: tuple[str, ...] = ()
    """Text files, folders of them, .csv, .json or .jsonl files, or - for standard input; one or several. Empty: Python's documentation."""
    text_column: str = ""
    """Column or key of the text in a table. Empty: the only one that can be meant."""
    clean: Literal["source", "source-cased", "lower", "none", "exact"] = "source"
    """'source': English letters, lowered, and . , ' ! ; ? alone; 'source-cased': with their case; 'lower': lower case; 'none'. Line ends
    become those of Unix; 'exact': nothing is changed, they neither."""
    unit: Literal["character", "byte"] = "character"
    """What is read and drawn: Unicode characters, or bytes of any encoding."""
    regime: Literal["windows", "stream"] = "windows"
    """'windows': from a zero state, each window of the text to the one character after it, as the source does. 'stream': every character
    to the next one, the state carried from batch to batch (truncated back-propagation through time)."""
    length: Characters = 40
    """Characters of a window, or of the stretch that a stream's gradient runs back over."""
    step: Characters = 5
    """Characters from one window's start to the next one's."""
    validation: Share = 0.1
    """Share of the text, at its end, held out for validation. 0: none."""
    unseen: Literal["include", "error", "drop"] = "include"
    """Characters that the held-out part alone has: give them ids too, refuse them, or leave them out of it."""

    def __post_init__(self):
        _check(self)


@dataclass(frozen=True)
class SampleConfig:
    """What is drawn after each epoch."""

    sample_chars: Drawn = 400
    """Characters drawn after each epoch. 0: none."""
    sample_prompt: CharactersOrNone = 40
    """Characters of the random prompt from the training text that they go on from."""
    sample_temperatures: tuple[Temperature, ...] = (0.5, 1.0)
    """A sample at each; 0: always the likeliest character."""

    def __post_init__(self):
        _check(self)


@dataclass(frozen=True)
class GenerationConfig:
    """The text-generation task: text, model, training and samples of one run."""

    data: TextConfig = dataclasses.field(default_factory=TextConfig)
    model: GenerationModelConfig = dataclasses.field(default_factory=GenerationModelConfig)
    train: TrainConfig = dataclasses.field(default_factory=lambda: TrainConfig(epochs=10))
    sample: SampleConfig = dataclasses.field(default_factory=SampleConfig)


@dataclass(frozen=True)
class SeriesConfig:
    """Which series, cut how."""

    csv: str = ""
    """A .csv or .jsonl file with a column of times and one of values; rows without a value are left out."""
    time: str = "time"
    """Column of the times: numbers, or ISO dates; increasing."""
    value: str = "value"
    """Column of the values."""
    context: Entries = 48
    """Entries that are read."""
    horizon: Entries = 12
    """Entries that are forecast."""
    gaps: bool = True
    """Give the network the time since the entry before, and how far ahead each forecast lies."""
    level: bool = True
    """Give the network the values themselves beside their distance from the last one read."""
    validation: Part = 0.15
    """Share of the series, before the test part, that chooses the epoch."""
    test: Part = 0.15
    """Share of the series, at its end, that is forecast at last."""

    def __post_init__(self):
        _check(self)
        require(self.validation + self.test < 1, "test", self.test, f"with validation {self.validation} nothing is left to train on")


@dataclass(frozen=True)
class ForecastModelConfig(RecurrentConfig):
    """LSTM -> a mean and a spread for each entry ahead."""

    units: Count = 32
    """Units of each recurrent layer."""


@dataclass(frozen=True)
class ForecastConfig:
    """The forecasting task: series, model and training of one run."""

    data: SeriesConfig = dataclasses.field(default_factory=SeriesConfig)
    model: ForecastModelConfig = dataclasses.field(default_factory=ForecastModelConfig)
    train: TrainConfig = dataclasses.field(default_factory=lambda: TrainConfig(epochs=100, patience=15, learning_rate=3e-3, clip_norm=1.0))


RunConfig = SentimentConfig | GenerationConfig | ForecastConfig


def to_json(config: Any) -> str:
    """The whole config as indented JSON."""
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"


def sentiment_from_json(path: Path) -> SentimentConfig:
    """Read back what `to_json` wrote.

    Raises:
        InputError: if the file is absent, is not JSON, is of a run of another task, or has fields this version does not know.
    """
    raw = _read_json(path)
    _require_task(path, raw, "sentiment")
    return _from_raw(path, raw, SentimentConfig, data=DataConfig, model=SentimentModelConfig, train=TrainConfig)


def generation_from_json(path: Path) -> GenerationConfig:
    """The same for a run of text generation."""
    raw = _read_json(path)
    _require_task(path, raw, "text generation")
    return _from_raw(path, raw, GenerationConfig, data=TextConfig, model=GenerationModelConfig, train=TrainConfig, sample=SampleConfig)


def forecast_from_json(path: Path) -> ForecastConfig:
    """The same for a forecast's run."""
    raw = _read_json(path)
    _require_task(path, raw, "forecast")
    return _from_raw(path, raw, ForecastConfig, data=SeriesConfig, model=ForecastModelConfig, train=TrainConfig)


_COMMANDS = {"sentiment": "predict or evaluate", "text generation": "generate or score", "forecast": "forecast"}


def _require_task(path: Path, raw: dict[str, Any], wanted: str) -> None:
    series = isinstance(raw.get("data"), dict) and "horizon" in raw["data"]
    task = "text generation" if "sample" in raw else "forecast" if series else "sentiment"
    require(task == wanted, f"run {path.parent}", task, f"use {_COMMANDS[task]}, or name a run of {wanted}")


_REMEDY = "name the folder of a finished or interrupted run"


def _read_json(path: Path) -> dict[str, Any]:
    try:
        raw = with_current_names(json.loads(path.read_text()))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"config {path}", error.strerror if isinstance(error, OSError) else error, _REMEDY) from error
    require(isinstance(raw, dict), f"config {path}", type(raw).__name__, _REMEDY)
    return raw


def _from_raw(path: Path, raw: dict[str, Any], kind: Callable[..., T], **parts: type) -> T:
    def tuples(fields: dict[str, Any]) -> dict[str, Any]:  # JSON has lists only
        return {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}

    try:
        return kind(**{name: part(**tuples(raw[name])) for name, part in parts.items()})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"config {path}", error, _REMEDY) from error
