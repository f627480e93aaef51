"""Hostile files: each reader returns data or raises `InputError`. None runs forever or expands a file without bound.

The environment variable `LSTM_JAX_FUZZ_EXAMPLES` sets the number of mutated files (default 300). Long runs use thousands.
"""

import contextlib
import gzip
import io
import json
import lzma
import os
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
from made_reviews import made_rows, members
from safetensors.numpy import save

from lstm_jax.convert import read_keras_weights, read_torch_file
from lstm_jax.data import load_reviews, read_articles, read_byte_articles, read_series
from lstm_jax.data.reviews.cache import load_cache, save_cache
from lstm_jax.data.reviews.sources import FORMS, recognise
from lstm_jax.data.text.sources import FORMS as TEXT_FORMS
from lstm_jax.data.text.sources import Form as TextForm
from lstm_jax.errors import InputError
from lstm_jax.files import reading as input_files
from lstm_jax.files.npz import read_npz

EXAMPLES = int(os.environ.get("LSTM_JAX_FUZZ_EXAMPLES", "300"))
TEXT = "It was the best of times,\nit was the worst of times — é.\n" * 4


# one valid file of each kind


def _table() -> str:
    return "text,label\n" + "".join(f'"{row["text"]}",{row["label"]}\n' for row in made_rows("train"))


def _lines() -> str:
    return "".join(json.dumps(row) + "\n" for row in made_rows("train"))


