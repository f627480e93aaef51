"""Where the reviews are: one path in, its form recognised, texts (or the list of files) out."""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from lstm_jax.data.reviews.archive import ARCHIVE_NAME, ARCHIVE_URL, find_folder, folder_files, read_archive, read_folder, verify_archive
from lstm_jax.data.reviews.written import TextSplit, check_splits
from lstm_jax.data.tables import ENDINGS, is_table, read_table
from lstm_jax.errors import InputError, require
from lstm_jax.files.reading import locate

FORMS = f"{ARCHIVE_NAME}, an aclImdb/ folder, a folder with train{ENDINGS[0]} and test{ENDINGS[0]} (or .xz), or a .jsonl, .csv or .npz file"


@dataclass(frozen=True)
class Source:
    """A recognised source: its form, and each file that decides its content, by name."""

    form: Literal["archive", "folder", "table", "npz", "tfds"]
    path: Path
    files: dict[str, Path]


def find_imdb(explicit: str = "") -> Path:
    """The given path, else `$LSTM_JAX_DATA/imdb`.

    Raises:
        InputError: if that does not exist, or neither is given.
    """
    root = os.environ.get("LSTM_JAX_DATA", "")
    require(bool(explicit or root), "data", "not given", f"give --data, or set LSTM_JAX_DATA to the folder that holds imdb/: {FORMS}")
    return locate(explicit or Path(root) / "imdb", "data", f"give {FORMS}")


def recognise(path: Path, test_path: str = "") -> Source:
    """The form of the source at `path`.

    Args:
        path: any of the forms in `FORMS`.
        test_path: a second table for the test split; only for a single table.

    Raises:
        InputError: for an absent path, or one of no known form.
    """
    source = _recognise(locate(path, "data", f"give {FORMS}"))
    if test_path:
        test = locate(test_path, "test_data", f"give a file that ends in one of {', '.join(ENDINGS)}")
        require(source.form == "table" and "test" not in source.files, "test_data", test_path, f"{path} has a test split of its own")
        require(test.is_file() and is_table(test), "test_data", test_path, f"give a file that ends in one of {', '.join(ENDINGS)}")
        return replace(source, files=source.files | {"test": test})
    return source


def _recognise(path: Path) -> Source:
    if path.is_dir():
        folder = find_folder(path)
        if folder:
            return Source("folder", folder, folder_files(folder))
        tables = {}
        for split in ("train", "test"):
            found = [path / f"{split}{ending}" for ending in ENDINGS if os.path.isfile(path / f"{split}{ending}")]
            require(len(found) < 2, f"{split} split of {path}", [one.name for one in found], "keep one of them")
            if found:
                tables[split] = found[0]
        if "train" in tables:
            return Source("table", path, tables)
        for name in (ARCHIVE_NAME, "imdb.npz"):
            if os.path.isfile(path / name):
                return _recognise(path / name)
    elif path.name.endswith((".tar.gz", ".tgz")):
        return Source("archive", path, {"archive": path})
    elif path.suffix == ".npz":
        return Source("npz", path, {"npz": path})
    elif is_table(path):
        return Source("table", path, {"train": path})
    elif path.suffix.lower() == ".zip":
        raise InputError(f"data {path}", "a .zip archive", f"unzip it and give its folder or file: {FORMS}")
    raise InputError(f"data {path}", "no reviews of a known form", f"give {FORMS}")


def read_source(source: Source, text_column: str = "text", label_column: str = "label", verify: bool = True) -> dict[str, TextSplit]:
    """The texts of a recognised source; see `load_reviews`."""
    if source.form == "npz":
        raise InputError(f"data {source.path}", "holds word ranks, not texts", f"give {ARCHIVE_NAME} or another form with texts")
    if source.form == "folder":
        return read_folder(source.path)
    if source.form == "archive":
        if verify and source.path.name == ARCHIVE_NAME:
            verify_archive(source.path)
        return read_archive(source.path)
    splits = {name: read_table(path, text_column, label_column) for name, path in source.files.items()}
    check_splits(splits, source.path)
    return splits


def load_reviews(
    path: str | Path, test_path: str = "", text_column: str = "text", label_column: str = "label", verify: bool = True
) -> dict[str, TextSplit]:
    """Reviews from any local form, by split: "train", and "test" where the source has one.

    Args:
        path: `aclImdb_v1.tar.gz` (streamed, not extracted), an `aclImdb` folder or its parent, a folder with `train.jsonl[.xz]` and
            `test.jsonl[.xz]`, or a single `.jsonl`, `.jsonl.xz` or `.csv`.
        test_path: a table with the test split, beside a single table.
        text_column, label_column: of a table.
        verify: check the size and the hash of a file named `aclImdb_v1.tar.gz`.

    Raises:
        InputError: for anything absent, damaged, one-sided or of an unknown form.
    """
    return read_source(recognise(Path(path), test_path), text_column, label_column, verify)


__all__ = ["ARCHIVE_URL", "FORMS", "Source", "find_imdb", "load_reviews", "read_source", "recognise"]
