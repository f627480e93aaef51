"""Paths in configs and in arguments of the task functions may be strings or path objects."""

from pathlib import Path

import numpy as np
import pytest
from made_runs import write_series

from lstm_jax.config import DataConfig, ForecastConfig, ForecastModelConfig, SeriesConfig, TextConfig, TrainConfig, to_json
from lstm_jax.tasks import forecast


@pytest.mark.usefixtures("unchecked")
def test_paths(tmp_path: Path) -> None:
    path, run = write_series(tmp_path / "series.csv", range(60), np.sin(range(60))), tmp_path / "run"
    config = ForecastConfig(SeriesConfig(csv=path, context=6, horizon=2), ForecastModelConfig(units=2), TrainConfig(epochs=1))
    assert f'"csv": "{path}"' in to_json(config)
    forecast.train(config, str(run), figures=False)
    trained = forecast.load(str(run))
    assert trained.run.path == run
    assert trained.series(str(path)).fingerprint == trained.series().fingerprint
    assert [TextConfig(data=given).data for given in ("a", Path("a"), (Path("a"), "b"))] == [("a",), ("a",), ("a", "b")]
    assert DataConfig(cache_dir=Path("cache")).cache_dir == "cache"
