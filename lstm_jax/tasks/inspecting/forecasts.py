"""HTML page about a trained forecasting model, which shows windows of a series entry by entry.

In a window, the model reads C entries with F features each, and forecasts the next K entries.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lstm_jax.errors import require
from lstm_jax.files.digits import digits_for
from lstm_jax.inspection.attribution import gradient_norms, integrated_gradients
from lstm_jax.inspection.window import Curve, Example, Frame, Strip, Window
from lstm_jax.tasks import forecast
from lstm_jax.tasks.forecast_windows import Part, parts_of
from lstm_jax.tasks.inspecting.common import Request, Tracer, first_of, kept_epochs


class SeriesNetwork:
    """Trained forecasting model, with methods that take parameters and one window of a series.

    A window consists of two arrays. `entries` (C, F) has the F features of each entry that the model reads. `ahead` (K,) has the times of
    the entries that the model forecasts, as numbers that `forecast_windows.Part.ahead` explains.
    """

    def __init__(self, trained: forecast.Trained):
        self.rebuild, self.scale = trained.rebuild, trained.scale
        self.trace = Tracer(trained.rebuild)
        self.predict = jax.jit(lambda params, entries, ahead: trained.rebuild(params)(entries, ahead, deterministic=True))

    def means(self, entries: jax.Array, params: Any, ahead: jax.Array) -> jax.Array:
        """Return the predicted means (K,) of the next K entries, as differences from the last entry read, in units of the series."""
        return self.rebuild(params)(entries[None], ahead[None], deterministic=True)[0, 0] * self.scale.spread

    def mean(self, entries: jax.Array, params: Any, ahead: jax.Array) -> jax.Array:
        """Return the average of the K predicted means that the method `means` returns."""
        return self.means(entries, params, ahead).mean()


def forecast_window(trained: forecast.Trained, request: Request) -> Window:
    """Return the content of an HTML page that shows the forecasts of a trained model for some windows of a series."""
    require(not request.texts, "text", next(iter(request.texts), ""), "a forecasting run reads a series: give --file")
    series = trained.series(request.file)
    epochs, network = kept_epochs(trained, request.epochs), SeriesNetwork(trained)
    if request.file is None:
        require(trained.is_own(series), "series", "changed since the run was trained", "give it back, or name a series with --file")
        part = parts_of(series, trained.config)[0]["test"]
        chosen = _chosen(trained, part, request.examples)
    else:
        part, chosen = trained.end_of(series)[0], {0: "end of the series"}
    examples = []
    for n, kind in chosen.items():
        times = series.times[part.origin[n] - trained.config.data.context : part.origin[n]]
        frames = [_frame(network, params, part, n, request.file is None) for params in epochs.params]
        steps = [series.shown(float(time)) for time in times]
        examples.append(Example(f"{kind}: forecast after {steps[-1]}", steps, frames))
    model = trained.config.model
    about = f"{trained.run.path}: {model.cell}, {model.layers} x {model.units} units, forecasts of {trained.config.data.horizon} entries."
    return Window("Series, entry by entry", about, "entry", epochs.numbers, epochs.shown, examples)


def _chosen(trained: forecast.Trained, part: Part, count: int) -> dict[int, str]:
    """Choose windows of three kinds, up to `count` of each."""
    predicted = trained.predict(part)
    spreads, off = predicted[:, 1].mean(-1), np.abs(predicted[:, 0] - part.target).mean(-1)
    found: dict[int, str] = {}
    for kind, values in {"surest": spreads, "most wrong": -off, "least sure": -spreads}.items():
        for n in first_of(np.argsort(values, kind="stable"), count):
            found.setdefault(n, kind)
    return found


def _frame(network: SeriesNetwork, params: Any, part: Part, n: int, known: bool) -> Frame:
    entries, ahead = jnp.asarray(part.entries[n]), jnp.asarray(part.ahead[n])
    predicted = np.asarray(network.predict(params, entries[None], ahead[None]))
    mean, low, high = (bound[0].tolist() for bound in forecast.interval(predicted, part.last[n : n + 1], network.scale, forecast.LEVEL))
    future = {"mean": mean, "low": low, "high": high}
    if known:
        future["truth"] = (part.last[n] + part.target[n] * network.scale.spread).tolist()
    values = part.last[n] + np.asarray(part.entries[n, :, 0], np.float64) * network.scale.spread
    path = integrated_gradients(network.mean, entries, params, ahead)
    digits = digits_for((low[0], high[0]), 5)
    first, *bounds = (f"{number:.{digits}g}" for number in (mean[0], low[0], high[0]))
    return Frame(
        f"The forecast of the first entry is {first}, with an interval of {' to '.join(bounds)} ({forecast.LEVEL:.0%}).",
        Curve("value of the series", values.tolist(), ahead=future),
        network.trace(params, entries[None], ahead[None]),
        (
            Strip(
                "integrated gradients",
                path.values.tolist(),
                "Shares of the entries in the mean of the forecast, against an input of zeros. "
                f"They sum to {path.values.sum():+.4g}; the difference is {path.difference:+.4g}.",
            ),
            Strip(
                "replacing the entry",
                _replaced(network, params, entries, ahead),
                "Mean of the forecast minus its mean with the entry replaced by the average of its neighbours "
                "(at the ends, by its only neighbour).",
            ),
        ),
        np.asarray(gradient_norms(network.means, entries, params, ahead)),
    )


def _replaced(network: SeriesNetwork, params: Any, entries: jax.Array, ahead: jax.Array) -> list[float]:
    """Measure how much each of the C entries of a window matters to the forecast."""
    whole = np.asarray(entries)
    last = len(whole) - 1
    before, after = whole[[min(1, last), *range(last)]], whole[[*range(1, last + 1), max(last - 1, 0)]]
    rows = np.broadcast_to(whole, (len(whole), *whole.shape)).copy()
    rows[np.arange(len(whole)), np.arange(len(whole))] = (before + after) / 2
    many = network.predict(params, rows, np.broadcast_to(np.asarray(ahead), (len(whole), len(ahead))))[:, 0].mean(-1) * network.scale.spread
    return (float(network.mean(entries, params, ahead)) - np.asarray(many, np.float64)).tolist()
