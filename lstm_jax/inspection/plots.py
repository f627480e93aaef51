"""Figures that show learning curves, a confusion matrix, a reliability curve or forecasts. Each is written as a .png and an .svg file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Shaped

from lstm_jax.errors import require
from lstm_jax.inspection.figures import BLUE, GREEN, INK, ORANGE, set_title, write_figure

SPLITS = {"train": BLUE, "validation": ORANGE, "test": GREEN}
METRICS = {"loss": "Loss (nats)", "bits": "Loss (bits a character)", "accuracy": "Accuracy"}


@runtime_checkable
class Bins(Protocol):
    """Protocol (`typing.Protocol`) of a class that holds K bins of predicted probabilities, such as `training.metrics.Reliability`.

    Attributes:
        edges: (K + 1,) bounds of the bins. Bin k reaches from edges[k] to edges[k + 1].
        confidence: (K,) mean predicted probability in each bin.
        frequency: (K,) share of positive labels in each bin.
        count: (K,) number of predictions in each bin.
    """

    @property
    def edges(self) -> np.ndarray: ...
    @property
    def confidence(self) -> np.ndarray: ...
    @property
    def frequency(self) -> np.ndarray: ...
    @property
    def count(self) -> np.ndarray: ...


def learning_curves(
    rows: Sequence[Mapping[str, Any]], path: Path, title: str, metrics: Sequence[str] = ("loss", "accuracy")
) -> tuple[Path, Path]:
    """Draw metrics over the epochs, with one panel for each metric and one line for each split.

    Args:
        rows: one dict for each epoch. The key "epoch" holds the number of the epoch, from 1. Keys such as "train_loss" or "test_accuracy"
            hold the value of a metric on one of the splits (train, validation and test). Values that are absent or None are left out.
        path: path of the .png file, which must end in .png. An .svg file is written beside it.
        title: title above the figure.
        metrics: metrics to draw: any of "loss" (in nats), "bits" (loss in bits per character) and "accuracy".

    Returns:
        The paths of the .png file and the .svg file.

    Raises:
        InputError: if there are no rows, a row has no key "epoch", no row has any of the metrics, the path does not end in .png, or a file
            cannot be written.
    """
    require(len(rows) > 0, "rows of a learning curve", "none", "train for an epoch first")
    require(all("epoch" in row for row in rows), "row of a learning curve", "no epoch in it", "give one row an epoch")
    return write_figure(path, (10.4, 4.3), lambda figure: _draw_learning_curves(figure, rows, title, metrics))


def confusion_matrix(
    confusion: Sequence[Sequence[int]] | Shaped[np.ndarray, "2 2"],
    path: Path,
    title: str,
    class_names: tuple[str, str] = ("negative", "positive"),
) -> tuple[Path, Path]:
    """Draw a confusion matrix. Each cell shows a count, and the share of this count in the sum of the row.

    Args:
        confusion: the counts [[true negatives, false positives], [false negatives, true positives]].
        path: path of the .png file, which must end in .png. An .svg file is written beside it.
        title: title above the figure.
        class_names: names of the negative and the positive class.

    Returns:
        The paths of the .png file and the .svg file.

    Raises:
        InputError: if `confusion` is not 2 by 2 or has a negative count, the path does not end in .png, or a file cannot be written.
    """
    try:
        counts = np.asarray(confusion)
    except ValueError:  # rows of different lengths
        counts = np.zeros(0)
    require(counts.shape == (2, 2) and bool((counts >= 0).all()), "confusion matrix", confusion, "give 2 by 2 counts")
    return write_figure(path, (5.2, 5.1), lambda figure: _draw_confusion_matrix(figure, counts, title, class_names))


def reliability_curve(reliability: Bins, ece: float, path: Path, title: str) -> tuple[Path, Path]:
    """Draw a reliability curve, and below it a histogram of the predicted probabilities.

    The curve shows the share of positive labels against the mean predicted probability. It has one point for each bin that is not empty.

    Args:
        reliability: bins of the predicted probabilities.
        ece: expected calibration error, which is written above the curve.
        path: path of the .png file, which must end in .png. An .svg file is written beside it.
        title: title above the figure.

    Returns:
        The paths of the .png file and the .svg file.

    Raises:
        InputError: if the path does not end in .png, or if a file cannot be written.
    """
    return write_figure(path, (6.2, 6.8), lambda figure: _draw_reliability_curve(figure, reliability, ece, title))


def forecast(
    times: np.ndarray,
    values: np.ndarray,
    ahead: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]],
    level: float,
    dated: bool,
    path: Path,
) -> tuple[Path, Path]:
    """Draw a time series of N values and one or several forecasts of it.

    Args:
        times: (N,) times of the series.
        values: (N,) values of the series.
        ahead: one tuple for each forecast of K values, with the times (K,), means (K,), lower bounds (K,) and upper bounds (K,).
        level: predicted probability that a value lies between its bounds, above 0 and below 1.
        dated: whether the times are dates, in days since 1970-01-01.
        path: path of the .png file, which must end in .png. An .svg file is written beside it.

    Returns:
        The paths of the .png file and the .svg file.

    Raises:
        InputError: if the path does not end in .png, or if a file cannot be written.
    """
    return write_figure(path, (10.0, 4.2), lambda figure: _draw_forecast(figure, times, values, ahead, level, dated))


def _draw_forecast(
    figure: Any,
    times: np.ndarray,
    values: np.ndarray,
    ahead: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]],
    level: float,
    dated: bool,
) -> None:
    def on_axis(moments: np.ndarray) -> np.ndarray:
        return np.rint(moments * 86_400e6).astype("datetime64[us]") if dated else moments  # days to microseconds

    axes = figure.subplots()
    for number, (moments, mean, low, high) in enumerate(ahead):
        first = number == 0
        interval = f"{100 * level:g} %" if first else None
        axes.fill_between(on_axis(moments), low, high, color=ORANGE, alpha=0.2, linewidth=0, label=interval)
        axes.plot(on_axis(moments), mean, color=ORANGE, label="forecast" if first else None)
    axes.plot(on_axis(times), values, color=INK, linewidth=1, label="series")
    axes.legend(loc="upper left")
    set_title(figure, "Each forecast from what was known when it begins")


def _draw_learning_curves(
    figure: Any, rows: Sequence[Mapping[str, Any]], title: str, metrics: Sequence[str] = ("loss", "accuracy")
) -> None:
    from matplotlib.ticker import MaxNLocator

    rows = sorted(rows, key=lambda row: row["epoch"])
    epochs = np.array([row["epoch"] for row in rows])
    lines = {metric: _lines(rows, metric) for metric in metrics}
    panels = [metric for metric in lines if lines[metric]]
    missing = f"no {' and no '.join(metrics)} in them"
    require(bool(panels), "rows of a learning curve", missing, f"give train_{metrics[0]}, validation_{metrics[0]} or the like")
    set_title(figure, title)
    figure.set_size_inches(5.2 * len(panels), 4.3)
    figure.get_layout_engine().set(w_pad=0.08, wspace=0.05)
    for axes, metric in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for split, values in lines[metric].items():
            seen = np.isfinite(values)
            style = {"lw": 2, "marker": "o", "ms": 5 if len(rows) <= 30 else 0, "clip_on": False}
            axes.plot(epochs[seen], values[seen], color=SPLITS[split], label=split, **style)
        axes.set_title(METRICS[metric], pad=10)
        axes.set_xlabel("epoch")
        axes.grid(axis="x", visible=False)
        axes.margins(x=0.02, y=0.08)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
        if len(set(epochs)) == 1:
            axes.set(xlim=(epochs[0] - 1, epochs[0] + 1), xticks=epochs[:1])
        ends = [(values[np.isfinite(values)][-1], split) for split, values in lines[metric].items()]
        _label_ends(axes, [(float(value), f"{split} {value:.3f}", SPLITS[split]) for value, split in ends])


def _lines(rows: Sequence[Mapping[str, Any]], metric: str) -> dict[str, np.ndarray]:
    columns = {split: [row.get(f"{split}_{metric}") for row in rows] for split in SPLITS}
    lines = {split: np.array([np.nan if value is None else value for value in column], float) for split, column in columns.items()}
    return {split: values for split, values in lines.items() if np.isfinite(values).any()}


def _label_ends(axes: Any, ends: list[tuple[float, str, str]]) -> None:
    """Label each line of a plot at its end, to the right of the frame."""
    low, high = axes.get_ylim()
    ends = sorted(ends)
    heights = _spread([(value - low) / (high - low) for value, _, _ in ends], gap=0.065)
    for height, (_, text, colour) in zip(heights, ends, strict=True):
        axes.annotate(text, (1.02, height), xycoords="axes fraction", color=colour, va="center", fontsize=11, annotation_clip=False)


def _spread(heights: list[float], gap: float) -> list[float]:
    """Move heights apart so that neighbours differ by at least `gap`, and return the new heights."""
    groups: list[list[float]] = []
    for height in heights:
        groups.append([height])
        while len(groups) > 1 and _bottom(groups[-1], gap) - _top(groups[-2], gap) < gap:
            groups[-2:] = [groups[-2] + groups[-1]]
    return [_bottom(group, gap) + gap * k for group in groups for k in range(len(group))]


def _bottom(group: list[float], gap: float) -> float:
    return sum(group) / len(group) - gap * (len(group) - 1) / 2


def _top(group: list[float], gap: float) -> float:
    return sum(group) / len(group) + gap * (len(group) - 1) / 2


def _draw_confusion_matrix(figure: Any, counts: np.ndarray, title: str, class_names: tuple[str, str]) -> None:
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    set_title(figure, title)
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row in range(2):
        for column in range(2):
            colour = "white" if shares[row, column] > 0.55 else INK
            axes.text(column, row - 0.06, f"{counts[row, column]:,}", ha="center", va="center", color=colour, fontsize=20)
            axes.text(column, row + 0.16, f"{shares[row, column]:.1%} of row", ha="center", va="center", color=colour, fontsize=11)
    axes.set_xticks([0, 1], class_names)
    axes.set_yticks([0, 1], class_names, rotation=90, va="center")
    axes.set_xlabel("predicted")
    axes.set_ylabel("labelled")
    accuracy = np.trace(counts) / max(counts.sum(), 1)
    axes.set_title(f"{accuracy:.2%} of {counts.sum():,} reviews are right", pad=10)
    axes.tick_params(length=0)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.axhline(0.5, color="white", lw=3)
    axes.axvline(0.5, color="white", lw=3)


def _draw_reliability_curve(figure: Any, bins: Bins, ece: float, title: str) -> None:
    set_title(figure, title)
    curve, histogram = figure.subplots(2, 1, sharex=True, height_ratios=[3.2, 1])
    filled = bins.count > 0
    confidence, frequency = bins.confidence[filled], bins.frequency[filled]
    curve.plot([0, 1], [0, 1], color="#777777", lw=1.2, ls=(0, (5, 4)))
    right = confidence > 0.5
    below = bool(np.sum(frequency[right] - confidence[right]) < 0)  # the label of the diagonal is put on the side away from the curve
    curve.annotate(
        "perfectly calibrated",
        (0.76, 0.76),
        (-6, 6) if below else (6, -6),
        textcoords="offset points",
        color="#666666",
        fontsize=10,
        ha="center",
        va="bottom" if below else "top",
        rotation=45,
        rotation_mode="anchor",
        transform_rotates_text=True,
    )
    curve.vlines(confidence, np.minimum(confidence, frequency), np.maximum(confidence, frequency), color=ORANGE, lw=2, alpha=0.6)
    curve.plot(confidence, frequency, color=BLUE, lw=2, marker="o", ms=6, clip_on=False)
    curve.set(xlim=(0, 1), ylim=(0, 1), ylabel="share of positive labels")
    curve.set_title(f"Expected calibration error {ece:.3f}: weighted mean gap (orange)", pad=10, fontsize=11)
    histogram.bar(bins.edges[:-1], bins.count, np.diff(bins.edges), align="edge", color=BLUE, edgecolor="white", lw=1)
    histogram.set(xlabel="predicted probability of positive", ylabel="reviews")
    histogram.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    histogram.grid(axis="x", visible=False)
    histogram.locator_params(axis="y", nbins=4, integer=True)
    figure.align_ylabels()
