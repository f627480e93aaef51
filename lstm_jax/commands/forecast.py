"""`lstm-jax train forecast`, and what a run of it answers."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from lstm_jax.bounds import Checked, Level
from lstm_jax.commands.common import Flat, say, start, start_training, warn
from lstm_jax.config import ForecastConfig


@dataclass(frozen=True)
class TrainForecast:
    """Train an LSTM on a series of numbers at times: its next entries, each with an interval."""

    config: Flat[ForecastConfig] = field(default_factory=ForecastConfig)
    run: Path = Path("runs/forecast")
    """Folder of the run: config, environment, metrics.jsonl, TensorBoard events, figures, checkpoints."""
    resume: bool = False
    """Go on with the interrupted run in that folder."""
    allow_other_machine: bool = False
    """Resume where devices, versions or compiled code are others than before: the last bits of what follows will differ."""
    figures: bool = True
    """Draw the figures at the end."""

    def __call__(self, console: Console) -> None:
        start_training(self.config.train.devices, self.config.model)
        from lstm_jax.tasks import forecast

        forecast.train(
            self.config,
            self.run,
            resume=self.resume,
            allow_other_machine=self.allow_other_machine,
            console=console,
            figures=self.figures,
        )
        result = json.loads((self.run / "result.json").read_text())
        told = ", ".join(f"{name} {result[f'test_{name}']:.4g}" for name in ("mae", "rmse", "coverage"))
        say(console, f"test part: {told} of the 90 % interval (epoch {result['best_epoch']})")
        say(console, f"run in {self.run}: lstm-jax forecast --run {self.run}")


@dataclass(frozen=True)
class Forecast(Checked):
    """The entries behind the end of a run's series, or of another one: time, mean and interval, a line each."""

    run: Path = Path("runs/forecast")
    """Folder of a run."""
    csv: Path | None = None
    """Another series, with the same columns."""
    level: Level = 0.9
    """Of the interval."""
    json: bool = False
    """A JSON object a line."""

    def __call__(self, console: Console) -> None:
        del console
        start()
        from lstm_jax.tasks import forecast

        trained = forecast.load(self.run)
        warn(trained.notes)
        series = trained.series(self.csv)
        if self.csv is None and not trained.is_own(series):
            warn(["the series has changed since the run was trained: forecasts begin behind its present end"])
        found = trained.ahead(series, self.level)
        times = [series.shown(time) for time in found.times]
        for time, *numbers in zip(times, found.mean, found.low, found.high, strict=True):
            row = dict(zip(("mean", "low", "high"), (float(number) for number in numbers), strict=True))
            if self.json:
                print(json.dumps({"time": time} | row))
            else:
                print(",".join([time, *(f"{number:.6g}" for number in row.values())]))
