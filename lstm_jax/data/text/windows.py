"""Windows of a text and the characters that follow them, as views: no part of the text is copied.

Keras' example lstm_text_generation, in the variant reproduced here, cuts windows of 40 characters every 5 into a boolean array (N, 40, 33).
Here X and Y are strides over the ids.
"""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from lstm_jax.errors import require


def window_count(n: int, length: int, step: int) -> int:
    """Return the count of windows of a text of n characters, as in Keras' example: `len(range(0, n - length, step))`.

    Raises:
        InputError: if `length` or `step` is below 1.
    """
    return len(_range(n, length, step))


def window_starts(n: int, length: int, step: int) -> np.ndarray:
    """Return the (N,) int64 starts of the windows.

    Raises:
        InputError: if `length` or `step` is below 1.
    """
    windows = _range(n, length, step)
    return np.arange(windows.start, windows.stop, windows.step, dtype=np.int64)


def windows(ids: np.ndarray, length: int = 40, step: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Return windows of `length` characters every `step`, and their next characters.

    Args:
        ids: (T,) ids of a text.
        length: characters of a window.
        step: characters from one window's start to the next.

    Returns:
        X (N, length) and Y (N,), read-only views of `ids`: X[k] is ids[k * step : k * step + length], Y[k] the id after it.

    Raises:
        InputError: if the text is shorter than a window and its next character, or an argument is below 1.
    """
    _check_text(ids, window_count(len(ids), length, step), length)
    X = sliding_window_view(ids, length)[: len(ids) - length : step]
    return X, _read_only(ids[length::step])


def one_hot(X: np.ndarray, Y: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return windows as Keras' example has them, for inspection: N * (length + 1) * size bytes, so give a few windows (`X[:100]`).

    Args:
        X: (N, length) ids.
        Y: (N,) ids.
        size: distinct characters.

    Returns:
        (N, length, size) and (N, size) bool, one True each in the last axis.

    Raises:
        InputError: for an id outside 0 to size - 1.
    """
    for ids in (X, Y):
        good = ids.size == 0 or (int(ids.min()) >= 0 and int(ids.max()) < size)
        require(good, "size", size, "give the number of distinct characters: each id is below it")
    characters = np.arange(size)
    return X[..., None] == characters, Y[..., None] == characters


def chunks(ids: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the text cut into chunks that lie end to end, with the next character at each position as target.

    Args:
        ids: (T,) ids of a text.
        length: characters of a chunk.

    Returns:
        X (N, length) and Y (N, length), read-only views of `ids`, N = (T - 1) // length: X[k] is ids[k * length : (k + 1) * length] and
        Y[k] is shifted by one character. The last T - 1 - N * length characters are in no target.

    Raises:
        InputError: if the text is shorter than a chunk and its next character, or `length` is below 1.
    """
    count = max(len(ids) - 1, 0) // _at_least_one("length", length)
    _check_text(ids, count, length)
    return _read_only(ids[: count * length].reshape(count, length)), _read_only(ids[1 : 1 + count * length].reshape(count, length))


def stream_chunks(n: int, length: int, batch: int) -> np.ndarray:
    """Return the order of `chunks` for truncated back-propagation: row b of each step continues row b of the previous step.

    The text is cut into `batch` streams that lie end to end, each of `steps` chunks. The rest, which does not fill a chunk in every stream,
    is left out: the last n - 1 - steps * batch * length characters, fewer than batch * length.

    Args:
        n: characters of the text.
        length: characters of a chunk.
        batch: streams.

    Returns:
        (steps, batch) int64 row numbers of `chunks(ids, length)`: entry [s, b] is b * steps + s, and steps is
        (n - 1) // (batch * length).

    Raises:
        InputError: if the text is too short for one step, or an argument is below 1.
    """
    steps = max(n - 1, 0) // (_at_least_one("length", length) * _at_least_one("batch", batch))
    remedy = f"{batch} streams of {length} characters need {batch * length + 1}: give more text, a smaller batch or length"
    require(steps >= 1, "text", f"{n} characters", remedy)
    return np.arange(batch * steps, dtype=np.int64).reshape(batch, steps).T


def _range(n: int, length: int, step: int) -> range:
    return range(0, n - _at_least_one("length", length), _at_least_one("step", step))


def _at_least_one(name: str, value: int) -> int:
    require(value >= 1, name, value, "give 1 or more")
    return value


def _check_text(ids: np.ndarray, count: int, length: int) -> None:
    remedy = f"a window and its next character need {length + 1}: give more text or a smaller length"
    require(count >= 1, "text", f"{len(ids)} characters", remedy)


def _read_only(view: np.ndarray) -> np.ndarray:
    view = view.view()
    view.flags.writeable = False
    return view
