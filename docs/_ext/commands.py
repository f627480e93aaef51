"""Generator of two reference pages, which list the commands and flags of `lstm-jax` and
of `python -m bench`.

The text of both pages comes from the commands and their argument parsers.
"""

import argparse
import contextlib
import importlib
import io
import sys
import warnings

import tyro

from bench.__main__ import COMMANDS as BENCH
from lstm_jax.lab.commands import COMMANDS


def page() -> str:
    """Return the text of the reference page of `lstm-jax`, in Markdown: all commands
    with their flags.

    The flags of a command are in groups, such as the flags of the model and the flags
    of the training.
    """
    parts = [
        "# Commands",
        (
            "`lstm-jax COMMAND --help` prints the same: each flag with its values "
            "and its default. A flag with a `--no-` form is a switch."
        ),
    ]
    for name, command in COMMANDS.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            parser = tyro.extras.get_parser(command)
        parts += [
            f"## {name}",
            f"```console\n$ lstm-jax {name}\n```",
            " ".join((command.__doc__ or "").split()),
        ]
        for group in parser._action_groups:
            actions = [
                action
                for action in group._group_actions
                if "--help" not in action.option_strings
            ]
            if actions:
                parts += [f"### {name}: {group.title}", *map(_flag, actions)]
    return "\n\n".join(parts) + "\n"


def _flag(action: argparse.Action) -> str:
    """Return the Markdown text of a flag or positional argument.

    The first line has its names and the placeholder of its value, and the second line
    has its help text.

    Args:
        action: the flag or positional argument, as an action of an argument parser.
    """
    names = (
        ", ".join(f"`{name}`" for name in action.option_strings)
        or f"`{action.metavar or action.dest}`"
    )
    values = (
        f" `{action.metavar}`"
        if action.metavar and action.option_strings and action.nargs != 0
        else ""
    )
    text = " ".join(str(action.help).split())
    return f"{names}{values}\n: {_escaped(text)}"


def _escaped(text: str) -> str:
    return "".join(
        f"\\{letter}" if letter in "*_<>[]$~^{}|`" else letter for letter in text
    )


def bench_page() -> str:
    """Return the text of the reference page of `python -m bench`, in Markdown. It shows
    the `--help` text of each command.
    """
    parts = [
        "# Commands of the benchmarks",
        (
            "`python -m bench COMMAND --help`, command by command. "
            "[Benchmarks](../../benchmarks.md) explains the method."
        ),
    ]
    for name in BENCH:
        parts += [f"## bench {name}", f"```text\n{_help(name)}\n```"]
    return "\n\n".join(parts) + "\n"


def _help(name: str) -> str:
    old, out = sys.argv, io.StringIO()
    sys.argv = [f"python -m bench {name}", "--help"]
    try:
        with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
            importlib.import_module(f"bench.{name}").main()
    finally:
        sys.argv = old
    return out.getvalue().rstrip()
