"""Style for matplotlib figures, and a function that writes a figure as a .png file and an .svg file.

matplotlib is imported only when a figure is drawn. pyplot is not used, so that no global state is changed and no display is needed. The
colours are from the palette of Okabe and Ito, which colour-blind readers can tell apart. The same data always give the same .svg file.
"""

import contextlib
import io
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal
from unittest import mock

from lstm_jax.errors import require
from lstm_jax.files.writing import MARK, write_atomically

BLUE, ORANGE, GREEN, INK, GREY = "#0072B2", "#D55E00", "#009E73", "#222222", "#B9B9B9"
DPI = 150
"""Resolution of the .png file in pixels per inch."""
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # matplotlib includes this font, so that figures look the same on every machine
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
    "text.parse_math": False,  # a word or a title may contain "$", which would begin a formula
    "figure.facecolor": "white",
    "svg.hashsalt": "lstm_jax",
}


def log_axis(axes: Any, which: Literal["x", "y"], values: Sequence[Any] = ()) -> None:
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


def figure_paths(path: Path) -> tuple[Path, Path]:
    """Return the path of a .png file and the path of the .svg file with the same name in the same folder.

    Raises:
        InputError: if the path does not end in .png.
    """
    require(path.suffix == ".png", f"figure {path}", f"ending {path.suffix!r}", "end it in .png; the .svg is written beside it")
    return path, path.with_suffix(".svg")


def write_figure(path: Path, inches: tuple[float, float], draw: Callable[[Any], object], force: bool = True) -> tuple[Path, Path]:
    """Draw a figure and write it as a .png file, and as an .svg file beside it.

    Args:
        path: path of the .png file, which must end in .png.
        inches: width and height of the figure in inches.
        draw: function that takes an empty matplotlib figure and draws into it.
        force: whether to replace existing files that do not contain the mark of lstm-jax, which is the text `files.writing.MARK`. Files
            with the mark are always replaced.

    Returns:
        The paths of the .png file and the .svg file.

    Raises:
        InputError: if the path does not end in .png, or if a file cannot be written.
    """
    if "matplotlib" not in sys.modules and (backend := os.environ.get("MPLBACKEND")):
        with mock.patch.dict(os.environ, MPLBACKEND=""):  # the import fails if this backend is not installed, and none is needed here
            import matplotlib
        with contextlib.suppress(ValueError):
            matplotlib.rcParams["backend"] = backend
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    paths = figure_paths(path)
    png, svg = io.BytesIO(), io.BytesIO()
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # characters that the font lacks are drawn as boxes
        figure = Figure(figsize=inches, dpi=DPI, layout="constrained")
        FigureCanvasAgg(figure)
        draw(figure)
        figure.savefig(png, format="png", dpi=DPI, metadata={"Comment": MARK})
        figure.savefig(svg, format="svg", metadata={"Date": None, "Description": MARK})
    for each, content in zip(paths, (png, svg), strict=True):
        write_atomically(each, content.getvalue(), force)
    return paths


def set_title(figure: Any, title: str) -> None:
    """Set the title of a matplotlib figure, at its left edge."""
    figure.suptitle(title, x=0.012, ha="left", fontsize=14, fontweight="bold")
