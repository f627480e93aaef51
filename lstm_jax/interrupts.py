"""Interrupts while compiled code runs: Python's own handlers wait until it returns, which may be minutes."""

import contextlib
import os
import select
import signal
import sys
import threading
from collections.abc import Iterator

PATIENCE = 2.0
"""Seconds after a first interrupt before a line says how to end at once."""
CODE = 130
SHOW_CURSOR = b"\x1b[?25h"


@contextlib.contextmanager
def second_signal_ends() -> Iterator[None]:
    """Within it, the second SIGINT or SIGTERM ends this process at once, with code 130, whatever the main thread does.

    The first one is left to its handler, which Python calls when compiled code has returned. Only signals that have a handler in Python
    count. A thread other than the main one gets nothing. For programs: it ends the whole process.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    old = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    watcher = threading.Thread(target=_watch, args=(reader,), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(old)
        os.close(writer)
        watcher.join()
        os.close(reader)


def _watch(reader: int) -> None:
    """Count the numbers of signals that arrive; until the other end is closed."""
    seen, told = 0, False
    while True:
        waiting = seen and not told
        if not select.select([reader], [], [], PATIENCE if waiting else None)[0]:
            told = True
            print("interrupted; the running step is waited for, once more ends it at once", file=sys.stderr, flush=True)
            continue
        arrived = os.read(reader, 64)
        if not arrived:
            return
        seen += sum(number in (signal.SIGINT, signal.SIGTERM) for number in arrived)
        if seen > 1:
            _end()


def _end() -> None:
    for stream, text in ((1, SHOW_CURSOR if os.isatty(1) else b""), (2, b"interrupted\n")):
        with contextlib.suppress(OSError):
            os.write(stream, text)
    os._exit(CODE)
