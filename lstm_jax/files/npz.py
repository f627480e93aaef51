"""Safe reading of NumPy's .npy and .npz files.

Only arrays of plain numbers (booleans, integers and floats) are read. Pickled objects are refused. A file is also refused if it has more or
fewer bytes than its header declares.
"""

import io
import math
import zipfile
from pathlib import Path

import numpy as np

from lstm_jax.errors import require
from lstm_jax.files.reading import MORE, most_expanded, open_input, parsing

PLAIN = "biuf"
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENCRYPTED = 1  # the bit of a member's flags that marks it as encrypted


def _read_array(content: bytes, subject: str, remedy: str) -> np.ndarray:
    file = io.BytesIO(content)
    with parsing(subject, remedy):
        version = np.lib.format.read_magic(file)
        require(version in ((1, 0), (2, 0)), subject, f"format {version[0]}.{version[1]}", remedy)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read_header(file)
        require(all(type(size) is int and size >= 0 for size in shape), subject, f"shape {shape}", remedy)
        require(dtype.kind in PLAIN and dtype.subdtype is None, subject, f"dtype {dtype}", remedy)
        wanted, found = math.prod(shape) * dtype.itemsize, len(content) - file.tell()
        require(wanted == found, subject, f"{found:,} bytes of values, shape {shape} needs {wanted:,}", remedy)
        return np.frombuffer(content, dtype, math.prod(shape), file.tell()).reshape(shape, order="F" if fortran else "C").copy()


def read_npz(path: Path, subject: str = "", remedy: str = "give a .npz of plain numbers") -> dict[str, np.ndarray]:
    """Return a dict from the name of each array in a .npz file to the array."""
    subject = subject or f"file {path}"
    with open_input(path, subject, remedy) as file, parsing(subject, remedy), zipfile.ZipFile(file) as archive:
        members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
        require(len(members) == len(archive.infolist()), subject, "two members of one name", remedy)
        for name, member in members.items():
            require(not member.flag_bits & _ENCRYPTED, subject, f"{name} is encrypted", remedy)
            require(member.compress_type in _METHODS, subject, f"{name} is compressed by method {member.compress_type}", remedy)
        total, most = sum(member.file_size for member in members.values()), most_expanded(path.stat().st_size)
        require(total <= most, subject, f"expands to {total:,} bytes, more than {most:,}", MORE)
        return {name: _read_array(archive.read(member), f"{name} in {subject}", remedy) for name, member in members.items()}
