"""What the README says is so: its tree names every file, its commands exist, its Python runs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from lstm_jax.commands import COMMANDS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def _blocks(language: str) -> list[str]:
    """Fenced blocks of that language, in order."""
    found, inside, lines = [], None, []
    for line in README.splitlines():
        if not line.startswith("```"):
            lines.append(line)
        elif inside is None:
            inside, lines = line[3:], []
        else:
            found += ["\n".join(lines) + "\n"] if inside == language else []
            inside = None
    return found


def test_tree_names_every_file():
    tree = _blocks("")[0]
    for folder in ("lstm_jax", "experiments", "bench"):
        below = re.split(r"^\S", tree.split(f"{folder}/\n")[1], maxsplit=1, flags=re.MULTILINE)[0]
        for path in (ROOT / folder).rglob("*.py"):
            name = path.relative_to(ROOT / folder).as_posix()
            if not name.endswith("__init__.py"):
                assert re.search(rf"(^|\s){re.escape(name)}[\s,]", below), f"{folder}/{name} is not in the README's tree"


def test_tree_names_no_file_that_is_not_there():
    tree, folder = _blocks("")[0], ""
    for line in tree.splitlines():
        if not line.startswith(" "):
            folder = line.split("/")[0]
        for name in re.findall(r"(?:^|\s)([\w/]+\.py)\b", line):
            assert (ROOT / folder / name).exists(), f"{folder}/{name}"


def test_commands_exist():
    shown = re.findall(r"^\$ lstm-jax (\w+(?: \w+)?)", "\n".join(_blocks("console")), flags=re.MULTILINE)
    assert shown
    for words in shown:
        assert words in COMMANDS or words.split()[0] in COMMANDS, words


def test_the_first_two_blocks_install_and_run():
    first, second = _blocks("sh")[:2]
    assert first.strip().endswith("lstm-jax demo")
    assert "pytest" in second


@pytest.mark.parametrize("code", _blocks("python"))
def test_python_runs(code: str):
    run = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0, run.stderr
