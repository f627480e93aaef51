"""The README's tables of measurements, written from the committed rows.

    python -m bench readme           # rewrites what lies between the marks
    python -m bench readme --check   # ends with 1 if that would change something

A mark names a file of rows, and the commit whose rows of it are written about: `<!-- bench throughput c5e447ebe3d5 -->` or
`<!-- bench accuracy c5e447ebe3d5 -->`, up to `<!-- end -->`.
"""

import argparse
import re
from pathlib import Path

from bench import RESULTS, accuracy, report
from lstm_jax.errors import InputError
from lstm_jax.files.writing import write_atomically
from lstm_jax.sweep.rows import read_rows

README = Path(__file__).parents[1] / "README.md"
MARK = re.compile(r"(<!-- bench (\w+) (\w+) -->\n)(.*?)(<!-- end -->\n)", re.DOTALL)


def table(what: str, sha: str) -> str:
    """What belongs between such marks.

    Raises:
        InputError: if there is no such table, or there are no rows of the commit.
    """
    path = RESULTS / f"{what}.jsonl"
    if what.startswith("throughput") and path.exists():
        rows, lines = report.of_commit(path, sha)
        return report.markdown(lines, rows, sha)
    if what == "accuracy":
        rows = [row for row in read_rows(accuracy.PATH) if row["git"].startswith(sha)]
        if rows:
            return report.trained_markdown(rows)
    raise InputError("mark", f"{what} {sha}", "name a file of rows of throughput or accuracy, and a commit that has some")


def written(text: str) -> str:
    """The README with today's tables."""
    return MARK.sub(lambda found: f"{found[1]}\n{table(found[2], found[3])}\n{found[5]}", text)


def main() -> int:
    """Rewrite, or say whether that would change something."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    old = README.read_text()
    new = written(old)
    print(f"{len(MARK.findall(old))} tables" + (", as their rows say" if new == old else ", changed"))
    if not options.check and new != old:
        write_atomically(README, new.encode())
    return int(options.check and new != old)
