"""SIGINT and SIGTERM during training, which are recorded so that the state can be saved before the run ends."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from lstm_jax.runtime.interrupts import interrupted


@contextmanager
def noted_signals() -> Iterator[threading.Event]:
    """Set an event at SIGINT or SIGTERM instead of ending the process.

    A second SIGINT raises `KeyboardInterrupt` at once. Entering this context also raises it if SIGINT arrived earlier. Outside the main
    thread the event is never set.
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
