"""Config of a text-generation run, with sections for the text, the model, the training
and the sampled texts.
"""

from typing import Annotated, ClassVar, Literal

from lstm_jax.base.checks import (
    MOST,
    Bounds,
    Checked,
    Count,
    CountOrNone,
    RateOrNone,
    Share,
    frozen,
)
from lstm_jax.base.errors import require
from lstm_jax.base.types import Texts
from lstm_jax.lab.config import RecurrentConfig, RunConfig
from lstm_jax.training.config import TrainConfig, added

Drawn = Annotated[int, Bounds(0, 10**6, "give 0 or more characters")]
Written = Annotated[int, Bounds(0, 10**7, "give 0 or more characters")]
TopP = Annotated[
    float, Bounds(5e-324, 1, "give a share above 0, at most 1", whole=True)
]
Temperature = Annotated[
    float,
    Bounds(
        1e-6,
        1e6,
        "give 0 (always the likeliest), or 1e-6 to 1e6 (all alike)",
        whole=True,
        zero=True,
    ),
]
"""Temperature of sampling: 0, or a number from 1e-6 to 1e6. Other temperatures cause
overflow in float32."""


@frozen
class GenerationModelConfig(RecurrentConfig):
    """Config of the character model: one-hot characters or an embedding, then recurrent
    layers, then a softmax over the characters.
    """

    embed: CountOrNone = 0
    """Number of features of the embedding of the characters. 0 means one-hot characters
    without an embedding."""
    tied: bool = False
    """Use the transposed embedding table as the kernel of the output layer. This needs
    embed = units."""
    step_dropout: Share = added(0.0)
    """Dropout rate of the embedding's and of each recurrent layer's outputs, drawn anew
    at each step (Zaremba et al. 2014)."""
    initial_range: RateOrNone = added(0.0)
    """Draw all parameters uniformly from minus to plus this number. 0 uses the
    initialisers of Keras."""

    def __post_init__(self):
        super().__post_init__()
        require(
            not self.tied or self.embed == self.units,
            "tied",
            f"embed {self.embed}, units {self.units}",
            "tied weights need embed = units",
        )


Clean = Literal["source", "source-cased", "lower", "none", "exact"]
Unit = Literal["character", "byte"]
Token = Literal["character", "byte", "word"]
Unseen = Literal["include", "error", "drop"]
WantedMode = Literal["auto", "carried", "window"]


@frozen
class TextConfig(Checked):
    """Config of the text: its source, its cleaning and its windows."""

    data: Texts = ()
    """Files or folders of texts, for example book.txt or articles.csv, or - for
    standard input. By default, the documentation of Python is read."""
    text_column: str = ""
    """Column or key that contains the text in a .csv, .json or .jsonl file. If empty,
    it is guessed."""
    clean: Clean = "source"
    """'source' replaces all characters except English letters and . , ' ! ; ? by spaces
    and uses lower case. 'source-cased' does the same but keeps upper case. 'lower' only
    changes letters to lower case. 'none' and 'exact' keep all characters. All except
    'exact' change line endings to those of Unix."""
    unit: Token = "character"
    """Token of the model: a Unicode character, a byte (of any encoding), or a word
    between white space. With 'word', all numbers of characters are numbers of words,
    each line ends with the word <eos>, and the defaults of the command line are those
    of preset words."""
    num_words: Annotated[
        int, Bounds(3, MOST, "give 3 or more (two are <unk> and <eos>)")
    ] = added(20_000)
    """Size of the vocabulary of words: <unk>, <eos>, and the most frequent words. All
    others, and those that occur once in a text without <unk>, are read as <unk>."""
    regime: Literal["windows", "stream"] = "windows"
    """'windows' reads each window from a zero state and predicts the character after
    it, as the Keras example lstm_text_generation does. 'stream' predicts every
    character and carries the state from batch to batch (truncated back-propagation
    through time)."""
    input: Literal["memory", "stream"] = added("memory")
    """'memory' reads the whole text. 'stream' leaves it in the files that `lstm-jax
    data shard` has written, and reads each batch from there, for a text that is larger
    than the memory. --data is then the folder of these files."""
    article_resets: bool = added(False)
    """In a stream, replace the state by zeros at the beginning of each article, so that
    the articles before it have no effect."""
    length: Count = 40
    """Number of characters in a window. In a stream, number of steps of truncated
    back-propagation."""
    step: Count = 5
    """Number of characters from the start of one window to the start of the next. A
    stream ignores it."""
    validation: Share = 0.1
    """Share of the text, at its end, that is held out for validation. 0 holds out
    nothing."""
    validation_data: Texts = added(())
    """Files or folders of texts that are held out in place of a share of the training
    text."""
    unseen: Unseen = "include"
    """Treatment of characters that occur only in the held-out text: 'include' adds them
    to the vocabulary, 'error' raises an error, 'drop' removes them from the held-out
    text. With 'include', words are read as <unk>."""

    def __post_init__(self):
        super().__post_init__()
        remedy = (
            "windows start from a zero state anyway: give regime stream, or leave "
            "it out"
        )
        streams = self.input == "stream"
        require(
            not streams or len(self.data) == 1,
            "data",
            self.data,
            "for input stream, give one folder of lstm-jax data shard",
        )
        require(
            not streams or self.unseen == "include",
            "unseen",
            self.unseen,
            "for input stream, give include",
        )
        require(
            not streams or self.unit != "word",
            "unit",
            self.unit,
            "for input stream, give character or byte",
        )
        require(
            not streams or not self.validation_data,
            "validation_data",
            self.validation_data,
            "for input stream, give a share",
        )
        require(
            not self.article_resets or self.regime == "stream",
            "article_resets",
            f"regime {self.regime}",
            remedy,
        )


