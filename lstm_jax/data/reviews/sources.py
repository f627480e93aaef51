"""The table of sources of reviews, and the functions that recognise and read one."""

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from lstm_jax.data.reviews.archive import ARCHIVE_NAME, find_archive, find_folder, read_archive_source, read_folder_source
from lstm_jax.data.reviews.form import Form, Found, ReadOptions
from lstm_jax.data.reviews.keras_npz import find_keras_npz, read_keras_npz
from lstm_jax.data.reviews.tables import find_tables, read_tables
from lstm_jax.data.reviews.texts import TextSplit
from lstm_jax.data.reviews.tfds_dataset import find_tfds, read_tfds
from lstm_jax.data.tables import ENDINGS, is_table
from lstm_jax.errors import InputError, require
from lstm_jax.files.reading import locate

FORMS = (
    Form("folder", find_folder, read_folder_source, description="an aclImdb/ folder"),
    Form(
        "table",
        find_tables,
        read_tables,
        takes_test_table=True,
        description=f"a folder with train{ENDINGS[0]} and test{ENDINGS[0]} (or .xz)",
        endings=(".jsonl", ".csv"),
    ),
    Form("archive", find_archive, read_archive_source, description=ARCHIVE_NAME),
    Form("npz", find_keras_npz, read_ranks=read_keras_npz, endings=(".npz",)),
    Form("tfds", find_tfds, read_tfds, keyword="tfds"),
)
"""All forms; a path is of the first that finds something in it."""


def _described() -> str:
    endings = [ending for form in FORMS for ending in form.endings]
    phrases = [form.description for form in FORMS if form.description]
    return f"{', '.join(phrases)}, or a {', '.join(endings[:-1])} or {endings[-1]} file"


DESCRIPTION = _described()
TABLE_REMEDY = f"give a file that ends in one of {', '.join(ENDINGS)}"


@dataclass(frozen=True)
class Source:
    """A recognised source: its form, its path, and each file that decides its content, by name."""

    form: Form
    path: Path
    files: dict[str, Path]


def find_imdb(explicit: str = "") -> Path:
    """Return the given path, else `$LSTM_JAX_DATA/imdb`.

    Raises:
        InputError: if that does not exist, or neither is given.
    """
    root = os.environ.get("LSTM_JAX_DATA", "")
    require(bool(explicit or root), "data", "not given", f"give --data, or set LSTM_JAX_DATA to the folder that holds imdb/: {DESCRIPTION}")
    return locate(explicit or Path(root) / "imdb", "data", f"give {DESCRIPTION}")


def find_source(data: str = "", test_data: str = "") -> Source:
    """Return the source that a user names: by a form's keyword, by a path, or by none (see `find_imdb`).

    Args:
        data: keyword, path or "".
        test_data: as `test_path` of `recognise`.

    Raises:
        InputError: as `find_imdb` and `recognise`, and for `test_data` beside a keyword.
    """
    for form in FORMS:
        if data and data == form.keyword:
            require(not test_data, "test_data", test_data, f"leave it out: {data} has a test split of its own")
            return _first((form,), Path(data))
    return recognise(find_imdb(data), test_data)


def recognise(path: Path, test_path: str = "") -> Source:
    """Return the source at `path`.

    Args:
        path: a path of any form in `FORMS`.
        test_path: a second table for the test split; only for a single table.

    Raises:
        InputError: for an absent path, or one of no known form.
    """
    source = _first((form for form in FORMS if not form.keyword), locate(path, "data", f"give {DESCRIPTION}"))
    if not test_path:
        return source
    test = locate(test_path, "test_data", TABLE_REMEDY)
    takes = source.form.takes_test_table and "test" not in source.files
    require(takes, "test_data", test_path, f"{path} has a test split of its own")
    require(test.is_file() and is_table(test), "test_data", test_path, TABLE_REMEDY)
    return replace(source, files=source.files | {"test": test})


def _first(forms: Iterable[Form], path: Path) -> Source:
    for form in forms:
        if found := form.find(path):
            return Source(form, *found)
    if path.suffix.lower() == ".zip" and not path.is_dir():
        raise InputError(f"data {path}", "a .zip archive", f"unzip it and give its folder or file: {DESCRIPTION}")
    raise InputError(f"data {path}", "no reviews of a known form", f"give {DESCRIPTION}")


def read_source(source: Source, options: ReadOptions) -> dict[str, TextSplit]:
    """Return the texts of a recognised source by split; see `load_reviews`.

    Raises:
        InputError: as `load_reviews`, and for a source that holds word ranks.
    """
    if source.form.read is None:
        raise InputError(f"data {source.path}", "holds word ranks, not texts", f"give {ARCHIVE_NAME} or another form with texts")
    return source.form.read(Found(source.path, source.files), options)


def load_reviews(
    path: str | Path, test_path: str = "", text_column: str = "text", label_column: str = "label", verify: bool = True
) -> dict[str, TextSplit]:
    """Return the reviews of any local form by split: "train", and "test" where the source has one.

    Args:
        path: `aclImdb_v1.tar.gz` (streamed, not extracted), an `aclImdb` folder or its parent, a folder with `train.jsonl[.xz]` and
            `test.jsonl[.xz]`, or a single `.jsonl`, `.jsonl.xz` or `.csv`.
        test_path: a table with the test split, beside a single table.
        text_column: column of the texts in a table.
        label_column: column of the labels in a table.
        verify: check the size and the hash of a file named `aclImdb_v1.tar.gz`.

    Raises:
        InputError: for anything absent, damaged, one-sided or of an unknown form.
    """
    return read_source(recognise(Path(path), test_path), ReadOptions(text_column, label_column, verify))
