"""Tests that the table of ported tests is complete, names tests that exist, and agrees with the page of the documentation."""

from pathlib import Path

from keras_table import PAGE, TESTS, is_ported, names_in, page

FILES = ("lstm", "gru", "simple_rnn", "bidirectional", "stacked_rnn_cells", "rnn")


def test_every_test_of_keras_is_in_the_table(keras):
    folder = Path(keras.__file__).parent / "src" / "layers" / "rnn"
    theirs = set().union(*(names_in(folder / f"{name}_test.py") for name in FILES))
    assert theirs == {name for name, _ in TESTS}
    assert len(TESTS) == len(theirs)


def test_every_port_exists():
    ours = set().union(*(names_in(path) for path in Path(__file__).parent.glob("test_keras_*.py")))
    named = {where for _, where in TESTS if is_ported(where)}
    assert named <= ours
    assert all(where.startswith("about ") for _, where in TESTS if not is_ported(where))


def test_the_page_is_current():
    assert PAGE.read_text() == page(), "run python tests/keras_ported/keras_table.py"
