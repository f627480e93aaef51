"""Figures of runs, such as learning curves and the map of an embedding, and the style
that all figures share.

A figure is written as a .png file and an .svg file. matplotlib is imported only when a
figure is drawn. pyplot is not used, so that no global state is changed and no display
is needed. The colours are from the palette of Okabe and Ito, which colour-blind readers
can tell apart. The same data always give the same .svg file.
"""

import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from itertools import compress
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy import ndarray

from lstm_jax.base.errors import require
from lstm_jax.base.writing import MARK, write_atomically

Paths = tuple[Path, Path]  # of a .png file and of the .svg file beside it
BLUE, ORANGE, GREEN, INK, GREY = "#0072B2", "#D55E00", "#009E73", "#222222", "#B9B9B9"
LIGHT, PINK, YELLOW = "#56B4E9", "#CC79A7", "#E69F00"
DPI = 150
"""Resolution of the .png file in pixels per inch."""
STYLE: dict[Any, Any] = {
    # matplotlib includes this font, so that figures look the same on every machine
    "font.family": "DejaVu Sans",
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.titlelocation": "left",
    "axes.edgecolor": "#888888",
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E6E6E6",
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "text.color": INK,
    # a word or a title may contain "$", which would begin a formula
    "text.parse_math": False,
    "figure.facecolor": "white",
    "svg.hashsalt": "lstm_jax",
}

COLOURS = (BLUE, ORANGE, GREEN, PINK, YELLOW, LIGHT, INK, GREY)
SPLITS = {"train": BLUE, "validation": ORANGE, "test": GREEN}
LABEL_GAP = 0.065
"""Least distance between the labels of two lines, as a fraction of the height of a
panel."""
WIDTH = 3.7
"""Width of a panel of learning curves in inches."""
METRICS = {
    "loss": "Loss (nats)",
    "bits": "Loss (bits a character)",
    "accuracy": "Accuracy",
}


def log_axis(axes, which: Literal["x", "y"], values: Sequence[Any] = ()) -> None:
    """Make one axis of a plot logarithmic, and label its ticks with plain numbers.

    Args:
        axes: matplotlib axes.
        which: the axis, "x" or "y".
        values: positions of the ticks. If empty, matplotlib chooses them.
    """
    from matplotlib.ticker import NullLocator

    axes.set(**{f"{which}scale": "log"})
    axis = getattr(axes, f"{which}axis")
    if values:
        axis.set_ticks(values)
    axis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_minor_locator(NullLocator())


def figure_paths(path: Path) -> Paths:
    """Return the path of a .png file and the path of the .svg file with the same name
    in the same folder.

    Raises:
        InputError: if the path does not end in .png.
    """
    require(
        path.suffix == ".png",
        f"figure {path}",
        f"ending {path.suffix!r}",
        "end it in .png; the .svg is written beside it",
    )
    return path, path.with_suffix(".svg")


