"""Windows of a text and the characters that follow them, as views of the array of
character ids, so that nothing is copied.

The Keras example lstm_text_generation stores the N windows of 40 characters in one-hot
encoding, as a boolean array (N, 40, 33).
"""

import numpy as np
from numpy import ndarray
from numpy.lib.stride_tricks import sliding_window_view

from lstm_jax.base.checks import Count, check_number
from lstm_jax.base.errors import require


def window_count(n: int, length: int, step: int) -> int:
    """Return the number of windows of a text of `n` characters; see `windows`.

    It is `len(range(0, n - length, step))`, as in the Keras example
    lstm_text_generation: a window counts only if a character follows it.
    """
    length, step = (
        check_number("length", length, Count),
        check_number("step", step, Count),
    )
    return len(range(0, n - length, step))


def some_windows(n: int, length: int, step: int) -> int:
    """Return the number of windows of a text like `window_count`, and raise
    `InputError` if there are no windows.
    """
    count = window_count(n, length, step)
    require_window("text", n, length)
    return count


def window_starts(n: int, length: int, step: int) -> ndarray:
    """Return the index of the first character of each of the N windows of a text of `n`
    characters, as int64 (N,); see `windows`.
    """
    return step * np.arange(window_count(n, length, step))


def windows(ids: ndarray, length: int = 40, step: int = 5) -> tuple[ndarray, ndarray]:
    """Return the windows of a text and the character after each window. The windows
    start `step` characters apart.

    Args:
        ids: (T,) ids of the T characters of the text.
        length: number of characters of a window.
        step: number of characters from the start of one window to the start of the
            next.

    Returns:
        The N windows X (N, length) and their targets Y (N,), as read-only views of
        `ids`. X[k] is ids[k * step : k * step + length], and Y[k] is the id after that
        window.

    Raises:
        InputError: if the text is too short for a window of `length` characters and the
            character after it, or if `length` or `step` is below 1.
    """
    some_windows(len(ids), length, step)
    X, Y = sliding_window_view(ids[:-1], length)[::step], ids[length::step]
    Y.flags.writeable = False
    return X, Y


def one_hot(X: ndarray, Y: ndarray, size: int) -> tuple[ndarray, ndarray]:
    """Return windows (N, length) and targets (N,) in one-hot encoding, as the Keras
    example lstm_text_generation stores them.

    The result takes N * (length + 1) * size bytes. Use this function only to inspect a
    few windows, such as `X[:100]`.

    Returns:
        Two boolean arrays, (N, length, size) and (N, size), with one True value along
        the last axis.
    """
    for ids in (X, Y):
        require(
            ((ids >= 0) & (ids < size)).all(),
            "size",
            size,
            "give the number of distinct characters: each id is below it",
        )
    characters = np.arange(size)
    return X[..., None] == characters, Y[..., None] == characters


def chunks(ids: ndarray, length: int) -> tuple[ndarray, ndarray]:
    """Cut a text into consecutive chunks of `length` characters. The target of each
    character is the next character.

    Returns:
        The inputs X and the targets Y of N = (T - 1) // length chunks, both as
        read-only views (N, length) of `ids` (T,). Chunk X[k] begins at the index k *
        length of `ids`, and Y[k] begins one index later. Characters at the end that do
        not fill a chunk are left out.

    Raises:
        InputError: if the text is too short for a chunk of `length` characters and the
            character after it, or if `length` is below 1.
    """
    some_windows(len(ids), length, 1)
    return sliding_window_view(ids[:-1], length)[::length], sliding_window_view(
        ids[1:], length
    )[::length]


def stream_chunks(n: int, length: int, batch: int) -> ndarray:
    """Return the indices of the chunks that form each batch of truncated
    back-propagation through time.

    The text is cut into `batch` consecutive streams of equal length, and each stream
    into S chunks. Batch s consists of chunk s of every stream. Row b of batch s
    therefore continues row b of batch s - 1. Characters at the end that do not fill one
    more chunk in every stream are left out. The last character of the text has no next
    character, so it is never an input.

    Args:
        n: number of characters of the text.
        length: number of characters of a chunk.
        batch: number of streams, which is the batch size.

    Returns:
        An int64 array (S, batch), where S = (n - 1) // (batch * length). An entry k
        stands for row k of the arrays that `chunks` returns. The entry at [s, b] is b *
        S + s. For `n` 13, `length` 2 and `batch` 3, the array is [[0, 2, 4], [1, 3,
        5]].
    """
    steps = max(n - 1, 0) // (
        check_number("length", length, Count) * check_number("batch", batch, Count)
    )
    remedy = (
        f"{batch} streams of {length} characters need {batch * length + 1}: give "
        "more text, a smaller batch or length"
    )
    require(steps >= 1, "text", f"{n} characters", remedy)
    return np.arange(batch * steps).reshape(batch, steps).T


def require_window(subject: str, n: int, length: int, unit: str = "character") -> None:
    """Check that a text of `n` characters has a window of `length` characters and the
    character after it.
    """
    noun = "word" if unit == "word" else "character"
    remedy = (
        f"a window and its next {noun} need {length + 1}: give more text or a "
        "smaller length"
    )
    require(n > length, subject, f"{n} {noun}s", remedy)
