"""Hostile files: each reader returns data or raises `InputError`. None runs forever or expands a file without bound.

The environment variable `LSTM_JAX_FUZZ_EXAMPLES` sets the number of mutated files (default 300). Long runs use thousands.
"""

import gzip
import io
import json
import lzma
import os
import random
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from made_reviews import made_rows, members
from safetensors.numpy import save

from lstm_jax.convert import read_keras_weights, read_torch_file
from lstm_jax.data import load_reviews, read_articles, read_byte_articles, read_series
from lstm_jax.data.reviews.dataset import load_cache, save_cache
from lstm_jax.data.reviews.sources import FORMS
from lstm_jax.data.text.sources import FORMS as TEXT_FORMS
from lstm_jax.data.text.sources import Form as TextForm
from lstm_jax.errors import InputError
from lstm_jax.files import reading as input_files
from lstm_jax.files.npz import read_npz

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.fuzz.mutate import TEXTUAL, mutated

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


def _tar() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, content in members().items():
            info = tarfile.TarInfo(f"aclImdb/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
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


@pytest.mark.parametrize("form", [form for form in TEXT_FORMS if form.example], ids=lambda form: form.description)
def test_the_example_of_a_text_has_its_form(form: TextForm, tmp_path: Path) -> None:
    name, content = form.example or ("", "")
    path = tmp_path / name
    path.write_text(content)
    assert next(other for other in TEXT_FORMS if other.matches(path)) is form
    assert [text.encode() for text in read_articles(path)] == list(read_byte_articles(path)) != []


def test_mutated_files_are_read_or_refused(tmp_path: Path) -> None:
    read, names = 0, sorted(KINDS)
    for number in range(EXAMPLES):
        name, rng = names[number % len(names)], random.Random(number)
        content = KINDS[name][0]
        module = {"gz": gzip, "xz": lzma}.get(name.rpartition(".")[2])
        if module and rng.random() < 0.5:
            content = module.compress(mutated(rng, module.decompress(content), TEXTUAL)[1])
        else:
            content = mutated(rng, content, TEXTUAL)[1]
        read += read_mutation(tmp_path, name, content)
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
        ("a.tar.gz", gzip.compress(_tar() + bytes(200_000)), "expands to more than 100,000 bytes"),
        ("a.npz", _npz(a=np.zeros(99_999)), "expands to .* more than 100,000"),
        ("a.txt", b"a" * 100_001, "100,001 bytes, more than 100,000; set LSTM_JAX_MAX_BYTES"),
    ],
    ids=range(4),
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


def _header(text: str) -> bytes:
    content = f"{text}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(content).to_bytes(2, "little") + content


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (_header("{'descr': '<i8', 'fortran_order': False, 'shape': (999999999999, 9999999)}"), "needs 79,999"),
        (_header("{'descr': '<i8', 'fortran_order': False, 'shape': (-1,)}"), "shape"),
        (_header("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}") + bytes(8), "dtype object"),
        (_header("{'descr': '<i8', 'fortran_order': False, 'shape': (1,)}") + bytes(9), "9 bytes of values"),
    ],
    ids=range(4),
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
