"""The figure of the README shows what the committed rows say."""

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
    """Compare the texts of the drawing, which matplotlib also writes as comments: the numbers, whatever its version."""
    assert FIGURE.stat().st_size < LARGEST
    rows, lines = of_commit(throughput.PATH, COMMIT)
    draw_grid(lines, "torch_lstm", tmp_path / "speed.png", name=title("torch_lstm", rows))
    drawn, kept = (re.findall("<!-- (.*?) -->", path.read_text()) for path in (tmp_path / "speed.svg", FIGURE))
    assert len(drawn) > 30
    assert kept == drawn, f"run python -m bench report --commit {COMMIT} --out page, copy page/grid_torch_lstm.svg"
