"""Table of presets: named configs with which a task reaches a known result."""

from lstm_jax.lab.config import RunConfig
from lstm_jax.lab.generation.config import (
    GenerationConfig,
    GenerationModelConfig,
    SampleConfig,
    TextConfig,
)
from lstm_jax.lab.sentiment.config import (
    DataConfig,
    PretrainingConfig,
    SentimentConfig,
    SentimentModelConfig,
)
from lstm_jax.training.config import TrainConfig

PRESETS: dict[str, dict[str, RunConfig]] = {
    "sentiment": {
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
    },
    "generation": {
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
            model=GenerationModelConfig(
                units=256, embed=256, tied=True, step_dropout=0.5
            ),
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
            model=GenerationModelConfig(
                units=200, layers=2, embed=200, initial_range=0.1
            ),
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
    },
}
"""Dict from the name of a task to its presets: a dict from the name of each preset to
its config."""
