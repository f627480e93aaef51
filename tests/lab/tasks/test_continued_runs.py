"""Runs that are resumed with another config: more epochs of a constant schedule are
accepted; other changes are listed in an error.
"""

import json
import shutil
from pathlib import Path

import made_texts
import numpy as np
import pytest
from made_runs import timeless

from lstm_jax import InputError
from lstm_jax.lab.forecast import task as forecast
from lstm_jax.lab.forecast.config import (
    ForecastConfig,
    ForecastModelConfig,
    SeriesConfig,
)
from lstm_jax.lab.forecast.data import Series
from lstm_jax.lab.generation import task as generation
from lstm_jax.lab.runs.folder import RunFolder
from lstm_jax.lab.sweep import override
from lstm_jax.training.config import TrainConfig

CONFIG = ForecastConfig(
    SeriesConfig(context=6, horizon=2),
    ForecastModelConfig(units=3),
    TrainConfig(epochs=2, batch_size=16, learning_rate=1e-2),
)


def trained_for(epochs, **more):
    return override(
        CONFIG,
        {"train.epochs": epochs}
        | {f"train.{name}": value for name, value in more.items()},
    )


@pytest.fixture(scope="module")
def series():
    return Series(np.arange(80.0), np.sin(np.arange(80.0)), False)


@pytest.fixture(scope="module")
def trained(series, tmp_path_factory):
    run = tmp_path_factory.mktemp("trained") / "run"
    forecast.train(CONFIG, run, data=series, figures=False)
    return run


@pytest.fixture
def run(trained, tmp_path):
    return Path(shutil.copytree(trained, tmp_path / "run"))


def rows_of(run):
    return timeless(map(json.loads, (run / "metrics.jsonl").read_text().splitlines()))


@pytest.mark.slow(keep=1)
@pytest.mark.parametrize("warmup", [0, 3])
def test_more_epochs_give_the_bits_of_one_longer_run(series, tmp_path, warmup):
    short, long = (trained_for(epochs, warmup_steps=warmup) for epochs in (2, 4))
    first = forecast.train(short, tmp_path / "run", data=series, figures=False)
    resumed = forecast.train(
        long, tmp_path / "run", data=series, resume=True, figures=False
    )
    whole = forecast.train(long, tmp_path / "whole", data=series, figures=False)
    assert len(first.rows) == 2
    assert rows_of(tmp_path / "run") == rows_of(tmp_path / "whole")
    for name, array in whole.params.items():
        assert np.asarray(array).tobytes() == np.asarray(resumed.params[name]).tobytes()
    results = [
        json.loads((tmp_path / name / "result.json").read_text()) | {"seconds": 0}
        for name in ("run", "whole")
    ]
    assert results[0] == results[1]
    assert (tmp_path / "run" / "config.json").read_bytes() == (
        tmp_path / "whole" / "config.json"
    ).read_bytes()
    trained = forecast.load(tmp_path / "run")  # the manifest is that of the new config
    assert (trained.config.train.epochs, trained.notes) == (4, ())


@pytest.mark.slow
def test_a_run_that_is_stopped_while_it_is_prolonged(run, series, monkeypatch):
    """A run can be resumed if it is killed after the new config is written, but before
    the manifest is, or interrupted later.

    Like every unfinished run, it has no result.json.
    """

    def stop(*_):
        raise KeyboardInterrupt

    options = {"data": series, "resume": True, "figures": False}
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "seal", stop)
        with pytest.raises(KeyboardInterrupt):
            forecast.train(trained_for(3), run, **options)
    with pytest.raises(KeyboardInterrupt):
        forecast.train(trained_for(3), run, **options, callbacks=[stop])
    assert not (run / "result.json").exists()
    forecast.train(trained_for(3), run, **options)
    assert [row["epoch"] for row in rows_of(run)] == [1, 2, 3]
    assert forecast.load(run).notes == ()


@pytest.mark.slow(keep=1)
@pytest.mark.parametrize(
    ("config", "message"),
    [
        (trained_for(1), "epochs: 2 in the run, 1 given"),
        (
            override(
                trained_for(4, seed=1), {"data.csv": "a" * 50, "data.gaps": False}
            ),
            f"csv: '' in the run, '{'a' * 36}... given; gaps: True in the "
            "run, False given; epochs: 2 in the run, 4 given; "
            "seed: 0 in the run, 1 given",
        ),
    ],
)
def test_another_config_is_refused_with_what_differs(run, series, config, message):
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(InputError) as caught:
        forecast.train(config, run, data=series, resume=True, figures=False)
    assert str(caught.value) == (
        f"run folder {run}: holds a run of another config; give its config to "
        f"resume it: {message}"
    )
    assert {
        path: path.read_bytes() for path in run.rglob("*") if path.is_file()
    } == before


def test_more_epochs_change_the_steps_of_a_schedule(series, tmp_path):
    forecast.train(
        trained_for(1, schedule="cosine"), tmp_path / "run", data=series, figures=False
    )
    with pytest.raises(
        InputError,
        match=r"epochs: 1 in the run, 2 given \(more epochs need a constant "
        r"schedule\)$",
    ):
        forecast.train(
            trained_for(2, schedule="cosine"),
            tmp_path / "run",
            data=series,
            resume=True,
            figures=False,
        )


@pytest.mark.slow
def test_a_patience_without_held_out_text(tmp_path):
    """A run with a patience but without a validation split cannot be begun."""
    (tmp_path / "text.txt").write_text(made_texts.TEXT)
    plain = made_texts.small_config(
        tmp_path / "text.txt",
        "stream",
        {"sample_chars": 0},
        {"epochs": 1},
        validation=0.0,
    )
    idle = override(plain, {"train.epochs": 2, "train.patience": 3})
    for resume in (False, True):
        with pytest.raises(
            InputError, match=r"^patience: 3; early stopping needs a validation split"
        ):
            generation.train(idle, tmp_path / "run", resume=resume, figures=False)
