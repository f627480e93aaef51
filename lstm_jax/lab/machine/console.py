"""The console of the command line, and a function that prints a line on a console."""

from rich.console import Console
from rich.text import Text

from lstm_jax.lab.machine.standard_streams import drop_output


class PipeConsole(Console):
    """Console that discards its output once the reader has closed the pipe (`| head`).
    The command then runs to its end.

    The console of Rich would end the process with exit code 1.
    """

    def on_broken_pipe(self) -> None:
        """Discard this and all further output."""
        self.quiet = True
        drop_output()


def say(console: Console, line: str) -> None:
    """Print a line without markup and colours. Only a terminal wraps it, and only if it
    is no command to copy.
    """
    console.print(
        Text(line),
        soft_wrap=not console.is_terminal or line.startswith(("lstm-jax ", "next: ")),
    )
