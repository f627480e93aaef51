"""The cache of encoded reviews: one .npz a source, named by a hash of its inputs and checked on every read."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from lstm_jax.data.download import file_digest
from lstm_jax.errors import InputError
from lstm_jax.files.npz import read_npz
from lstm_jax.files.writing import write_atomically

CACHE_FORMAT = 1


def content_key(files: Mapping[str, Path], *options: str) -> str:
    """Return the SHA-256 of the files' names and contents, the options and the cache's format.

    Raises:
        InputError: if a file cannot be read.
    """
    rows = [f"{name}\0{file_digest(path)}" for name, path in sorted(files.items())]
    return hashlib.sha256(repr((CACHE_FORMAT, rows, options)).encode()).hexdigest()


def _digest(key: str, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    whole = hashlib.sha256(key.encode())
    for name, array in sorted(arrays.items()):
        whole.update(f"|{name} {array.dtype.str} {array.shape}|".encode())
        whole.update(np.ascontiguousarray(array).data)
    return np.frombuffer(whole.digest(), np.uint8)


def save_cache(path: Path, key: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Write the arrays and a SHA-256 over the key and all of them.

    Raises:
        InputError: for a folder that cannot be written, or a full disk; nothing is left behind.
    """
    digest = _digest(key, arrays)
    write_atomically(path, lambda file: np.savez(file, allow_pickle=False, digest=digest, **arrays))


def load_cache(path: Path, key: str) -> dict[str, np.ndarray] | None:
    """Return the arrays that `save_cache` wrote under that key; None if the file is absent, damaged or of another key."""
    try:
        arrays = read_npz(path)
    except InputError:
        return None
    digest = arrays.pop("digest", None)
    return arrays if digest is not None and np.array_equal(digest, _digest(key, arrays)) else None
