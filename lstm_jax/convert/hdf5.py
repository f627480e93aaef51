"""Safe reading of HDF5 files from unknown sources.

Only arrays of numbers that are stored in the file itself are read. For example, a file with an external link is rejected.
"""

import io
import os
from typing import Any

import numpy as np

from lstm_jax.errors import require
from lstm_jax.files.reading import parsing


def natural(path: str) -> list[tuple[str, int]]:
    """Return a sort key for the natural order of paths, in which lstm_2 comes before lstm_10.

    The key is a list with a pair (name, number) for each part of the path. For example, the part lstm_10 gives the pair ("lstm", 10). The
    number is -1 if the part does not end in a number.
    """
    parts = []
    for part in path.split("/"):
        name = part.rstrip("0123456789")
        digits = part[len(name) :]
        parts.append((name.removesuffix("_"), int(digits) if digits.isascii() and digits and len(digits) < 10 else -1))
    return parts


def read_hdf5(source: str | os.PathLike[str] | io.BytesIO, name: str, skip: frozenset[str]) -> tuple[dict[str, np.ndarray], list[str]]:
    """Read the arrays of an HDF5 file and the paths of its groups."""
    import h5py

    subject = f"HDF5 file {name}"
    arrays: dict[str, np.ndarray] = {}
    groups: list[str] = []
    seen: set[Any] = set()  # h5py's ids of the same object are equal
    room = len(source.getbuffer()) if isinstance(source, io.BytesIO) else os.stat(source).st_size
    with parsing(subject, "it is truncated, damaged or no HDF5 file: save the weights again"), h5py.File(source, "r") as file:
        pending: list[tuple[str, Any]] = [("", file)]
        while pending:
            path, found = pending.pop()
            require(found.id not in seen, subject, f"{path} is there under two names", "save the weights again")
            seen.add(found.id)
            if not isinstance(found, h5py.Group):
                arrays[path] = _read_dataset(found, subject, path)
                room -= found.nbytes
                require(room >= 0, subject, f"{path} shares its bytes with others", "save the weights again")
                continue
            groups.append(path)
            for key in map(str, found):
                child, link = f"{path}/{key}" if path else key, found.get(key, getlink=True)
                hard = isinstance(link, h5py.HardLink)
                require(hard, subject, f"{child} is a {type(link).__name__}", "links are not followed: save the arrays themselves")
                if child not in skip:
                    pending.append((child, found[key]))
    return {path: arrays[path] for path in sorted(arrays, key=natural)}, sorted(groups, key=natural)


def _read_dataset(dataset: Any, subject: str, path: str) -> np.ndarray:
    import h5py

    require(isinstance(dataset, h5py.Dataset), subject, f"{path} is a {type(dataset).__name__}", "expected groups and datasets alone")
    outside = dataset.is_virtual or dataset.external
    require(not outside, subject, f"{path} keeps its data in another file", "save the arrays themselves")
    # Keras stores a bfloat16 value as two opaque bytes and sets an attribute. Conversion to float32 keeps the values exactly.
    bfloat16 = dataset.dtype == np.dtype("V2") and dataset.attrs.get("dtype") == "bfloat16"
    require(bfloat16 or dataset.dtype.kind in "fiub", subject, f"{path} has dtype {dataset.dtype}", "only numbers are read")
    # A malicious file may declare any size, but a dataset of Keras takes exactly its bytes. Without filters HDF5 loads no plugin either.
    plain = dataset.shape is not None and dataset.id.get_storage_size() == dataset.nbytes
    plain = plain and dataset.id.get_create_plist().get_nfilters() == 0
    require(plain, subject, f"{path} is empty, compressed or was never written", "save the arrays whole and without compression")
    values = np.asarray(dataset[()])
    return (values.view(np.uint16).astype(np.uint32) << 16).view(np.float32) if bfloat16 else values
