"""Cache of encoded reviews.

A cache file is an .npz file that contains the reviews of one source, encoded with certain options. Its name contains a hash of the source
and the options. A checksum in the file is verified whenever the file is read.
"""

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
    """Return the key of a cache file: a SHA-256 of the inputs from which the content of the cache file is computed."""
    rows = [f"{name}\0{file_digest(path)}" for name, path in sorted(files.items())]
    return hashlib.sha256(repr((CACHE_FORMAT, rows, options)).encode()).hexdigest()


def _digest(key: str, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    whole = hashlib.sha256(key.encode())
    for name, array in sorted(arrays.items()):
        whole.update(f"|{name} {array.dtype.str} {array.shape}|".encode())
        whole.update(np.ascontiguousarray(array).data)
    return np.frombuffer(whole.digest(), np.uint8)


def save_cache(path: Path, key: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays to a cache file, together with a SHA-256 checksum of the key and of all arrays."""
    digest = _digest(key, arrays)
    write_atomically(path, lambda file: np.savez(file, digest=digest, **arrays))  # pyright: ignore[reportArgumentType]


def load_cache(path: Path, key: str) -> dict[str, np.ndarray] | None:
    """Return a dict from the name of each array in a cache file to the array."""
    try:
        arrays = read_npz(path)
    except InputError:
        return None
    digest = arrays.pop("digest", None)
    return arrays if digest is not None and np.array_equal(digest, _digest(key, arrays)) else None
