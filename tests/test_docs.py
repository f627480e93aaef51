"""Tests that the documentation agrees with the code: its programs run, its commands
and flags parse, and its links and paths exist.
"""

import importlib
import io
import os
import re
import runpy
import shlex
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
from pathlib import Path

import pytest

import lstm_jax
from lstm_jax.lab import cli
from lstm_jax.lab.commands import COMMANDS
from lstm_jax.lab.sweep.rows import read_rows

ROOT = Path(__file__).parent.parent
LOG = ROOT / "experiments" / "LOG.md"
DOCS = ROOT / "docs"
GENERATED = DOCS / "reference" / "generated"
SITE = tuple(
    path
    for path in sorted(DOCS.glob("**/*.md"))
    if "_build" not in path.parts and path.parent != GENERATED
)
"""Pages of the site that are in the repository. The other pages are generated from the
code when the site is built."""
PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *SITE)
NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES]

_FENCE = re.compile(r"^(```+)([^\n`]*)\n(.*?)^\1$", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_COMMAND = re.compile(
    r"(?:[A-Z_]+=\S+ )*(?:\.venv/bin/)?(lstm-jax|python -m (?:bench|experiments)\b)(.*)"
)


def blocks(page: Path, language: str) -> list[str]:
    """Return the fenced blocks of a page that are in `language`, in order. Cells that
    the site runs have the language `{code-cell}`.
    """
    return [
        text for _, found, text in _FENCE.findall(page.read_text()) if found == language
    ]


def spans(page: Path) -> list[str]:
    """Return the code spans of a page, except those in fenced blocks."""
    return re.findall(r"`([^`\n]+)`", _FENCE.sub("", page.read_text()))


def links(page: Path) -> list[str]:
    """Return the targets of the relative links and images of a page, except those in
    fenced blocks.
    """
    return [
        target
        for target in _LINK.findall(_FENCE.sub("", page.read_text()))
        if "://" not in target
    ]


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", _FENCE.sub("", page.read_text()), re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        for heading in headings
    }


def commands(page: Path) -> list[tuple[str, str]]:
    """Return the calls of `lstm-jax`, `python -m bench` and `python -m experiments` in
    a page, as pairs (program, arguments).

    The function searches the shell blocks, the indented lines and the code spans of the
    page.
    """
    shown = [
        line.removeprefix("$ ")
        for block in blocks(page, "console") + blocks(page, "sh")
        for line in block.splitlines()
    ]
    indented = re.findall(
        r"^ {4}(\S.*)$", _FENCE.sub("", page.read_text()), re.MULTILINE
    )
    lines = [
        part for line in shown + indented + spans(page) for part in line.split(" && ")
    ]
    return [
        (found[1], found[2].strip())
        for line in lines
        if (found := _COMMAND.fullmatch(line.strip()))
    ]


STUDIES = [
    path.stem
    for path in sorted((ROOT / "experiments").glob("*.py"))
    if "\nSTUDY = " in path.read_text()
]
RUN_HERE = ("concepts", "contributing")
"""Folders of the documentation with pages whose code cells these tests run. The page
numerics is an exception.

The tests also run the code cells of the page onnx. All other code cells run only when
the site is built."""
CODE = ("lstm_jax", "bench", "experiments")
pages = pytest.mark.parametrize("page", PAGES, ids=NAMES)
pytestmark = pytest.mark.usefixtures("quick_processes")


def _program(page: Path) -> str:
    """Return the Python code of a page as one program.

    The program consists of the python blocks of the page. The code cells of the page
    follow if the page is in a folder of `RUN_HERE` or is the page onnx. The code cells
    of the page numerics are left out, because Keras warns in them.
    """
    here = (
        page.parent.name in RUN_HERE or page.stem == "onnx"
    ) and page.stem != "numerics"
    return "\n".join(
        blocks(page, "python") + (blocks(page, "{code-cell}") if here else [])
    )


@pytest.mark.slow(keep=1)
@pytest.mark.parametrize(
    "page", [page for page in PAGES if _program(page)], ids=lambda page: page.stem
)
def test_python_runs(page):
    if page.stem == "onnx":
        pytest.importorskip(
            "onnxruntime", reason="ONNX Runtime is not installed: pip install '.[onnx]'"
        )
    program = _program(page)
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert run.returncode == 0, run.stderr


