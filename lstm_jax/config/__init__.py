"""Configs of training runs, as frozen dataclasses. This package does not import JAX, so
that `lstm-jax --help` answers without delay.

The docstring of a field is the help line of the flag with the same name.
"""

from lstm_jax.config.files import (
    CONFIGS,
    override,
    read_config,
    read_fields,
    read_task,
    to_json,
    with_task,
)
from lstm_jax.config.forecast import ForecastConfig, ForecastModelConfig, SeriesConfig
from lstm_jax.config.generation import (
    GenerationConfig,
    GenerationModelConfig,
    SampleConfig,
    TextConfig,
)
from lstm_jax.config.presets import PRESETS
from lstm_jax.config.sentiment import (
    DataConfig,
    PretrainingConfig,
    SentimentConfig,
    SentimentModelConfig,
)
from lstm_jax.config.shared import RecurrentConfig, RunConfig, TrainConfig
