"""Helpers for tests of the command line.

One checks what the fixture `ask` returns for a command. The others read from the class
of a command which arguments the command takes.
"""

import dataclasses
from typing import Annotated, get_args, get_origin, get_type_hints

from lstm_jax.lab.commands import COMMANDS
from lstm_jax.lab.commands.common import Positional
from lstm_jax.lab.tasks import TASKS

_POSITIONAL = get_args(Positional[int])[1]


def assert_error(answer: tuple[int, str, str], *needles: str) -> None:
    """Check that a command ended with code 2 and one line of error that holds each of
    `needles`.
    """
    code, _, err = answer
    assert code == 2
    lines = err.splitlines()
    assert len(lines) == 1, err
    assert lines[0].startswith("error: ")
    for needle in needles:
        assert needle in err


def positional(command: str) -> str:
    """Return the name of the field that a command takes without a flag, or "" if it has
    none.
    """
    hints = get_type_hints(COMMANDS[command], include_extras=True)
    marked = (
        name
        for name, hint in hints.items()
        if get_origin(hint) is Annotated and _POSITIONAL in hint.__metadata__
    )
    return next(marked, "")


def required(command: str) -> list[str]:
    """Return arguments for the fields of a command that have no default, each with the
    value "x".
    """
    missing = (dataclasses.MISSING, dataclasses.MISSING)
    names = [
        field.name
        for field in dataclasses.fields(COMMANDS[command])
        if (field.default, field.default_factory) == missing
    ]
    return [
        word
        for name in names
        for word in (
            ["x"]
            if name == positional(command)
            else [f"--{name.replace('_', '-')}", "x"]
        )
    ]


def questions(task: str) -> tuple[str, ...]:
    """Return the commands of a task that read a run and need no argument.

    Raises:
        AssertionError: if there is none, so that tests must name questions of their own
            for this task.
    """
    own = TASKS[task].commands()
    reading = [
        name
        for name, kind in own.items()
        if name.split()[0] != "train" and "run" in kind.__dataclass_fields__
    ]
    found = tuple(name for name in reading if not required(name))
    assert found, (
        f"{task}: no command that needs only --run; name questions in "
        "tests/lab/test_run_holes.py and tests/fuzz/world.py"
    )
    return found
