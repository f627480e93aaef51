"""Figures: the tests read what a figure shows from matplotlib's objects, and check the
files that it is written to.
"""

import warnings
from pathlib import Path

import matplotlib
import matplotlib.image
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from lstm_jax.base.errors import InputError
from lstm_jax.lab.inspection import figures
from lstm_jax.lab.sentiment.metrics import reliability

ROWS = [
    {
        "epoch": 1,
        "train_loss": 0.4,
        "train_accuracy": 0.80,
        "test_loss": 0.38,
        "test_accuracy": 0.83,
        "seconds": 9,
    },
    {
        "epoch": 2,
        "train_loss": 0.2,
        "train_accuracy": 0.92,
        "test_loss": 0.45,
        "test_accuracy": 0.82,
        "validation_loss": None,
    },
]
BINS = reliability(
    np.array([0.1, 0.15, 0.5, 0.9, 0.95]), np.array([0, 1, 1, 1, 0]), bins=5
)
PATH = Path("figure.png")
RNG = np.random.default_rng(0)
WORDS = [f"word{k}" for k in range(300)]
POINTS, SHARES = RNG.standard_normal((300, 2)), RNG.uniform(0.2, 0.8, 300)


@pytest.fixture
def figure(monkeypatch):
    """Figure into which the functions of `figures` draw, instead of writing files."""
    with matplotlib.rc_context(figures.STYLE):
        blank = Figure(figsize=(10, 7), layout="constrained")
        FigureCanvasAgg(blank)

        def write_figure(path, inches, draw, force=True):
            draw(blank)
            return path, path

        monkeypatch.setattr(figures, "write_figure", write_figure)
        yield blank


ALL = {
    "one_epoch": lambda path: figures.learning_curves(ROWS[:1], path, "Run 1"),
    "reliability": lambda path: figures.reliability_curve(BINS, BINS.ece, path, "Test"),
    "one_word": lambda path: figures.embedding_map(
        np.zeros((1, 2)), ["a"], np.array([0.5]), path, "Words"
    ),
}


@pytest.mark.slow(keep=2)
@pytest.mark.parametrize("name", ALL)
def test_both_files(tmp_path, name):
    png, svg = ALL[name](tmp_path / "a" / f"{name}.png")
    assert (
        0.005 < np.mean(matplotlib.image.imread(png)[..., :3].min(axis=-1) < 0.9) < 0.9
    )
    assert svg.read_text().startswith("<?xml")
    assert sorted(path.name for path in png.parent.iterdir()) == [
        f"{name}.png",
        f"{name}.svg",
    ]
    assert svg.read_bytes() == ALL[name](tmp_path / "b.png")[1].read_bytes()


def test_learning_curves_draw_a_line_a_split(figure):
    figures.learning_curves(ROWS[::-1], PATH, "Run 1")
    loss, accuracy = figure.axes
    assert [line.get_label() for line in loss.lines] == ["train", "test"]
    assert loss.lines[1].get_ydata().tolist() == [0.38, 0.45]
    assert accuracy.lines[0].get_ydata().tolist() == [0.8, 0.92]
    assert [text.get_text() for text in loss.texts] == ["train 0.200", "test 0.450"]
    colours = {line.get_label(): line.get_color() for line in accuracy.lines}
    assert {
        text.get_text().split()[0]: text.get_color() for text in accuracy.texts
    } == colours


def test_entries_of_a_day_have_times_of_their_own(figure):
    """In the figure of a forecast, hourly entries are drawn exactly one hour apart, to
    the microsecond.
    """
    days = 20_000 + np.arange(30) / 24
    values = np.arange(30.0)
    figures.forecast(
        days[:24],
        values[:24],
        [(days[24:], values[24:], values[24:] - 1, values[24:] + 1)],
        0.9,
        True,
        PATH,
    )
    drawn = [line.get_xdata() for line in figure.axes[0].get_lines()]
    assert sorted(map(len, drawn)) == [6, 24]
    for times in drawn:
        assert set(np.diff(times.astype("datetime64[us]")).astype(int)) == {
            3_600_000_000
        }


def test_reliability_curve_leaves_empty_bins_out(figure):
    figures.reliability_curve(BINS, 0.25, PATH, "Test")
    curve, histogram = figure.axes
    points = curve.lines[1]
    np.testing.assert_allclose(points.get_xdata(), [0.125, 0.5, 0.925])
    np.testing.assert_allclose(points.get_ydata(), [0.5, 1, 0.5])
    assert [bar.get_height() for bar in histogram.patches] == [2, 0, 1, 0, 2]
    assert "0.250" in curve.get_title(loc="left")


def test_labels_of_a_map_neither_overlap_nor_leave_the_frame(figure):
    figures.embedding_map(POINTS, WORDS, SHARES, PATH, "Words")
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    assert 60 < len(boxes) < 300
    for number, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:number])
        assert figure.axes[0].bbox.count_contains(box.corners()) == 4


def test_odd_words_are_drawn_as_they_are_and_words_without_a_share_are_left_out(figure):
    words = ["$a_1$", "\x96", "漢字", "\udce9", "left out"]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")
        figures.embedding_map(
            np.eye(5, 2), words, np.array([0.5] * 4 + [np.nan]), PATH, "$5 words"
        )
    assert {text.get_text() for text in figure.axes[0].texts} <= {
        "$a_1$",
        r"\x96",
        "漢字",
        r"\xdce9",
    }


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (
            lambda path: figures.learning_curves([], path, ""),
            "none; train for an epoch",
        ),
        (
            lambda path: figures.learning_curves([{"epoch": 1}], path, ""),
            "no loss and no accuracy",
        ),
        (
            lambda path: figures.embedding_map(
                POINTS[:1], ["a"], np.array([np.nan]), path, ""
            ),
            "none with a share",
        ),
        (
            lambda path: figures.learning_curves(ROWS, path.with_suffix(".pdf"), ""),
            "end it in .png",
        ),
    ],
)
def test_bad_input_is_refused(tmp_path, draw, message):
    (tmp_path / "figure.png").write_text("a file, no folder")
    with pytest.raises(InputError, match=message):
        draw(tmp_path / "figure.png")
    assert [path.name for path in tmp_path.iterdir()] == ["figure.png"]
