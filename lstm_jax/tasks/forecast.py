"""Forecasting put together: a series of numbers -> windows -> a mean and a spread for each entry ahead.

The network reads `context` entries: each one's distance from the last of them, its own value if asked, and the time since the one before if
asked; its answer is a normal distribution for each of the `horizon` entries after them. The series is cut in time: first what is trained
on, then what chooses the epoch, then the test part; a window belongs to the part that all its targets lie in.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import NormalDist

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from lstm_jax import data
from lstm_jax.config import ForecastConfig, forecast_from_json
from lstm_jax.errors import InputError, require
from lstm_jax.models import Forecaster, functional
from lstm_jax.runtime import sharding
from lstm_jax.tasks.memory import require_memory
from lstm_jax.tasks.running import Takes, begin, initial_rngs, is_own_data, load_params, mesh_of, open_run, summary, write_result
from lstm_jax.training.callbacks import Callback
from lstm_jax.training.loop import FitResult, fit
from lstm_jax.training.run_folder import RunFolder
from lstm_jax.training.step import Examples, make_predict

LEVEL = 0.9
"""Of the intervals whose coverage is told."""
NARROWEST = -7.0
"""Least log of a spread, in units of the values' own: a constant stretch would make the loss fall without end."""
FARTHEST = 1e9
"""Most spreads from one value to another: the square of a distance stays a float32 even over the narrowest spread."""
PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class Scale:
    """mean and spread of the values that are trained on."""

    mean: float
    spread: float


@dataclass(frozen=True)
class Part:
    """Windows as the network reads them: entries (W, C, F), ahead (W, K), target (W, K) as distances from the last entry read, all in
    spreads; last (W,): that entry, in the series' own units; origin (W,)."""

    entries: np.ndarray
    ahead: np.ndarray
    target: np.ndarray
    last: np.ndarray
    origin: np.ndarray


def cuts(count: int, config: ForecastConfig) -> dict[str, tuple[int, int]]:
    """Part -> the first of its entries, and the one behind the last."""
    test = count - round(count * config.data.test)
    held = test - round(count * config.data.validation)
    return {"train": (0, held), "validation": (held, test), "test": (test, count)}


def prepare(windows: data.SeriesWindows, scale: Scale, config: ForecastConfig) -> Part:
    """See `Part`.

    Raises:
        InputError: for a value farther than `FARTHEST` spreads from others, of which float32 would make infinities.
    """
    values, gaps = windows.read[..., 0], windows.read[..., 1]
    last = values[:, -1]
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused below
        features = [(values - last[:, None]) / scale.spread]
        features += [(values - scale.mean) / scale.spread] if config.data.level else []
        target = (windows.target - last[:, None]) / scale.spread
    for part in (*features, target):
        good = bool((np.abs(part) <= FARTHEST).all())
        found = f"a value lies more than {FARTHEST:g} spreads from another; the spread where trained on is {scale.spread:g}"
        require(good, f"values of {config.data.csv}", found, "leave out outliers, or give a series of one scale")
    features += [np.log(gaps)] if config.data.gaps else []
    usual = np.broadcast_to(np.arange(1.0, config.data.horizon + 1), windows.ahead.shape)
    ahead = np.log(windows.ahead / usual) if config.data.gaps else np.zeros_like(usual)
    return Part(np.stack(features, -1).astype(np.float32), ahead.astype(np.float32), target.astype(np.float32), last, windows.origin)


def parts_of(series: data.Series, config: ForecastConfig) -> tuple[dict[str, Part], Scale]:
    """The three parts, and the scale of the first.

    Raises:
        InputError: if a part has no window, or the values that are trained on are all the same.
    """
    bounds = cuts(len(series), config)
    known = series.values[: bounds["train"][1]]
    with np.errstate(over="ignore", invalid="ignore"):
        scale = Scale(float(known.mean()), float(known.std())) if len(known) else Scale(0.0, 0.0)
    finite = math.isfinite(scale.mean) and math.isfinite(scale.spread)
    require(finite, f"values of {config.data.csv}", "too large to square", "give the series in a larger unit")
    require(scale.spread > 0, f"values of {config.data.csv}", "all the same where trained on", "give a series that varies")
    parts = {}
    for name, (first, last) in bounds.items():
        windows = data.series_windows(series, config.data.context, config.data.horizon, first, last)
        told = f"{len(series)} entries, {name} part {last - first}, context {config.data.context}, horizon {config.data.horizon}"
        require(len(windows.origin) > 0, f"series {config.data.csv}", told, "give a longer series, or a shorter context or horizon")
        parts[name] = prepare(windows, scale, config)
    return parts, scale


def features_of(config: ForecastConfig) -> int:
    """Numbers that are read of an entry."""
    return 1 + config.data.level + config.data.gaps


def make_model(config: ForecastConfig) -> Forecaster:
    """The model with its initial weights; deterministic in the seed."""
    return Forecaster(config.model, features_of(config), config.data.horizon, rngs=initial_rngs(config.train.seed))


