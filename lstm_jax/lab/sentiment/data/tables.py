"""Reading of reviews from CSV or JSON-lines files with one review in each row."""

import os
from collections.abc import Iterator
from pathlib import Path

from lstm_jax.base.errors import InputError, require
from lstm_jax.base.reading import decode_utf8, encode_utf8, read_input
from lstm_jax.lab.files.tables import (
    ENDINGS,
    TEXT_FLAG,
    has_columns,
    is_missing,
    is_table,
    read_text_column,
    table_rows,
)
from lstm_jax.lab.sentiment.data.form import (
    Found,
    Review,
    TextSplits,
    review_name,
    text_split,
)

CLASS_WORDS = "0 0.0 neg negative false", "1 1.0 pos positive true"
LABELS = {
    word: label for label, words in enumerate(CLASS_WORDS) for word in words.split()
}
GROUP_KEYS = ("movie", "group")
SAVE = "save the text as UTF-8"


def find_tables(path: Path) -> Found | None:
    """Return the location of the review tables at a path, or None if there is no table
    with a training split at this path.
    """
    if not path.is_dir():
        return Found(path, {"train": path}) if is_table(path) else None
    tables = {}
    for split in ("train", "test"):
        names = [
            f"{split}{ending}"
            for ending in ENDINGS
            if os.path.isfile(path / f"{split}{ending}")
        ]
        require(len(names) < 2, f"{split} split of {path}", names, "keep one of them")
        if names:
            tables[split] = path / names[0]
    return Found(path, tables) if "train" in tables else None


def read_tables(
    found: Found, text_column: str, label_column: str, _: bool
) -> TextSplits:
    """Return the reviews in tables, as a dict from the name of each split to its
    reviews.
    """
    return {
        name: text_split(table_reviews(path, text_column, label_column))
        for name, path in found.files.items()
    }


def table_reviews(
    path: Path, text_column: str, label_column: str, limited: bool = True
) -> Iterator[Review]:
    """Yield the reviews of a table, in the order of its rows."""
    rows = table_rows(
        path, {text_column: TEXT_FLAG, label_column: "--label-column"}, limited
    )
    for count, (number, row) in enumerate(rows):
        here = f"line {number} of {path}"
        text, label = (
            row.get(text_column),
            LABELS.get(str(row.get(label_column)).strip().lower()),
        )
        if not isinstance(text, str):
            raise InputError(f"{text_column!r} in {here}", repr(text), "give a string")
        if label is None:
            raise InputError(
                f"label {label_column!r} in {here}",
                repr(row.get(label_column)),
                "give 0 or 1",
            )
        known = {key: value for key, value in row.items() if not is_missing(value)}
        group = next((str(known[key]) for key in GROUP_KEYS if key in known), "")
        encode_utf8(group, f"movie in {here}", SAVE)
        name = review_name(label, count, known.get("id"), known.get("rating"))
        yield Review(
            encode_utf8(text, f"{text_column!r} in {here}", SAVE), label, name, group
        )


def read_texts(path: Path, text_column: str = "text") -> list[bytes]:
    """Return the reviews, without labels, of a table or of a text file with one review
    in each line.
    """
    if has_columns(path):
        return [
            text.encode() for text in read_text_column(path, text_column, keep=True)
        ]
    return (
        decode_utf8(
            read_input(path),
            path,
            "give a text in UTF-8 with one review in each line, or a table",
        )
        .encode()
        .splitlines()
    )