def write_figure(
    path: Path,
    inches: tuple[float, float],
    draw: Callable[[Any], object],
    force: bool = True,
) -> Paths:
    """Draw a figure and write it as a .png file, and as an .svg file beside it.

    Args:
        path: path of the .png file.
        inches: width and height of the figure in inches.
        draw: function that takes an empty matplotlib figure and draws into it.
        force: whether to replace existing files that lstm-jax has not written.

    Raises:
        InputError: if the path does not end in .png, or if a file cannot be written.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    paths = figure_paths(path)
    png, svg = io.BytesIO(), io.BytesIO()
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        # characters that the font lacks are drawn as boxes
        warnings.filterwarnings("ignore", "Glyph .* missing")
        figure = Figure(figsize=inches, dpi=DPI, layout="constrained")
        draw(figure)
        # `savefig` would draw and lay out each file twice
        FigureCanvasAgg(figure).print_png(png, metadata={"Comment": MARK})
        # the second file has the places that were found for the first
        figure.set_layout_engine("none")
        FigureCanvasSVG(figure).print_svg(
            svg, metadata={"Date": None, "Description": MARK}
        )
    for each, content in zip(paths, (png, svg), strict=True):
        write_atomically(each, content.getvalue(), force)
    return paths


def set_title(figure, title: str) -> None:
    """Set the title of a matplotlib figure, at its left edge."""
    figure.suptitle(title, x=0.012, ha="left", fontsize=14, fontweight="bold")


def learning_curves(
    rows: Sequence[Mapping[str, Any]],
    path: Path,
    title: str,
    metrics: Sequence[str] = ("loss", "accuracy"),
    colours: Mapping[str, str] = SPLITS,
    force: bool = True,
) -> Paths:
    """Draw metrics over the epochs, with one panel for each metric and one line for
    each split.

    Args:
        rows: one dict for each epoch, with the keys "epoch" and such as "train_loss" or
            "test_accuracy". Values that are absent or None are left out.
        path: path of the .png file; see `write_figure`.
        title: title above the figure.
        metrics: metrics to draw, such as "loss" (in nats), "bits" (loss in bits per
            character) or "accuracy".
        colours: dict from the beginning of a key, which is the name of a split or of a
            run, to the colour of its lines.
        force: see `write_figure`.

    Raises:
        InputError: if there are no rows, or no row has any of the metrics.
    """
    require(
        len(rows) > 0, "rows of a learning curve", "none", "train for an epoch first"
    )
    ordered = sorted(rows, key=lambda row: row["epoch"])
    epochs = [row["epoch"] for row in ordered]
    panels: dict[str, dict[str, ndarray]] = {}
    for metric in metrics:
        for split in colours:
            values = np.array([row.get(f"{split}_{metric}") for row in ordered], float)
            line = np.stack([epochs, values])[:, np.isfinite(values)]
            if line.size:
                panels.setdefault(metric, {})[split] = line
    missing = f"no {' and no '.join(metrics)} in them"
    remedy = f"give train_{metrics[0]}, validation_{metrics[0]} or the like"
    require(panels, "rows of a learning curve", missing, remedy)

    longest = max(len(split) for lines in panels.values() for split in lines)
    # inches beside a panel, for the ticks and for the labels of the lines
    left, right = 0.65, 0.09 * (7 + min(longest, 60))
    width = (left + WIDTH + right) * len(panels)

    def draw(figure):
        from matplotlib.ticker import MaxNLocator

        set_title(figure, title)
        figure.set_layout_engine("none")  # it would take a third of the time
        sides = {
            "left": left / width,
            "right": 1 - right / width,
            "bottom": 0.13,
            "top": 0.83,
            "wspace": (left + right) / WIDTH,
        }
        axes_of_panels = figure.subplots(
            1, len(panels), squeeze=False, sharex=True, gridspec_kw=sides
        )[0]
        for axes, (metric, lines) in zip(axes_of_panels, panels.items(), strict=True):
            for split, line in lines.items():
                size = 5 if len(rows) <= 30 else 0
                axes.plot(
                    *line,
                    color=colours[split],
                    label=split,
                    lw=2,
                    marker="o",
                    ms=size,
                    clip_on=False,
                )
            axes.set_title(METRICS.get(metric, metric), pad=10)
            axes.set_xlabel("epoch")
            axes.grid(axis="x", visible=False)
            axes.margins(x=0.02, y=0.08)
            axes.locator_params(axis="y", nbins=5)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
            if epochs[0] == epochs[-1]:
                axes.set(xlim=(epochs[0] - 1, epochs[0] + 1), xticks=epochs[:1])
            # each line is labelled at its end, to the right of the frame; labels that
            # are too close move apart
            ends = sorted((values[-1], split) for split, (_, values) in lines.items())
            low, high = axes.get_ylim()
            least = LABEL_GAP * np.arange(len(ends))
            wanted = [(value - low) / (high - low) for value, _ in ends] - least
            heights = (
                least
                + (
                    np.maximum.accumulate(wanted)
                    + np.minimum.accumulate(wanted[::-1])[::-1]
                )
                / 2
            )
            for height, (value, split) in zip(heights, ends, strict=True):
                text = f"{split[-60:]} {value:.3f}"
                axes.annotate(
                    text,
                    (1.02, height),
                    xycoords="axes fraction",
                    va="center",
                    color=colours[split],
                    annotation_clip=False,
                )

    return write_figure(path, (width, 4.3), draw, force)


def reliability_curve(reliability: Any, ece: float, path: Path, title: str) -> Paths:
    """Draw a reliability curve, and below it a histogram of the predicted
    probabilities.

    `reliability` is a `sentiment.metrics.Reliability`. The curve shows the share of
    positive labels against the mean predicted probability. It has one point for each
    bin that is not empty. Above it stands `ece`, the expected calibration error.
    `write_figure` describes the files.
    """

    def draw(figure):
        set_title(figure, title)
        curve, histogram = figure.subplots(2, 1, sharex=True, height_ratios=[3.2, 1])
        filled = reliability.count > 0
        confidence = reliability.confidence[filled]
        frequency = reliability.frequency[filled]
        curve.plot(
            [0, 1],
            [0, 1],
            color="#777777",
            lw=1.2,
            ls=(0, (5, 4)),
            label="perfectly calibrated",
        )
        curve.vlines(confidence, confidence, frequency, color=ORANGE, lw=2, alpha=0.6)
        curve.plot(
            confidence, frequency, color=BLUE, lw=2, marker="o", ms=6, clip_on=False
        )
        curve.legend()
        curve.set(xlim=(0, 1), ylim=(0, 1), ylabel="share of positive labels")
        curve.set_title(
            f"Expected calibration error {ece:.3f}: weighted mean gap (orange)",
            pad=10,
            fontsize=11,
        )
        edges = reliability.edges
        histogram.bar(
            edges[:-1],
            reliability.count,
            np.diff(edges),
            align="edge",
            color=BLUE,
            edgecolor="white",
            lw=1,
        )
        histogram.set(xlabel="predicted probability of positive", ylabel="reviews")
        histogram.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        histogram.grid(axis="x", visible=False)
        histogram.locator_params(axis="y", nbins=4, integer=True)
        figure.align_ylabels()

    return write_figure(path, (6.2, 6.8), draw)


def forecast(
    times: ndarray,
    values: ndarray,
    ahead: Sequence[tuple[ndarray, ndarray, ndarray, ndarray]],
    level: float,
    dated: bool,
    path: Path,
) -> Paths:
    """Draw a time series, `times` (N,) and `values` (N,), and one or several forecasts
    of it. `write_figure` describes the files.

    Each forecast of K values in `ahead` is a tuple: times (K,), means (K,), lower
    bounds (K,) and upper bounds (K,). A value lies between its bounds with the
    predicted probability `level`. If `dated` is true, the times are dates, in days
    since 1970-01-01.
    """

    def draw(figure):
        from matplotlib.dates import ConciseDateFormatter

        def on_axis(moments: ndarray):
            # days to microseconds
            return (
                np.rint(moments * 86_400e6).astype("datetime64[us]")
                if dated
                else moments
            )

        axes = figure.subplots()
        for number, (moments, mean, low, high) in enumerate(ahead):
            first = number == 0
            interval = f"{100 * level:g} % interval" if first else None
            axes.fill_between(
                on_axis(moments),
                low,
                high,
                color=ORANGE,
                alpha=0.2,
                linewidth=0,
                label=interval,
            )
            axes.plot(
                on_axis(moments),
                mean,
                color=ORANGE,
                label="forecast" if first else None,
            )
        axes.plot(on_axis(times), values, color=INK, linewidth=1, label="series")
        if dated:
            axes.xaxis.set_major_formatter(
                ConciseDateFormatter(axes.xaxis.get_major_locator())
            )
        axes.legend(loc="upper left")
        set_title(figure, "Each forecast from what was known when it begins")

    return write_figure(path, (10.0, 4.2), draw)


def embedding_map(
    coordinates: ndarray,
    words: Sequence[str],
    colours: ndarray,
    path: Path,
    title: str,
    force: bool = True,
) -> Paths:
    """Draw N words as points in a plane, coloured by polarity, as a .png file and an
    .svg file; see `write_figure`.

    `coordinates` (N, 2) are the points, and `colours` (N,) the polarities: the share of
    positive reviews among the reviews that contain a word. A word whose polarity is NaN
    is left out. Labels do not overlap: frequent words, which come first in `words`, and
    words of an extreme polarity get theirs before others.

    Raises:
        InputError: if no word has a polarity.
    """
    known = np.isfinite(colours)
    remedy = "give words that occur in the reviews"
    require(known.any(), "words of a map", "none with a share", remedy)
    coordinates, colours = coordinates[known], colours[known]
    shown = list(compress(words, known))

    def draw(figure):
        from matplotlib.colors import LinearSegmentedColormap, Normalize
        from matplotlib.ticker import PercentFormatter

        set_title(figure, title)
        axes = figure.subplots()
        # The colour scale is as wide as the polarities need, so that polarities of 45
        # to 55 % are not all grey. Its middle is always 50 %.
        away = np.abs(colours - 0.5)
        reach = max(0.05, np.ceil(np.quantile(away, 0.98) * 20) / 20)
        scale = LinearSegmentedColormap.from_list(
            "polarity", [ORANGE, GREY, BLUE], N=257
        )
        points = axes.scatter(
            *coordinates.T,
            c=colours,
            cmap=scale,
            norm=Normalize(0.5 - reach, 0.5 + reach),
            s=16,
            lw=0,
            alpha=0.9,
        )
        bar = figure.colorbar(
            points,
            ax=axes,
            label="share of positive reviews that hold the word",
            format=PercentFormatter(1, 0),
            pad=0.02,
            shrink=0.7,
            extend="both" if away.max() > reach else "neither",
        )
        bar.outline.set_visible(False)
        axes.set(xlabel="first coordinate", ylabel="second coordinate")
        axes.margins(0.06)
        _label_words(
            axes,
            coordinates,
            shown,
            points.to_rgba(colours)[:, :3] * 0.6,
            _label_order(colours),
        )

    return write_figure(path, (10.0, 7.6), draw, force)


def _label_order(colours: ndarray) -> ndarray:
    from scipy.stats import rankdata

    extreme = rankdata(-np.abs(colours - 0.5), method="ordinal") - 1
    return np.argsort(np.minimum(extreme, np.arange(len(colours))), kind="stable")


def _label_words(
    axes, coordinates: ndarray, words: Sequence[str], inks: ndarray, order: ndarray
) -> None:
    from matplotlib.patheffects import withStroke

    # computes the layout, without which positions in pixels are not known
    axes.figure.draw_without_rendering()
    pixels = axes.transData.transform(coordinates)
    taken = np.empty((0, 2, 2))  # lower left and upper right corners of the labels
    sides = [
        ((5, 0), "left", "center"),
        ((-5, 0), "right", "center"),
        ((0, 5), "center", "bottom"),
        ((0, -5), "center", "top"),
    ]
    for index in order:
        visible = "".join(
            c if c.isprintable() else f"\\x{ord(c):02x}" for c in words[index]
        )
        label = axes.annotate(
            visible,
            coordinates[index],
            (0, 0),
            textcoords="offset points",
            fontsize=8.5,
            color=inks[index],
        )
        label.set_in_layout(False)
        label.set_path_effects([withStroke(linewidth=2, foreground="white")])
        fits = []
        for position, across, along in sides:
            side = {"position": position, "ha": across, "va": along}
            label.set(**side)
            box = label.get_window_extent()
            overlaps = np.all(
                (taken[:, 0] < box.max) & (taken[:, 1] > box.min), axis=1
            ).any()
            if axes.bbox.count_contains(box.corners()) == 4 and not overlaps:
                fits.append((box.padded(4).count_contains(pixels), side, box))
        if fits:
            _, side, box = min(fits, key=lambda fit: fit[0])
            label.set(**side)
            taken = np.concatenate([taken, [box.get_points()]])
        else:
            label.remove()
