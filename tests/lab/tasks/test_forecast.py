"""Forecasting: inputs of the network, loss and metrics computed by hand, runs from a
file to a forecast, and error messages.
"""

import json
from dataclasses import replace
from datetime import date, datetime, timedelta, timezone

import jax.numpy as jnp
import numpy as np
import pytest
from command_line import assert_error
from made_runs import write_series
from scipy import stats

from lstm_jax import InputError
from lstm_jax.lab.forecast import task as forecast
from lstm_jax.lab.forecast.command import TrainForecast
from lstm_jax.lab.forecast.config import (
    ForecastConfig,
    ForecastModelConfig,
    SeriesConfig,
)
from lstm_jax.lab.forecast.data import Series
from lstm_jax.lab.runs.folder import RunFolder
from lstm_jax.lab.sweep import override
from lstm_jax.training.config import TrainConfig

CONFIG = ForecastConfig(
    SeriesConfig("none", context=6, horizon=3),
    ForecastModelConfig(units=8),
    TrainConfig(epochs=3, batch_size=16),
)


def wave(count=160, seed=0):
    """Return a noisy sine wave, sampled at unevenly spaced times."""
    rng = np.random.default_rng(seed)
    times = np.cumsum(rng.choice([1.0, 1.0, 1.0, 2.0], count))
    return Series(
        times, 50 + 10 * np.sin(2 * np.pi * times / 12) + rng.normal(size=count), False
    )


def test_parts_do_not_share_targets():
    series = wave()
    parts, scale = forecast.parts_of(series, CONFIG)
    for name, (first, last) in {
        "train": (6, 112),
        "validation": (112, 136),
        "test": (136, 160),
    }.items():
        assert {int(n) + k for n in parts[name].origin for k in range(3)} == set(
            range(first, last)
        )
    # the scale is that of the training part alone
    assert scale.mean == pytest.approx(series.values[:112].mean())


def test_what_is_read():
    series = wave()
    parts, scale = forecast.parts_of(series, CONFIG)
    part, n = parts["test"], 4
    origin = int(part.origin[n])
    read, values = slice(origin - 6, origin), series.values[origin - 6 : origin]
    features = (
        (values - values[-1]) / scale.spread,
        (values - scale.mean) / scale.spread,
        np.log(series.gaps[read]),
    )
    np.testing.assert_allclose(part.entries[n], np.stack(features, -1), atol=1e-6)
    apart = (
        series.times[origin : origin + 3] - series.times[origin - 1]
    ) / series.usual_gap
    np.testing.assert_allclose(part.ahead[n], np.log(apart / [1, 2, 3]), atol=1e-6)
    plain = forecast.parts_of(
        series, override(CONFIG, {"data.gaps": False, "data.level": False})
    )[0]["test"]
    np.testing.assert_array_equal(plain.entries[..., 0], part.entries[..., 0])
    assert plain.entries.shape[-1] == 1
    assert not plain.ahead.any()


def test_loss_is_that_of_a_normal_distribution():
    rng = np.random.default_rng(0)
    given, target = rng.normal(size=(5, 2, 3)), rng.normal(size=(5, 3))
    want = -stats.norm.logpdf(target, given[:, 0], np.exp(given[:, 1]))
    np.testing.assert_allclose(
        forecast.negative_log_likelihood(jnp.asarray(given), jnp.asarray(target)),
        want,
        rtol=1e-5,
    )


def test_metrics_by_hand():
    parts, scale = forecast.parts_of(wave(), CONFIG)
    part = parts["test"]
    for shift, coverage in ((0.0, 1), (1.0, 0)):
        predicted = np.stack(
            [part.target + np.float32(shift), np.full_like(part.target, -2.0)], 1
        )
        found = forecast.metrics_of(predicted, part, scale)
        assert (found["mae"], found["rmse"]) == pytest.approx(
            (shift * scale.spread,) * 2, rel=1e-5, abs=1e-6
        )
        assert found["coverage"] == coverage