def negative_log_likelihood(given: jax.Array, target: jax.Array) -> jax.Array:
    """Of a normal distribution, in nats an entry ahead: given (B, 2, K), target (B, K) -> (B, K)."""
    mean, spread = given[:, 0], jnp.maximum(given[:, 1], NARROWEST)
    return 0.5 * ((target - mean) * jnp.exp(-spread)) ** 2 + spread + 0.5 * math.log(2 * math.pi)


def objective(rebuild: Callable) -> Callable:
    """Mean negative log-likelihood as a `training.step.Objective` over (entries, ahead, target)."""

    def loss(params, batch, weight, key):
        entries, ahead, target = batch
        given = rebuild(params)(entries, ahead, deterministic=False, rngs=key)
        mean = (negative_log_likelihood(given, target).mean(-1) * weight).sum()
        return mean, {"loss": mean, "absolute": (jnp.abs(given[:, 0] - target).mean(-1) * weight).sum()}

    return loss


def make_given(rebuild: Callable, mesh: jax.sharding.Mesh) -> Callable[[dict, Part], np.ndarray]:
    """given(params, part) -> means and logs of spreads (W, 2, K), without dropout."""
    predict = make_predict(lambda params, rows: rebuild(params)(*rows, deterministic=True), mesh)
    return lambda params, part: predict(params, (part.entries, part.ahead))


def figures_of(given: np.ndarray, part: Part, scale: Scale) -> dict[str, float]:
    """loss: nats an entry; mae and rmse in the series' own units; coverage: share of entries inside the interval of `LEVEL`."""
    off = np.abs(given[:, 0] - part.target)
    wide = NormalDist().inv_cdf(0.5 + LEVEL / 2) * np.exp(np.maximum(given[:, 1], NARROWEST))
    loss = float(np.asarray(negative_log_likelihood(jnp.asarray(given), jnp.asarray(part.target))).mean())
    sizes = {"mae": off.mean() * scale.spread, "rmse": np.sqrt((off**2).mean()) * scale.spread, "coverage": (off <= wide).mean()}
    return {"loss": loss} | {name: float(value) for name, value in sizes.items()}


def train(
    config: ForecastConfig,
    folder: Path,
    *,
    series: data.Series | None = None,
    resume: bool = False,
    allow_other_machine: bool = False,
    console: Console | None = None,
    callbacks: Sequence[Callback] = (),
    figures: bool = True,
) -> FitResult:
    """Train a run in `folder`: the whole of `lstm-jax train forecast`.

    Args:
        config: all of it is written to the folder.
        folder: new, or with `resume` that of an interrupted run.
        series: in memory already; else that which the config names.
        allow_other_machine: resume where devices, versions or compiled code are others than before: the last bits will differ.
        console: where to show progress and the table of layers.
        callbacks: called after each epoch, behind the built-in ones.
        figures: draw them at the end.

    Returns:
        What `fit` gives; rows have validation_* figures, result.json test_* ones.

    Raises:
        InputError: for bad input. Interrupted: after SIGINT or SIGTERM, when the state is saved.
    """
    console = console or Console(quiet=True)
    mesh = sharding.make_mesh(config.train.devices)
    if series is None:
        require(bool(config.data.csv), "csv", "none given", "name a .csv or .jsonl file")
        series = data.read_series(Path(config.data.csv), config.data.time, config.data.value)
    _require_memory(config, len(series), mesh)
    parts, scale = parts_of(series, config)
    files = {"scale.json": json.dumps(asdict(scale)) + "\n"}
    takes = Takes(resume, allow_other_machine)
    with begin(config, folder, mesh, len(parts["train"].target), series.fingerprint, files, takes, console) as run:
        model = make_model(config)
        params, rebuild = functional(model)
        console.print(summary(model, f"entries (B, {config.data.context}, {features_of(config)}) -> (B, 2, {config.data.horizon})"))
        counts = ", ".join(f"{len(parts[name].target):,} {name} windows" for name in PARTS)
        console.print(f"{len(series):,} entries ({series.skipped} rows without a value): {counts}, backend {run.backend}", highlight=False)
        given = make_given(rebuild, mesh)

        def evaluate(params, name: str = "validation") -> dict[str, float]:
            part = parts[name]
            found = figures_of(given(params, part), part, scale)
            return {f"{name}_{figure}": value for figure, value in found.items()}

        result = fit(
            params,
            objective(rebuild),
            run.optimizer,
            Examples.of_rows((parts["train"].entries, parts["train"].ahead, parts["train"].target)),
            config.train,
            mesh,
            figures=("loss", "absolute"),
            evaluate=evaluate,
            monitor="validation_loss",
            checkpoints=run.folder.checkpoints,
            resume=resume,
            callbacks=run.callbacks(console, callbacks),
            console=console,
        )
        write_result(run.folder, result, evaluate(result.params, "validation") | evaluate(result.params, "test"))
        if figures:
            from lstm_jax.inspection import plots

            plots.learning_curves(list(result.rows), run.folder.figures / "learning_curves.png", "Learning curves", ("loss",))
            draw_forecast(series, parts["test"], given(result.params, parts["test"]), scale, LEVEL, run.folder.figures / "forecast.png")
        return result


