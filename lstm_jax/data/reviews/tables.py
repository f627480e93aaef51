"""Reviews in tables: CSV or JSON lines, one review a row."""

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
    """Return a single table as the training split, or a folder's train and test tables; None if `path` is neither.

    Raises:
        InputError: for a folder with two tables of one split.
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
    """Return the reviews of each table by split.

    Raises:
        InputError: as `read_table`, and for a split without reviews of both classes.
    """
    splits = {name: read_table(path, options.text_column, options.label_column) for name, path in found.files.items()}
    check_splits(splits, found.path)
    return splits


def read_table(path: Path, text_column: str = "text", label_column: str = "label") -> TextSplit:
    """Return the reviews of one table, in its order.

    A row has a text and a label (0, 1, "neg", "pos", "negative", "positive"); where it also has `movie` (or `group`), `id` and
    `rating`, they give the group and the review's name.

    Raises:
        InputError: naming the line, for invalid UTF-8, JSON or CSV, an unknown label, a missing column, a text that is no string; for a
            truncated or absent file.
    """
    return _collect(path, table_rows(path), text_column, label_column)


def _collect(path: Path, rows: Iterable[tuple[int, dict[str, Any]]], text_column: str, label_column: str) -> TextSplit:
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
