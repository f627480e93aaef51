"""Tests that the fuzzers detect faults of commands, and that the fuzzer of command lines draws every command and flag.

Most tests run a command of planted.py, which may have a fault on purpose.
"""

import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))  # the servers and the driver are `tests.fuzz`

from tests.fuzz import shell as shells
from tests.fuzz.flags import FLAGS, draw_arguments
from tests.fuzz.judge import fault_of, left_behind, lost, silent_number, snapshot
from tests.fuzz.shell import Command, Limits, Outcome, Shell

QUICK, LONG = Limits(0.5, 0.7, 1.5), Limits(30, 31, 32)


@pytest.fixture(scope="module")
def shell() -> Iterator[Shell]:
    with Shell({}) as made:
        yield made


@pytest.fixture
def planted(shell, tmp_path) -> Callable[..., Outcome]:
    """Return a function planted(name, *arguments) that runs a command of planted.py and returns its outcome."""
    folder = tmp_path / "case"
    folder.mkdir()

    def run(name: str, *arguments: str) -> Outcome:
        return shell.run(Command(arguments, call=f"tests.fuzz.planted:{name}"), folder, QUICK if name in ("hangs", "heeds") else LONG)

    return run


@pytest.mark.slow(keep=1)
@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("crashes", "crash: signal 11"),
        ("raises", "traceback: ZeroDivisionError in tests/fuzz/planted.py, raises: planted"),
        ("hangs", "hang: ignores two interrupts"),
        ("talks", "error that is not one line: error: x: N; y"),
        ("heeds", ""),
        ("refuses", ""),
        ("connects", ""),
    ],
)
def test_how_a_command_ends(planted, name, fault):
    assert fault_of(planted(name)) == fault


def test_memory(planted, monkeypatch):
    monkeypatch.setattr(shells, "MEMORY", 2**30)
    assert fault_of(planted("grows")) == "memory: grows without bound"


def test_the_server_goes_on_after_a_crash(planted):
    assert planted("crashes").code == -11
    assert planted("refuses").code == 2


def test_changes_outside_are_refused_and_seen(planted, tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("a user's own")
    outcome = planted("replaces_outside", str(victim))
    assert victim.read_text() == "a user's own"
    assert fault_of(outcome) == f"writes outside its folder: os.rename {victim}"


def test_numbers_that_are_none(planted):
    assert silent_number(planted("answers_nan")) == "silent: nan with exit code 0"


def test_lost_files(tmp_path):
    for name in ("kept", "replaced", "removed"):
        (tmp_path / name).write_text(name)
    (tmp_path / "link").symlink_to("kept")
    before = snapshot(tmp_path)
    assert lost(before, snapshot(tmp_path)) == ""
    (tmp_path / "replaced").write_text("other")
    assert lost(before, snapshot(tmp_path)) == "replaces replaced"
    (tmp_path / "replaced").write_text("replaced")
    (tmp_path / "removed").unlink()
    assert lost(before, snapshot(tmp_path)) == "removes removed"
    (tmp_path / "removed").write_text("removed")
    (tmp_path / "link").unlink()
    (tmp_path / "link").write_text("kept")
    assert lost(before, snapshot(tmp_path)) == "replaces link"


def test_temporary_files():
    assert left_behind(["config.json", "a/.config.json.0a1b2c3d.tmp"]) == "leaves a temporary file: .config.json.N.tmp"
    assert left_behind(["tmp", "config.json"]) == ""


def test_every_command_and_flag_is_drawn():
    drawn = [draw_arguments(random.Random(number)) for number in range(4000)]
    for name, flags in FLAGS.items():
        words = {word.partition("=")[0] for line in drawn if " ".join(line).startswith(name) for word in line}
        few = [flag.name for flag in flags if not flag.positional and not {flag.name, f"--no-{flag.name[2:]}"} & words]
        assert not few, f"{name}: {few}"
