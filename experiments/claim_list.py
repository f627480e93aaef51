"""Claims of the studies. Each of them compares a metric of two settings of one study; `experiments.claims` makes the table of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Metric = str | Callable[[Mapping[str, Any]], float]


@dataclass(frozen=True)
class Claim:
    """Claim of a study. It compares the metrics of two settings, each of which is a dict from fields of a run's config to their values."""

    study: str
    text: str
    metric: Metric
    """Name of a result of the runs, or a function from a row (see `study.finished`) to a number."""
    more: dict[str, Any]
    """Setting whose metric is larger according to the claim."""
    less: dict[str, Any] = field(default_factory=dict)
    """Setting whose metric is smaller according to the claim. If it is empty, 0 takes the place of its metric."""
    first: int = 3
    """Number of seeds with which the claim was made. They are the first seeds, from 0 on."""
    margin: float | None = None
    """Largest difference at which the two settings count as equal. If it is None, the claim is that one of them is larger."""
    unit: str = "points"
    """Unit of the difference. If it is "points", the difference of two accuracies is multiplied by 100."""


def _gradient(row: Mapping[str, Any]) -> float:
    """Return the logarithm to base 10 of a ratio of two gradient sizes, for a row of the study `memory`.

    The ratio is the size at the largest distance from the end, divided by the size at distance 1, both after training.
    """
    sizes = dict(row["gradient_after"])
    return float(np.log10(sizes[max(sizes)] / sizes[1]))


def _apart(row: Mapping[str, Any]) -> float:
    """Return how much more the distance between praise and blame grew than that within praise, for a row of the study `embedding`.

    The number is the growth of the first distance divided by the growth of the second, minus 1.
    """
    before, after = dict(row["before"]), dict(row["after"])
    return after["praise/blame"] / before["praise/blame"] / (after["praise"] / before["praise"]) - 1


def _closeness(row: Mapping[str, Any]) -> float:
    """Return by how much training lowers the `ratio` of the group of words "family", for a row of the study `embedding`."""
    from experiments.embedding import ratio

    return ratio(row["before"], "family") - ratio(row["after"], "family")


def _above_most_frequent(row: Mapping[str, Any]) -> float:
    """Return the accuracy of always predicting the most frequent character, minus the accuracy of a row of the study `targets`."""
    return row["most_frequent"] - row["accuracy"]


def _dropout(rate: float, recurrent: float, masks: str = "keras") -> dict[str, Any]:
    return {"model.dropout": rate, "model.recurrent_dropout": recurrent, "model.dropout_masks": masks}


def _gates(task: str, cell: str) -> dict[str, Any]:
    fields = {"sentiment": {"data.maxlen": 80}, "characters": {"data.regime": "windows"}, "converged": {"data.regime": "stream"}}
    return fields[task] | {"model.cell": cell}


def _steps(part: str, step: int = 5, rate: float = 1e-3, length: int = 40, batch: int = 128) -> dict[str, Any]:
    at = {"task.data.step": step, "task.train.learning_rate": rate, "task.data.length": length, "task.train.batch_size": batch}
    return {"part": part} | at


def _scaling(kind: str, axis: str, value: float) -> dict[str, Any]:
    return {"kind": kind, "axis": axis, "value": value}


def _memory(task: str, cell: str, lag: int) -> dict[str, Any]:
    return {"task": task, "cell": cell, "lag": lag}


def _targets(predict: str, order: str = "usual") -> dict[str, Any]:
    return {"read": "one-hot", "predict": predict, "order": order}


def _forecast(series: str, method: str) -> dict[str, Any]:
    return {"series": series, "missing": 0.0, "method": method}


