"""HTML page about a trained forecasting model, which shows windows of a series entry by
entry.

In a window, the model reads C entries with F features each, and forecasts the next K
entries.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from lstm_jax.base.errors import require
from lstm_jax.lab.files.text import digits_for
from lstm_jax.lab.forecast import task as forecast
from lstm_jax.lab.inspection.attribution import gradient_norms, integrated_gradients
from lstm_jax.lab.inspection.common import Network, first_kinds
from lstm_jax.lab.inspection.window import Curve, Frame, Strip


class Entries(NamedTuple):
    """Window that the HTML page shows: the times of its entries, the window as a
    `Part`, and whether the K next entries are known.
    """

    steps: list[str]
    part: forecast.Part
    known: bool


class SeriesNetwork(Network):
    """Trained forecasting model, with methods that take parameters and one window of a
    series.

    A window consists of two arrays. `entries` (C, F) has the F features of each entry
    that the model reads. `ahead` (K,) has the times of the entries that the model
    forecasts, as numbers that `forecast.Part.ahead` explains.
    """

    title, kind = "Series, entry by entry", "entry"

    def __init__(self, trained: forecast.Trained):
        super().__init__(trained)
        self.scale = trained.scale
        self.predict = jax.jit(
            lambda params, entries, ahead: trained.rebuild(params)(
                entries, ahead, deterministic=True
            )
        )

    def means(self, entries: Array, params, ahead: Array) -> Array:
        """Return the predicted means (K,) of the next K entries, as differences from
        the last entry read, in units of the series.
        """
        return (
            self.rebuild(params)(entries[None], ahead[None], deterministic=True)[0, 0]
            * self.scale.spread
        )

    def mean(self, entries: Array, params, ahead: Array) -> Array:
        return self.means(entries, params, ahead).mean()

    def replaced(self, params, entries: Array, ahead: Array) -> list[float]:
        """Return the mean of the forecast minus its mean with each entry replaced by
        the average of its neighbours.
        """
        whole, count = np.asarray(entries), len(entries)
        # the first and the last entry have one neighbour
        beside = np.pad(whole, ((1, 1), (0, 0)), "reflect")
        rows = np.repeat(whole[None], count + 1, axis=0)
        rows[np.arange(count), np.arange(count)] = (beside[:-2] + beside[2:]) / 2
        predicted = self.predict(
            params, rows, np.repeat(np.asarray(ahead)[None], count + 1, axis=0)
        )
        means = np.asarray(predicted[:, 0].mean(-1), np.float64) * self.scale.spread
        return (means[-1] - means[:-1]).tolist()

    def examples(self, request):
        require(
            not request.texts,
            "text",
            next(iter(request.texts), ""),
            "a forecasting run reads a series: give --file",
        )
        trained = self.trained
        series = trained.series(request.file)
        if request.file is None:
            require(
                trained.is_own(series),
                "series",
                "changed since the run was trained",
                "give it back, or name a series with --file",
            )
            part = forecast.parts_of(series, trained.config)[0]["test"]
            predicted = trained.predict(part)
            spreads = predicted[:, 1].mean(-1)
            off = np.abs(predicted[:, 0] - part.target).mean(-1)
            kinds = {"surest": spreads, "most wrong": -off, "least sure": -spreads}
            chosen = first_kinds(
                {
                    kind: np.argsort(values, kind="stable")
                    for kind, values in kinds.items()
                },
                request.examples,
            )
        else:
            part, chosen = trained.end_of(series)[0], {0: "end of the series"}
        found = {}
        for n, kind in chosen.items():
            times = series.times[
                part.origin[n] - trained.config.data.context : part.origin[n]
            ]
            steps = [series.shown(float(time)) for time in times]
            window = forecast.Part(*(array[n : n + 1] for array in vars(part).values()))
            found[f"{kind}: forecast after {steps[-1]}"] = Entries(
                steps, window, request.file is None
            )
        return found

    def steps(self, example: Entries):
        return example.steps

    @property
    def about(self):
        return f", forecasts of {self.trained.config.data.horizon} entries."

    def frame(self, params, example: Entries):
        part, spread = example.part, self.scale.spread
        entries, ahead = jnp.asarray(part.entries[0]), jnp.asarray(part.ahead[0])
        predicted = np.asarray(self.predict(params, part.entries, part.ahead))
        mean, low, high = (
            bound[0].tolist()
            for bound in forecast.interval(
                predicted, part.last, self.scale, forecast.LEVEL
            )
        )
        future = {"mean": mean, "low": low, "high": high}
        if example.known:
            future["truth"] = (part.last[0] + part.target[0] * spread).tolist()
        values = part.last[0] + np.asarray(part.entries[0, :, 0], np.float64) * spread
        path = integrated_gradients(self.mean, entries, params, ahead)
        digits = digits_for((low[0], high[0]), 5)
        first, *bounds = (
            f"{number:.{digits}g}" for number in (mean[0], low[0], high[0])
        )
        return Frame(
            f"The forecast of the first entry is {first}, with an interval of "
            f"{' to '.join(bounds)} ({forecast.LEVEL:.0%}).",
            Curve("value of the series", values.tolist(), ahead=future),
            self.trace(params, entries[None], ahead[None]),
            (
                Strip(
                    "integrated gradients",
                    path.values.tolist(),
                    "Shares of the entries in the mean of all forecast "
                    "entries, against an input of zeros. "
                    f"They sum to {path.values.sum():+.4g}; the difference is "
                    f"{path.difference:+.4g}.",
                ),
                Strip(
                    "replacing the entry",
                    self.replaced(params, entries, ahead),
                    "Mean of all forecast entries minus that with the entry "
                    "replaced by the average of its neighbours "
                    "(at the ends, by its only neighbour). The last value, "
                    "which is added to the outputs, is kept.",
                ),
            ),
            np.asarray(gradient_norms(self.means, entries, params, ahead)),
        )