def test_intervals_of_any_level():
    # in float64, (1 + the second level) / 2 is 1
    for level, tail in ((0.5, 0.25), (1 - 2.0**-53, 2.0**-54)):
        _, _, high = forecast.interval(
            np.zeros((1, 2, 3)), np.array([5.0]), forecast.Scale(0.0, 2.0), level
        )
        np.testing.assert_allclose(
            high, np.full((1, 3), 5 + 2 * stats.norm.isf(tail)), rtol=1e-9
        )


def test_a_run_learns_and_forecasts(tmp_path):
    """A trained run forecasts better than a repetition of the last value, and its
    intervals cover over 70 % of the test values.

    The mean absolute error on the test part is under half that of the repetition. The
    run is then loaded from its folder. Its forecast continues the sine wave after the
    end of the series, and a higher level gives wider intervals.
    """
    series, folder = wave(400), tmp_path / "run"
    config = replace(
        CONFIG, train=TrainConfig(epochs=40, batch_size=32, learning_rate=1e-2)
    )
    forecast.train(config, str(folder), data=series, figures=False)
    result = json.loads((folder / "result.json").read_text())
    ends = [
        [series.values[n + k] - series.values[n - 1] for k in range(3)]
        for n in range(340, 398)
    ]
    assert result["test_naive_mae"] == pytest.approx(np.abs(ends).mean(), rel=1e-5)
    assert result["test_mae"] < 0.5 * result["test_naive_mae"]
    assert 0.7 < result["test_coverage"] <= 1
    trained = forecast.load(str(folder))
    found = trained.ahead(series)
    np.testing.assert_allclose(np.diff(found.times), 1)
    truth = 50 + 10 * np.sin(2 * np.pi * found.times / 12)
    assert np.abs(found.mean - truth).max() < 5
    assert (found.low < found.mean).all()
    assert (found.mean < found.high).all()
    wider = trained.ahead(series, 0.99)
    assert (wider.high - wider.low > found.high - found.low).all()


@pytest.mark.usefixtures("unchecked")
def test_forecast_times(tmp_path):
    """The times of a forecast may be numbers in the unit of the series or, if the
    series is dated, dates of several kinds.
    """
    series = Series(np.arange(20.0), np.sin(np.arange(20.0)), True)
    trained = forecast.Trained(
        RunFolder(tmp_path),
        CONFIG,
        {},
        (),
        lambda params: None,
        forecast.Scale(0.0, 1.0),
    )
    days = [
        date(1970, 1, 22),
        datetime(1970, 1, 23, 12),
        datetime(1970, 1, 25, 2, tzinfo=timezone(timedelta(hours=2))),
    ]
    for given, wanted in (
        (np.array([20, 21.5, 23]), [20, 21.5, 23]),
        (days, [21, 22.5, 24]),
        (
            [
                np.datetime64("1970-01-22"),
                days[0] + timedelta(1),
                np.datetime64("1970-01-25T12"),
            ],
            [21, 22, 24.5],
        ),
    ):
        part, times = trained.end_of(series, given)
        np.testing.assert_array_equal(times, wanted)
        np.testing.assert_allclose(
            part.ahead[0], np.log((np.asarray(wanted) - 19) / [1, 2, 3]), atol=1e-6
        )
        assert not part.target.any()
    undated = replace(series, dated=False)
    bad = (
        [21, 22, np.inf],
        [21, 22, np.nextafter(22, 23)],
        [21, 22],
        [21, 1e300, 1e301],
        ["1970-01-22"] * 3,
        [True, False, True],
    )
    for own, given in (*((series, given) for given in bad), (undated, days)):
        with pytest.raises(InputError, match=r"^times: "):
            trained.end_of(own, given)
    for level in (0.0, None):
        with pytest.raises(InputError, match=f"^level: {level}; "):
            trained.ahead(series, level)


