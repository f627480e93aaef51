"""Pages and figures that Sphinx reads but nobody writes: they are made from the code when the site is built.

`PAGES` lists them. They are written to docs/reference/generated, and a page that has not changed keeps its time, so that a second build is
quick.
"""

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import api
import commands
import messages
import outside
import rows
import storeys
from sphinx.application import Sphinx

FOLDER = Path(__file__).parents[1] / "reference" / "generated"
PAGES: dict[str, Callable[[], str]] = {
    "commands.md": commands.page,
    "bench.md": commands.bench_page,
    "messages.md": messages.page,
    "rows.md": rows.page,
    "storeys.svg": storeys.drawing,
    **{f"{name}.rst": (lambda name=name: api.page(name)) for name in api.PACKAGES},
}


def write(folder: Path = FOLDER) -> None:
    """Write the files of `PAGES` that have changed, and remove those that are no longer among them."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        if path.name not in PAGES:
            path.unlink()
    for name, make in PAGES.items():
        path, text = folder / name, make()
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


def write_report(app: Sphinx, error: Exception | None) -> None:
    """Write the interactive page of the benchmark rows to the folder `report` of the site, for the commit whose table is in README.md."""
    if error is not None or app.builder.format != "html":
        return
    from bench import accuracy, report, throughput

    table = report.TABLE.search((report.ROOT / "README.md").read_text())
    assert table is not None
    folder = Path(app.outdir) / "report"
    report.write_report(Namespace(commit=table[3], results=throughput.PATH, accuracy=accuracy.PATH, out=folder, force=True))


def setup(app: Sphinx) -> dict[str, bool]:
    """Write the generated files before Sphinx looks for its pages, and prepare the docstrings that autodoc shows."""
    app.connect("builder-inited", lambda _: write())
    app.connect("source-read", outside.read)
    app.connect("build-finished", write_report)
    app.connect("autodoc-skip-member", api.skip)
    app.connect("autodoc-process-signature", api.signature)
    app.connect("autodoc-process-docstring", api.to_rst, priority=400)  # before napoleon
    return {"parallel_read_safe": True}
