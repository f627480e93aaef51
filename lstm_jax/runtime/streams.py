"""Functions that prepare standard input, output and error for the command line.

After a call of `prepare_streams` all three streams are open, and standard output accepts every character.
"""

import codecs
import io
import json
import os
import sys

ESCAPE = "lstm_jax.escape"


def prepare_streams() -> None:
    r"""Open standard input, output and error if they are closed, and make standard output accept every character.

    If a standard stream stayed closed, the next file that the process opens would get the file descriptor of this stream. Output for the
    stream would then be written to the file. After a call of this function, reading from a formerly closed standard input and writing to a
    formerly closed standard output raises `OSError`, and text for a formerly closed standard error is discarded. Standard output shows a
    character outside its encoding as a JSON escape: `\u` and four hexadecimal digits.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(
                os.devnull, os.O_RDONLY if number == 1 else os.O_WRONLY
            )  # gets the lowest free file descriptor, which is that of the closed stream
    if sys.stdin is None:
        sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0, closefd=False)))
    for number, name in enumerate(("stdout", "stderr"), start=1):
        if getattr(sys, name) is None:
            setattr(sys, name, io.TextIOWrapper(io.BufferedWriter(io.FileIO(number, "w", closefd=False))))
    codecs.register_error(ESCAPE, _escape)
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors=ESCAPE)


def _escape(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return json.dumps(error.object[error.start : error.end])[1:-1], error.end


def drop_output() -> None:
    """Discard all further standard output.

    Call this function if a write to standard output has failed, for example because the other end of a pipe is closed. Without this call,
    Python would fail again when it flushes the stream at exit.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