def _require_memory(config: ForecastConfig, entries: int, mesh: jax.sharding.Mesh) -> None:
    size, context, horizon, features = config.train.batch_size, config.data.context, config.data.horizon, features_of(config)
    batch = [jax.ShapeDtypeStruct((size, *shape), np.float32) for shape in ((context, features), (horizon,), (horizon,))]
    flags = {
        "parameters": "--units, --layers or --horizon",
        "residuals": "--batch-size, --context, --units or --layers, or give --remat sqrt",
        "data": "--context or --horizon",
    }
    windows = max(0, entries - context - horizon)
    rows = 8 * windows * (context * features + 2 * horizon)
    require_memory(config, partial(make_model, config), objective, tuple(batch), mesh, flags, rows=rows)


def interval(given: np.ndarray, last: np.ndarray, scale: Scale, level: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean and the bounds of the interval of that level, (W, K) in the series' own units."""
    mean = last[:, None] + given[:, 0] * scale.spread
    # by the lower tail, which a level next to 1 does not round to nothing
    wide = -NormalDist().inv_cdf((1 - level) / 2) * np.exp(np.maximum(given[:, 1], NARROWEST)) * scale.spread
    return mean, mean - wide, mean + wide


def draw_forecast(series: data.Series, part: Part, given: np.ndarray, scale: Scale, level: float, path: Path) -> tuple[Path, Path]:
    """The end of the series and forecasts of it, one behind the other, each from what was known when it begins."""
    from lstm_jax.inspection import plots

    mean, low, high = interval(given, part.last, scale, level)
    horizon = mean.shape[1]
    chosen = range(0, len(mean), horizon)
    first = max(0, int(part.origin[0]) - horizon)
    return plots.forecast(
        series.times[first:],
        series.values[first:],
        [(series.times[part.origin[n] : part.origin[n] + horizon], mean[n], low[n], high[n]) for n in chosen],
        level,
        series.dated,
        path,
    )


@dataclass(frozen=True)
class Forecast:
    """times, means and bounds of entries ahead, each (K,)."""

    times: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True)
class Trained:
    """A run's model. notes: what is to be said of damaged checkpoints."""

    config: ForecastConfig
    params: dict[str, np.ndarray]
    rebuild: Callable
    scale: Scale
    notes: tuple[str, ...] = ()
    run: RunFolder | None = None

    def is_own(self, series: data.Series) -> bool:
        """Return whether the series is, entry for entry, the one that the run was trained on."""
        return self.run is not None and is_own_data(self.run, series.fingerprint)

    def series(self, path: Path | None = None) -> data.Series:
        """The run's own series, or another one from a file with the same columns."""
        return data.read_series(path or Path(self.config.data.csv), self.config.data.time, self.config.data.value)

    def given(self, part: Part) -> np.ndarray:
        """Means and logs of spreads (W, 2, K), in the units of `Part`."""
        return make_given(self.rebuild, mesh_of(self.config))(self.params, part)

    def ahead(self, series: data.Series, level: float = LEVEL, times: np.ndarray | None = None) -> Forecast:
        """Entries behind the series' end, at `times` (K,), or a usual gap apart.

        Raises:
            InputError: if the series is shorter than the context, the level is not between 0 and 1, or times are not K increasing ones.
        """
        context, horizon = self.config.data.context, self.config.data.horizon
        require(0 < level < 1, "level", level, "give a share between 0 and 1")
        require(len(series) >= context, f"series of {len(series)} entries", "too short", f"give {context} or more, the context of the run")
        gap = series.usual_gap
        moments = series.times[-1] + gap * np.arange(1, horizon + 1) if times is None else np.asarray(times, np.float64)
        good = moments.shape == (horizon,) and bool((np.diff(np.concatenate([series.times[-1:], moments])) > 0).all())
        require(good, "times", moments.tolist(), f"give {horizon} increasing ones behind the series' end")
        read = np.stack([series.values, series.gaps], -1)[None, -context:]
        unknown = np.full((1, horizon), series.values[-1])
        windows = data.SeriesWindows(read, (moments - series.times[-1])[None] / gap, unknown, np.asarray([len(series)]))
        part = prepare(windows, self.scale, self.config)
        mean, low, high = interval(self.given(part), part.last, self.scale, level)
        return Forecast(moments, mean[0], low[0], high[0])


def load(folder: Path) -> Trained:
    """A run's model: of the best epoch.

    Raises:
        InputError: if the folder holds no finished or interrupted forecast.
    """
    run, notes = open_run(folder)
    config = forecast_from_json(run.config)
    like, rebuild = functional(make_model(config))
    params, damaged = load_params(run, like)
    try:
        scale = Scale(**json.loads(run.scale.read_text()))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise InputError(f"scale {run.scale}", error, "name the folder of a finished or interrupted run") from error
    return Trained(config, params, rebuild, scale, notes + damaged, run)
