"""Hook that observes the calls of `unroll`. The function `inspection.trace` uses it to record the states of the layers of a model."""

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

_OBSERVER: ContextVar[Callable[..., None] | None] = ContextVar("observer", default=None)


@contextlib.contextmanager
def observed(observer: Callable[..., None]) -> Iterator[None]:
    """Return a context manager in which each call of `unroll` also calls observer(options, call, backwards)."""
    token = _OBSERVER.set(observer)
    try:
        yield
    finally:
        _OBSERVER.reset(token)


def is_observed() -> bool:
    """Return whether an observer is set, which reads the arrays of a call."""
    return _OBSERVER.get() is not None


def tell(*call: Any) -> None:
    """Call the observer that the context manager `observed` has set, as observer(*call). Outside this context, do nothing."""
    if observer := _OBSERVER.get():
        observer(*call)
