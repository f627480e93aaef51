"""Config of sentiment runs: reviews, model and training."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from lstm_jax.bounds import Count, Share, Steps, Words
from lstm_jax.config.shared import RecurrentConfig, RunConfig, TrainConfig, check_fields


@dataclass(frozen=True)
class DataConfig:
    """Source, vocabulary and padding of the reviews."""

    data: str = ""
    """Source of the reviews: aclImdb_v1.tar.gz, a folder aclImdb/, a folder or file of .jsonl[.xz], imdb.npz, a .csv, or 'tfds'. If empty,
    the source is $LSTM_JAX_DATA/imdb."""
    test_data: str = ""
    """A second .csv or .jsonl file with the test split, if the source has no splits."""
    text_column: str = "text"
    """Column or key of the text in a CSV or JSON-lines file."""
    label_column: str = "label"
    """Column or key of the label (0 or 1) in a CSV or JSON-lines file."""
    vocabulary: Literal["keras", "frequency"] = "keras"
    """'keras' uses the word index of Keras, with its ids and its order of reviews; 'frequency' is built from the training reviews."""
    num_words: Words = 20_000
    """Size of the vocabulary. Ids of this size or above become 2 (out of vocabulary)."""
    maxlen: Steps = 80
    """Number of ids (steps) to which each review is padded or cut."""
    padding: Literal["pre", "post"] = "pre"
    """Pad a short review with zeros before ('pre') or after ('post') its ids."""
    truncating: Literal["pre", "post"] = "pre"
    """Cut a long review at its beginning ('pre') or at its end ('post')."""
    validation: Share = 0.0
    """Share of the training reviews that is held out for validation; no movie is in both splits. 0 holds out nothing."""
    cache_dir: str = ""
    """Folder that caches tokenised reviews. If empty, it is $XDG_CACHE_HOME/lstm_jax or ~/.cache/lstm_jax."""

    def __post_init__(self):
        check_fields(self)


@dataclass(frozen=True)
class SentimentModelConfig(RecurrentConfig):
    """Embedding -> LSTM -> Dense(1, sigmoid)."""

    dropout: Share = 0.2
    """Share of the input features of each recurrent layer that is dropped, the same features at every step."""
    recurrent_dropout: Share = 0.2
    """Share of the units of the recurrent state that is dropped, the same units at every step."""
    embed: Count = 128
    """Number of features of the embedding."""
    bidirectional: bool = False
    """Read the input of each recurrent layer in both directions."""
    merge: Literal["concat", "sum", "ave", "mul"] = "concat"
    """Combination of the outputs of the two directions."""
    pooling: Literal["last", "mean", "max", "mean+max"] = "last"
    """Input of the output layer: the last output of the last recurrent layer, or the mean, the maximum or both over its outputs at all ids
    but padding (id 0)."""
    word_dropout: Share = 0.0
    """Share of the words whose vectors are set to zero in training. The words are drawn anew for each batch."""
    mask_zero: bool = False
    """Skip padding (id 0). The Keras example imdb_lstm does not skip padding but reads it as a word."""


@dataclass(frozen=True)
class SentimentConfig(RunConfig):
    """Reviews, model and training of one run of the sentiment task."""

    task: ClassVar[str] = "sentiment"
    commands: ClassVar[str] = "predict or evaluate"

    data: DataConfig = field(default_factory=DataConfig)
    model: SentimentModelConfig = field(default_factory=SentimentModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
