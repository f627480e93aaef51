"""Config of a small sentiment model of synthetic reviews, which several modules train."""

import pytest
from made_reviews import write_csvs
from made_runs import small_config

from lstm_jax.lab.sentiment.config import SentimentConfig


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> SentimentConfig:
    root = tmp_path_factory.mktemp("small")
    return small_config(write_csvs(root / "reviews"), root / "cache")
