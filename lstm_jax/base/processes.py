"""Agreement between the processes that train one model together, on one machine or on
several machines.

All processes must call the same compiled functions on one mesh in the same order. The
functions of this module tell all processes what only one process knows, for example
that it has failed or received a signal. In a run of one process they do nothing.
"""

import contextlib
import itertools
import json
import math
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax import Array
from jax._src import distributed
from jax.experimental import multihost_utils
from numpy import ndarray

from lstm_jax.base.errors import require
from lstm_jax.base.types import Ints

LEFT = "lstm_jax/left/"
"""Prefix of the keys by which processes that end with an error are known to others."""
_rounds = itertools.count()


def first() -> bool:
    """Return whether this process is process 0, which writes the files of a training
    run. In a run of one process, return True.
    """
    return distributed.global_state.process_id == 0


def several() -> bool:
    """Return whether several processes run this program together."""
    return count() > 1


def count() -> int:
    """Return the number of processes that run this program together."""
    return distributed.global_state.num_processes


def largest(*numbers: int) -> Ints:
    """Return the maximum of each argument over all processes. All processes must call
    this function together.
    """
    if not several():
        return numbers
    # one row for each process
    found = multihost_utils.process_allgather(np.asarray(numbers, np.int64))
    return tuple(np.max(found, axis=0).tolist())


def exchange(value: str, seconds: float = math.inf) -> Iterator[str]:
    """Give a value to all processes, and return an iterator over the values of the
    processes, in the order of their indices.

    All processes must call this function together. The values go through the
    coordination service of `jax.distributed`, which needs no devices. The iterator
    waits for each value. A signal interrupts the wait.

    Raises:
        InputError: from the iterator, if a process has ended with an error, or has
            given no value within `seconds`.
    """
    state, until, key = (
        distributed.global_state,
        time.monotonic() + seconds,
        f"lstm_jax/{next(_rounds)}/",
    )
    client: Any = state.client
    client.key_value_set(f"{key}{state.process_id}", value)

    def wait(process: int):
        while True:
            try:
                return client.blocking_key_value_get(f"{key}{process}", 500)
            except jax.errors.JaxRuntimeError as error:
                if "DEADLINE_EXCEEDED" not in str(error):
                    raise
            left = [
                name.removeprefix(LEFT) for name, _ in client.key_value_dir_get(LEFT)
            ]
            require(
                not left,
                f"process {', '.join(sorted(left))}",
                "ended by an error",
                "see its own message",
            )
            remedy = "see its own messages, then start all processes again"
            require(
                time.monotonic() < until,
                f"process {process}",
                "does not answer",
                remedy,
            )

    return map(wait, range(state.num_processes))


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Return a context manager for work that can fail in one process alone, such as
    reading files. All processes use it together.

    If the work fails in some processes, each of them raises its own error, and every
    other process an `InputError` that names them.
    """
    try:
        yield
    except BaseException:
        if several():
            exchange("failed")
        raise
    if several():
        others = ", ".join(
            str(number) for number, value in enumerate(exchange("")) if value
        )
        require(
            not others, f"process {others}", "ended by an error", "see its own message"
        )


def require_equal(values: Mapping[str, str], seconds: float = math.inf) -> None:
    """Check that all processes have given the same values. All processes must call this
    function together.

    Raises:
        InputError: on all processes, if a value of any process differs from that of
            process 0, or if a process gives no values within `seconds`. The first name
            in `values` with different values is named.
    """
    if not several():
        return
    expected = {}
    for process, text in enumerate(exchange(json.dumps(dict(values)), seconds)):
        found = json.loads(text)
        expected = expected or found
        for name in expected | found:
            first, other = expected.get(name, "none"), found.get(name, "none")
            shown = f"{first[:28]} on process 0, {other[:28]} on process {process}"
            require(
                first == other,
                name,
                shown,
                "start all processes with the same flags, data, versions and devices",
            )


def on_host(leaf) -> ndarray:
    """Return an array as a NumPy array. If other processes hold parts of it, all
    processes must call this function together.
    """
    whole = (
        not isinstance(leaf, Array)
        or leaf.is_fully_addressable
        or leaf.is_fully_replicated
    )
    return np.asarray(
        leaf if whole else multihost_utils.process_allgather(leaf, tiled=True)
    )


def gathered(tree) -> Any:
    """Return a pytree whose leaves are converted by `on_host`. In a run of one process,
    the tree is returned unchanged.
    """
    return jax.tree.map(on_host, tree) if several() else tree
