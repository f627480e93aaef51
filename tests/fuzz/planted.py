"""Commands with a fault each, by which the fuzzers themselves are tested."""

import os
import signal
import sys
import time
from pathlib import Path


def crashes() -> int:
    """Die of a segmentation fault."""
    os.kill(os.getpid(), signal.SIGSEGV)
    return 0


def raises() -> int:
    """Let an exception through."""
    raise ZeroDivisionError("planted")


def hangs() -> int:
    """Ignore interrupts."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    time.sleep(60)
    return 0


def heeds() -> int:
    """Take for ever, and end at an interrupt as the command line does."""
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        return 130
    return 0


def grows() -> int:
    """Fill the memory."""
    kept = []
    while True:
        kept.append(b"x" * 2**26)


def talks() -> int:
    """Report bad input in two lines."""
    print("error: x: 1; y\nand more", file=sys.stderr)
    return 2


def refuses() -> int:
    """Report bad input as it should be."""
    print("warning: a note\nerror: x: 1; y", file=sys.stderr)
    return 2


def replaces_outside(path: str) -> int:
    """Put a file in the place of one outside the case's folder."""
    made = Path("made")
    made.write_text("x")
    try:
        made.replace(path)
    except PermissionError:
        print("error: refused", file=sys.stderr)
        return 2
    return 0


def answers_nan() -> int:
    """Give a number that is none as if all were well."""
    print("0.5,nan,1.0")
    return 0


def connects() -> int:
    """Ask for a connection, which the guard must refuse."""
    import socket

    with socket.socket() as connection:
        try:
            connection.connect(("127.0.0.1", 9))
        except OSError as error:
            return 0 if error.errno == 101 else 1
    return 1
