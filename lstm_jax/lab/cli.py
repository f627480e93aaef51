"""Command line of lstm_jax, which parses the arguments, runs a command and prints
errors.

An error that the user or the machine causes is printed as one line. Such errors are
`InputError`, `OSError` with an error number (for example a full disk, a folder without
permission or a name that is too long), exhausted memory and invalid Unicode. Any other
exception is a bug and is printed with its traceback. If the environment variable
LSTM_JAX_DEBUG is set, every error is printed with its traceback.

Packages that are slow to import are imported within `main`, so that an interrupt during
the import is also printed as one line.
"""

import argparse
import contextlib
import dataclasses
import difflib
import io
import itertools
import os
import re
import shlex
import shutil
import sys
import textwrap
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_origin, get_type_hints

import lstm_jax
from lstm_jax.base.errors import InputError, Interrupted, require
from lstm_jax.base.types import Values
from lstm_jax.lab.machine.console import drop_output, pipe_console, prepare_streams
from lstm_jax.lab.machine.interrupts import (
    exit_code,
    interrupted,
    keep_interrupts,
    terminable,
)

DEBUG, DEBUG_HELP = "LSTM_JAX_DEBUG", "show the traceback of an error above its line"


def _usage(group: str = "") -> str:
    from lstm_jax.lab.commands import COMMANDS

    lines = [
        f"  {name:22} {(COMMANDS[name].__doc__ or '').splitlines()[0]}"
        for name in _names(group)
    ]
    if sys.stdout.isatty():  # into a pipe each command is one line
        width = shutil.get_terminal_size().columns
        lines = [
            textwrap.fill(
                line, width, subsequent_indent=" " * 25, break_on_hyphens=False
            )
            for line in lines
        ]
    command = f"lstm-jax {group and group + ' '}COMMAND"
    return "\n".join(
        [
            f"usage: {command} [options]; {command} --help lists them",
            "",
            *lines,
            "",
            f"{DEBUG}=1: {DEBUG_HELP}",
        ]
    )


def _names(group: str) -> list[str]:
    from lstm_jax.lab.commands import COMMANDS

    return [
        name
        for name in COMMANDS
        if not group or (name.startswith(f"{group} ") and group not in COMMANDS)
    ]


def _parse(arguments: list[str]) -> Callable[..., None]:
    import tyro

    from lstm_jax.base.writing import user_path
    from lstm_jax.lab.commands import COMMANDS
    from lstm_jax.lab.commands.common import set_help

    require(
        not any("\0" in word for word in arguments),
        "arguments",
        "a null character",
        "leave it out",
    )
    name = next(
        (
            name
            for name in (" ".join(arguments[:size]) for size in (2, 1))
            if name in COMMANDS
        ),
        None,
    )
    if name is None:
        words = itertools.takewhile(
            lambda word: not word.startswith("-"), arguments[:2]
        )
        given = " ".join(words).strip() or "none"
        own = _names("".join(arguments[:1]))
        close = difflib.get_close_matches(given, COMMANDS, 2) or [
            one for one in COMMANDS if given.split()[0] in one.split()
        ]
        meant = f"did you mean {' or '.join(close)}? lstm-jax --help lists all"
        raise InputError(
            "command",
            given,
            meant if close and not own else f"give one of {', '.join(own or COMMANDS)}",
        )
    kind, arguments = COMMANDS[name], arguments[len(name.split()) :]
    given = _given(kind, arguments)
    set_help(kind)
    chosen: Values = (
        {"default": kind.with_defaults(given)} if hasattr(kind, "with_defaults") else {}
    )
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            command = tyro.cli(kind, args=arguments, prog=f"lstm-jax {name}", **chosen)
    except InputError as error:
        raise _of_flag(error) from error
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise _complaint(name, kind, stop, complaint.getvalue()) from stop
    paths = {
        field: user_path(value)
        for field, value in vars(command).items()
        if isinstance(value, Path)
    }
    return dataclasses.replace(command, **paths) if paths else command


