"""Figures of a run: plain numbers in, a .png and an .svg beside it out.

matplotlib is imported where it is used and without pyplot, so nothing global is left behind and no display is needed. Colours are
from Okabe and Ito's palette, which colour-blind readers can tell apart. The same numbers give the same bytes of SVG.
"""

import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Shaped

from lstm_jax.errors import require
from lstm_jax.files.writing import MARK, write_atomically

_BLUE, _ORANGE, _GREEN, _INK, _GREY = "#0072B2", "#D55E00", "#009E73", "#222222", "#B9B9B9"
_SPLITS = {"train": _BLUE, "validation": _ORANGE, "test": _GREEN}
_DPI = 150
_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same letters everywhere
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.titlelocation": "left",
    "axes.edgecolor": "#888888",
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E6E6E6",
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "text.color": _INK,
    "text.parse_math": False,  # a word or a title may hold "$"
    "figure.facecolor": "white",
    "svg.hashsalt": "lstm_jax",
}


@runtime_checkable
class Bins(Protocol):
    """What `reliability_curve` draws; `training.metrics.Reliability` is one."""

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
    """Figures over epochs, a panel a metric, a line a split.

    Args:
        rows: one an epoch, with `epoch` (from 1) and any of {train,validation,test}_{metric}; what is absent or None is left out.
        path: ends in .png.
        title: above the figure.
        metrics: of "loss" (nats), "bits" (a character) and "accuracy".

    Returns:
        Paths of the .png and the .svg.

    Raises:
        InputError: without rows or `epoch` in them, on a path of another ending, or one that cannot be written.
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
    """Counts and shares of each row, of [[true negatives, false positives], [false negatives, true positives]].

    Returns and raises as `learning_curves`; `InputError` too if it is not 2 by 2 counts.
    """
    counts = np.asarray(confusion)
    require(counts.shape == (2, 2) and bool((counts >= 0).all()), "confusion matrix", counts.tolist(), "give 2 by 2 counts")
    return write_figure(path, (5.2, 5.1), lambda figure: _draw_confusion_matrix(figure, counts, title, class_names))


def reliability_curve(reliability: Bins, ece: float, path: Path, title: str) -> tuple[Path, Path]:
    """Share of positive reviews against the mean predicted probability, a point a bin, above a histogram of the probabilities.

    Returns and raises as `learning_curves`.
    """
    return write_figure(path, (6.2, 6.8), lambda figure: _draw_reliability_curve(figure, reliability, ece, title))


def embedding_map(
    coordinates: Float[np.ndarray, "N 2"],
    words: Sequence[str],
    colours: Float[np.ndarray, "N"],
    path: Path,
    title: str,
    force: bool = True,
) -> tuple[Path, Path]:
    """Words in a plane, coloured by the share of positive among the reviews that hold them.

    As many words are labelled as find room, the first ones and those of extreme colour before the others; no two labels overlap.

    Args:
        coordinates: say from `embedding_space.project`.
        words: the most frequent first.
        colours: shares from 0 to 1; a word of colour nan is left out.
        path: ends in .png.
        title: above the figure.
        force: see `files.check_output`.

    Returns and raises as `learning_curves`; `InputError` too if the counts differ or nothing is left to draw.
    """
    require(len(words) == len(coordinates), "words of a map", f"{len(words)} for {len(coordinates)} points", "give one a point")
    known = np.isfinite(colours)
    require(bool(known.any()), "words of a map", "none with a share", "give words that occur in the reviews")
    shown = [word for word, is_known in zip(words, known, strict=True) if is_known]
    return write_figure(
        path, (10.0, 7.6), lambda figure: _draw_embedding_map(figure, coordinates[known], shown, colours[known], title), force
    )


def forecast(
    times: np.ndarray,
    values: np.ndarray,
    ahead: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]],
    level: float,
    dated: bool,
    path: Path,
) -> tuple[Path, Path]:
    """A series (N,) and forecasts of it.

    Args:
        ahead: times, means and bounds of each forecast, (K,) each.
        level: of the bounds' interval.
        dated: whether times are days since 1970.

    Raises:
        InputError: if the figure cannot be written.
    """

    def fill(figure: Any) -> None:
        axes = figure.subplots()

        def places(moments: np.ndarray) -> np.ndarray:
            return moments.astype("datetime64[D]") if dated else moments

        for number, (moments, mean, low, high) in enumerate(ahead):
            axes.fill_between(
                places(moments), low, high, color=_ORANGE, alpha=0.2, linewidth=0, label=f"{100 * level:g} %" * (number == 0) or None
            )
            axes.plot(places(moments), mean, color=_ORANGE, label="forecast" if number == 0 else None)
        axes.plot(places(times), values, color=_INK, linewidth=1, label="series")
        axes.legend(loc="upper left")
        _set_title(figure, "Each forecast from what was known when it begins")

    return write_figure(path, (10.0, 4.2), fill)


def log_axis(axes: Any, which: Literal["x", "y"], values: Sequence[Any] = ()) -> None:
    """Make one axis logarithmic, its ticks plain numbers: these values, or those that matplotlib chooses."""
    from matplotlib.ticker import NullLocator

    axes.set(**{f"{which}scale": "log"})
    axis = getattr(axes, f"{which}axis")
    if values:
        axis.set_ticks(values)
    axis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_minor_locator(NullLocator())


def files_of(path: Path) -> tuple[Path, Path]:
    """Return the .png and the .svg beside it; `InputError` on a path of another ending."""
    require(path.suffix == ".png", f"figure {path}", f"ending {path.suffix!r}", "end it in .png; the .svg is written beside it")
    return path, path.with_suffix(".svg")


def write_figure(path: Path, inches: tuple[float, float], draw: Callable[[Any], object], force: bool = True) -> tuple[Path, Path]:
    """Draw, then write both files, each whole or not at all; `force` as `files.check_output` takes it."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    paths = files_of(path)
    png, svg = io.BytesIO(), io.BytesIO()
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a word in a script that the font lacks is drawn as boxes
        figure = Figure(figsize=inches, dpi=_DPI, layout="constrained")
        FigureCanvasAgg(figure)
        draw(figure)
        figure.savefig(png, format="png", dpi=_DPI, metadata={"Comment": MARK})
        figure.savefig(svg, format="svg", metadata={"Date": None, "Description": MARK})
    for written, content in zip(paths, (png, svg), strict=True):
        write_atomically(written, content.getvalue(), force)
    return paths


