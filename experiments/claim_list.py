"""Claims of the studies, which `experiments.claims` tests. A claim says in which range a metric, or the difference of two metrics, lies."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf, log10
from typing import Any

Row = Mapping[str, Any]
Setting = Mapping[str, Any]


@dataclass(frozen=True)
class Claim:
    """Claim that a metric of a study, or the difference of this metric between two groups of settings, lies in a certain range.

    A setting is a dict from fields of a run's config to their values. If a group has several settings, the metric is averaged over them.
    """

    study: str
    text: str
    metric: str | Callable[[Row], float]
    """Name of a result of the runs, or a function that computes a number from the row of a run, as `study.finished` returns it."""
    of: tuple[Setting, ...]
    """First group of settings, over which the metric is averaged. A setting is a dict from fields of a run's config to their values."""
    minus: tuple[Setting, ...] = ()
    """Second group of settings. The mean metric of this group is subtracted from that of `of`. If the group is empty, it has no effect."""
    first: int = 3
    """Number of seeds that the study had when the claim was made. They are the seeds 0 to first - 1."""
    low: float = 0.0
    """Lower end of the claimed range of the metric or difference, in the unit that the field `unit` names."""
    high: float = inf
    """Upper end of the claimed range."""
    unit: str = "points"
    """Unit of the number that the claim is about. If it is "points", the metric is an accuracy, and the number is multiplied by 100."""


FAR = 100
"""Number of words before the last word of a review at which gradients are compared (study `memory`)."""


def _fading(name: str) -> Callable[[Row], float]:
    """Return a function from a row of the study `memory` to the fading of the gradient, in decades (powers of 10)."""

    def decades(row):
        sizes = dict(row[name])
        return log10(sizes[1]) - log10(max(sizes[FAR], 1e-20))  # a gradient below 1e-20 may be 0 in float32

    return decades


def _lost(row: Row) -> float:
    return _fading("gradient_after")(row) - _fading("gradient_before")(row)


def _growth(row: Row) -> dict[str, float]:
    before = dict(row["before"])
    return {name: distance / before[name] for name, distance in row["after"]}


def _apart(row: Row) -> float:
    growth = _growth(row)
    return growth["praise/blame"] / growth["praise"]


def _gathered(row: Row) -> float:
    from experiments.embedding import ratio  # a late import, so that this module needs no JAX

    return ratio(row["before"], "family") - ratio(row["after"], "family")


def _below_most_frequent(row: Row) -> float:
    return row["most_frequent"] - row["accuracy"]


def _memory(task: str, cell: str, lag: int) -> tuple[Setting]:
    return ({"task": task, "cell": cell, "lag": lag},)


def _targets(predict: str, order: str = "usual") -> tuple[Setting]:
    return ({"read": "one-hot", "predict": predict, "order": order},)


def _steps(part: str, step: int = 5, rate: float = 1e-3, length: int = 40, batch: int = 128) -> tuple[Setting]:
    at = {"task.data.step": step, "task.train.learning_rate": rate, "task.data.length": length, "task.train.batch_size": batch}
    return ({"part": part} | at,)


RATES = (0.0, 0.2, 0.4, 0.6)


def _dropout(inputs: tuple[float, ...], recurrent: tuple[float, ...], masks: str = "keras") -> tuple[Setting, ...]:
    fields = "model.dropout", "model.recurrent_dropout", "model.dropout_masks"
    return tuple(dict(zip(fields, (a, b, masks), strict=True)) for a in inputs for b in recurrent)


def _equal_rates(masks: str) -> tuple[Setting, ...]:
    return tuple(setting for rate in RATES[1:] for setting in _dropout((rate,), (rate,), masks))


def _gates(task: str, cell: str) -> tuple[Setting]:
    fields = {"reviews": {"data.maxlen": 80}, "characters": {"data.regime": "windows"}, "converged": {"data.regime": "stream"}}
    return (fields[task] | {"model.cell": cell},)


def _scaling(kind: str, axis: str, value: float) -> tuple[Setting]:
    return ({"kind": kind, "axis": axis, "value": value},)