@frozen
class SampleConfig(Checked):
    """Config of the texts that are sampled from the model after each epoch."""

    sample_chars: Drawn = 400
    """Number of characters to sample for each text. 0 samples no texts."""
    sample_prompt: CountOrNone = 40
    """Number of characters of the prompt that each text continues. The prompt is a
    random excerpt of the training text."""
    sample_temperatures: tuple[Temperature, ...] = (0.5, 1.0)
    """Sampling temperatures. One text is sampled at each temperature. Temperature 0
    always takes the likeliest character."""


@frozen
class GenerationConfig(RunConfig):
    """Config of one run of the text-generation task: its text, model, training and
    sampled texts.
    """

    task: ClassVar[str] = "generation"
    commands: ClassVar[str] = "generate or score"
    files: ClassVar[Texts] = ("characters.json",)

    data: TextConfig = TextConfig()
    model: GenerationModelConfig = GenerationModelConfig()
    train: TrainConfig = TrainConfig(epochs=10)
    sample: SampleConfig = SampleConfig()

    def __post_init__(self):
        require(
            self.data.unit != "word" or self.model.embed,
            "embed",
            self.model.embed,
            "words need an embedding: give 1 or more features",
        )


PRESETS = {
    # tiny Shakespeare on the split of nanoGPT, in about half an hour on two cores;
    # the results are in docs/tutorials/characters.md
    "shakespeare": GenerationConfig(
        data=TextConfig(clean="exact", regime="stream", length=64, validation=0.1),
        model=GenerationModelConfig(
            units=416, layers=2, embed=64, dropout=0.25, recurrent_dropout=0.25
        ),
        train=TrainConfig(
            epochs=12,
            batch_size=32,
            learning_rate=3e-3,
            schedule="cosine",
            clip_norm=1.0,
        ),
    ),
    "words": GenerationConfig(
        data=TextConfig(unit="word", clean="none", regime="stream", length=35),
        model=GenerationModelConfig(units=256, embed=256, tied=True, step_dropout=0.5),
        train=TrainConfig(
            epochs=20,
            batch_size=20,
            learning_rate=2e-3,
            schedule="cosine",
            clip_norm=1.0,
        ),
        sample=SampleConfig(sample_chars=60, sample_prompt=8),
    ),
    # Zaremba et al. 2014 add up the losses of the steps, of which this project
    # takes the mean: their learning rate is multiplied, and their largest norm
    # divided, by the number of steps
    "ptb-small": GenerationConfig(
        data=TextConfig(unit="word", clean="none", regime="stream", length=20),
        model=GenerationModelConfig(units=200, layers=2, embed=200, initial_range=0.1),
        train=TrainConfig(
            epochs=13,
            batch_size=20,
            optimizer="sgd",
            learning_rate=20.0,
            schedule="epochs",
            constant_epochs=4,
            clip_norm=5 / 20,
        ),
        sample=SampleConfig(sample_chars=60, sample_prompt=8),
    ),
    "ptb-medium": GenerationConfig(
        data=TextConfig(unit="word", clean="none", regime="stream", length=35),
        model=GenerationModelConfig(
            units=650, layers=2, embed=650, step_dropout=0.5, initial_range=0.05
        ),
        train=TrainConfig(
            epochs=39,
            batch_size=20,
            optimizer="sgd",
            learning_rate=35.0,
            schedule="epochs",
            decay=1.2,
            constant_epochs=6,
            clip_norm=5 / 35,
        ),
        sample=SampleConfig(sample_chars=60, sample_prompt=8),
    ),
}
"""Dict from the name of each preset, a config that reaches a known result, to the
config."""
