"""Claims of the studies, which `experiments.claims` tests. A claim says in which range
a metric, or the difference of two metrics, lies.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from math import inf, log10
from typing import Any

Row = Mapping[str, Any]
Setting = Mapping[str, Any]
Settings = tuple[Setting, ...]


@dataclass(frozen=True)
class Claim:
    """Claim that a metric of a study, or the difference of this metric between two
    groups of settings, lies in a certain range.

    A setting is a dict from fields of a run's config to their values. If a group has
    several settings, the metric is averaged over them.
    """

    study: str
    metric: str | Callable[[Row], float]
    """Name of a result of the runs, or a function that computes a number from the row
    of a run, as `study.finished` returns it."""
    unit: str
    """Unit of the number that the claim is about. If it is "points", the metric is an
    accuracy, and the number is multiplied by 100."""
    first: int
    """Number of seeds that the study had when the claim was made. They are the seeds 0
    to first - 1."""
    text: str
    of: Settings
    """First group of settings, over which the metric is averaged."""
    minus: Settings = ()
    """Second group of settings. The mean metric of this group is subtracted from that
    of `of`. If the group is empty, it has no effect."""
    low: float = 0.0
    """Lower end of the claimed range of the metric or difference, in the unit that the
    field `unit` names."""
    high: float = inf
    """Upper end of the claimed range."""


FAR = 100
"""Number of words before the last word of a review at which gradients are compared
(study `memory`)."""


def _fading(name: str) -> Callable[[Row], float]:
    """Return a function from a row of the study `memory` to the fading of the gradient,
    in decades (powers of 10).
    """

    def decades(row):
        sizes = dict(row[name])
        # a gradient below 1e-20 may be 0 in float32
        return log10(sizes[1]) - log10(max(sizes[FAR], 1e-20))

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
    # a late import, so that this module needs no JAX
    from experiments.embedding import ratio

    return ratio(row, "before", "family") - ratio(row, "after", "family")


def _below_most_frequent(row: Row) -> float:
    return row["most_frequent"] - row["accuracy"]


def _memory(task: str, cell: str, lag: int) -> Settings:
    return ({"task": task, "cell": cell, "lag": lag},)


def _targets(predict: str, order: str = "usual") -> Settings:
    return ({"read": "one-hot", "predict": predict, "order": order},)


def _steps(
    part: str, step: int = 5, rate: float = 1e-3, length: int = 40, batch: int = 128
) -> Settings:
    at = {
        "task.data.step": step,
        "task.train.learning_rate": rate,
        "task.data.length": length,
        "task.train.batch_size": batch,
    }
    return ({"part": part} | at,)


RATES = (0.0, 0.2, 0.4, 0.6)


def _dropout(
    inputs: tuple[float, ...], recurrent: tuple[float, ...], masks: str = "keras"
) -> Settings:
    fields = "model.dropout", "model.recurrent_dropout", "model.dropout_masks"
    return tuple(
        dict(zip(fields, (a, b, masks), strict=True)) for a in inputs for b in recurrent
    )


def _equal_rates(masks: str) -> Settings:
    return tuple(
        setting for rate in RATES[1:] for setting in _dropout((rate,), (rate,), masks)
    )


def _scaling(kind: str, axis: str, value: float) -> Settings:
    return ({"kind": kind, "axis": axis, "value": value},)


def _forecast(series: str, method: str) -> Settings:
    return ({"series": series, "missing": 0.0, "method": method},)


SEEDLESS = ({"method": "smoothing"}, {"method": "seasonal naive"})
"""Settings of runs that do not depend on the seed."""

_AFTER = _fading("gradient_after")
_REVIEWS, _OWN = _memory("imdb", "simple_rnn", 200), ({"labels": "own"},)
_adding, _copying = (
    partial(Claim, "memory", "score", "", 1),
    partial(Claim, "memory", "score", "points", 2),
)
_gathers = partial(Claim, "embedding", _gathered, "", 3)
_target = partial(Claim, "targets", "accuracy", "points", 3)
_window = partial(Claim, "steps", "last_bits", "bits", 2)
_rate = partial(Claim, "dropout", "test_accuracy", "points", 3)
_size, _size_in_bits = (
    partial(Claim, "scaling", "score", "points", 2),
    partial(Claim, "scaling", "score", "bits", 2),
)
_co2 = partial(Claim, "forecast", "mae", "ppm", 3)
_ACCURACY = (
    ("removing the forget gate costs accuracy", "lstm", "lstm_no_forget_gate"),
    ("removing the input gate costs accuracy", "lstm", "lstm_no_input_gate"),
    ("removing the output gate costs accuracy", "lstm", "lstm_no_output_gate"),
    ("the GRU is ahead of the LSTM", "gru", "lstm"),
)
_BITS = (
    ("removing the forget gate costs bits", "lstm_no_forget_gate", "lstm"),
    ("removing the input gate saves bits", "lstm", "lstm_no_input_gate"),
    ("removing the output gate saves bits", "lstm", "lstm_no_output_gate"),
    ("the GRU is ahead of the LSTM", "lstm", "gru"),
)
_GATES = (
    (
        partial(Claim, "gates", "test_accuracy", "points", 3),
        "Reviews",
        {"data.maxlen": 80},
        _ACCURACY,
    ),
    (
        partial(Claim, "gates", "bits", "bits", 3),
        "Characters, 3 epochs",
        {"data.regime": "windows"},
        _BITS,
    ),
    (
        partial(Claim, "gates", "bits", "bits", 0),
        "Characters, 30 epochs",
        {"data.regime": "stream"},
        _BITS,
    ),
)
_SCALING = (
    ("64 units gain less than a point over 8", "units", 64, 8, -inf, 1),
    ("256 units gain less than a point over 8", "units", 256, 8, -inf, 1),
    ("160 words gain over 80", "length", 160, 80, 0, inf),
    ("320 words gain less than a point over 160", "length", 320, 160, -inf, 1),
    ("a vocabulary of 5,000 gains over 1,000", "vocabulary", 5000, 1000, 0, inf),
    (
        "a vocabulary of 20,000 gains less than a point over 5,000",
        "vocabulary",
        20000,
        5000,
        -inf,
        1,
    ),
)
CLAIMS = [
    Claim(
        "memory",
        _AFTER,
        "decades",
        1,
        "Reviews: after training, the simple RNN's gradient fades over 99 "
        "words by more decades than the LSTM's",
        _REVIEWS,
        _memory("imdb", "lstm", 200),
    ),
    *(
        _adding(
            "Adding at lag 100: the simple RNN's squared error is larger "
            f"than the {name}'s",
            _memory("adding", "simple_rnn", 100),
            _memory("adding", name.lower(), 100),
        )
        for name in ("LSTM", "GRU")
    ),
    Claim(
        "memory",
        _lost,
        "decades",
        1,
        "Reviews: the simple RNN's gradient fades more after training than before",
        _REVIEWS,
    ),
    Claim(
        "memory",
        _fading("gradient_before"),
        "decades",
        1,
        "Reviews: before training the simple RNN's gradient fades by less "
        "than a decade",
        _REVIEWS,
        low=-inf,
        high=1,
    ),
    *(
        _copying(
            f"Copying at lag 30: the simple RNN is ahead of the {name}",
            _memory("copy", "simple_rnn", 30),
            _memory("copy", name.lower(), 30),
        )
        for name in ("LSTM", "GRU")
    ),
    Claim(
        "embedding",
        lambda row: min(_growth(row).values()),
        "times",
        3,
        "All groups of words move apart (smallest growth of a distance)",
        _OWN,
        low=1,
    ),
    Claim(
        "embedding",
        _apart,
        "times",
        3,
        "Praise and blame move apart more than words of praise do",
        _OWN,
        low=1,
    ),
    _gathers(
        "Skip-grams gather the words of a family (fall of the ratio)",
        ({"labels": "word2vec"},),
    ),
    _gathers(
        "Training on sentiment does not gather them (fall of the ratio below 0.05)",
        _OWN,
        low=-inf,
        high=0.05,
    ),
    _target(
        "Categories are predicted better than numbers",
        _targets("category"),
        _targets("number"),
    ),
    Claim(
        "targets",
        _below_most_frequent,
        "points",
        3,
        "Numbers are predicted worse than by the most frequent character",
        _targets("number"),
    ),
    *(
        _target(
            f"The order of the ids changes the accuracy of {name} by less "
            "than 2 points",
            _targets(kind),
            _targets(kind, "random"),
            -2,
            2,
        )
        for name, kind in (("categories", "category"), ("numbers", "number"))
    ),
    _window(
        "At equal updates a ten times lower learning rate costs bits",
        _steps("steps", rate=3e-4),
        _steps("steps", rate=3e-3),
    ),
    _window(
        "At equal updates steps of 1 and 10 differ by less than 0.05 bits",
        _steps("steps", step=1),
        _steps("steps", step=10),
        -0.05,
        0.05,
    ),
    _window(
        "At equal updates a batch of 256 saves bits against one of 32",
        _steps("lengths", batch=32),
        _steps("lengths", batch=256),
    ),
    _window(
        "Windows of 80 characters save less than 0.05 bits against 40",
        _steps("lengths"),
        _steps("lengths", length=80),
        -inf,
        0.05,
    ),
    Claim(
        "steps",
        "bits",
        "bits",
        0,
        "Long trainings: a step of 1 saves bits against one of 20",
        _steps("converged", step=20, rate=3e-3),
        _steps("converged", step=1, rate=3e-3),
    ),
    _rate(
        "Input dropout of 0.6 gains accuracy (mean over recurrent rates)",
        _dropout((0.6,), RATES),
        _dropout((0.0,), RATES),
    ),
    _rate(
        "Recurrent dropout of 0.6 costs accuracy (mean over input rates)",
        _dropout(RATES, (0.0,)),
        _dropout(RATES, (0.6,)),
    ),
    _rate(
        "One mask for each gate is ahead of one for all (mean over equal rates)",
        _equal_rates("keras"),
        _equal_rates("variational"),
    ),
    *(
        claim(
            f"{title}: {text}",
            (runs | {"model.cell": of},),
            (runs | {"model.cell": minus},),
        )
        for claim, title, runs, claimed in _GATES
        for text, of, minus in claimed
    ),
    *(
        _size(
            f"Reviews: {text}",
            _scaling("sentiment", axis, of),
            _scaling("sentiment", axis, minus),
            low,
            high,
        )
        for text, axis, of, minus, low, high in _SCALING
    ),
    _size_in_bits(
        "Characters: 128 units save bits against 64",
        _scaling("characters", "units", 64),
        _scaling("characters", "units", 128),
    ),
    _size_in_bits(
        "Characters: 256 units save less than 0.05 bits against 128",
        _scaling("characters", "units", 128),
        _scaling("characters", "units", 256),
        -inf,
        0.05,
    ),
    _co2(
        "CO2: the LSTM's error is smaller than that of exponential smoothing",
        _forecast("co2", "smoothing"),
        _forecast("co2", "lstm"),
    ),
    _co2(
        "CO2: the LSTM's error is smaller with the times than without",
        _forecast("co2", "lstm without times"),
        _forecast("co2", "lstm"),
    ),
    Claim(
        "forecast",
        "mae",
        "sunspot number",
        3,
        "Sunspots: the LSTM's error is larger than that of the seasonal naive forecast",
        _forecast("sunspots", "lstm"),
        _forecast("sunspots", "seasonal naive"),
    ),
]
