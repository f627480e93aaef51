"""The command line: parses, calls, prints; no logic of its own. The commands themselves are in `commands`."""

import contextlib
import io
import os
import re
import sys
from collections.abc import Callable

import tyro
from rich.console import Console

from lstm_jax.commands import COMMANDS
from lstm_jax.errors import InputError, Interrupted


def _usage() -> str:
    lines = [f"  {name:22} {(command.__doc__ or '').splitlines()[0]}" for name, command in COMMANDS.items()]
    return "\n".join(["usage: lstm-jax COMMAND [options]; lstm-jax COMMAND --help lists them", "", *lines])


def _parse(arguments: list[str]) -> Callable[[Console], None]:
    """The command object of these arguments.

    Raises:
        InputError: for an unknown command, flag or value.
    """
    for size in (1, 2):
        name = " ".join(arguments[:size])
        if name in COMMANDS:
            break
    else:
        raise InputError("command", name or "none", f"give one of {', '.join(COMMANDS)}")
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(COMMANDS[name], args=arguments[size:], prog=f"lstm-jax {name}")
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise _complaint(name, stop, said.getvalue()) from stop


def _complaint(name: str, stop: BaseException, said: str) -> InputError:
    """What tyro found wrong: the InputError of a config behind it, else the text of its box, as one line."""
    cause = stop.__context__
    while cause is not None:
        if isinstance(cause, InputError):
            return InputError(f"--{cause.thing.replace('_', '-')}", cause.value, cause.remedy)
        cause = cause.__context__
    lines = [" ".join(line.strip("│ ").split()) for line in said.splitlines() if not line.startswith(("╭", "╰"))]
    blocks = " ".join("\n" if set(line) == {"─"} else line for line in lines).split("\n")
    message, help_lines = blocks[0].strip(), f"see lstm-jax {name} --help"
    if choice := re.search(r"invalid choice '(.*)' for argument '(.*)'\. Expected one of \((.*?),?\)", message):
        return InputError(choice[2], choice[1], f"give one of {choice[3]}")
    if union := re.match(r"Error parsing (--?[\w-]+): no type matching (\S+) could be instantiated from \['(.*?)'\]", message):
        return InputError(union[1], union[3], f"give {union[2]}")
    if value := re.fullmatch(r"Error parsing (--?[\w-]+): (.*)", message):
        return InputError(value[1], value[2], help_lines)
    if meant := next((re.findall(r"--[\w-]+", block) for block in blocks if "Perhaps you meant" in block), []):
        help_lines = f"did you mean {' or '.join(dict.fromkeys(meant))}? {help_lines}"
    return InputError(f"lstm-jax {name}", message, help_lines)


def main(arguments: list[str] | None = None) -> int:
    """Run a command; 0 if all went well, 2 for bad input, 130 if it was interrupted."""
    arguments = sys.argv[1:] if arguments is None else arguments
    command = None
    try:
        if not arguments or arguments[0] in ("-h", "--help"):
            print(_usage())
        elif arguments[0] == "--version":
            from importlib.metadata import version

            print(version("lstm-jax"))
        else:
            command = _parse(arguments)
            command(Console())
        sys.stdout.flush()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader has left (`| head`); Python flushes once more on its way out
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except Interrupted as error:
        saved = "; the state is saved: run the same command with --resume to go on" if hasattr(command, "resume") else ""
        print(f"{error}{saved}", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
