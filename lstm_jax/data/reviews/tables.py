"""Reading of reviews from CSV or JSON-lines files with one review in each row."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from lstm_jax.data.reviews.form import Found, ReadOptions
from lstm_jax.data.reviews.texts import TextSplit, check_splits, review_name
from lstm_jax.data.tables import ENDINGS, is_table, table_rows
from lstm_jax.data.text.columns import has_columns, read_text_column
from lstm_jax.data.text_files import decode_utf8
from lstm_jax.errors import InputError, require
from lstm_jax.files.reading import read_input

LABELS = {"0": 0, "0.0": 0, "neg": 0, "negative": 0, "false": 0, "1": 1, "1.0": 1, "pos": 1, "positive": 1, "true": 1}
GROUP_KEYS = ("movie", "group")
TEXT_FLAG = "--text-column"


def wanted(text_column: str, label_column: str) -> dict[str, str]:
    """Return the columns that a table of reviews must have, each with the flag that names it."""
    return {text_column: TEXT_FLAG, label_column: "--label-column"}


def find_tables(path: Path) -> Found | None:
    """Return the location of the review tables at a path, or None if there is no table with a training split at this path."""
    if not path.is_dir():
        return Found(path, {"train": path}) if is_table(path) else None
    tables = {}
    for split in ("train", "test"):
        names = [f"{split}{ending}" for ending in ENDINGS if os.path.isfile(path / f"{split}{ending}")]
        require(len(names) < 2, f"{split} split of {path}", names, "keep one of them")
        if names:
            tables[split] = path / names[0]
    return Found(path, tables) if "train" in tables else None


def read_tables(found: Found, options: ReadOptions) -> dict[str, TextSplit]:
    """Return the reviews in tables, as a dict from the name of each split to its reviews."""
    splits = {name: read_table(path, options.text_column, options.label_column) for name, path in found.files.items()}
    check_splits(splits, found.path)
    return splits


def read_table(path: Path, text_column: str = "text", label_column: str = "label") -> TextSplit:
    """Return the reviews of one table, in the order of its rows."""
    return collect(path, table_rows(path, wanted(text_column, label_column)), text_column, label_column)


def collect(path: Path, rows: Iterable[tuple[int, dict[str, Any]]], text_column: str = "text", label_column: str = "label") -> TextSplit:
    """Return the reviews in the rows of a table."""
    texts: list[bytes] = []
    labels: list[int] = []
    names: list[str] = []
    groups: list[str] = []
    for number, row in rows:
        here = f"line {number} of {path}"
        texts.append(_text(row, text_column, here))
        label = LABELS.get(str(row.get(label_column)).strip().lower())
        if label is None:
            raise InputError(f"label {label_column!r} in {here}", repr(row.get(label_column)), "give 0 or 1")
        known = {key: value for key, value in row.items() if value not in (None, "") and value == value}  # NaN, too, stands for no value
        names.append(review_name(label, len(labels), known.get("id"), known.get("rating")))
        labels.append(label)
        group = next((str(known[key]) for key in GROUP_KEYS if key in known), "")
        _utf8(group, f"movie in {here}")
        groups.append(group)
    return TextSplit(tuple(texts), np.asarray(labels, np.int32), tuple(names), tuple(groups) if any(groups) else None)


def _text(row: dict[str, Any], column: str, here: str) -> bytes:
    text = row.get(column)
    if not isinstance(text, str):
        raise InputError(f"{column!r} in {here}", repr(text), "give a string")
    return _utf8(text, f"{column!r} in {here}")


def read_texts(path: Path, text_column: str = "text") -> list[bytes]:
    """Return the reviews, without labels, of a table or of a text file with one review in each line."""
    if is_table(path):
        rows = table_rows(path, {text_column: TEXT_FLAG})
        return [_text(row, text_column, f"line {number} of {path}") for number, row in rows]
    if has_columns(path):
        return [text.encode() for text in read_text_column(path, text_column, keep=True)]
    return decode_utf8(read_input(path), path, "give a text in UTF-8 with one review in each line, or a table").encode().splitlines()


def _utf8(text: str, subject: str) -> bytes:
    """Encode a text of a table as UTF-8."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise InputError(subject, error, "save the text as UTF-8") from error
