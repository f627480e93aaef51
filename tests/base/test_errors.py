"""Tests of error messages, which name the subject, its value and a remedy in one line."""

import pickle
import signal

import pytest

from lstm_jax.base.errors import InputError, Interrupted, require


def test_the_message_names_thing_value_and_remedy():
    error = InputError("dropout", 1.2, "give a share below 1")
    assert str(error) == "dropout: 1.2; give a share below 1"
    assert (error.subject, error.value, error.remedy) == (
        "dropout",
        1.2,
        "give a share below 1",
    )
    assert isinstance(error, ValueError)


@pytest.mark.parametrize(
    ("length", "shown"),
    [(80, "x" * 80), (81, "x" * 77 + "..."), (5000, "x" * 77 + "...")],
)
def test_long_values_are_cut_and_the_remedy_is_not(length, shown):
    assert (
        str(InputError("text", "x" * length, "shorten it"))
        == f"text: {shown}; shorten it"
    )


def test_always_one_line():
    message = str(InputError("file a\nb", "one\n\ttwo\r\n three\u2028four", "do\nthis"))
    assert message == "file a b: one two three four; do this"


def test_errors_can_be_sent_between_processes():
    error = pickle.loads(
        pickle.dumps(InputError("file a", ValueError("no such column"), "name another"))
    )
    assert isinstance(error, InputError)
    assert str(error) == "file a: no such column; name another"
    ended = pickle.loads(pickle.dumps(Interrupted(7, signal.SIGTERM)))
    assert (str(ended), ended.step, ended.code) == ("interrupted after step 7", 7, 75)


def test_require():
    require(True, "a", 1, "b")
    with pytest.raises(InputError, match=r"^a: 1; b$"):
        require(False, "a", 1, "b")
