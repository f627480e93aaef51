"""Pages of the site whose text stands outside docs: a page that consists of one link shows the file that the link names."""

import os
import re
from pathlib import Path

from sphinx.application import Sphinx

DOCS = Path(__file__).parents[1]
ONE_LINK = re.compile(r"\[[^\]]+\]\(([^)]+\.md)\)\s*")
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s#]+)(#[^)\s]*)?\)")


def shown(page: Path) -> Path | None:
    """Return the file that a page shows in place of itself, or None if the page has a text of its own."""
    found = ONE_LINK.fullmatch(page.read_text()) if page.exists() else None
    return (page.parent / found[1]).resolve() if found else None


def with_links(text: str, source: Path, page: Path) -> str:
    """Return the text of a file with its relative links as the page needs them. A link to a folder becomes its name."""
    pages = {shown(path): path for path in DOCS.rglob("*.md") if "_build" not in path.parts and shown(path)}

    def link(found: re.Match[str]) -> str:
        image, name, target, anchor = found[1], found[2], found[3], found[4] or ""
        if "://" in target:
            return found[0]
        path = (source.parent / target).resolve()
        if path.is_dir():
            return name
        return f"{image}[{name}]({os.path.relpath(pages.get(path, path), page.parent)}{anchor})"

    return LINK.sub(link, text)


def read(app: Sphinx, name: str, content: list[str]) -> None:
    """Replace the text of a page that consists of one link."""
    page = DOCS / f"{name}.md"
    if source := shown(page):
        app.env.note_dependency(str(source))
        content[0] = with_links(source.read_text(), source, page)
