"""Tests that the documentation agrees with the code: its programs run, and its
commands, flags, links and paths exist.
"""

import importlib
import io
import os
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
from pathlib import Path

import pytest
from pages import (
    DOCS,
    GENERATED,
    LOG,
    NAMES,
    PAGES,
    ROOT,
    anchors,
    blocks,
    commands,
    links,
    spans,
)

from lstm_jax.lab import cli
from lstm_jax.lab.commands import COMMANDS
from lstm_jax.lab.sweep.rows import read_rows

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
def test_links_resolve(page):
    for target in links(page):
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        # the build of the site checks that the page is generated
        if path.parent == GENERATED:
            continue
        assert path.exists(), target
        assert path.is_relative_to(ROOT), target
        assert not anchor or anchor in anchors(path), target


@pages
def test_paths_are_there(page):
    """Every path of the code or the documentation that a page names in a code span
    exists.

    The paths of folders end with a slash, and those of files do not. Paths that begin
    with bench/results may break this rule.
    """
    for span in spans(page):
        if re.fullmatch(r"(lstm_jax|bench|experiments|tests|docs)/[\w./-]*", span):
            assert (ROOT / span).exists(), span
            assert (ROOT / span).is_dir() == span.endswith("/") or span.startswith(
                "bench/results"
            ), span


@pages
def test_extras_exist(page):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for names in re.findall(r'"(?:lstm-jax|\.)\[([\w,-]+)\]"', page.read_text()):
        assert set(names.split(",")) <= set(project["optional-dependencies"]), names


@pages
def test_environment_variables_exist(page):
    code = "\n".join(
        path.read_text() for top in CODE for path in (ROOT / top).rglob("*.py")
    )
    for name in re.findall(r"LSTM_JAX_\w+", page.read_text()):
        assert re.search(rf"\b{name}\b", code), name


def test_versions_agree():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert re.search(
        rf"^version: {re.escape(version)}$",
        (ROOT / "CITATION.cff").read_text(),
        re.MULTILINE,
    )
    assert re.search(
        rf"^## {re.escape(version)}( |$)",
        (ROOT / "CHANGELOG.md").read_text(),
        re.MULTILINE,
    )
