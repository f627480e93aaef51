"""Handling of SIGINT and SIGTERM during training, so that the state can be saved before the run ends."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from lstm_jax.runtime.interrupts import interrupted


@contextmanager
def noted_signals() -> Iterator[threading.Event]:
    """Yield an event that is set when SIGINT or SIGTERM arrives. The signal does not end the process.

    If SIGINT arrives when the event is already set, `KeyboardInterrupt` is raised at once. It is also raised on entering the context if
    SIGINT arrived earlier. Outside the main thread the event is never set.
    """
    if interrupted():
        raise KeyboardInterrupt
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def note(number, frame):
        del frame
        if asked.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.set()

    old = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
