"""Handling of the signals SIGINT and SIGTERM while a program starts and while compiled
code runs.

Python calls signal handlers only between instructions of Python code. If a signal
arrives while compiled code runs, its handler is called after this code has returned,
which can take minutes.
"""

import _thread
import contextlib
import os
import select
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType

from lstm_jax.base.errors import RESTART

PATIENCE = 2.0
"""Number of seconds from the first signal to a message that says how to end the process
at once."""
AGAIN = 0.02
"""Number of seconds after which a `KeyboardInterrupt` that Python has ignored is raised
again."""
CODE = 130
"""Exit code of a process that ends at the second signal."""
SHOW_CURSOR = b"\x1b[?25h"

_arrived: set[int] = set()
"""Numbers of the signals that have arrived inside the context `keep_interrupts`."""
_repeated: list[int] = []
"""Numbers of the signals that `_repeat_later` has repeated and `_watch` has not seen
yet."""
_last_actions = []


@contextlib.contextmanager
def handled(handler: Callable[..., object], *numbers: int) -> Iterator[None]:
    """Handle the signals with the given numbers by `handler` in this context. Outside
    the main thread the context manager does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    old = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, old[number])


def interrupted() -> bool:
    """Return whether a SIGINT has arrived inside the context `keep_interrupts`, or a
    SIGTERM inside `terminable`.

    The result is true even if a library has caught the `KeyboardInterrupt`.
    """
    return bool(_arrived)


def exit_code() -> int:
    """Return the exit code of a program that an interrupt ends: 75 (`RESTART`) after a
    SIGTERM inside `terminable`, else 130.
    """
    return RESTART if signal.SIGTERM in _arrived else CODE


def terminable() -> contextlib.AbstractContextManager[None]:
    """Return a context manager within which SIGTERM raises `KeyboardInterrupt` and
    makes `interrupted` true, as SIGINT does in `keep_interrupts`.
    """
    return handled(_interrupt, signal.SIGTERM)


def _interrupt(number: int, frame: FrameType | None):
    """Raise `KeyboardInterrupt`, but later if a compiled module is being imported,
    which the exception could crash.
    """
    _arrived.add(number)
    if any(
        above.f_code.co_qualname.startswith("ExtensionFileLoader.")
        for above, _ in traceback.walk_stack(frame)
    ):
        _repeat_later()
    else:
        raise KeyboardInterrupt


def _repeat_later():
    """Make the main thread call the handler of the last SIGINT or SIGTERM again soon.
    This does not count as a second signal.
    """

    def repeat():
        number = signal.SIGTERM if signal.SIGTERM in _arrived else signal.SIGINT
        _repeated.append(number)
        _thread.interrupt_main(number)

    later = threading.Timer(AGAIN, repeat)
    later.daemon = True
    later.start()


@contextlib.contextmanager
def keep_interrupts(last: bool = False) -> Iterator[None]:
    """Return a context manager within which no SIGINT is lost, and which ends this
    process when a second SIGINT or SIGTERM arrives.

    A SIGINT raises `KeyboardInterrupt`, and `interrupted` returns true from then on. If
    Python has to ignore the exception, as in a method `__del__`, or if it could crash
    the import of a compiled module, it is raised again after `AGAIN` seconds. A process
    that ignores SIGINT goes on ignoring it. Outside the main thread the context manager
    does nothing.

    The second signal ends the process at once, with exit code 130, even while the main
    thread runs compiled code, after the functions that were given to `before_end`. Only
    signals that have a handler in Python are counted.

    Args:
        last: whether the process ends after the context. From then on, a SIGINT ends it
            without a traceback.
    """
    old, hook = signal.getsignal(signal.SIGINT), sys.unraisablehook
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def again(unraisable):
        if issubclass(unraisable.exc_type, KeyboardInterrupt):
            _repeat_later()  # an exception raised here and now would be ignored again
        else:
            hook(unraisable)

    _repeated.clear()
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    watcher = threading.Thread(target=_watch, args=(reader,), daemon=True)
    watcher.start()
    if old is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, _interrupt)
    sys.unraisablehook = again
    try:
        yield
    finally:
        signal.signal(
            signal.SIGINT, signal.SIG_DFL if last and old is not signal.SIG_IGN else old
        )
        sys.unraisablehook = hook
        signal.set_wakeup_fd(wakeup)
        os.close(writer)
        watcher.join()
        os.close(reader)
        _arrived.clear()


def _watch(reader: int):
    # Python writes the number of each arriving signal to a pipe, whose reading end is
    # `reader`, until the pipe is closed. If the process still runs `PATIENCE` seconds
    # after the first signal, this function prints how to end the process immediately.
    seen, announced = 0, False
    while True:
        waiting = seen and not announced
        if not select.select([reader], [], [], PATIENCE if waiting else None)[0]:
            announced = True
            print(
                "interrupted; the running step is waited for, once more ends "
                "it at once",
                file=sys.stderr,
                flush=True,
            )
            continue
        arrived = os.read(reader, 64)
        if not arrived:
            return
        for number in arrived:
            if number in _repeated:
                _repeated.remove(number)
            else:
                seen += number in (signal.SIGINT, signal.SIGTERM)
        if seen > 1:
            _end()


@contextlib.contextmanager
def before_end(action: Callable[[], object]) -> Iterator[None]:
    """Let `keep_interrupts` call `action`, in another thread, before it ends the
    process while the context is active.
    """
    _last_actions.append(action)
    try:
        yield
    finally:
        _last_actions.remove(action)


def _end():
    for action in list(_last_actions):
        with contextlib.suppress(Exception):
            action()
    for stream, text in (
        (1, SHOW_CURSOR if os.isatty(1) else b""),
        (2, b"interrupted\n"),
    ):
        with contextlib.suppress(OSError):
            os.write(stream, text)
    os._exit(CODE)


@dataclass
class Asked:
    """Signal that has asked a training to end."""

    number: int = 0
    """Number of the signal, or 0 if none has arrived."""


@contextlib.contextmanager
def noted_signals() -> Iterator[Asked]:
    """Yield an `Asked` for a SIGINT or SIGTERM that arrives inside the context. The
    signal does not end the process.
    """
    if interrupted():
        raise KeyboardInterrupt
    asked = Asked()

    def note(number: int, _):
        if asked.number and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.number = number

    with handled(note, signal.SIGINT, signal.SIGTERM):
        yield asked
