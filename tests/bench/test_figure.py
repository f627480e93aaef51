"""Test that the figure of the README agrees with the committed result rows."""

import re
from pathlib import Path

from rows import ROOT

from bench import throughput
from bench.peers import title
from bench.report.figures import draw_grid
from bench.summary import of_commit

FIGURE = ROOT / "docs" / "images" / "speed.svg"
COMMIT = "764b2ba13990"
LARGEST = 150_000


def test_figure_is_up_to_date(tmp_path: Path) -> None:
    """The committed SVG figure contains the same texts as a new drawing of the committed rows.

    The texts are read from the comments of the SVG files, because every version of matplotlib writes each text as a comment, too.
    """
    assert FIGURE.stat().st_size < LARGEST
    rows, lines = of_commit(throughput.PATH, COMMIT)
    draw_grid(lines, "torch_lstm", tmp_path / "speed.png", name=title("torch_lstm", rows))
    drawn, kept = (re.findall("<!-- (.*?) -->", path.read_text()) for path in (tmp_path / "speed.svg", FIGURE))
    assert len(drawn) > 30
    assert kept == drawn, f"run python -m bench report --commit {COMMIT} --out page, copy page/grid_torch_lstm.svg"
