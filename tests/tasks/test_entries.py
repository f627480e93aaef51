"""Paths in configs and in arguments of the task functions may be strings or path objects."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from lstm_jax.config import DataConfig, ForecastConfig, ForecastModelConfig, SeriesConfig, TextConfig, TrainConfig, to_json
from lstm_jax.tasks import forecast


@dataclass
class Name:
    """Path object that is neither a string nor a `Path`."""

    path: str

    def __fspath__(self) -> str:
        return self.path


@pytest.mark.usefixtures("unchecked")
def test_folders_and_files(tmp_path: Path) -> None:
    path, run = tmp_path / "series.csv", tmp_path / "run"
    path.write_text("time,value\n" + "".join(f"{n},{np.sin(n):.4f}\n" for n in range(60)))
    series = SeriesConfig(csv=Name(str(path)), context=6, horizon=2)
    assert series.csv == str(path)
    forecast.train(ForecastConfig(series, ForecastModelConfig(units=2), TrainConfig(epochs=1)), Name(str(run)), figures=False)
    trained = forecast.load(Name(str(run)))
    assert trained.run.path == run
    assert trained.series(Name(str(path))).fingerprint == trained.series().fingerprint


@pytest.mark.usefixtures("unchecked")
def test_paths_in_configs() -> None:
    assert TextConfig(data=(Path("a.txt"), "b.txt")).data == ("a.txt", "b.txt")
    assert TextConfig(data="a.txt").data == TextConfig(data=Path("a.txt")).data == ("a.txt",)
    made = DataConfig(data=Path("reviews.csv"), test_data=Name("test.csv"), cache_dir=Path("cache"))
    assert (made.data, made.test_data, made.cache_dir) == ("reviews.csv", "test.csv", "cache")
    assert '"csv": "a.csv"' in to_json(ForecastConfig(SeriesConfig(csv=Path("a.csv"))))
