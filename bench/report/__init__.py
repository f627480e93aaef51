"""Report of the benchmark results as an HTML page with a figure and a Markdown summary,
or as the tables in README.md and docs/.

    # report on the newest commit with results, written to bench/page/
    python -m bench report
    python -m bench report --commit 32f0c1 --out page
    # of a file or a folder: the newest commit of each machine
    python -m bench report --results mine.jsonl
    # rewrite the tables in README.md and docs/
    python -m bench report --tables
    # exit with code 1 if a table would change
    python -m bench report --tables --check

The HTML page works offline. If several machines have rows, each has a page, and a table
compares the machines.

In README.md and docs/, each table is between two comments. The comment before the table
names the benchmark command (throughput or accuracy) and the commit whose results the
table shows, as in `<!-- bench accuracy c5e447ebe3d5 -->`. For throughput, this comment
may also name the workloads in the table, as in `<!-- bench throughput c5e447ebe3d5 A B
-->`; if it names no workloads, the table shows all workloads of the commit. The comment
after the table is `<!-- end -->`.
"""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from bench import RESULTS, accuracy, add_flags, make_parser, scaling, throughput
from bench.report.figures import draw_speed
from bench.report.page import page
from bench.report.tables import (
    Table,
    accuracy_tables,
    banner,
    history,
    leaderboard,
    markdown,
    quality_table,
    throughput_tables,
)
from bench.schema import GRID, SCALING, STEP, by_machine, rows_of, select
from bench.summary import KINDS, of_commit, verdicts
from lstm_jax.base.errors import require
from lstm_jax.base.writing import MARK, check_output, write_atomically
from lstm_jax.lab.inspection.figures import figure_paths

ROOT = Path(__file__).parents[2]
TABLE = re.compile(
    r"(<!-- bench (\w+) (\w+)((?: \w+)*) -->\n)(.*?)(<!-- end -->\n)", re.DOTALL
)


def table(command: str, commit: str, workloads: Sequence[str] = ()) -> str:
    """Return the Markdown table of the results of a benchmark command."""
    if command == "throughput":
        machines = of_commit(throughput.PATH, commit, workloads)
        mark = f"{command} {commit} {' '.join(workloads)}"
        require(
            len(machines) == 1,
            "mark",
            mark,
            "name a commit that one machine measured, and workloads that have rows",
        )
        ((rows, lines),) = machines.values()
        return throughput_tables(lines, rows, commit)
    rows = accuracy.grid_rows(accuracy.PATH, commit) if command == "accuracy" else []
    require(
        bool(rows),
        "mark",
        f"{command} {commit}",
        "name throughput or accuracy, and a commit that has rows of it",
    )
    return accuracy_tables(rows)


def with_tables(text: str) -> str:
    """Replace each benchmark table in the text of a document by a new table from the
    result files, and return the new text.
    """
    return TABLE.sub(
        lambda found: (
            f"{found[1]}\n{table(found[2], found[3], found[4].split())}\n{found[6]}"
        ),
        text,
    )


def documents() -> dict[Path, str]:
    """Return a dict from path to text of the documents (README.md and pages in docs/)
    that contain a benchmark table.
    """
    texts = {
        path: path.read_text()
        for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md")))
    }
    return {path: text for path, text in texts.items() if TABLE.search(text)}


def rewrite_tables(check: bool) -> int:
    """Rewrite the benchmark tables in README.md and docs/ from the result files, or
    only return 1 if one would change.
    """
    texts = documents()
    new = {path: with_tables(text) for path, text in texts.items()}
    stale = [path for path in texts if new[path] != texts[path]]
    for path, text in texts.items():
        print(
            f"{path.relative_to(ROOT)}: {len(TABLE.findall(text))} tables, "
            f"{'changed' if path in stale else 'up to date'}"
        )
    for path in [] if check else stale:
        write_atomically(path, new[path].encode())
    return int(check and bool(stale))


def boards(results: Path, trained: Path) -> dict[str, Table]:
    """Return the tables over machines and commits by their titles, from all rows of two
    files or folders.
    """
    rows = rows_of(RESULTS if results == throughput.PATH else results, *KINDS)
    return {
        "Leaderboard": leaderboard(rows),
        "Time to quality": quality_table(rows_of(trained, GRID)),
        "History of A and B": history(rows),
    }


def write_report(options: argparse.Namespace) -> None:
    """Write the report (HTML page, figure and Markdown summary) to the folder
    `options.out`.
    """
    machines = of_commit(options.results, options.commit, options.workload)
    require(
        bool(machines),
        "rows",
        options.results,
        "name a file, and workloads that have rows",
    )
    pages = [
        options.out / (f"machine_{n}.html" if n else "index.html")
        for n in range(len(machines))
    ]
    summary, figure = options.out / "summary.md", options.out / "speed.png"
    for path in (*pages, summary, *figure_paths(figure)):
        check_output(path, (options.results, options.accuracy), options.force)
    tables = boards(options.results, options.accuracy)
    trained = [
        row for row in rows_of(options.accuracy, GRID) if row["cores"] == accuracy.CORES
    ]
    trained = [row for row in trained if row["git"] == trained[-1]["git"]]
    more = {
        "tables": tables,
        "links": {name: path.name for name, path in zip(machines, pages, strict=True)},
    }
    text = f"<!-- {MARK} -->\n\n"
    for path, (name, (rows, lines)) in zip(pages, machines.items(), strict=True):
        commit = select(rows, STEP)[-1]["git"]
        of_scaling = by_machine(
            rows_of(scaling.PATH, SCALING, git=commit)
            if options.results == throughput.PATH
            else []
        )
        curves = list(scaling.curves(of_scaling.get(name, [])))
        write_atomically(
            path, page(lines, rows, curves, commit, trained, more), options.force
        )
        text += f"Machine {name}.\n\n{throughput_tables(lines, rows, commit)}\n"
        text += "".join(f"- {line}\n" for line in verdicts(rows)) + "\n"
        print(f"{path}: {banner(lines, rows, commit)}")
    text += accuracy_tables(trained) + "".join(
        f"\n## {title}\n\n{markdown(*table)}" for title, table in tables.items()
    )
    write_atomically(summary, text, options.force)
    draw_speed(*next(iter(machines.values())), figure, options.force)
    print(summary)


def main() -> int:
    """Write the report or, with `--tables`, rewrite the tables in README.md and docs/,
    and return the exit code.
    """
    parser = make_parser(__doc__)
    add_flags(
        parser,
        Path,
        results="file of rows of bench throughput, or folder of such files",
        out="folder of page, figure and summary",
    )
    add_flags(
        parser,
        Path,
        accuracy="file of rows of bench accuracy; its newest commit is reported",
    )
    add_flags(
        parser, str, commit="commit of the rows; the newest that has some if not given"
    )
    parser.add_argument(
        "--workload",
        nargs="+",
        default=(),
        help="workloads to show, such as A B; all if not given",
    )
    add_flags(
        parser,
        bool,
        force="replace files in --out that no report wrote",
        tables="rewrite the tables in README.md and docs/",
    )
    add_flags(
        parser,
        bool,
        check="with --tables: write nothing, end with code 1 if a table would change",
    )
    parser.set_defaults(
        results=throughput.PATH, out=ROOT / "bench" / "page", accuracy=accuracy.PATH
    )
    options = parser.parse_args()
    if options.tables:
        return rewrite_tables(options.check)
    write_report(options)
    return 0