def test_the_command_line(ask, tmp_path):
    series = wave(80)
    path = write_series(
        tmp_path / "series.csv", series.times, series.values, "day,sold"
    )
    common = [
        "--csv",
        path,
        "--time",
        "day",
        "--value",
        "sold",
        "--context",
        6,
        "--horizon",
        3,
        "--units",
        4,
        "--epochs",
        2,
    ]
    code, out, err = ask("train", "forecast", *common, "--run", tmp_path / "run")
    assert (code, err) == (0, "")
    assert "test part: mae" in out
    assert "last value repeated: mae" in out
    assert {path.name for path in (tmp_path / "run" / "figures").iterdir()} >= {
        "forecast.png",
        "forecast.svg",
        "learning_curves.png",
    }
    code, out, err = ask("forecast", "--run", tmp_path / "run")
    assert (code, err) == (0, "")
    header, *lines = out.splitlines()
    rows = [[float(part) for part in line.split(",")] for line in lines]
    assert (header, len(rows)) == ("time,mean,low_90,high_90", 3)
    assert all(low < mean < high for _, mean, low, high in rows)
    printed = json.loads(
        ask("forecast", "--run", tmp_path / "run", "--json")[1].splitlines()[0]
    )
    assert [printed[name] for name in ("mean", "low", "high")] == pytest.approx(
        rows[0][1:], rel=1e-4
    )
    path.write_text(path.read_text() + f"{series.times[-1] + 1},50\n")
    code, _, err = ask("forecast", "--run", tmp_path / "run")
    assert (code, err.count("\n")) == (0, 1)
    assert "warning: the series has changed since the run was trained" in err
    for arguments, subject in (
        ([], "csv: none given"),
        ([*common, "--context", 70], "entries, train part 57, context 70"),
        ([*common, "--test", 0.9], "nothing is left to train on"),
    ):
        assert_error(
            ask("train", "forecast", "--run", tmp_path / "new", *arguments), subject
        )
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_a_run_that_has_diverged(ask, tmp_path):
    """A training that diverges ends with an error, or, if it shall go on, has metrics
    of null. No command reads its parameters.
    """
    series, run = wave(60), tmp_path / "run"
    path = write_series(tmp_path / "series.csv", series.times, series.values)
    sizes = [
        "--context",
        6,
        "--horizon",
        3,
        "--units",
        4,
        "--epochs",
        2,
        "--learning-rate",
        1e18,
        "--clip-norm",
        0,
        "--no-figures",
    ]
    command = ["train", "forecast", "--csv", path, *sizes, "--json", "--run"]
    assert_error(
        ask(*command, tmp_path / "stopped"), "training loss: nan in epoch 1, from step "
    )
    code, out, err = ask(*command, run, "--no-stop-on-nan")
    assert (code, err) == (0, "")
    result = json.loads(out, parse_constant=pytest.fail)
    assert result["test_loss"] is None
    assert result == json.loads(
        (run / "result.json").read_text(), parse_constant=pytest.fail
    )
    last = (run / "metrics.jsonl").read_text().splitlines()[-1]
    assert json.loads(last, parse_constant=pytest.fail)["train_loss"] is None
    assert next(TrainForecast().report(result)).startswith(
        "test part: mae nan, rmse nan, coverage 0 of"
    )
    for command in (
        ["forecast", "--json"],
        ["inspect", "--out", tmp_path / "page.html"],
    ):
        assert_error(
            ask(*command, "--run", run), "is not finite; the training has diverged"
        )


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (5, 1e300, "values of waves.csv: too large to square"),
        (150, 1e300, "^values of waves.csv: .* more than 1e\\+09 spreads from another"),
        (120, 1e12, "more than 1e\\+09 spreads"),
        (slice(None), 1.0, "values of waves.csv: all the same where trained on"),
        # rounding gives it a spread above 0
        (slice(None), 0.3, "values of waves.csv: all the same where trained on"),
    ],
)
def test_values_that_cannot_be_scaled(place, value, message):
    series = replace(wave(), name="waves.csv")
    series.values[place] = value
    with pytest.raises(InputError, match=message):
        forecast.parts_of(series, CONFIG)