def _given(command: Any, arguments: Sequence[str]) -> dict[str, str]:
    """Return the flags that are given, with their values.

    Raises:
        InputError: if a flag that takes several values is given twice, or without any.
    """
    kinds = _flags(command)
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for flag in (*kinds, "--config"):
        names = {flag, f"--{flag[2:].replace('-', '_')}"}  # tyro takes both
        parser.add_argument(*names, dest=flag, nargs="*", action="append")
    given = {
        flag: lists
        for flag, lists in vars(parser.parse_known_args(arguments)[0]).items()
        if lists
    }
    for flag, lists in given.items():
        if get_origin(kinds.get(flag)) is tuple:
            several = f"give all its values after one {flag}"
            require(len(lists) == 1, flag, "given twice", several)
            none = "give one or more, or leave the flag out"
            require(lists[0], flag, "without a value", none)
    return {flag: [*lists[-1], ""][0] for flag, lists in given.items()}


def _flags(command: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, kind in get_type_hints(command).items():
        found |= (
            _flags(kind)
            if dataclasses.is_dataclass(kind)
            else {f"--{name.replace('_', '-')}": kind}
        )
    return found


def _of_flag(error: InputError) -> InputError:
    variable = error.subject.startswith("$")
    if variable:
        return error
    return InputError(f"--{error.subject.replace('_', '-')}", error.value, error.remedy)


def _complaint(name: str, kind: Any, stop: BaseException, box: str) -> InputError:
    """Convert an exception of the argument parser tyro to an `InputError`."""
    from lstm_jax.lab.commands import COMMANDS

    cause = stop.__context__
    while cause is not None:
        if isinstance(cause, InputError):
            return _of_flag(cause)
        cause = cause.__context__
    plain = re.sub(r"\x1b\[[\d;]*m", "", box)  # in a terminal the box has colours
    lines = [
        " ".join(line.strip("│ ").split())
        for line in plain.splitlines()
        if not line.startswith(("╭", "╰"))
    ]
    blocks = " ".join("\n" if set(line) == {"─"} else line for line in lines).split(
        "\n"
    )
    message, help_lines = blocks[0].strip(), f"see lstm-jax {name} --help"
    if missing := re.match(r"Missing from [^:]*: (.*)", message):
        flags = re.findall(r"--[\w-]+(?= [A-Z{\[])", message)
        return InputError(
            f"lstm-jax {name}",
            f"{' and '.join(flags) or missing[1].split()[0]} missing",
            help_lines,
        )
    if choice := re.search(
        r"invalid choice '(.*)' for argument '(.*)'\. Expected one of \((.*?),?\)",
        message,
    ):
        return InputError(choice[2], choice[1], f"give one of {choice[3]}")
    if union := re.match(
        r"Error parsing (--?[\w-]+): no type matching (\S+) could be "
        r"instantiated from \['(.*?)'\]",
        message,
    ):
        return InputError(union[1], union[3], f"give {union[2]}")
    if number := re.match(
        r"Error parsing (--?[\w-]+): (?:invalid literal for (int)|could not "
        r"convert).*: '(.*)'",
        message,
    ):
        return InputError(
            number[1], number[3], f"give a {'whole ' if number[2] else ''}number"
        )
    if value := re.fullmatch(r"Error parsing (--?[\w-]+): (.*)", message):
        return InputError(value[1], value[2], help_lines)
    parts = kind, getattr(getattr(kind, "config", None), "data", None)
    flags = [
        f"--{word}"
        for word in ("run", "data", "csv", "text", "prompt")
        if any(hasattr(part, word) for part in parts)
    ]
    if (stray := re.match(r"Unrecognized options: (?!-)(.*)", message)) and flags:
        return InputError(
            f"lstm-jax {name}",
            stray[1],
            f"name the flag of each value, such as {' or '.join(flags)}; {help_lines}",
        )
    unknown = re.match(r"Unrecognized options: (--[\w-]+)", message)
    if meant := next(
        (
            re.findall(r"--[\w-]+", block)
            for block in blocks
            if "Perhaps you meant" in block
        ),
        [],
    ):
        help_lines = f"did you mean {' or '.join(dict.fromkeys(meant))}? {help_lines}"
    elif unknown and (
        others := [
            f"lstm-jax {other}"
            for other, own in COMMANDS.items()
            if unknown[1] in _flags(own)
        ]
    ):
        help_lines = f"it is a flag of {', '.join(others[:3])}; {help_lines}"
    return InputError(f"lstm-jax {name}", message, help_lines)


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return the exit code."""
    # first: a pipe of the interrupts would get the descriptor of a closed stream
    prepare_streams()
    with keep_interrupts(last=arguments is None):
        try:
            code = _run(sys.argv[1:] if arguments is None else arguments)
        except KeyboardInterrupt:  # it arrived while `_run` reported another exception
            code = exit_code()
        if code and (processes := sys.modules.get("lstm_jax.lab.machine.processes")):
            processes.leave(code)
        return code


def _run(arguments: list[str]) -> int:
    command: Any = None
    try:
        if not arguments or arguments[0] in ("-h", "--help"):
            print(_usage())
        elif arguments[1:2] in ([], ["-h"], ["--help"]) and _names(arguments[0]):
            print(_usage(arguments[0]))
        elif arguments[0] == "--version":
            print(lstm_jax.__version__)
        else:
            command = _parse(arguments)
            with (
                terminable() if hasattr(command, "resume") else contextlib.nullcontext()
            ):
                command(pipe_console())
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has closed the pipe (`| head`)
        drop_output()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return exit_code()
    except Interrupted as error:
        saved, process, resume = "", _process(), getattr(command, "resume", None)
        if resume is not None:
            again = shlex.join(["lstm-jax", *arguments, *["--resume"] * (not resume)])
            saved = "; the state is saved" + (
                ": run the same command with --resume to continue"
                if process
                else f"; to continue: {again}"
            )
        print(f"{process}{error}{saved}", file=sys.stderr)
        return error.code
    except Exception as error:
        if interrupted():  # a library turned the interrupt into another exception
            print("interrupted", file=sys.stderr)
            return exit_code()
        shown = _shown(error)
        if shown is None:
            raise
        if os.environ.get(DEBUG):
            traceback.print_exc()
        print(f"error: {_process()}{shown}", file=sys.stderr)
        return 2
    return 0


def _process() -> str:
    processes = sys.modules.get("lstm_jax.lab.machine.processes")
    return processes.prefix() if processes else ""


def _shown(error: Exception) -> InputError | None:
    """Convert an error that the user or the machine caused to an `InputError`. If the
    error is a bug, return None.
    """
    match error:
        case InputError():
            return error
        case OSError(errno=int(), strerror=str()):
            return InputError(
                _thing(error),
                error.strerror,
                "name another, or make room or permissions",
            )
        case MemoryError():
            return InputError(
                "memory", str(error) or "used up", "give smaller sizes, or less data"
            )
        case UnicodeEncodeError():
            return InputError(
                "text",
                repr(error.object[error.start : error.end]),
                "give valid Unicode",
            )
        case RuntimeError() if "RESOURCE_EXHAUSTED" in str(error):  # raised by XLA
            return InputError("memory", str(error), "give smaller sizes, or less data")
        # raised by XLA's communication
        case RuntimeError() | ValueError() if re.search(
            "Gloo|CoordinationService", str(error)
        ):
            return sys.modules["lstm_jax.lab.machine.processes"].LOST
        case RuntimeError() | AssertionError() if traceback.extract_tb(
            error.__traceback__
        )[-1].filename.endswith("xla_bridge.py"):
            return InputError(
                "$JAX_PLATFORMS",
                os.environ.get("JAX_PLATFORMS", "unset"),
                "name a platform of this machine, such as cpu",
            )
    return None


def _thing(error: OSError) -> str:
    """Return the name of the file or stream that an `OSError` concerns."""
    try:
        sys.stdout.flush()
    except OSError:
        drop_output()
        return "standard output"
    if error.filename is not None:
        return str(error.filename)
    return "standard input or output"


if __name__ == "__main__":
    sys.exit(main())
