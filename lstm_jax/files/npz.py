"""Reading of NumPy's files without NumPy's loader: plain numbers of exactly the declared size, never a pickle."""

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
_ENCRYPTED = 1  # bit of a member's flags


class Header(NamedTuple):
    """Header of a .npy: shape, order, dtype, and the offset of the values."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype
    start: int


def read_header(content: bytes, subject: str, remedy: str) -> Header:
    """Return the header of a .npy's bytes.

    Raises:
        InputError: if it is missing or damaged, or its shape holds values other than sizes.
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
    """Return the array of numbers in a .npy's bytes.

    Raises:
        InputError: for a bad header, values that are not numbers, or more or fewer bytes than the header declares.
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
    """Return the members NAME.npy of a .npz: name -> bytes.

    Args:
        path: the .npz.
        subject: its name in errors.
        remedy: remedy in errors.
        names: names of the members to read; empty: all.

    Raises:
        InputError: for a damaged archive, a missing, encrypted or repeated member, an unknown compression, more than `most_expanded`.
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
    """Return the arrays of a .npz of numbers: name -> array.

    Args:
        path: the .npz.
        subject: its name in errors; empty: "file PATH".
        remedy: remedy in errors.
        names: names of the arrays to read; empty: all.

    Raises:
        InputError: as `read_members` and `read_array`.
    """
    subject = subject or f"file {path}"
    members = read_members(path, subject, remedy, names)
    return {name: read_array(content, f"{name} in {subject}", remedy) for name, content in members.items()}
