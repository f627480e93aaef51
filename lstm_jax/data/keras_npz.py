"""Keras' `imdb.npz`: reviews that are already word ranks, in object arrays which NumPy stores as pickles."""

import io
import pickle
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from lstm_jax.data.padding import ragged
from lstm_jax.errors import InputError, require

# All that rebuilding an object array of lists needs (the same list as keras/src/datasets/npz_utils.py).
ALLOWED = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
}
ARRAYS = ("x_train", "y_train", "x_test", "y_test")
GET_ANOTHER = "give Keras' own imdb.npz (x_train, y_train, x_test, y_test: lists of word ranks and labels)"


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str, /) -> Any:
        if (module_name, global_name) not in ALLOWED:
            raise pickle.UnpicklingError(f"the pickle asks for {module_name}.{global_name}, an array needs nothing of the kind")
        return super().find_class(module_name.replace("numpy.core", "numpy._core"), global_name)


def _read_member(content: bytes) -> np.ndarray:
    file = io.BytesIO(content)
    header = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}
    version = np.lib.format.read_magic(file)[0]
    if header.get(version, header[2])(file)[2].hasobject:
        array = _ArraysOnly(file).load()
        if not isinstance(array, np.ndarray):
            raise pickle.UnpicklingError(f"the pickle holds a {type(array).__name__}, not an array")
        return array
    file.seek(0)
    return np.lib.format.read_array(file, allow_pickle=False)


def read_keras_npz(path: Path) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Split name -> (ranks (ids,) int32, offsets (N + 1,) int64, labels (N,) int32), in the file's order.

    Ranks start at 1; there is no start id and nothing is shuffled yet (`keras.datasets.imdb.load_data` does both on loading).
    Pickles are read by an unpickler that can build arrays of lists and nothing else.

    Raises:
        InputError: for a damaged file, other arrays, or a pickle that asks for anything else.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            arrays = {name: _read_member(archive.read(f"{name}.npy")) for name in ARRAYS}
        splits = {}
        for split in ("train", "test"):
            rows, labels = arrays[f"x_{split}"], np.asarray(arrays[f"y_{split}"])
            require(len(rows) == len(labels), f"{split} split of {path}", f"{len(rows)} rows, {len(labels)} labels", GET_ANOTHER)
            require(set(np.unique(labels).tolist()) == {0, 1}, f"{split} labels of {path}", np.unique(labels), GET_ANOTHER)
            kinds = {np.asarray(row).dtype.kind for row in rows if len(row)}
            require(kinds <= {"i", "u"}, f"{split} rows of {path}", f"entries of kind {kinds}", GET_ANOTHER)
            ranks, offsets = ragged(rows)
            require(int(ranks.min(initial=1)) >= 1, f"{split} rows of {path}", f"rank {ranks.min(initial=1)}", GET_ANOTHER)
            splits[split] = (ranks, offsets, labels.astype(np.int32))
    # A hostile pickle can make the unpickler raise nearly anything; none of it may reach the user as a traceback.
    except (OSError, KeyError, ValueError, TypeError, EOFError, AttributeError, IndexError, OverflowError) as error:
        raise error if isinstance(error, InputError) else InputError(f"file {path}", error, GET_ANOTHER) from error
    except (pickle.UnpicklingError, zipfile.BadZipFile, zlib.error, MemoryError, ImportError) as error:
        raise InputError(f"file {path}", error, GET_ANOTHER) from error
    return splits
