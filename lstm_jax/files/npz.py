"""Safe reading of NumPy's .npy and .npz files.

Only arrays of plain numbers (booleans, integers and floats) are read. Pickled objects are refused. A file is also refused if it has more or
fewer bytes than its header declares.
"""

import io
import math
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lstm_jax.errors import InputError, require
from lstm_jax.files.reading import MORE, most_expanded, open_input, parsing

PLAIN = "biuf"
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENCRYPTED = 1  # the bit of a member's flags that marks it as encrypted


class Header(NamedTuple):
    """Header of a .npy file: the shape, the memory order and the dtype of the array, and the offset at which its values begin."""

    shape: tuple[int, ...]
    fortran: bool
    """Whether the values are in Fortran order (column by column), not in C order."""
    dtype: np.dtype
    start: int
    """Offset of the first value, in bytes from the start of the file."""


def read_header(content: bytes, subject: str, remedy: str) -> Header:
    """Return the header of a .npy file.

    Args:
        content: the bytes of the file.
        subject: name of the file in error messages.
        remedy: advice to the user at the end of error messages.

    Raises:
        InputError: if the header is missing or damaged, if its format is neither 1.0 nor 2.0, or if the shape in the header has an entry
            that is negative or not an integer.
    """
    file = io.BytesIO(content)
    with parsing(subject, remedy):
        version = np.lib.format.read_magic(file)
        if version == (1, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
        elif version == (2, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_2_0(file)
        else:
            raise InputError(subject, f"format {version[0]}.{version[1]}", remedy)
    good = all(type(size) is int and size >= 0 for size in shape)
    require(good, subject, f"shape {shape}", remedy)
    return Header(shape, fortran, dtype, file.tell())


def read_array(content: bytes, subject: str, remedy: str) -> np.ndarray:
    """Return the array in a .npy file.

    Args:
        content: the bytes of the file.
        subject: name of the file in error messages.
        remedy: advice to the user at the end of error messages.

    Raises:
        InputError: if the header is invalid, the values are not plain numbers, or there are more or fewer bytes than the header declares.
    """
    header = read_header(content, subject, remedy)
    plain = header.dtype.kind in PLAIN and header.dtype.subdtype is None
    require(plain, subject, f"dtype {header.dtype}", remedy)
    wanted, found = math.prod(header.shape) * header.dtype.itemsize, len(content) - header.start
    require(wanted == found, subject, f"{found:,} bytes of values, shape {header.shape} needs {wanted:,}", remedy)
    with parsing(subject, remedy):
        flat = np.frombuffer(content, header.dtype, math.prod(header.shape), header.start)
        return flat.reshape(header.shape, order="F" if header.fortran else "C").copy()


def read_members(path: Path, subject: str, remedy: str, names: Sequence[str] = ()) -> dict[str, bytes]:
    """Return the arrays in a .npz file as bytes: a dict from the name of each array to the content of its .npy file.

    A .npz file is a zip archive, in which the array NAME is the member NAME.npy.

    Args:
        path: path of the .npz file.
        subject: name of the file in error messages.
        remedy: advice to the user at the end of error messages.
        names: names of the arrays to read. If empty, all are read.

    Raises:
        InputError: in one of these cases.

            - The file cannot be read or is damaged.
            - Two members have the same name.
            - A member to read does not exist, is encrypted, or has an unknown compression method.
            - The members to read expand to more bytes in total than `most_expanded` allows for a file of this size.
    """
    with open_input(path, subject, remedy) as file, parsing(subject, remedy), zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        found = {member.filename.removesuffix(".npy"): member for member in members}
        require(len(found) == len(members), subject, "two members of one name", remedy)
        missing = [name for name in names if name not in found]
        require(not missing, subject, f"no {', '.join(missing)}", remedy)
        chosen = {name: found[name] for name in names or found}
        for name, member in chosen.items():
            require(not member.flag_bits & _ENCRYPTED, subject, f"{name} is encrypted", remedy)
            require(member.compress_type in _METHODS, subject, f"{name} is compressed by method {member.compress_type}", remedy)
        total, most = sum(member.file_size for member in chosen.values()), most_expanded(path.stat().st_size)
        require(total <= most, subject, f"expands to {total:,} bytes, more than {most:,}", MORE)
        return {name: archive.read(member) for name, member in chosen.items()}


def read_npz(
    path: Path, subject: str = "", remedy: str = "give a .npz of plain numbers", names: Sequence[str] = ()
) -> dict[str, np.ndarray]:
    """Return a dict from the name of each array in a .npz file to the array.

    Args:
        path: path of the .npz file.
        subject: name of the file in error messages. If empty, the name is "file PATH".
        remedy: advice to the user at the end of error messages.
        names: names of the arrays to read. If empty, all are read.

    Raises:
        InputError: if the file is damaged, if an array to read does not exist, or if an array has values other than booleans, integers and
            floats. See also `read_members`.
    """
    subject = subject or f"file {path}"
    members = read_members(path, subject, remedy, names)
    return {name: read_array(content, f"{name} in {subject}", remedy) for name, content in members.items()}
