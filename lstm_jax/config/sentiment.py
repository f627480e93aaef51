"""Config of sentiment runs: reviews, model and training."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from lstm_jax.bounds import Count, Share, Steps, Words
from lstm_jax.config.shared import RecurrentConfig, RunConfig, TrainConfig, check_fields


@dataclass(frozen=True)
class DataConfig:
    """Source, vocabulary and padding of the reviews."""

    data: str = ""
    """aclImdb_v1.tar.gz, a folder aclImdb/, a folder or file of .jsonl[.xz], imdb.npz, a .csv, or 'tfds'. Empty: $LSTM_JAX_DATA/imdb."""
    test_data: str = ""
    """A second .csv or .jsonl file with the test split, for sources without splits."""
    text_column: str = "text"
    """Column or key of the text in a CSV or JSON-lines file."""
    label_column: str = "label"
    """Column or key of the label (0 or 1) in a CSV or JSON-lines file."""
    vocabulary: Literal["keras", "frequency"] = "keras"
    """'keras': Keras' word index, its ids and its order of reviews. 'frequency': built from the training text."""
    num_words: Words = 20_000
    """Size of the vocabulary: ids at or above it become 2 (out of vocabulary)."""
    maxlen: Steps = 80
    """Reviews are padded or cut to this many ids (steps)."""
    padding: Literal["pre", "post"] = "pre"
    """Where the zeros go."""
    truncating: Literal["pre", "post"] = "pre"
    """End of a long review that is cut away."""
    validation: Share = 0.0
    """Share of the training reviews held out for validation; no movie is in both parts. 0: none."""
    cache_dir: str = ""
    """Folder of tokenised copies. Empty: $XDG_CACHE_HOME/lstm_jax or ~/.cache/lstm_jax."""

    def __post_init__(self):
        check_fields(self)


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
    """Input of the head: the last output of the last layer, or the mean, maximum or both of its outputs over all words but padding (id
    0)."""
    word_dropout: Share = 0.0
    """Share of the words whose vectors are set to zero in training, drawn anew for each batch."""
    mask_zero: bool = False
    """Skip padding (id 0) instead of reading it as a word; the Keras example imdb_lstm reads it."""


@dataclass(frozen=True)
class SentimentConfig(RunConfig):
    """Reviews, model and training of one run of the sentiment task."""

    task: ClassVar[str] = "sentiment"
    commands: ClassVar[str] = "predict or evaluate"

    data: DataConfig = field(default_factory=DataConfig)
    model: SentimentModelConfig = field(default_factory=SentimentModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
