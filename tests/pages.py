"""Pages of the documentation, and functions that return parts of a page: fenced blocks,
code spans, links and commands.
"""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
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
PAGES = (README, ROOT / "CONTRIBUTING.md", *SITE)
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
