"""Standard streams for the command line: open, and able to show any text."""

import codecs
import io
import json
import os
import sys

ESCAPE = "lstm_jax.escape"


def prepare_streams() -> None:
    r"""Open closed streams, and let standard output show characters that its encoding lacks as `\uXXXX`, which JSON reads back.

    Text for a closed output is dropped; reading a closed input raises `OSError`. Otherwise the next file that is opened would take the
    number of a closed stream, and answers would be written into it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_WRONLY)  # the lowest number that is free
    if sys.stdin is None:
        sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0, closefd=False)))
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, io.TextIOWrapper(io.BufferedWriter(io.FileIO(os.devnull, "w"))))
    codecs.register_error(ESCAPE, _escape)
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors=ESCAPE)


def _escape(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return json.dumps(error.object[error.start : error.end])[1:-1], error.end


def drop_output() -> None:
    """Discard the rest of standard output, so that Python's flush at its exit does not fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
