"""The commands `lstm-jax train forecast` and `lstm-jax forecast`, which train a
forecasting model and forecast with it.
"""

from pathlib import Path

from rich.table import Column, Table

from lstm_jax.base.checks import frozen
from lstm_jax.lab.commands.common import (
    Command,
    Flat,
    Train,
    load_run,
    metric_text,
    suggest,
    warn,
)
from lstm_jax.lab.files.text import digits_for, json_text
from lstm_jax.lab.forecast.config import ForecastConfig, Level


@frozen
class TrainForecast(Train):
    """Train an LSTM to forecast a time series, with prediction intervals."""

    config: Flat[ForecastConfig] = ForecastConfig()
    run: Path = Path("runs/forecast")
    following = "forecast"

    def report(self, result):
        metrics = ", ".join(
            f"{name} {metric_text(result[f'test_{name}'], '.4g')}"
            for name in ("mae", "rmse", "coverage")
        )
        yield (
            f"test part: {metrics} of the 90 % interval (epoch {result['best_epoch']})"
        )
        yield (
            "test part, last value repeated: mae "
            f"{metric_text(result['test_naive_mae'], '.4g')}"
        )


@frozen
class ForecastAhead(Command):
    """Forecast the entries after the end of a time series with a trained model.

    The time, the mean and the prediction interval of each entry are printed.

    There are as many entries as the training's --horizon.
    """

    run: Path = Path("runs/forecast")
    """Folder of a trained run."""
    csv: Path | None = None
    """File of another series to forecast, with the same columns. By default, the series
    of the run is forecast."""
    level: Level = 0.9
    """Probability with which a prediction interval should contain the true value,
    between 0 and 1."""
    json: bool = False
    """Print one JSON object per line."""

    def __call__(self, console):
        trained = load_run("forecast", self.run)
        series = trained.series(self.csv)
        if self.csv is None and not trained.is_own(series):
            warn(
                [
                    (
                        "the series has changed since the run was trained: "
                        "forecasts begin after its present end"
                    )
                ]
            )
        found = trained.ahead(series, self.level)
        times = [series.shown(time) for time in found.times]
        digits = max(
            digits_for(ends, 6) for ends in zip(found.low, found.high, strict=True)
        )
        share = f"{100 * self.level:g}"
        names = ("time", "mean", f"low_{share}", f"high_{share}")
        table = Table(
            *(Column(name, justify="right") for name in names),
            title=f"forecast with its {share} % interval",
        )
        if not (self.json or console.is_terminal):
            print(",".join(names))
        for time, *numbers in zip(
            times, found.mean, found.low, found.high, strict=True
        ):
            texts = [time, *(f"{number:.{digits}g}" for number in numbers)]
            if self.json:
                print(
                    json_text(
                        {"time": time}
                        | dict(
                            zip(
                                ("mean", "low", "high"),
                                map(float, numbers),
                                strict=True,
                            )
                        )
                    )
                )
            elif console.is_terminal:
                table.add_row(*texts)
            else:
                print(",".join(texts))
        if table.row_count:
            console.print(table)
            suggest(console, "inspect", self.run)


COMMANDS = {"train forecast": TrainForecast, "forecast": ForecastAhead}
"""Dict from the name of each command of the forecasting task to the class of the
command."""
