"""Config of a sentiment run, with sections for the reviews, the model, the training and
the pretraining.
"""

from typing import Annotated, ClassVar, Literal

from lstm_jax.base.checks import (
    MOST,
    Bounds,
    Checked,
    Count,
    CountOrNone,
    Rate,
    RateOrNone,
    Share,
    frozen,
)
from lstm_jax.base.errors import require
from lstm_jax.base.types import Texts
from lstm_jax.lab.config import RecurrentConfig, RunConfig
from lstm_jax.training.config import TrainConfig, added

Words = Annotated[int, Bounds(4, MOST, "give 4 or more (0, 1 and 2 are reserved)")]


Kind = Literal["keras", "frequency"]
End = Literal["pre", "post"]


@frozen
class DataConfig(Checked):
    """Config of the reviews: their source, their vocabulary and their padding."""

    data: str = ""
    """Source of the reviews: a file or folder, for example aclImdb_v1.tar.gz or
    reviews.csv, or 'tfds'. If empty, the source is $LSTM_JAX_DATA/imdb. The error for a
    source of an unknown form lists all forms."""
    input: Literal["memory", "stream"] = added("memory")
    """'memory' reads all reviews. 'stream' leaves them in the folder --data, which
    `lstm-jax data shard-reviews` has written, and reads each batch while the step
    before it runs. The validation and test splits are read into memory."""
    test_data: str = ""
    """A second file, of the same form as --data, that contains the test split. Give it
    if --data is a single file without splits."""
    text_column: str = "text"
    """Column or key that contains the text of a review in a .csv or .jsonl file."""
    label_column: str = "label"
    """Column or key that contains the label (0 or 1) in a .csv or .jsonl file."""
    vocabulary: Kind = "keras"
    """'keras' uses the word ids of Keras' data set imdb and its order of reviews.
    'frequency' numbers the words of the training reviews by their frequency."""
    num_words: Words = 20_000
    """Size of the vocabulary. Words whose id would be this number or larger get id 2
    (out of vocabulary)."""
    maxlen: Count = 80
    """Number of ids (steps) to which each review is padded or cut."""
    padding: End = "pre"
    """Pad a short review with zeros before ('pre') or after ('post') its ids."""
    truncating: End = "pre"
    """Cut a long review at its beginning ('pre') or at its end ('post')."""
    packed: CountOrNone = added(0)
    """Number of ids (steps) of a row in which several reviews are packed. Only reviews
    longer than a row are cut. The batch size is then a number of rows. 0 gives each
    review a row of its own, of `maxlen` ids."""
    validation: Share = 0.0
    """Share of the training reviews that is held out for validation; no movie is in
    both splits. 0 holds out nothing."""
    cache_dir: str = ""
    """Folder that caches tokenised reviews. If empty, it is $XDG_CACHE_HOME/lstm_jax or
    ~/.cache/lstm_jax."""

    def __post_init__(self):
        super().__post_init__()
        if self.input == "stream":
            require(
                self.data and not self.test_data,
                "data",
                self.data,
                "for input stream, give one folder of data shard-reviews",
            )
            require(
                self.vocabulary == "frequency",
                "vocabulary",
                self.vocabulary,
                "for input stream, give frequency",
            )
            require(not self.packed, "packed", self.packed, "for input stream, give 0")


