"""Handling of SIGINT and SIGTERM during training, so that the state can be saved before the run ends."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from lstm_jax.runtime.interrupts import interrupted


class Asked(threading.Event):
    """Event that is set when a signal asks the training to end."""

    number: int = 0
    """Number of the signal, or 0 if none has arrived."""


@contextmanager
def noted_signals() -> Iterator[Asked]:
    """Yield an event that is set when SIGINT or SIGTERM arrives inside the context. The signal does not end the process."""
    if interrupted():
        raise KeyboardInterrupt
    asked = Asked()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def note(number, frame):
        del frame
        if asked.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.number = number
        asked.set()

    old = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