def _set_title(figure: Any, title: str) -> None:
    figure.suptitle(title, x=0.012, ha="left", fontsize=14, fontweight="bold")


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
    _set_title(figure, title)
    figure.set_size_inches(5.2 * len(panels), 4.3)
    figure.get_layout_engine().set(w_pad=0.08, wspace=0.05)
    for axes, metric in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for split, values in lines[metric].items():
            seen = np.isfinite(values)
            style = {"lw": 2, "marker": "o", "ms": 5 if len(rows) <= 30 else 0, "clip_on": False}
            axes.plot(epochs[seen], values[seen], color=_SPLITS[split], label=split, **style)
        axes.set_title({"loss": "Loss (nats)", "bits": "Loss (bits a character)", "accuracy": "Accuracy"}[metric], pad=10)
        axes.set_xlabel("epoch")
        axes.grid(axis="x", visible=False)
        axes.margins(x=0.02, y=0.08)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
        if len(set(epochs)) == 1:
            axes.set(xlim=(epochs[0] - 1, epochs[0] + 1), xticks=epochs[:1])
        ends = [(values[np.isfinite(values)][-1], split) for split, values in lines[metric].items()]
        _label_ends(axes, [(float(value), f"{split} {value:.3f}", _SPLITS[split]) for value, split in ends])


def _lines(rows: Sequence[Mapping[str, Any]], metric: str) -> dict[str, np.ndarray]:
    """A split's values, nan where absent; splits without any are left out."""
    columns = {split: [row.get(f"{split}_{metric}") for row in rows] for split in _SPLITS}
    lines = {split: np.array([np.nan if value is None else value for value in column], float) for split, column in columns.items()}
    return {split: values for split, values in lines.items() if np.isfinite(values).any()}


def _label_ends(axes: Any, ends: list[tuple[float, str, str]]) -> None:
    """Name each line at its end, right of the frame, pushed apart where the ends are close."""
    low, high = axes.get_ylim()
    ends = sorted(ends)
    places = _spread([(value - low) / (high - low) for value, _, _ in ends], gap=0.065)
    for place, (_, text, colour) in zip(places, ends, strict=True):
        axes.annotate(text, (1.02, place), xycoords="axes fraction", color=colour, va="center", fontsize=11, annotation_clip=False)


def _spread(places: list[float], gap: float) -> list[float]:
    """Ascending places moved apart to at least `gap`, each group of close ones around its own mean."""
    groups: list[list[float]] = []
    for place in places:
        groups.append([place])
        while len(groups) > 1 and _bottom(groups[-1], gap) - _top(groups[-2], gap) < gap:
            groups[-2:] = [groups[-2] + groups[-1]]
    return [_bottom(group, gap) + gap * k for group in groups for k in range(len(group))]


def _bottom(group: list[float], gap: float) -> float:
    return sum(group) / len(group) - gap * (len(group) - 1) / 2


def _top(group: list[float], gap: float) -> float:
    return sum(group) / len(group) + gap * (len(group) - 1) / 2


