"""Padding and truncation of sequences to the same length."""

from collections.abc import Iterable

import numpy as np
from numpy import ndarray

from lstm_jax.base.checks import Count, check_number, checked
from lstm_jax.base.errors import require
from lstm_jax.lab.sentiment.config import End


def _check(maxlen: int, padding: str, truncating: str):
    check_number("maxlen", maxlen, Count)
    checked("padding", padding, End)
    checked("truncating", truncating, End)


def pad_sequences(
    sequences,
    maxlen: int | None = None,
    dtype="int32",
    padding: str = "pre",
    truncating: str = "pre",
    value=0.0,
) -> ndarray:
    """Pad or cut N sequences to the same length, and return them as one array (N,
    maxlen, ...).

    The arguments and the result are the same as those of `keras.utils.pad_sequences` in
    Keras 3.15. For integer ids that are concatenated in one array, `pad_ragged` is
    thousands of times faster.

    Args:
        sequences: N sequences of numbers, strings or equally shaped vectors.
        maxlen: length of every sequence in the result. If None, it is the length of the
            longest sequence.
        dtype: dtype of the result. Use `object` for strings of any length.
        padding: where `value` is added to a short sequence: "pre" (at its start) or
            "post" (at its end).
        truncating: where a long sequence is cut: "pre" (at its start) or "post" (at its
            end).
        value: the padding value.

    Raises:
        InputError: if Keras would raise ValueError for the arguments, or if `maxlen` is
            below 1.
    """
    require(
        hasattr(sequences, "__len__"),
        "sequences",
        type(sequences).__name__,
        "give a list of sequences",
    )
    require(
        maxlen is not None or len(sequences),
        "sequences",
        "empty",
        "give at least one sequence, or maxlen",
    )
    for row, sequence in enumerate(sequences):
        require(
            hasattr(sequence, "__len__"),
            f"sequence {row}",
            sequence,
            "give a list of sequences, each of them a list",
        )
    lengths = [len(sequence) for sequence in sequences]
    steps = max(lengths) if maxlen is None else maxlen
    if maxlen is not None or steps > 0:
        _check(steps, padding, truncating)
    of_strings = np.dtype(dtype).kind in "OUS"
    require(
        of_strings or not isinstance(value, str),
        "dtype",
        dtype,
        "give dtype=object to pad with a string",
    )

    shape = next(
        (np.asarray(sequence).shape[1:] for sequence in sequences if len(sequence)), ()
    )
    padded = np.full((len(lengths), steps, *shape), value, dtype=dtype)
    for row, sequence in enumerate(sequences):
        if not lengths[row]:
            continue
        kept = np.asarray(
            sequence[-steps:] if truncating == "pre" else sequence[:steps], dtype=dtype
        )
        require(
            kept.shape[1:] == shape,
            f"sequence {row}",
            f"entries of shape {kept.shape[1:]}",
            f"all others have {shape}",
        )
        begin = steps - len(kept) if padding == "pre" else 0
        padded[row, begin : begin + len(kept)] = kept
    return padded


def pad_ragged(
    values: ndarray,
    offsets: ndarray,
    maxlen: int,
    padding: str = "pre",
    truncating: str = "pre",
) -> ndarray:
    """Pad N rows of ids with 0 or cut them to the same length, and return them as one
    int32 array (N, maxlen).

    Row n is `values[offsets[n]:offsets[n + 1]]`; `pad_sequences` describes the other
    arguments.

    Raises:
        InputError: if `maxlen` is below 1, or if `padding` or `truncating` is neither
            "pre" nor "post".
    """
    return pad_rows(values, offsets[:-1], np.diff(offsets), maxlen, padding, truncating)


def pad_rows(
    values,
    starts: ndarray,
    lengths: ndarray,
    maxlen: int,
    padding: str,
    truncating: str,
) -> ndarray:
    """Pad or cut N rows of ids to the same length, and return them as one int32 array
    (N, maxlen).
    """
    _check(maxlen, padding, truncating)
    kept = np.minimum(lengths, maxlen)
    first = starts + lengths - kept if truncating == "pre" else starts
    padded = np.zeros((len(starts), maxlen), np.int32)
    columns = np.arange(maxlen)
    valid = (
        columns >= (maxlen - kept)[:, None]
        if padding == "pre"
        else columns < kept[:, None]
    )
    padded[valid] = joined_rows(values, first, kept)
    return padded


def joined_rows(values, starts: ndarray, lengths: ndarray) -> ndarray:
    """Return the ids of N rows, one row after the other. Row n is `values[starts[n] :
    starts[n] + lengths[n]]`.
    """
    within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return values[np.repeat(starts, lengths) + within]


def ragged(rows: Iterable) -> tuple[ndarray, ndarray]:
    """Concatenate N rows of integers."""
    arrays = [np.asarray(row, np.int32) for row in rows]
    return np.concatenate([np.zeros(0, np.int32), *arrays]), np.cumsum(
        [0, *map(len, arrays)]
    )