def _npz(**arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def _tar(*extra: tarfile.TarInfo, format: int = tarfile.PAX_FORMAT) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=format) as archive:
        for name, content in members().items():
            info = tarfile.TarInfo(f"aclImdb/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for info in extra:
            archive.addfile(info)
    return file.getvalue()


def _hdf5() -> bytes:
    file = io.BytesIO()
    with h5py.File(file, "w") as made:
        made["layers/dense/vars/0"] = np.arange(6, dtype=np.float32).reshape(2, 3)
        made["layers/dense/vars/1"] = np.zeros(3, np.float32)
    return file.getvalue()


def _keras() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("config.json", json.dumps({"config": {"layers": []}}))
        archive.writestr("model.weights.h5", _hdf5())
    return file.getvalue()


def _cache(path: Path) -> object:
    return load_cache(path, "key")


SAMPLES = {
    name: (content.encode(), read)
    for forms, read in ((FORMS, load_reviews), (TEXT_FORMS, read_articles))
    for name, content in (form.example for form in forms if form.example)
}
"""Dict from the file name of each example in the documented forms of reviews and texts to the content and the function that reads it."""
MADE: dict[str, tuple[bytes, Callable[[Path], object]]] = {
    "made.csv": (_table().encode(), load_reviews),
    "made.jsonl": (_lines().encode(), load_reviews),
    "made.jsonl.xz": (lzma.compress(_lines().encode()), load_reviews),
    "reviews.tar.gz": (gzip.compress(_tar(), mtime=0), load_reviews),
    "cache.npz": (_npz(a=np.arange(9), b=np.ones((2, 3), np.float32)), _cache),
    "plain.npz": (_npz(a=np.arange(9), b=np.ones((2, 3), np.float32)), read_npz),
    "text.txt": (TEXT.encode(), read_articles),
    "bytes.txt": (TEXT.encode(), read_byte_articles),
    "records.json": (json.dumps([{"text": TEXT, "n": 1}] * 3).encode(), read_articles),
    "column.csv.xz": (lzma.compress(_table().encode()), read_articles),
    "series.csv": (("time,value\n" + "".join(f"{n},{n * n}\n" for n in range(20))).encode(), read_series),
    "dated.jsonl": ("".join(f'{{"time": "2026-01-{n:02}", "value": {n}.5}}\n' for n in range(1, 29)).encode(), read_series),
    "model.safetensors": (save({"a": np.ones((3, 4), np.float32), "b": np.arange(5)}), read_torch_file),
    "model.weights.h5": (_hdf5(), read_keras_weights),
    "model.keras": (_keras(), read_keras_weights),
}
assert not SAMPLES.keys() & MADE.keys()
KINDS = SAMPLES | MADE
"""Dict from the name of each file to its content and to the function that reads it."""
SPLICED = (
    b"\x00",
    b"\xff" * 4,
    b'"',
    b"\n",
    b"\r",
    b"{",
    b"[" * 300,
    b"9" * 5000,
    b"1e400",
    b"nan",
    b"\xff\xfe",
    b"PK\x03\x04",
    b"-",
    b"\x80",
)


def mutated(content: bytes, rng: np.random.Generator) -> bytes:
    """Return a copy of `content` with one to four random changes.

    A change replaces a byte, cuts off the end, deletes a part, inserts a copy of a part, inserts one of `SPLICED`, overwrites four bytes
    near the beginning or the end, or overwrites eight bytes with a number that is extreme as a size or an offset.
    """
    made = bytearray(content)
    for _ in range(rng.integers(1, 5)):
        size = max(len(made), 1)
        start, length = int(rng.integers(size)), int(rng.integers(1, 40))
        match rng.integers(7):
            case 0:
                made[start : start + 1] = bytes([int(rng.integers(256))])
            case 1:
                del made[start:]
            case 2:
                del made[start : start + length]
            case 3:
                made[start:start] = made[int(rng.integers(size)) :][:length]
            case 4:
                made[start:start] = SPLICED[int(rng.integers(len(SPLICED)))]
            case 5:  # sizes, offsets and flags stand at the beginning and at the end
                place = int(rng.integers(min(size, 64)))
                place = place if rng.integers(2) else size - 1 - place
                made[place : place + 4] = rng.bytes(4)
            case 6:
                made[start : start + 8] = (0, 1, 2**31, 2**63, 2**64 - 1)[rng.integers(5)].to_bytes(8, "little")
    return bytes(made)


def mutations(seed: int, count: int) -> Iterator[tuple[str, bytes]]:
    """Yield `count` mutated files. Each one is a pair of a file name, which is a key of `KINDS`, and the mutated content.

    A file that is compressed by gzip or xz is unpacked, mutated and compressed again with probability 1/2. Otherwise the bytes of the file
    itself are mutated.
    """
    names = sorted(KINDS)
    for number in range(count):
        rng = np.random.default_rng((seed, number))
        name = names[number % len(names)]
        content = KINDS[name][0]
        if rng.integers(2) and name.endswith(".gz"):
            yield name, gzip.compress(mutated(gzip.decompress(content), rng), 1, mtime=0)
        elif rng.integers(2) and name.endswith(".xz"):
            yield name, lzma.compress(mutated(lzma.decompress(content), rng), preset=0)
        else:
            yield name, mutated(content, rng)


def read_mutation(folder: Path, name: str, content: bytes) -> bool:
    """Write a file, read it with the function that `KINDS` has for its name, and return True, or False if the read raised `InputError`.

    Raises:
        Exception: if the read raises any exception other than `InputError`.
    """
    path = folder / name
    path.write_bytes(content)
    try:
        KINDS[name][1](path)
    except InputError:
        return False
    finally:
        path.unlink()
    return True


def test_valid_files_are_read(tmp_path: Path) -> None:
    for name, (content, _) in KINDS.items():
        if name != "reviews.tar.gz":
            assert read_mutation(tmp_path, name, content), name
    save_cache(tmp_path / "cache.npz", "key", {"a": np.arange(3)})
    assert _cache(tmp_path / "cache.npz") is not None


def test_every_form_of_reviews_has_a_sample(tmp_path: Path) -> None:
    found = set()
    for name, (content, _) in KINDS.items():
        (tmp_path / name).write_bytes(content)
        with contextlib.suppress(InputError):
            found.add(recognise(tmp_path / name).form.name)
    assert found == {form.name for form in FORMS if not form.keyword} - {"folder"}


@pytest.mark.parametrize("form", [form for form in TEXT_FORMS if form.example], ids=lambda form: form.description)
def test_the_example_of_a_text_has_its_form(form: TextForm, tmp_path: Path) -> None:
    name, content = form.example or ("", "")
    path = tmp_path / name
    path.write_text(content)
    assert next(other for other in TEXT_FORMS if other.matches(path)) is form
    assert [text.encode() for text in read_articles(path)] == list(read_byte_articles(path)) != []


def test_mutated_files_are_read_or_refused(tmp_path: Path) -> None:
    read = sum(read_mutation(tmp_path, *case) for case in mutations(0, EXAMPLES))
    assert 0 < read < EXAMPLES


# files that expand to more bytes than allowed, and files that are too large


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limit files, and the data to which they expand, to 100,000 bytes."""
    monkeypatch.setenv(input_files.MAX_BYTES, "100000")


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("a.jsonl.xz", lzma.compress(b" " * 200_000), "expands to more than 100,000 bytes; set LSTM_JAX_MAX_BYTES"),
        ("a.csv.xz", lzma.compress(b"text,label\n" * 20_000), "expands to more than 100,000 bytes"),
        ("a.tar.gz", gzip.compress(bytes(200_000)), "expands to more than|no reviews|splits"),
        ("a.tar.gz", gzip.compress(_tar() + bytes(200_000)), "expands to more than 100,000 bytes"),
        ("a.npz", _npz(a=np.zeros(99_999)), "expands to .* more than 100,000"),
        ("a.txt", b"a" * 100_001, "100,001 bytes, more than 100,000; set LSTM_JAX_MAX_BYTES"),
    ],
    ids=range(6),
)
def test_bounds(tmp_path: Path, name: str, content: bytes, found: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    read = {".npz": read_npz, ".txt": read_articles}.get(path.suffix, load_reviews)
    with pytest.raises(InputError, match=found):
        read(path)


def test_what_the_bounds_are(monkeypatch: pytest.MonkeyPatch) -> None:
    assert input_files.most_bytes() >= 1 << 30
    assert input_files.most_expanded(1700) == 16 << 20
    assert input_files.most_expanded(2 << 20) == 400 << 20
    assert input_files.most_expanded(1 << 40) == input_files.most_bytes()
    for wrong in ("0", "-1", "many", "9" * 5000, "\u0663"):
        monkeypatch.setenv(input_files.MAX_BYTES, wrong)
        with pytest.raises(InputError, match="give a number of bytes"):
            input_files.most_bytes()


def test_endless_standard_input_ends(monkeypatch: pytest.MonkeyPatch, small: None) -> None:
    with Path("/dev/zero").open("rb") as endless:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(endless))
        with pytest.raises(InputError, match="file -: more than 100,000 bytes"):
            read_articles("-")


# archives


def _info(name: str, **fields: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    for field, value in fields.items():
        setattr(info, field, value)
    return info


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (_tar(_info(f"aclImdb/train/pos/{'7' * 5000}_9.txt")), "member of .*an id has 9 digits at most"),
        (_tar(_info("aclImdb/train/pos/77_9.txt", pax_headers={"GNU.sparse.size": "9" * 5000})), "archive .*a.tar.gz: "),
        (_tar(_info("aclImdb/train/pos/77_9.txt", pax_headers={"GNU.sparse.map": "0,1", "GNU.sparse.size": "99999999"})), "member of"),
        (_tar(_info("aclImdb/train/pos/77_9.txt", type=tarfile.GNUTYPE_SPARSE), format=tarfile.GNU_FORMAT), "archive .*|member of"),
        (_tar(_info("aclImdb/train/pos/77_9.txt", pax_headers={"size": "99999999999999"})), "archive .*a.tar.gz: "),
        (b"PK\x03\x04" * 500, "archive .*a.tar.gz: "),
    ],
    ids=range(6),
)
def test_strange_tars(tmp_path: Path, content: bytes, found: str) -> None:
    path = tmp_path / "a.tar.gz"
    path.write_bytes(gzip.compress(content))
    with pytest.raises(InputError, match=found):
        load_reviews(path)


def _header(text: str) -> bytes:
    content = f"{text}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(content).to_bytes(2, "little") + content


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (_header("{'descr': '<i8', 'fortran_order': False, 'shape': (999999999999, 9999999)}"), "needs 79,999"),
        (_header("{'descr': '<i8', 'fortran_order': False, 'shape': (-1,)}"), "shape"),
        (_header("{'descr': '<i8', 'fortran_order': False, 'shape': (True,)}") + bytes(8), "shape"),
        (_header("{'descr': '<i8', 'fortran_order': False, 'shape': (0, %s)}" % ("9" * 5000)), "a in file"),
        (_header("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}") + bytes(8), "dtype object"),
        (_header("{'descr': [('a', '<i4')], 'fortran_order': False, 'shape': (1,)}") + bytes(4), "dtype"),
        (_header("{'descr': '<U4', 'fortran_order': False, 'shape': (1,)}") + bytes(16), "dtype"),
        (_header("(" * 500), "a in file"),
        (_header("{'descr': '<i8', 'fortran_order': False, 'shape': (1,)}") + bytes(9), "9 bytes of values"),
        (b"\x93NUMPY\x09\x00", "format 9.0"),
    ],
    ids=range(10),
)
def test_strange_arrays(tmp_path: Path, content: bytes, found: str) -> None:
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", content)
    with pytest.raises(InputError, match=found):
        read_npz(path)


def test_arrays_in_fortran_order_are_read(tmp_path: Path) -> None:
    array = np.asfortranarray(np.arange(6).reshape(2, 3))
    np.savez(tmp_path / "a.npz", a=array)
    np.testing.assert_array_equal(read_npz(tmp_path / "a.npz")["a"], array)


def _patched(flag: int = 0, method: int = 0) -> bytes:
    """Return a .npz file whose member has the header flags `flag` (1: encrypted) and, if it is not 0, the compression method `method`."""
    content = bytearray(_npz(a=np.arange(3)))
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        start = content.index(mark) + place
        content[start] |= flag
        content[start + 2] = method or content[start + 2]
    return bytes(content)


@pytest.mark.parametrize(("content", "found"), [(_patched(flag=1), "a is encrypted"), (_patched(method=77), "compressed by method 77")])
def test_members_that_cannot_be_read(tmp_path: Path, content: bytes, found: str) -> None:
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(InputError, match=found):
        read_npz(tmp_path / "a.npz")


def test_weights_of_a_type_that_numpy_lacks(tmp_path: Path) -> None:
    header = json.dumps({"a": {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]}}).encode()
    path = tmp_path / "a.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(InputError, match=r"PyTorch weights .*a\.safetensors: .*float8_e4m3fn.*; the file is damaged or foreign"):
        read_torch_file(path)
