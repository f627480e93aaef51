"""Tests that the table of ported tests is complete, and names tests that exist."""

from pathlib import Path

from keras_table import TESTS, is_ported, names_in

FILES = ("lstm", "gru", "simple_rnn", "bidirectional", "stacked_rnn_cells", "rnn")


def test_every_test_of_keras_is_in_the_table(keras):
    folder = Path(keras.__file__).parent / "src" / "layers" / "rnn"
    theirs = set().union(*(names_in(folder / f"{name}_test.py") for name in FILES))
    assert theirs == {name for name, _ in TESTS}
    assert len(TESTS) == len(theirs)


def test_every_port_exists():
    ours = set().union(
        *(names_in(path) for path in Path(__file__).parent.glob("test_keras_*.py"))
    )
    named = {where for _, where in TESTS if is_ported(where)}
    assert named <= ours
    assert all(where.startswith("about ") for _, where in TESTS if not is_ported(where))
