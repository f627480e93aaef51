"""Functions that prepare standard input, output and error for the command line.

After a call of `prepare_streams` all three streams are open, and standard output
accepts every character.
"""

import codecs
import io
import json
import os
import sys

ESCAPE = "lstm_jax.escape"


def prepare_streams() -> None:
    """Open standard input, output and error if they are closed, and make standard
    output accept every character.
    """
    for number, (name, mode) in enumerate(
        (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))
    ):
        try:
            os.fstat(number)
        except OSError:
            # gets the lowest free file descriptor, which is that of the closed stream
            os.open(os.devnull, os.O_RDONLY if number == 1 else os.O_WRONLY)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115 - it stays open
    codecs.register_error(ESCAPE, _escape)
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors=ESCAPE)


def _escape(error: UnicodeError):
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return json.dumps(error.object[error.start : error.end])[1:-1], error.end


def drop_output() -> None:
    """Discard all further standard output."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
