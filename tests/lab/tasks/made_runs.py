"""Helpers that write a small file of synthetic reviews or a series, and return a config
for training a small model on reviews.
"""

import json
from collections.abc import Iterable
from pathlib import Path

from lstm_jax.lab.sentiment.config import (
    DataConfig,
    SentimentConfig,
    SentimentModelConfig,
)
from lstm_jax.training.config import TrainConfig


def write_jsonl_with_movies(path: Path, movies: int = 40, each: int = 5) -> None:
    """Write reviews of both classes as JSON lines, `each` for every movie. Each review
    contains a word that names its movie.
    """
    rows = [
        {
            "text": f"review {n} of movie{m} was {('bad', 'good')[(m + n) % 2]}",
            "label": (m + n) % 2,
            "movie": f"tt{m}",
            "id": n,
            "rating": 7,
        }
        for n in range(each)
        for m in range(movies)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def small_config(source: Path, cache: Path, **train) -> SentimentConfig:
    return SentimentConfig(
        DataConfig(
            data=str(source),
            vocabulary="frequency",
            num_words=300,
            maxlen=20,
            cache_dir=str(cache),
        ),
        SentimentModelConfig(embed=8, units=8),
        TrainConfig(**({"epochs": 2, "batch_size": 16, "learning_rate": 0.01} | train)),
    )


def write_series(
    path: Path, times: Iterable, values: Iterable, heading: str = "time,value"
) -> Path:
    path.write_text(
        "\n".join(
            [
                heading,
                *(f"{time},{value}" for time, value in zip(times, values, strict=True)),
            ]
        )
        + "\n"
    )
    return path


def timeless(rows: Iterable[dict]) -> list[dict]:
    """Return the metrics of the epochs of a run without durations."""
    return [
        {
            name: value
            for name, value in row.items()
            if name not in ("seconds", "examples_per_second")
        }
        for row in rows
    ]
