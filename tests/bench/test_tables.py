"""Tests that the tables in the README and the documentation agree with the committed
rows.
"""

from functools import cache

import pytest

from bench import report, schema
from lstm_jax.base.errors import InputError


@pytest.fixture(scope="module", autouse=True)
def read_once():
    """Read and check each result file only once."""
    with pytest.MonkeyPatch.context() as patch:
        read = schema.read_checked
        patch.setattr(schema, "read_checked", cache(lambda path: list(read(path))))
        yield


def test_tables_are_up_to_date():
    documents = report.documents()
    assert documents
    for path, text in documents.items():
        assert report.with_tables(text) == text, (
            f"{path}: run python -m bench report --tables"
        )


def test_tables_are_rewritten(tmp_path, monkeypatch):
    page, mark = tmp_path / "README.md", "<!-- bench throughput 8343e8c9e398 A -->\n"
    (tmp_path / "docs").mkdir()
    page.write_text(f"before\n{mark}stale\n<!-- end -->\nafter\n")
    monkeypatch.setattr(report, "ROOT", tmp_path)
    assert report.rewrite_tables(check=True) == 1
    assert "stale" in page.read_text()
    assert report.rewrite_tables(check=False) == 0
    text = page.read_text()
    assert text.startswith(f"before\n{mark}\nCommit 8343e8c9e398, 208 GFLOP/s")
    assert text.endswith("<!-- end -->\nafter\n")
    assert (
        "| PyTorch 2.13.0, nn.LSTM, fused Adam | 18.7: 1.61x (1.54 to 1.64) |" in text
    )
    assert report.rewrite_tables(check=True) == 0


@pytest.mark.parametrize(
    "mark",
    [
        "throughput 0000000",
        "throughput 8343e8c9e398 C",
        "accuracy 0000000",
        "beauty c5e447ebe3d5",
    ],
)
def test_a_mark_without_rows(mark):
    with pytest.raises(InputError, match=r"^(mark|rows of commit)"):
        report.with_tables(f"<!-- bench {mark} -->\nold\n<!-- end -->\n")
