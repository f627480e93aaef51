"""Tests that the README is short, and that its first two shell blocks install and test the project."""

import re

from pages import README, blocks

MOST_BYTES = 7000


def test_short() -> None:
    assert len(README.read_bytes()) <= MOST_BYTES


def test_the_first_two_blocks_install_and_run() -> None:
    """The first shell block installs the project and runs the demo. The second block installs the project and runs the tests.

    The script .ci/run runs the second block.
    """
    first, second = blocks(README, "sh")
    assert first == "python3 -m venv .venv && .venv/bin/pip install . && .venv/bin/lstm-jax demo\n"
    assert (
        second == 'python3 -m venv .venv && .venv/bin/pip install -e ".[tests,torch]" && .venv/bin/python -m pytest -n 2 --dist worksteal\n'
    )


def test_parts() -> None:
    """The README has one program of at most ten lines, four command lines, one figure and one table of benchmark rows."""
    text = README.read_text()
    (program,) = blocks(README, "python")
    assert len(program.splitlines()) <= 10
    (session,) = blocks(README, "console")
    assert len(session.splitlines()) == 4
    assert len(re.findall(r"^!\[", text, re.MULTILINE)) == 1
    assert text.count("<!-- bench ") == 1
