"""Observation of the calls of `unroll`, such as to record the states of the layers of a model; see `inspection.trace`."""

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

_OBSERVER: ContextVar[Callable[..., None] | None] = ContextVar("observer", default=None)


@contextlib.contextmanager
def observed(observer: Callable[..., None]) -> Iterator[None]:
    """Return a context manager in which each call of `unroll` also calls observer(cell, operands, compute_dtype, backwards).

    `operands` are the checked arguments, whose steps are in the order in which they are processed; see `Operands`.
    """
    token = _OBSERVER.set(observer)
    try:
        yield
    finally:
        _OBSERVER.reset(token)


def tell(*call: Any) -> None:
    """Tell the observer about a call of `unroll`. If there is none, do nothing."""
    if observer := _OBSERVER.get():
        observer(*call)