def _draw_confusion_matrix(figure: Any, counts: np.ndarray, title: str, class_names: tuple[str, str]) -> None:
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    _set_title(figure, title)
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row in range(2):
        for column in range(2):
            colour = "white" if shares[row, column] > 0.55 else _INK
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
    _set_title(figure, title)
    curve, histogram = figure.subplots(2, 1, sharex=True, height_ratios=[3.2, 1])
    filled = bins.count > 0
    confidence, frequency = bins.confidence[filled], bins.frequency[filled]
    curve.plot([0, 1], [0, 1], color="#777777", lw=1.2, ls=(0, (5, 4)))
    right = confidence > 0.5
    below = bool(np.sum(frequency[right] - confidence[right]) < 0)  # the name of the diagonal goes where the curve is not
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
    curve.vlines(confidence, np.minimum(confidence, frequency), np.maximum(confidence, frequency), color=_ORANGE, lw=2, alpha=0.6)
    curve.plot(confidence, frequency, color=_BLUE, lw=2, marker="o", ms=6, clip_on=False)
    curve.set(xlim=(0, 1), ylim=(0, 1), ylabel="share of positive labels")
    curve.set_title(f"Expected calibration error {ece:.3f}: weighted mean gap (orange)", pad=10, fontsize=11)
    histogram.bar(bins.edges[:-1], bins.count, np.diff(bins.edges), align="edge", color=_BLUE, edgecolor="white", lw=1)
    histogram.set(xlabel="predicted probability of positive", ylabel="reviews")
    histogram.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    histogram.grid(axis="x", visible=False)
    histogram.locator_params(axis="y", nbins=4, integer=True)
    figure.align_ylabels()


def _draw_embedding_map(figure: Any, coordinates: np.ndarray, words: Sequence[str], colours: np.ndarray, title: str) -> None:
    from matplotlib.colors import LinearSegmentedColormap, Normalize
    from matplotlib.ticker import PercentFormatter

    _set_title(figure, title)
    axes = figure.subplots()
    # The scale ends where the words end, lest shares of 45 to 55 % all be grey; 50 % stays in the middle.
    reach = max(0.05, float(np.ceil(np.quantile(np.abs(colours - 0.5), 0.98) * 20)) / 20)
    scale = LinearSegmentedColormap.from_list("polarity", [_ORANGE, _GREY, _BLUE], N=257)
    points = axes.scatter(
        coordinates[:, 0], coordinates[:, 1], c=colours, cmap=scale, norm=Normalize(0.5 - reach, 0.5 + reach), s=16, lw=0, alpha=0.9
    )
    bar = figure.colorbar(
        points,
        ax=axes,
        label="share of positive reviews that hold the word",
        format=PercentFormatter(1, 0),
        pad=0.02,
        shrink=0.7,
        extend="both" if np.abs(colours - 0.5).max() > reach else "neither",
    )
    bar.outline.set_visible(False)
    axes.set(xlabel="first coordinate", ylabel="second coordinate")
    axes.margins(0.06)
    _label_words(axes, coordinates, words, points.to_rgba(colours)[:, :3] * 0.6, _label_order(colours))


def _label_order(colours: np.ndarray) -> np.ndarray:
    """Indices by the better of two ranks: place in the list (frequency) and distance of the colour from the middle."""
    extreme = np.empty(len(colours), np.int64)
    extreme[np.argsort(-np.abs(colours - 0.5), kind="stable")] = np.arange(len(colours))
    return np.argsort(np.minimum(extreme, np.arange(len(colours))), kind="stable")


def _label_words(axes: Any, coordinates: np.ndarray, words: Sequence[str], inks: np.ndarray, order: np.ndarray) -> None:
    """Set a word right, left, above or below of its point, where it covers the fewest points; drop it where it would cover a label."""
    from matplotlib.patheffects import withStroke

    axes.figure.draw_without_rendering()  # lays the axes out: only then are there pixels to measure
    pixels = axes.transData.transform(coordinates)
    frame = axes.bbox.extents
    taken = np.empty((0, 4))
    sides = [((5, 0), "left", "center"), ((-5, 0), "right", "center"), ((0, 5), "center", "bottom"), ((0, -5), "center", "top")]
    for index in order:
        visible = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in words[index])
        label = axes.annotate(visible, coordinates[index], (0, 0), textcoords="offset points", fontsize=8.5, color=inks[index])
        label.set_in_layout(False)
        label.set_path_effects([withStroke(linewidth=2, foreground="white")])
        fits = []
        for number, (offset, across, along) in enumerate(sides):
            label.set(position=offset, ha=across, va=along)
            box = label.get_window_extent().extents
            inside = (box[:2] >= frame[:2]).all() and (box[2:] <= frame[2:]).all()
            if inside and not _overlaps(taken, box).any():
                covered = _overlaps(np.concatenate([pixels - 4, pixels + 4], axis=1), box).sum()
                fits.append((covered, number, box))
        if not fits:
            label.remove()
            continue
        _, number, box = min(fits, key=lambda fit: fit[:2])
        label.set(position=sides[number][0], ha=sides[number][1], va=sides[number][2])
        taken = np.concatenate([taken, [box]])


def _overlaps(boxes: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Which of the boxes (n, 4) = left, bottom, right, top touch `box`."""
    return np.all((boxes[:, :2] < box[2:]) & (boxes[:, 2:] > box[:2]), axis=1)
