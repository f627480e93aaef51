"""Config of forecasting runs: series, model and training."""

from dataclasses import dataclass, field
from typing import ClassVar

from lstm_jax.bounds import Count, Entries, Part
from lstm_jax.config.shared import RecurrentConfig, RunConfig, TrainConfig, check_fields
from lstm_jax.errors import require


@dataclass(frozen=True)
class SeriesConfig:
    """Source, windows and splits of the series."""

    csv: str = ""
    """A .csv or .jsonl file with a column of times and a column of values. Rows without a value are left out."""
    time: str = "time"
    """Column of the times, which are increasing numbers or ISO dates."""
    value: str = "value"
    """Column of the values."""
    context: Entries = 48
    """Number of entries that the model reads."""
    horizon: Entries = 12
    """Number of entries that the model forecasts."""
    gaps: bool = True
    """Give the network the time since the previous entry, and the time from the last entry read to each entry to forecast."""
    level: bool = True
    """Give the network the values themselves, in addition to their differences from the last value read."""
    validation: Part = 0.15
    """Share of the series in the validation split, which selects the best epoch and lies before the test split."""
    test: Part = 0.15
    """Share of the series in the test split, which lies at the end and gives the final metrics."""

    def __post_init__(self):
        check_fields(self)
        require(self.validation + self.test < 1, "test", self.test, f"with validation {self.validation} nothing is left to train on")


@dataclass(frozen=True)
class ForecastModelConfig(RecurrentConfig):
    """LSTM -> mean and standard deviation of each entry to forecast."""

    units: Count = 32
    """Number of units of each recurrent layer."""


@dataclass(frozen=True)
class ForecastConfig(RunConfig):
    """Series, model and training of one run of the forecasting task."""

    task: ClassVar[str] = "forecast"
    commands: ClassVar[str] = "forecast"

    data: SeriesConfig = field(default_factory=SeriesConfig)
    model: ForecastModelConfig = field(default_factory=ForecastModelConfig)
    train: TrainConfig = field(default_factory=lambda: TrainConfig(epochs=100, patience=15, learning_rate=3e-3, clip_norm=1.0))