CLAIMS = [
    Claim(
        "memory",
        "After training on reviews the gradient of the simple RNN fades faster than the LSTM's over 199 words",
        _gradient,
        _memory("imdb", "lstm", 200),
        _memory("imdb", "simple_rnn", 200),
        1,
        unit="decades",
    ),
    Claim(
        "memory",
        "Adding at lag 100: the squared error of the simple RNN is larger than the LSTM's",
        "score",
        _memory("adding", "simple_rnn", 100),
        _memory("adding", "lstm", 100),
        1,
        unit="",
    ),
    Claim(
        "memory",
        "Copying at lag 30: the simple RNN is ahead of the LSTM",
        "score",
        _memory("copy", "simple_rnn", 30),
        _memory("copy", "lstm", 30),
        2,
    ),
    Claim("embedding", "Praise and blame move apart more than words of praise do", _apart, {"labels": "own"}, unit=""),
    Claim(
        "embedding",
        "Skip-grams gather the words of a family, training on sentiment does not",
        _closeness,
        {"labels": "word2vec"},
        {"labels": "own"},
        unit="",
    ),
    Claim("targets", "Categories are predicted better than numbers", "accuracy", _targets("category"), _targets("number")),
    Claim("targets", "Numbers are predicted worse than the most frequent character", _above_most_frequent, _targets("number")),
    Claim(
        "targets",
        "The order of the ids does not matter for categories",
        "accuracy",
        _targets("category"),
        _targets("category", "random"),
        margin=1,
    ),
    Claim(
        "steps",
        "At equal updates a ten times lower learning rate costs bits",
        "last_bits",
        _steps("steps", rate=3e-4),
        _steps("steps", rate=3e-3),
        2,
        unit="bits",
    ),
    Claim(
        "steps",
        "At equal updates a ten times smaller step changes nothing",
        "last_bits",
        _steps("steps", step=1),
        _steps("steps", step=10),
        2,
        0.05,
        "bits",
    ),
    Claim(
        "steps",
        "At equal updates a batch of 32 needs more bits than one of 256",
        "last_bits",
        _steps("lengths", batch=32),
        _steps("lengths", batch=256),
        2,
        unit="bits",
    ),
    Claim(
        "steps",
        "A window of 80 characters is as good as one of 40",
        "last_bits",
        _steps("lengths", length=80),
        _steps("lengths"),
        2,
        0.05,
        "bits",
    ),
    Claim("dropout", "Input dropout of 0.6 gains accuracy", "test_accuracy", _dropout(0.6, 0.0), _dropout(0.0, 0.0)),
    Claim("dropout", "Recurrent dropout of 0.6 costs accuracy", "test_accuracy", _dropout(0.0, 0.0), _dropout(0.0, 0.6)),
    Claim(
        "dropout",
        "At rates of 0.4, one mask for each gate is ahead of one for all",
        "test_accuracy",
        _dropout(0.4, 0.4),
        _dropout(0.4, 0.4, "variational"),
    ),
    *(
        Claim("gates", f"Reviews: {text}", "test_accuracy", _gates("sentiment", more), _gates("sentiment", less))
        for text, more, less in (
            ("the forget gate is needed", "lstm", "lstm_no_forget_gate"),
            ("the input gate is needed", "lstm", "lstm_no_input_gate"),
            ("the output gate is needed", "lstm", "lstm_no_output_gate"),
            ("GRU is ahead of the LSTM", "gru", "lstm"),
        )
    ),
    *(
        Claim("gates", f"Characters, {epochs}: {text}", "bits", _gates(task, more), _gates(task, less), first, unit="bits")
        for task, epochs, first in (("characters", "3 epochs", 3), ("converged", "30 epochs", 5))
        for text, more, less in (
            ("the forget gate is needed", "lstm_no_forget_gate", "lstm"),
            ("GRU is ahead of the LSTM", "lstm", "gru"),
        )
    ),
    *(
        Claim("scaling", text, "score", _scaling("sentiment", axis, more), _scaling("sentiment", axis, less), 2, 1)
        for text, axis, more, less in (
            ("Reviews: 256 units are as good as 8", "units", 256, 8),
            ("Reviews: 320 words are as good as 160", "length", 320, 160),
            ("Reviews: 20,000 words of vocabulary are as good as 5,000", "vocabulary", 20000, 5000),
        )
    ),
    Claim(
        "scaling",
        "Characters: half of the text needs more bits than nine tenths",
        "score",
        _scaling("characters", "data", 0.5),
        _scaling("characters", "data", 0.9),
        2,
        unit="bits",
    ),
    Claim(
        "forecast",
        "CO2: the error of exponential smoothing is larger than the LSTM's",
        "mae",
        _forecast("co2", "smoothing"),
        _forecast("co2", "lstm"),
        unit="ppm",
    ),
    Claim(
        "forecast",
        "Sunspots: the error of the LSTM is larger than that of the seasonal naive forecast",
        "mae",
        _forecast("sunspots", "lstm"),
        _forecast("sunspots", "seasonal naive"),
        unit="spots",
    ),
]
