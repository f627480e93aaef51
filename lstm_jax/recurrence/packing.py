"""Packing of several sequences in one row, so that a batch of sequences of different
lengths needs hardly any padding.

    packed = pack(sequences, 512)  # N sequences in R rows of L = 512 steps
    # the state is reset between the sequences of a row
    outputs = layer(packed.x, segment_ids=packed.segment_ids)
    # array (N, ...): one output for each sequence
    last = last_outputs(outputs, packed.where)

The function `buckets` is an alternative that keeps one sequence in a row: it divides
the sequences into batches of similar lengths.

In this module, N is the number of sequences, R the number of rows and L the number of
steps of a row.
"""

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy import ndarray

from lstm_jax.base.checks import MOST, Count, as_tuple, check_number
from lstm_jax.base.errors import InputError, parsing, require
from lstm_jax.base.types import Ints


class Packed(NamedTuple):
    """N sequences that are packed in R rows of L steps.

    Attributes:
        x: array (R, L, ...) of the steps of all sequences, with zeros at steps that
            belong to no sequence.
        segment_ids: int32 (R, L), the argument `segment_ids` of a recurrent layer. The
            sequences of a row have the ids 1, 2, ... in their order, and steps that
            belong to no sequence have the id 0.
        where: int32 (N, 3). `where[n]` holds three numbers for sequence n: its row in
            `x`, its first step in this row, and its length in steps.
    """

    x: ndarray
    segment_ids: ndarray
    where: ndarray


class PackedPlaces(NamedTuple):
    """Positions of the texts that are packed in a batch of B rows of T steps. A row has
    at most M texts.

    If a row has fewer than M texts, the remaining entries of `first` and `last` are
    arbitrary steps.

    Attributes:
        segment_ids: int (B, T): the steps of a text have the same id, adjacent texts
            have different ids, and steps that belong to no text have the id 0.
        first: int (B, M): the first step of each text.
        last: int (B, M): the last step of each text.
    """

    segment_ids: Any
    first: Any
    last: Any


def pack(sequences: Sequence, length: int) -> Packed:
    """Pack N sequences in rows of `length` steps, chosen by `assign_rows`, and return
    them as a `Packed`. No sequence is cut.

    Args:
        sequences: N arrays (T_n, ...), where T_n is the number of steps of sequence n,
            at least 1. All arrays have the same dtype and, apart from T_n, the same
            shape.
        length: number of steps of a row.

    Raises:
        InputError: if there is no sequence, `length` is no int of at least 1, a
            sequence is empty, is longer than `length`, is a single number or is no
            array, or the sequences have different dtypes or, apart from T_n, shapes.
    """
    sequences = as_tuple("sequences", sequences, "give a list of arrays")
    require(len(sequences) >= 1, "sequences", "none", "give one or more")
    arrays = [
        _as_array(f"sequence {n}", sequence) for n, sequence in enumerate(sequences)
    ]
    first = arrays[0]
    for n, array in enumerate(arrays):
        require(
            array.ndim >= 1,
            f"sequence {n}",
            "a single number",
            "give an array whose first axis is time",
        )
        alike = array.shape[1:] == first.shape[1:] and array.dtype == first.dtype
        remedy = (
            f"sequence 0 has steps of shape {first.shape[1:]} and dtype {first.dtype}"
        )
        require(
            alike,
            f"sequence {n}",
            f"steps of shape {array.shape[1:]} and dtype {array.dtype}",
            remedy,
        )
    where = assign_rows(np.asarray([len(array) for array in arrays]), length)
    rows = int(where[:, 0].max()) + 1
    x = np.zeros((rows, length, *first.shape[1:]), first.dtype)
    for array, (row, start, steps) in zip(arrays, where, strict=True):
        x[row, start : start + steps] = array
    return Packed(x, make_segment_ids(where, rows, length), where)


def _as_array(name: str, sequence) -> ndarray:
    with parsing(name, "give an array whose first axis is time"):
        return np.asarray(sequence)


def _whole(name: str, numbers) -> ndarray:
    array, remedy = _as_array(name, numbers), "give a list of whole numbers, 0 or more"
    require(
        array.ndim == 1 and (array.dtype.kind in "iuf" or not array.size),
        name,
        repr(array),
        remedy,
    )
    for wrong in array[~((array >= 0) & (array <= MOST) & (array == np.floor(array)))][
        :1
    ]:
        raise InputError(name, wrong, remedy)
    return array.astype(np.int64)


def _lengths(lengths, least: int, most: int) -> ndarray:
    lengths = _whole("lengths", lengths)
    for n in np.flatnonzero((lengths < least) | (lengths > most))[:1]:
        remedy = (
            "leave it out"
            if lengths[n] < least
            else (
                f"the longest may have {most}: give a larger number, or cut the "
                "sequence"
            )
        )
        raise InputError(f"sequence {n}", f"{lengths[n]} steps", remedy)
    return lengths


