"""Console and standard streams of the command line.

After a call of `prepare_streams` all three streams are open, and standard output
accepts every character.
"""

import codecs
import io
import json
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the command line imports this module before it reads its flags
    from rich.console import Console

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


def pipe_console() -> "Console":
    """Return a console that discards its output once the reader has closed the pipe
    (`| head`), so that the command runs to its end.
    """
    from rich.console import Console

    class PipeConsole(Console):
        def on_broken_pipe(self) -> None:  # Rich would end the process
            self.quiet = True
            drop_output()

    return PipeConsole()


def say(console: "Console", line: str) -> None:
    """Print a line without markup and colours. Only a terminal wraps it, and only if it
    is no command to copy.
    """
    from rich.text import Text

    console.print(
        Text(line),
        soft_wrap=not console.is_terminal or line.startswith(("lstm-jax ", "next: ")),
    )
