"""The README's tables say what the committed rows say."""

import pytest
from rows import ROOT  # noqa: F401

from bench import readme
from lstm_jax.errors import InputError


def test_tables_are_what_their_rows_say() -> None:
    text = readme.README.read_text()
    marks = readme.MARK.findall(text)
    assert {what for _, what, *_ in marks} >= {"throughput", "accuracy"}
    assert readme.written(text) == text, "run python -m bench readme"


def test_a_mark_without_rows() -> None:
    for mark in ("throughput 0000000", "accuracy 0000000", "beauty c5e447ebe3d5"):
        with pytest.raises(InputError, match=r"give one|name a file"):
            readme.written(f"<!-- bench {mark} -->\nold\n<!-- end -->\n")
