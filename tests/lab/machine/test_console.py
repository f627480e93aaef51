"""Tests of commands whose standard streams are closed, lead to a full disk, or can
encode only ASCII.

A command then gives its normal output, or prints an error of one line. Only a bug shows
a traceback.
"""

import io
import json
import subprocess
import sys

import pytest
from command_line import assert_error

from lstm_jax.lab import cli
from lstm_jax.lab.commands import COMMANDS

TEXT = 'naïve 🎬 "\udcff"'


def shell(command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a bash command, in which `lstm-jax` stands for this project's command line,
    and return the completed process.
    """
    command = command.replace("lstm-jax", f"{sys.executable} -m lstm_jax.lab.cli")
    return subprocess.run(
        ["bash", "-c", command],
        capture_output=True,
        text=True,
        timeout=60,
        env={"PATH": "/usr/bin:/bin"} | environment,
    )


def test_closed_and_full_streams():
    """With a full or closed standard stream, a command ends with exit code 0 or 2 and
    prints at most one line to standard error.
    """
    commands = [
        "lstm-jax --help >/dev/full",
        "lstm-jax --help >&-",
        "lstm-jax predict --run none <&- ",
        "lstm-jax nonsense 2>&-",
    ]
    done = shell("; ".join(f"{command}; echo $? >&2" for command in commands))
    lines = done.stderr.splitlines()
    assert lines[0].startswith("error: standard output: No space left on device; ")
    assert lines[2].startswith("error: standard output: Bad file descriptor; ")
    assert lines[4].startswith("error: ")
    assert [lines[1], lines[3], *lines[5:]] == ["2"] * 4


def test_an_ascii_terminal(ask, monkeypatch):
    """If standard output is ASCII, a character outside ASCII is printed as an escape
    that a JSON reader decodes.
    """
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), "ascii"))
    monkeypatch.setitem(
        COMMANDS,
        "backends",
        lambda: lambda console: print(json.dumps(TEXT, ensure_ascii=False)),
    )
    assert ask("backends")[0] == 0
    shown = sys.stdout.buffer.getvalue()
    assert shown.isascii()
    assert json.loads(shown) == TEXT
    assert "\\ud83c\\udfac" in shown.decode()


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (
            OSError(28, "No space left on device", "/a/b"),
            "/a/b: No space left on device; ",
        ),
        (PermissionError(13, "Permission denied", "/a"), "/a: Permission denied; "),
        (
            OSError(36, "File name too long", "x" * 300),
            "x" * 300 + ": File name too long; ",
        ),
        (
            MemoryError("Unable to allocate 8 TiB"),
            "memory: Unable to allocate 8 TiB; give smaller sizes",
        ),
        (
            RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 7 bytes"),
            "memory: RESOURCE_EXHAUSTED: Out of memory",
        ),
        (
            UnicodeEncodeError("utf-8", "a\udcff", 1, 2, "no"),
            "text: '\\udcff'; give valid Unicode",
        ),
    ],
)
def test_what_the_machine_refuses_is_one_line(error, shown, ask, monkeypatch):
    def fail(console):
        raise error

    monkeypatch.setitem(COMMANDS, "backends", lambda: fail)
    monkeypatch.delenv(cli.DEBUG, raising=False)
    assert_error(ask("backends"), f"error: {shown}")
    monkeypatch.setenv(cli.DEBUG, "1")
    code, _, err = ask("backends")
    assert code == 2
    assert "Traceback" in err
    assert err.splitlines()[-1].startswith(f"error: {shown}")


@pytest.mark.parametrize(
    "error", [ValueError, RuntimeError, OSError, RecursionError, KeyError]
)
def test_a_bug_keeps_its_traceback(error, monkeypatch):
    def fail(console):
        raise error("a bug")

    monkeypatch.setitem(COMMANDS, "backends", lambda: fail)
    with pytest.raises(error, match="a bug"):
        cli.main(["backends"])