@frozen
class SentimentModelConfig(RecurrentConfig):
    """Config of the sentiment model: an embedding, then recurrent layers, then a dense
    layer with one sigmoid output.
    """

    dropout: Share = 0.2
    """Dropout rate of the input features of each recurrent layer. The same features are
    dropped at every step."""
    recurrent_dropout: Share = 0.2
    """Dropout rate of the units of the recurrent state. The same units are dropped at
    every step."""
    embed: Count = 128
    """Number of features of the embedding."""
    bidirectional: bool = False
    """Read the input of each recurrent layer in both directions."""
    merge: Literal["concat", "sum", "ave", "mul"] = "concat"
    """Combination of the outputs of the two directions of a bidirectional layer:
    concatenation, sum, average or product."""
    pooling: Literal["last", "mean", "max", "mean+max"] = "last"
    """Input of the output layer. 'last' is the last output of the last recurrent layer.
    'mean' and 'max' are the mean and the maximum of the outputs of this layer over all
    steps that are not padding (id 0). 'mean+max' is the mean and the maximum,
    concatenated."""
    word_dropout: Share = 0.0
    """Dropout rate of words: the share of the words whose vectors are set to zero in
    training. The words are drawn anew for each batch."""
    head_dropout: Share = added(0.0)
    """Dropout rate of the input features of the output layer."""
    adversarial: RateOrNone = added(0.0)
    """Size of an adversarial change of each review's word vectors (Miyato et al. 2017):
    the norm of the change, divided by the root mean square of the vectors. The change
    has the direction in which the loss grows fastest. The loss of the changed review is
    added to the loss of the original review. 0 means no change."""
    mask_zero: bool = False
    """Skip padding (id 0). By default padding is read like a word, as in the Keras
    example imdb_lstm."""


@frozen
class PretrainingConfig(Checked):
    """Config of the pretraining of a sentiment model as a language model (Dai & Le
    2015).

    A language model is trained on the training reviews. Its weights then initialise the
    embedding and the recurrent layer of the sentiment model.
    """

    lm_epochs: CountOrNone = 0
    """Number of epochs in which a language model is trained on the training reviews,
    before the sentiment model is trained. The embedding and the recurrent layer of the
    language model initialise those of the sentiment model. 0 trains no language model.
    """
    lm_learning_rate: Rate = 3e-3
    """Peak learning rate of the language model. The learning rate grows from 0 to the
    peak in the first tenth of the steps, or in the first 200 steps if a tenth is more
    than 200. Then the learning rate falls to 0 along a cosine curve."""
    lm_dropout: Share = 0.2
    """Dropout rate of the input features and of the outputs of the language model's
    recurrent layer."""


@frozen
class SentimentConfig(RunConfig):
    """Config of one run of the sentiment task: its reviews, its model, its training,
    and the pretraining of the model.
    """

    task: ClassVar[str] = "sentiment"
    commands: ClassVar[str] = "predict or evaluate"
    files: ClassVar[Texts] = ("vocabulary.json", "words.npz")

    data: DataConfig = DataConfig()
    model: SentimentModelConfig = SentimentModelConfig()
    train: TrainConfig = TrainConfig()
    pretraining: PretrainingConfig = added(PretrainingConfig())

    def __post_init__(self):
        epochs = self.pretraining.lm_epochs
        require(
            self.model.layers == 1 or not epochs,
            "lm_epochs",
            epochs,
            "a language model trains one recurrent layer: give --layers 1",
        )
        require(
            self.data.input == "memory" or not epochs,
            "lm_epochs",
            epochs,
            "a language model needs --input memory",
        )
        if self.data.packed:
            model, size = self.model, self.data.packed
            split = (
                model.merge == "concat"
                or not model.bidirectional
                or model.pooling != "last"
            )
            remedy = "give merge concat, or another pooling"
            require(
                split,
                "packed",
                size,
                "the last outputs of packed reviews are not merged by "
                f"{model.merge}: {remedy}",
            )


PRESETS = {
    # the widest choice of the study `best`, whose results are in docs/studies.md
    "best": SentimentConfig(
        data=DataConfig(maxlen=400, packed=512, validation=0.15),
        model=SentimentModelConfig(
            units=256,
            bidirectional=True,
            pooling="mean+max",
            dropout=0.3,
            recurrent_dropout=0.0,
            head_dropout=0.5,
            adversarial=2.0,
        ),
        train=TrainConfig(
            epochs=3, batch_size=16, learning_rate=2e-3, schedule="cosine"
        ),
        pretraining=PretrainingConfig(lm_epochs=6),
    )
}
"""Dict from the name of each preset, a config that reaches a known result, to the
config."""