@pytest.mark.slow
def test_first_study_runs(tmp_path):
    """The shell blocks of the page study.md run one after the other, in a temporary
    folder with links to the code folders.
    """
    for name in (*CODE, "examples"):
        (tmp_path / name).symlink_to(ROOT / name)
    shown = blocks(DOCS / "contributing" / "study.md", "sh")
    assert len(shown) > 2
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "PATH": path}
    run = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", "\n".join(shown)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    for name in ("adding.png", "both.png"):
        assert (tmp_path / name).stat().st_size > 20_000
    assert "category from one-hot, usual order" in run.stdout
    assert (
        sum(
            "units=16" in line
            for line in (tmp_path / "mine.py").read_text().splitlines()
        )
        == 1
    )
    assert {
        row["config"]["length"] for row in read_rows(tmp_path / "adding.jsonl")
    } == {10, 20}


def _run_module(module: str):
    """Run `python -m module` in this process."""
    if module == "bench":
        importlib.import_module("bench.__main__").main()
        return
    # another test may have imported it, of which runpy warns
    imported = sys.modules.pop(module, None)
    try:
        runpy.run_module(module, run_name="__main__")
    finally:
        if imported is not None:
            sys.modules[module] = imported


@cache
def _help(module: str, *words: str) -> str:
    """Return what `python -m module words --help` prints."""
    old, out = sys.argv, io.StringIO()
    sys.argv = [module, *words, "--help"]
    try:
        with (
            redirect_stdout(out),
            redirect_stderr(out),
            pytest.raises(SystemExit) as ended,
        ):
            _run_module(module)
    finally:
        sys.argv = old
    assert ended.value.code in (0, None), out.getvalue()
    return out.getvalue()


def _check_ours(words: list[str]):
    """Parse a command line of lstm-jax without running it."""
    if words in ([], ["--help"]):
        return
    name = " ".join(words[:2]) if " ".join(words[:2]) in COMMANDS else words[0]
    assert name in COMMANDS, name
    rest = words[len(name.split()) :]
    if rest and "--help" not in rest:
        cli._parse(words)


def _check_flags(words: list[str], text: str):
    for flag in (word.split("=")[0] for word in words if word.startswith("--")):
        assert re.search(rf"(?<![\w-]){re.escape(flag)}(?![\w-])", text), flag


@pages
def test_commands_exist_with_their_flags(page, monkeypatch):
    for program, arguments in commands(page):
        words = shlex.split(arguments, comments=True)
        if program == "lstm-jax":
            if "diagonal" not in words:  # a cell that another page registers
                _check_ours(words)
        elif program.endswith("bench") and words and words[0].startswith("."):
            _check_flags(words[1:], _help(f"bench{words[0]}"))
        elif program.endswith("bench"):
            if words and words[0] != "COMMAND":
                _check_flags(words[1:], _help("bench", words[0]))
        else:
            name = (
                words[0] if not arguments.startswith(".") else arguments[1:].split()[0]
            )
            if name not in ("NAME", "study"):
                assert name in {*STUDIES, "claims"}, name
                _check_flags(words[1:], _help(f"experiments.{name}"))


@pytest.mark.parametrize(
    "page", [*PAGES, LOG, ROOT / "CHANGELOG.md"], ids=[*NAMES, "LOG", "CHANGELOG"]
)
def test_links_and_paths_resolve(page):
    """Links have a target, and the paths in code spans exist, but in the log and the
    changelog, whose names are those of their time. Folders end with a slash.
    """
    for target in links(page):
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        # the build of the site checks that the page is generated
        if path.parent != GENERATED:
            assert path.is_relative_to(ROOT), target
            assert path.exists(), target
            assert not anchor or anchor in anchors(path), target
    if page in PAGES:
        for span in spans(page):
            if re.fullmatch(r"(lstm_jax|bench|experiments|tests|docs)/[\w./-]*", span):
                assert (ROOT / span).exists(), span
                assert (ROOT / span).is_dir() == span.endswith("/"), span


def test_every_name_of_the_front_page_has_an_entry_in_the_reference(monkeypatch):
    monkeypatch.syspath_prepend(DOCS / "_ext")
    api = importlib.import_module("api")
    names = {f"lstm_jax.{module}.{name}" for name, module in lstm_jax._MODULES.items()}
    assert names <= api.documented()


def test_submodules_are_imported_when_they_are_used():
    """`import lstm_jax` does not import JAX, and a name of a submodule is found
    without an import of the submodule.
    """
    code = (
        "import sys, lstm_jax; print('jax' in sys.modules, "
        "lstm_jax.convert.load.__name__, hasattr(lstm_jax, 'nothing'))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert ended.stdout.split() == ["False", "load", "False"]
