"""Config of a forecasting run, with sections for the series, the model and the
training.
"""

from typing import Annotated, ClassVar

from lstm_jax.base.checks import Bounds, Checked, Count, frozen
from lstm_jax.base.errors import require
from lstm_jax.base.types import Texts
from lstm_jax.lab.config import RecurrentConfig, RunConfig
from lstm_jax.training.config import TrainConfig

Part = Annotated[float, Bounds(1e-9, 1 - 1e-9, "give a share between 0 and 1")]
Level = Annotated[
    float, Bounds(1e-300, 1 - 2**-53, "give a share between 0 and 1", whole=True)
]


@frozen
class SeriesConfig(Checked):
    """Config of the time series: its source, its windows and its splits."""

    csv: str = ""
    """A .csv or .jsonl file that contains a column of times and a column of values.
    Rows without a value are left out."""
    time: str = "time"
    """Name of the column of times. The times must be increasing numbers or ISO dates
    such as 2026-11-25."""
    value: str = "value"
    """Name of the column of values."""
    context: Count = 48
    """Number of consecutive entries that the model reads to make a forecast."""
    horizon: Count = 12
    """Number of entries after the context that the model forecasts."""
    gaps: bool = True
    """Give the network the time between each entry and the entry before it, and the
    time from the last entry of the context to each forecast entry."""
    level: bool = True
    """Give the network each value itself, in addition to the difference between this
    value and the last value of the context."""
    validation: Part = 0.15
    """Share of the series that forms the validation split. It lies before the test
    split and selects the best epoch."""
    test: Part = 0.15
    """Share of the series that forms the test split. It lies at the end of the series
    and gives the final metrics."""

    def __post_init__(self):
        super().__post_init__()
        require(
            self.validation + self.test < 1,
            "test",
            self.test,
            f"with validation {self.validation} nothing is left to train on",
        )


@frozen
class ForecastModelConfig(RecurrentConfig):
    """Config of the forecasting model: recurrent layers, then a dense layer for the
    mean and standard deviation of each forecast entry.
    """

    units: Count = 32
    """Number of units of each recurrent layer."""


@frozen
class ForecastConfig(RunConfig):
    """Config of one run of the forecasting task: its series, model and training."""

    task: ClassVar[str] = "forecast"
    commands: ClassVar[str] = "forecast"
    files: ClassVar[Texts] = ("scale.json",)

    data: SeriesConfig = SeriesConfig()
    model: ForecastModelConfig = ForecastModelConfig()
    train: TrainConfig = TrainConfig(
        epochs=100, patience=15, learning_rate=3e-3, clip_norm=1.0
    )
