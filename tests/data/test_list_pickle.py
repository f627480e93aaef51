"""`read_lists` reads pickled object arrays of lists of integers as Python does, and refuses any other pickle."""

import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lstm_jax.data.reviews import list_pickle
from lstm_jax.data.reviews.keras_npz import read_keras_npz
from lstm_jax.data.reviews.list_pickle import STATE, read_lists
from lstm_jax.errors import InputError
from lstm_jax.files.reading import parsing

ROWS = st.lists(st.lists(st.integers(-(2**31), 2**31 - 1), max_size=6), max_size=6)


def objects(rows: list) -> np.ndarray:
    array = np.empty(len(rows), object)
    array[:] = rows
    return array


class Made:
    """Object that is pickled as a call of the function `call` with `arguments`, followed by setting the state `state`.

    All three can be chosen freely, so that tests can make pickles that Python itself would not write.
    """

    def __init__(self, call, arguments: tuple, state: object):
        self.parts = call, arguments, state

    def __reduce__(self):
        return self.parts


def pickled(dtype_state: tuple = STATE, rows: object = (), shape: tuple = (1,), dtype: str = "O8") -> bytes:
    """Return the pickle of an array with the given dtype, dtype state, rows and shape, which need not be valid."""
    kind = Made(np.dtype, (dtype, False, True), dtype_state)
    return pickle.dumps(Made(np._core.multiarray._reconstruct, (np.ndarray, (0,), b"b"), (1, shape, kind, False, rows)), 4)


@given(ROWS, st.integers(0, 5))
def test_reads_what_numpy_writes(rows: list, protocol: int) -> None:
    found = read_lists(pickle.dumps(objects(rows), protocol))
    assert [row.tolist() for row in found] == rows
    assert all(row.dtype == np.int32 for row in found)


def test_long_rows_and_rows_that_are_one_object() -> None:
    row = np.arange(0, 70_000, 9).tolist()
    for protocol in (0, 2, 5):
        found = read_lists(pickle.dumps(objects([row, [5], row]), protocol))
        assert [one.tolist() for one in found] == [row, [5], row]


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (pickled((3, "|", None, None, None, -1, -1, 0), b"\x41" * 8), "gives a dtype the state"),  # NumPy would take the bytes as addresses
        (pickled((3, "|", ("a",), {"a": (np.dtype("i4"), 0)}, 8, 1, 27), [[1]]), "holds EMPTY_DICT"),
        (pickled(STATE, b"\x41" * 8), "another array than one of lists"),
        (pickled(STATE, [[1], [2]]), "another array than one of lists"),
        (pickled(STATE, [[1]], (1, 1)), "another array than one of lists"),
        (pickled(STATE, [[1]], dtype="i8"), "calls 'numpy dtype'"),
        (pickled(STATE, [["a"]]), "something else than integers"),
        (pickled(STATE, [[1.5]]), "holds BINFLOAT"),
        (pickled(STATE, [[True]]), "something else than integers"),
        (pickled(STATE, [[[1]]]), "lists in the lists"),
        (pickled(STATE, [1]), "another array than one of lists"),
        (pickled(STATE, [{}]), "holds EMPTY_DICT"),
        (pickle.dumps(objects([[2**31]])), "."),
        (pickle.dumps(objects([[-(2**40)]])), "."),
        (pickle.dumps([1]), "a List, not an array"),
        (pickle.dumps(np.arange(3), 2), "."),
        (pickle.dumps(print), r"asks for builtins\.print"),
        (b"cposix\nsystem\n.", r"asks for posix\.system"),
        (b"]" * 102 + b".", "more than 100 rows"),
        (b"N" * 1001 + b".", "more than 1,000 instructions"),
        (b"I" + b"9" * 5000 + b"\n.", "."),
        (b"(((((.", "takes more than it put"),
        (b"", "ends in the middle"),
        (b"\xff", "no pickle"),
        (b"h\x05.", "never made"),
        (b"]q\x00h\x00a.", "."),
    ],
    ids=range(26),
)
def test_anything_else_is_refused(content: bytes, found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(list_pickle, "ROWS", 100)
    monkeypatch.setattr(list_pickle, "STEPS", 1000)
    with pytest.raises((ValueError, OverflowError), match=found):
        read_lists(content)


WHOLE = pickle.dumps(objects([[1, 300, 70_000], [], [2]]), 4)


@given(st.data())
def test_fuzzed_bytes_make_lists_or_errors(data: st.DataObject) -> None:
    content = bytearray(WHOLE)
    for _ in range(data.draw(st.integers(1, 4))):
        place, value = data.draw(st.integers(0, len(content) - 1)), data.draw(st.integers(0, 255))
        content[place] = value
    try:
        with parsing("pickle", "give another"):
            found = read_lists(bytes(content[: data.draw(st.integers(0, len(content)))]))
    except InputError:
        return
    assert all(row.dtype == np.int32 for row in found)


def test_a_crafted_file_is_refused_by_name(tmp_path: Path) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|O", "fortran_order": False, "shape": (1,)})
    path = tmp_path / "imdb.npz"
    np.savez(path, y_train=np.arange(1), x_test=np.ones((2, 3), int), y_test=np.arange(2))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("x_train.npy", header.getvalue() + pickled((3, "|", None, None, None, -1, -1, 0), b"\x41" * 8))
    with pytest.raises(InputError, match=r"x_train in .*imdb\.npz: the pickle gives a dtype the state .*; give Keras' own imdb\.npz"):
        read_keras_npz(path)
