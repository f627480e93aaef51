"""Event handler of Sphinx for pages of the site whose text is in a file outside docs/,
such as CHANGELOG.md.

In docs/, such a page consists of a single link to a Markdown file. On the site, the
page shows the text of this file.
"""

import os
import re
from pathlib import Path

from sphinx.application import Sphinx

DOCS = Path(__file__).parents[1]
ONE_LINK = re.compile(r"\[[^\]]+\]\(([^)]+\.md)\)\s*")
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s#]+)(#[^)\s]*)?\)")


def shown(page: Path) -> Path | None:
    """Return the path of the file whose text the site shows on a page instead of the
    text of the page itself, or None.

    If a page consists of a single link to a Markdown file, the site shows the text of
    the linked file. For other pages, the result is None.

    Args:
        page: path of the Markdown file of the page in docs/.
    """
    found = ONE_LINK.fullmatch(page.read_text()) if page.exists() else None
    return (page.parent / found[1]).resolve() if found else None


def with_links(text: str, source: Path, page: Path) -> str:
    """Return a text in which the relative links are changed so that they work on the
    page that shows the text.

    Some pages of the site show a Markdown file outside docs/ (see `shown`). A link to
    such a file is changed to a link to its page. A link to any other file leads to the
    same file as before. A link to a folder is replaced by the text of the link.

    Args:
        text: Markdown text of the file `source`.
        source: path of the file.
        page: path of the page in docs/ that shows the text.
    """
    pages = {
        shown(path): path
        for path in DOCS.rglob("*.md")
        if "_build" not in path.parts and shown(path)
    }

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
    """Replace the text of a page that consists of a single link by the text of the
    linked file.

    Sphinx calls this function for each page that it reads.

    Args:
        app: Sphinx application.
        name: path of the page, relative to docs/ and without ".md".
        content: list with the text of the page as its only item. The text is replaced
            in this list.
    """
    page = DOCS / f"{name}.md"
    if source := shown(page):
        app.env.note_dependency(str(source))
        content[0] = with_links(source.read_text(), source, page)
