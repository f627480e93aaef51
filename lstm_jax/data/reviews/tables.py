"""Reading of reviews from CSV or JSON-lines files with one review in each row."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from lstm_jax.data.reviews.form import Found, ReadOptions
from lstm_jax.data.reviews.texts import TextSplit, check_splits, review_name
from lstm_jax.data.tables import ENDINGS, is_table, table_rows
from lstm_jax.errors import InputError, require

LABELS = {"0": 0, "1": 1, "neg": 0, "pos": 1, "negative": 0, "positive": 1}
GROUP_KEYS = ("movie", "group")


def find_tables(path: Path) -> Found | None:
    """Return the location of tables with reviews, or None if there are none.

    Args:
        path: path of a table, which is then the training split, or of a folder that contains a table for each split, such as `train.csv`
            and `test.csv`. The table of the test split may be absent.

    Raises:
        InputError: if a folder has two tables for the same split.
    """
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
    """Return the reviews in tables, as a dict from the name of each split to its reviews.

    Raises:
        InputError: if a table cannot be read, a column is missing, a label is unknown, a text is not a string, or a split lacks reviews of
            a class.
    """
    splits = {name: read_table(path, options.text_column, options.label_column) for name, path in found.files.items()}
    check_splits(splits, found.path)
    return splits


def read_table(path: Path, text_column: str = "text", label_column: str = "label") -> TextSplit:
    """Return the reviews of one table, in the order of its rows.

    Each row has a text and a label: 0, 1, "neg", "pos", "negative" or "positive". If the table also has a column `movie` or `group`, its
    value is the movie of the review. If it has the columns `id` and `rating`, the name of the review is made from their values.

    Args:
        path: the table.
        text_column: name of the column of the texts.
        label_column: name of the column of the labels.

    Raises:
        InputError: if the file is absent or truncated or holds invalid UTF-8, JSON or CSV, a column is missing, a label is unknown, or a
            text is not a string. The message names the line with the error.
    """
    return collect(path, table_rows(path), text_column, label_column)


def collect(path: Path, rows: Iterable[tuple[int, dict[str, Any]]], text_column: str = "text", label_column: str = "label") -> TextSplit:
    """Return the reviews in the rows of a table.

    Args:
        path: path of the table, for error messages.
        rows: line number and values of each row, as `table_rows` yields them.
        text_column: name of the column of the texts.
        label_column: name of the column of the labels.

    Raises:
        InputError: if a column is missing, a label is unknown, or a text is not a string. The message names the line with the error.
    """
    texts: list[bytes] = []
    labels: list[int] = []
    names: list[str] = []
    groups: list[str] = []
    for number, row in rows:
        here = f"line {number} of {path}"
        for column, flag in ((text_column, "--text-column"), (label_column, "--label-column")):
            require(column in row, f"column {column!r} in {here}", f"there are {sorted(map(str, row))}", f"name one with {flag}")
        text, raw = row[text_column], row[label_column]
        require(isinstance(text, str), f"{text_column!r} in {here}", repr(text), "give a string")
        label = None if isinstance(raw, bool) else LABELS.get(str(raw).strip().lower())
        if label is None:
            raise InputError(f"label {label_column!r} in {here}", repr(raw), "give 0 or 1")
        try:
            texts.append(text.encode())
        except UnicodeEncodeError as error:
            raise InputError(f"{text_column!r} in {here}", error, "save the text as UTF-8") from error
        names.append(review_name(label, len(labels), row.get("id"), row.get("rating")))
        labels.append(label)
        groups.append(next((str(row[key]) for key in GROUP_KEYS if row.get(key) is not None), ""))
    return TextSplit(tuple(texts), np.asarray(labels, np.int32), tuple(names), tuple(groups) if any(groups) else None)
