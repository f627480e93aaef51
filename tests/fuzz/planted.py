"""Commands with which the fuzzers themselves are tested. Most of them have one planted fault; the others are correct."""

import os
import signal
import sys
import time
from pathlib import Path


def crashes() -> int:
    """End by a segmentation fault."""
    os.kill(os.getpid(), signal.SIGSEGV)
    return 0


def raises() -> int:
    """Raise an exception that nothing catches."""
    raise ZeroDivisionError("planted")


def hangs() -> int:
    """Take a minute, and ignore interrupts."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    time.sleep(60)
    return 0


def heeds() -> int:
    """Sleep for a minute. At an interrupt, return at once with exit code 130, as the command line does."""
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        return 130
    return 0


def grows() -> int:
    """Allocate memory without end."""
    kept = []
    while True:
        kept.append(b"x" * 2**26)


def talks() -> int:
    """Report bad input in two lines instead of one."""
    print("error: x: 1; y\nand more", file=sys.stderr)
    return 2


def refuses() -> int:
    """Report bad input correctly: one line of error after a warning."""
    print("warning: a note\nerror: x: 1; y", file=sys.stderr)
    return 2


def replaces_outside(path: str) -> int:
    """Replace a file outside the case's folder by a new file."""
    made = Path("made")
    made.write_text("x")
    try:
        made.replace(path)
    except PermissionError:
        print("error: refused", file=sys.stderr)
        return 2
    return 0


def answers_nan() -> int:
    """Print nan as an answer, and end with exit code 0."""
    print("0.5,nan,1.0")
    return 0


def connects() -> int:
    """Open a network connection, and return 0 if the guard refuses it, else 1."""
    import socket

    with socket.socket() as connection:
        try:
            connection.connect(("127.0.0.1", 9))
        except OSError as error:
            return 0 if error.errno == 101 else 1
    return 1