def assign_rows(lengths: ndarray, length: int) -> ndarray:
    """Choose a row, and a first step in this row, for each of N sequences, so that few
    rows are needed.

    The longest sequences are placed first. Each one is put into the fullest row that
    has room for it ("best fit decreasing", a heuristic). Among sequences of equal
    length, the first one is placed first. The result is as `Packed.where`.

    Args:
        lengths: int (N,), the number of steps of each sequence.
        length: number of steps of a row.

    Raises:
        InputError: if a sequence is empty or longer than `length`, or if a length is no
            whole number.
    """
    length = check_number("length", length, Count)
    lengths = _lengths(lengths, 1, length)
    where = np.zeros((len(lengths), 3), np.int32)
    room: list[tuple[int, int]] = []  # (free steps, row), in ascending order
    rows = 0
    for n in np.argsort(-lengths, kind="stable"):
        steps = int(lengths[n])
        at = bisect_left(room, (steps, -1))
        if at == len(room):
            free, row, rows = length, rows, rows + 1
        else:
            free, row = room.pop(at)
        where[n] = row, length - free, steps
        if free > steps:
            insort(room, (free - steps, row))
    return where


def make_segment_ids(where: ndarray, rows: int, length: int) -> ndarray:
    """Return the segment ids of packed sequences, an int32 array (rows, length).

    `where` and the ids are as in `Packed`.
    """
    ids = np.zeros((rows, length), np.int32)
    for row, start, steps in where[np.argsort(where[:, 1], kind="stable")]:
        ids[row, start : start + steps] = ids[row].max() + 1
    return ids


def unpack(outputs, where: ndarray) -> list[ndarray]:
    """Return the outputs of each of N packed sequences, as a list of N arrays (T_n,
    ...) in the order of `where`.

    The outputs must be in the order of time. Reverse the outputs of a layer with
    `go_backwards=True` before the call, unless the layer has `keep_order=True`.

    Args:
        outputs: array (R, L, ...) with R rows of L steps, for example the outputs of a
            recurrent layer for `Packed.x`.
        where: int (N, 3), as in `Packed.where`.

    Raises:
        InputError: if `outputs` has fewer rows or steps than `where` names, if the
            shape of `where` is not (N, 3), or if `where` has a negative row or step or
            a length of 0.
    """
    host = np.asarray(outputs)
    _check_fits(host.shape, np.asarray(where))
    return [host[row, start : start + steps] for row, start, steps in np.asarray(where)]


def last_outputs(outputs: Array, where) -> Array:
    """Return the output of the last step of each of N packed sequences, as an array (N,
    ...). The function may be used under `jax.jit`.

    The arguments are those of `unpack`. So are the errors, if `where` is a NumPy array:
    only such an array is checked. For a layer that reads in reverse, such as the
    backward layer of a `Bidirectional`, take the outputs of the first step instead, at
    which it has read the whole sequence: `outputs[where[:, 0], where[:, 1]]`.
    """
    if isinstance(where, ndarray):
        _check_fits(outputs.shape, where)
    where = jnp.asarray(where)
    return outputs[where[:, 0], where[:, 1] + where[:, 2] - 1]


def _check_fits(shape: Ints, where: ndarray) -> None:
    require(
        where.ndim == 2 and where.shape[1] == 3,
        "where",
        where.shape,
        "give the array (N, 3) of `pack`",
    )
    row, start, steps = where.T
    wrong = where[(row < 0) | (start < 0) | (steps < 1)]
    require(
        not len(wrong),
        "where",
        wrong[:1].tolist(),
        "give rows and steps of 0 or more, and lengths of 1 or more",
    )
    fits = (
        len(shape) >= 2
        and not (row >= shape[0]).any()
        and not (start + steps > shape[1]).any()
    )
    remedy = (
        f"`where` names {row.max(initial=-1) + 1} rows of "
        f"{(start + steps).max(initial=0)} steps: give outputs (R, L, ...)"
    )
    require(fits, "outputs", shape, remedy)


def buckets(
    lengths: ndarray, batch_size: int, widths: Sequence[int], seed: int = 0
) -> Iterator[tuple[int, ndarray]]:
    """Divide N sequences into batches, so that the sequences of a batch have similar
    lengths, and yield the batches in random order.

    Each sequence belongs to the smallest width that is at least its length. With
    `widths` (64, 128), for example, a sequence of 70 steps belongs to the width 128.
    All sequences of a batch belong to the same width, and the caller pads them to this
    number of steps. A jitted training step is thus compiled once for each width. It is
    compiled a second time for a width if one batch of this width is smaller than the
    others.

    Args:
        lengths: int (N,), the number of steps of each sequence.
        batch_size: number of sequences of a batch.
        widths: numbers of steps to which batches are padded.
        seed: seed of the random order.

    Yields:
        A pair (width, indices): the width of the batch, and an integer array with the
        indices of its sequences. The array has `batch_size` entries, except that one
        batch of each width may have fewer.

    Raises:
        InputError: if `batch_size` is no int of at least 1, no width is given, or a
            length is no whole number, below 0 or above all widths.
    """
    batch_size = check_number("batch_size", batch_size, Count)
    ordered = np.sort(_whole("widths", widths))
    require(len(ordered) >= 1, "widths", "none", "give one or more")
    lengths = _lengths(lengths, 0, int(ordered[-1]))
    rng = np.random.default_rng(seed)
    found = np.searchsorted(ordered, lengths)
    batches = []
    for number, width in enumerate(ordered):
        members = rng.permutation(np.flatnonzero(found == number))
        batches += [
            (int(width), members[n : n + batch_size])
            for n in range(0, len(members), batch_size)
        ]
    for n in rng.permutation(len(batches)):
        yield batches[n]
