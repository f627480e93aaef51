"""Sphinx extension that generates pages and figures of the documentation site from the
code when the site is built.

`PAGES` is a dict from the name of each generated file to the function that returns its
text. The files are written to the folder docs/reference/generated. A file is rewritten
only if its text has changed, because Sphinx builds the page of a rewritten file again.
"""

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import api
import commands
import messages
import outside
import rows
import sources
import storeys
import studies
from sphinx.application import Sphinx

FOLDER = Path(__file__).parents[1] / "reference" / "generated"
PAGES: dict[str, Callable[[], str]] = {
    "commands.md": commands.page,
    "bench.md": commands.bench_page,
    "messages.md": messages.page,
    "leaderboard.md": rows.leaderboard,
    "rows.md": rows.page,
    "sources.md": sources.page,
    "studies.md": studies.page,
    "storeys.svg": storeys.drawing,
    **{f"{name}.rst": (lambda name=name: api.page(name)) for name in api.PACKAGES},
}


def write(folder: Path = FOLDER) -> None:
    """Write the files of `PAGES` whose text has changed, and delete the files in the
    folder that are not in `PAGES`.

    Args:
        folder: folder of the generated files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        if path.name not in PAGES:
            path.unlink()
    for name, make in PAGES.items():
        path, text = folder / name, make()
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


def write_report(app: Sphinx, error: Exception | None) -> None:
    """Write the HTML page with the benchmark results to the folder `report` of the
    site.

    The page shows the rows of the table in README.md: the mark before that table names
    their commit and their workloads. Sphinx calls this function at the end of a build.

    Args:
        app: Sphinx application. Nothing is written if it builds another format than
            HTML.
        error: exception that ended the build, or None. Nothing is written if there is
            an exception.
    """
    if error is not None or app.builder.format != "html":
        return
    from bench import accuracy, report, throughput

    mark = report.TABLE.search((report.ROOT / "README.md").read_text())
    assert mark is not None
    shown = {
        "commit": mark[3],
        "workload": mark[4].split(),
        "results": throughput.PATH,
        "accuracy": accuracy.PATH,
    }
    report.write_report(Namespace(**shown, out=Path(app.outdir) / "report", force=True))


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the functions of this extension with Sphinx, which calls `setup` when it
    loads the extension.

    Sphinx then calls the registered functions during the build. They do three things:

    - They write the generated files and the benchmark report.
    - If a page consists of a single link to a Markdown file, they replace the link by
      the text of that file.
    - They change the docstrings and signatures that the reference pages show.

    Returns:
        A dict that tells Sphinx that pages may be read in parallel.
    """
    app.connect("builder-inited", lambda _: write())
    app.connect("source-read", outside.read)
    app.connect("build-finished", write_report)
    app.connect("autodoc-skip-member", api.skip)
    app.connect("autodoc-process-signature", api.signature)
    # before napoleon
    app.connect("autodoc-process-docstring", api.to_rst, priority=400)
    return {"parallel_read_safe": True}
