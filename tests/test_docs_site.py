"""Tests of the documentation site without building it: every page is in a table of contents, and warnings make a build fail."""

import ast
import os
import re
import tomllib
from pathlib import Path

import pytest
from pages import DOCS, GENERATED, ROOT, SITE, blocks, links, toctree

EXTENSIONS = DOCS / "_ext"


def _generated() -> set[str]:
    """Return the names of the generated files.

    The names are read from the source text of the Sphinx extensions in docs/_ext, so that Sphinx need not be installed.
    """
    tree = ast.parse((EXTENSIONS / "generated.py").read_text())
    (pages,) = [node.value for node in tree.body if isinstance(node, ast.AnnAssign) and getattr(node.target, "id", "") == "PAGES"]
    assert isinstance(pages, ast.Dict)
    named = {str(key.value) for key in pages.keys if isinstance(key, ast.Constant)}
    return named | {f"{name}.rst" for name in _packages()}


def _packages() -> set[str]:
    text = (EXTENSIONS / "api.py").read_text()
    (table,) = [node.value for node in ast.parse(text).body if getattr(getattr(node, "target", None), "id", "") == "PACKAGES"]
    return {str(key.value) for key in table.keys if isinstance(key, ast.Constant)}


def test_every_page_is_in_one_table_of_contents() -> None:
    listed = [path for page in SITE for path in toctree(page)]
    assert len(listed) == len(set(listed))
    expected = {path.with_suffix("") for path in SITE if path != DOCS / "index.md"}
    expected |= {(GENERATED / name).with_suffix("") for name in _generated() if not name.endswith(".svg")}
    assert {Path(os.path.normpath(path)) for path in listed} == expected


@pytest.mark.parametrize("page", SITE, ids=lambda page: page.relative_to(DOCS).as_posix())
def test_links_to_generated_pages(page: Path) -> None:
    for target in links(page):
        path = (page.parent / target.partition("#")[0]).resolve()
        if path.parent == GENERATED:
            assert path.name in _generated(), target


@pytest.mark.parametrize("page", [page for page in SITE if blocks(page, "{code-cell}")], ids=lambda page: page.stem)
def test_cells_have_a_kernel(page: Path) -> None:
    """Pages with cells begin with a header that names a kernel. Without this header, MyST shows the cells but does not run them."""
    assert page.read_text().startswith("---\nfile_format: mystnb\nkernelspec:\n  name: python3\n---\n")


def test_a_warning_fails_the_build() -> None:
    session = re.search(r"def docs\(.*?(?=^@nox|\Z)", (ROOT / "noxfile.py").read_text(), re.DOTALL | re.MULTILINE)
    assert session is not None
    assert '"-W"' in session[0]
    settings = (DOCS / "conf.py").read_text()
    assert "nb_execution_raise_on_error = True" in settings
    assert "suppress_warnings" not in settings


def test_no_page_is_large() -> None:
    assert all(path.stat().st_size < 2**20 for path in (*SITE, *(DOCS / "images").iterdir()))
    assert not list(DOCS.glob("[!_]*/**/*.ipynb"))


def test_versions_agree() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert re.search(rf"^version: {re.escape(version)}$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert re.search(rf"^## {re.escape(version)}( |$)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