def _forecast(series: str, method: str) -> tuple[Setting]:
    return ({"series": series, "missing": 0.0, "method": method},)


SEEDLESS = ({"method": "smoothing"}, {"method": "seasonal naive"})
"""Settings of runs that do not depend on the seed."""

_AFTER = _fading("gradient_after")
_MEMORY = [
    ("Reviews: after training, the simple RNN's gradient fades over 99 words by more decades than the LSTM's", _AFTER, "imdb", 200, "lstm"),
    ("Adding at lag 100: the simple RNN's squared error is larger than the LSTM's", "score", "adding", 100, "lstm"),
    ("Adding at lag 100: the simple RNN's squared error is larger than the GRU's", "score", "adding", 100, "gru"),
]
_GATES = [
    ("reviews", "removing the forget gate costs accuracy", "lstm", "lstm_no_forget_gate"),
    ("reviews", "removing the input gate costs accuracy", "lstm", "lstm_no_input_gate"),
    ("reviews", "removing the output gate costs accuracy", "lstm", "lstm_no_output_gate"),
    ("reviews", "the GRU is ahead of the LSTM", "gru", "lstm"),
    *(
        (task, text, of, minus)
        for task in ("characters", "converged")
        for text, of, minus in (
            ("removing the forget gate costs bits", "lstm_no_forget_gate", "lstm"),
            ("removing the input gate saves bits", "lstm", "lstm_no_input_gate"),
            ("removing the output gate saves bits", "lstm", "lstm_no_output_gate"),
            ("the GRU is ahead of the LSTM", "lstm", "gru"),
        )
    ),
]
_TASKS = {"reviews": "Reviews", "characters": "Characters, 3 epochs", "converged": "Characters, 30 epochs"}
_SCALING = [
    ("64 units gain less than a point over 8", "units", 64, 8, -inf, 1),
    ("256 units gain less than a point over 8", "units", 256, 8, -inf, 1),
    ("160 words gain over 80", "length", 160, 80, 0, inf),
    ("320 words gain less than a point over 160", "length", 320, 160, -inf, 1),
    ("a vocabulary of 5,000 gains over 1,000", "vocabulary", 5000, 1000, 0, inf),
    ("a vocabulary of 20,000 gains less than a point over 5,000", "vocabulary", 20000, 5000, -inf, 1),
]
CLAIMS = [
    *(
        Claim(
            "memory",
            text,
            metric,
            _memory(task, "simple_rnn", lag),
            _memory(task, cell, lag),
            1,
            unit="decades" if metric is _AFTER else "",
        )
        for text, metric, task, lag, cell in _MEMORY
    ),
    Claim(
        "memory",
        "Reviews: the simple RNN's gradient fades more after training than before",
        _lost,
        _memory("imdb", "simple_rnn", 200),
        first=1,
        unit="decades",
    ),
    Claim(
        "memory",
        "Reviews: before training the simple RNN's gradient fades by less than a decade",
        _fading("gradient_before"),
        _memory("imdb", "simple_rnn", 200),
        first=1,
        low=-inf,
        high=1,
        unit="decades",
    ),
    *(
        Claim(
            "memory",
            f"Copying at lag 30: the simple RNN is ahead of the {name}",
            "score",
            _memory("copy", "simple_rnn", 30),
            _memory("copy", cell, 30),
            2,
        )
        for name, cell in (("LSTM", "lstm"), ("GRU", "gru"))
    ),
    Claim(
        "embedding",
        "All groups of words move apart (smallest growth of a distance)",
        lambda row: min(_growth(row).values()),
        ({"labels": "own"},),
        low=1,
        unit="times",
    ),
    Claim("embedding", "Praise and blame move apart more than words of praise do", _apart, ({"labels": "own"},), low=1, unit="times"),
    Claim("embedding", "Skip-grams gather the words of a family (fall of the ratio)", _gathered, ({"labels": "word2vec"},), unit=""),
    Claim(
        "embedding",
        "Training on sentiment does not gather them (fall of the ratio below 0.05)",
        _gathered,
        ({"labels": "own"},),
        low=-inf,
        high=0.05,
        unit="",
    ),
    Claim("targets", "Categories are predicted better than numbers", "accuracy", _targets("category"), _targets("number")),
    Claim("targets", "Numbers are predicted worse than by the most frequent character", _below_most_frequent, _targets("number")),
    *(
        Claim(
            "targets",
            f"The order of the ids changes the accuracy of {name} by less than 2 points",
            "accuracy",
            _targets(kind),
            _targets(kind, "random"),
            low=-2,
            high=2,
        )
        for name, kind in (("categories", "category"), ("numbers", "number"))
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
        "At equal updates steps of 1 and 10 differ by less than 0.05 bits",
        "last_bits",
        _steps("steps", step=1),
        _steps("steps", step=10),
        2,
        -0.05,
        0.05,
        "bits",
    ),
    Claim(
        "steps",
        "At equal updates a batch of 256 saves bits against one of 32",
        "last_bits",
        _steps("lengths", batch=32),
        _steps("lengths", batch=256),
        2,
        unit="bits",
    ),
    Claim(
        "steps",
        "Windows of 80 characters save less than 0.05 bits against 40",
        "last_bits",
        _steps("lengths"),
        _steps("lengths", length=80),
        2,
        -inf,
        0.05,
        "bits",
    ),
    Claim(
        "steps",
        "Long trainings: a step of 1 saves bits against one of 20",
        "bits",
        _steps("converged", step=20, rate=3e-3),
        _steps("converged", step=1, rate=3e-3),
        0,
        unit="bits",
    ),
    Claim(
        "dropout",
        "Input dropout of 0.6 gains accuracy (mean over recurrent rates)",
        "test_accuracy",
        _dropout((0.6,), RATES),
        _dropout((0.0,), RATES),
    ),
    Claim(
        "dropout",
        "Recurrent dropout of 0.6 costs accuracy (mean over input rates)",
        "test_accuracy",
        _dropout(RATES, (0.0,)),
        _dropout(RATES, (0.6,)),
    ),
    Claim(
        "dropout",
        "One mask for each gate is ahead of one for all (mean over equal rates)",
        "test_accuracy",
        _equal_rates("keras"),
        _equal_rates("variational"),
    ),
    *(
        Claim(
            "gates",
            f"{_TASKS[task]}: {text}",
            "test_accuracy" if task == "reviews" else "bits",
            _gates(task, of),
            _gates(task, minus),
            0 if task == "converged" else 3,
            unit="points" if task == "reviews" else "bits",
        )
        for task, text, of, minus in _GATES
    ),
    *(
        Claim("scaling", f"Reviews: {text}", "score", _scaling("sentiment", axis, of), _scaling("sentiment", axis, minus), 2, low, high)
        for text, axis, of, minus, low, high in _SCALING
    ),
    Claim(
        "scaling",
        "Characters: 128 units save bits against 64",
        "score",
        _scaling("characters", "units", 64),
        _scaling("characters", "units", 128),
        2,
        unit="bits",
    ),
    Claim(
        "scaling",
        "Characters: 256 units save less than 0.05 bits against 128",
        "score",
        _scaling("characters", "units", 128),
        _scaling("characters", "units", 256),
        2,
        -inf,
        0.05,
        "bits",
    ),
    Claim(
        "forecast",
        "CO2: the LSTM's error is smaller than that of exponential smoothing",
        "mae",
        _forecast("co2", "smoothing"),
        _forecast("co2", "lstm"),
        unit="ppm",
    ),
    Claim(
        "forecast",
        "CO2: the LSTM's error is smaller with the times than without",
        "mae",
        _forecast("co2", "lstm without times"),
        _forecast("co2", "lstm"),
        unit="ppm",
    ),
    Claim(
        "forecast",
        "Sunspots: the LSTM's error is larger than that of the seasonal naive forecast",
        "mae",
        _forecast("sunspots", "lstm"),
        _forecast("sunspots", "seasonal naive"),
        unit="sunspot number",
    ),
]
