"""Figure of an embedding: words as points in a plane, coloured by their share of positive reviews, and labelled without overlap."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from lstm_jax.errors import require
from lstm_jax.inspection.figures import BLUE, GREY, ORANGE, set_title, write_figure


def embedding_map(
    coordinates: Float[np.ndarray, "N 2"],
    words: Sequence[str],
    colours: Float[np.ndarray, "N"],
    path: Path,
    title: str,
    force: bool = True,
) -> tuple[Path, Path]:
    """Draw N words as points in a plane, coloured by polarity, as a .png file and an .svg file.

    The polarity of a word is the share of positive reviews among the reviews that contain it. Labels do not overlap: a word has no label if
    there is no room for it. The words are labelled in this order: the most frequent word, the word with the polarity furthest from 0.5, the
    second most frequent word, and so on.

    Args:
        coordinates: coordinates of the words, for example from `embedding_space.project`.
        words: the words, the most frequent first.
        colours: polarity of each word, from 0 to 1. A word whose polarity is NaN is left out.
        path: path of the .png file, which must end in .png. The .svg file is written beside it.
        title: title above the figure.
        force: whether to replace existing files that do not contain the mark of lstm-jax, which is the text `files.writing.MARK`. Files
            with the mark are always replaced.

    Returns:
        The paths of the .png file and the .svg file.

    Raises:
        InputError: if `words` and `coordinates` differ in length, no word has a polarity, the path does not end in .png, or a file cannot
            be written.
    """
    require(len(words) == len(coordinates), "words of a map", f"{len(words)} for {len(coordinates)} points", "give one a point")
    known = np.isfinite(colours)
    require(bool(known.any()), "words of a map", "none with a share", "give words that occur in the reviews")
    shown = [word for word, is_known in zip(words, known, strict=True) if is_known]
    return write_figure(
        path, (10.0, 7.6), lambda figure: _draw_embedding_map(figure, coordinates[known], shown, colours[known], title), force
    )


def _draw_embedding_map(figure: Any, coordinates: np.ndarray, words: Sequence[str], colours: np.ndarray, title: str) -> None:
    from matplotlib.colors import LinearSegmentedColormap, Normalize
    from matplotlib.ticker import PercentFormatter

    set_title(figure, title)
    axes = figure.subplots()
    # The colour scale is as wide as the polarities need, so that polarities of 45 to 55 % are not all grey. Its middle is always 50 %.
    reach = max(0.05, float(np.ceil(np.quantile(np.abs(colours - 0.5), 0.98) * 20)) / 20)
    scale = LinearSegmentedColormap.from_list("polarity", [ORANGE, GREY, BLUE], N=257)
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
    """Return the indices of the words in the order in which they are labelled."""
    from scipy.stats import rankdata

    extreme = rankdata(-np.abs(colours - 0.5), method="ordinal") - 1
    return np.argsort(np.minimum(extreme, np.arange(len(colours))), kind="stable")


def _label_words(axes: Any, coordinates: np.ndarray, words: Sequence[str], inks: np.ndarray, order: np.ndarray) -> None:
    """Write words beside their points in a figure, without overlap."""
    from matplotlib.patheffects import withStroke

    axes.figure.draw_without_rendering()  # computes the layout, without which positions in pixels are not known
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
    return np.all((boxes[:, :2] < box[2:]) & (boxes[:, 2:] > box[:2]), axis=1)
