"""Generators of two pages about bench/results: the description of its rows, and the
leaderboard that is made from them.

A row is one benchmark result, a JSON object on a line of its own.
"""

from bench import accuracy, report, throughput
from bench.report.tables import markdown
from bench.schema import EVERY, MEASUREMENTS, TYPES, VERSION, described


def page() -> str:
    """Return the text, in Markdown, of the page about the result files of `bench`: the
    kinds of measurements, then the fields of a row.
    """
    kinds = [f"| `{name}` | {kind.meaning} |" for name, kind in MEASUREMENTS.items()]
    fields = []
    for name in TYPES:
        kinds_with = [
            measurement
            for measurement, kind in MEASUREMENTS.items()
            if name in (*EVERY, *kind.required.split())
        ]
        needed = (
            "all"
            if len(kinds_with) == len(MEASUREMENTS)
            else ", ".join(f"`{kind}`" for kind in kinds_with) or "none"
        )
        fields.append(f"| `{name}` | {' | '.join(described(name))} | {needed} |")
    return "\n".join(
        [
            "# Rows of the benchmarks",
            "",
            "A row of `bench/results/` is a JSON object on a line of its own. "
            f"This is version {VERSION} of its schema.",
            "",
            "## Measurements",
            "",
            "| `measurement` | content |",
            "| --- | --- |",
            *kinds,
            "",
            "## Fields",
            "",
            "| field | type | meaning | required in |",
            "| --- | --- | --- | --- |",
            *fields,
            "",
        ]
    )


ABOUT = """\
# Leaderboard

All machines with rows in `bench/results/`, ours and peers, the fastest first. A workload on a machine has the rows of the commit that
measured the most peers, the newest of several. `python -m bench report` makes the same tables; [Benchmarks](../../benchmarks.md) explains
workloads and intervals.

- **ms** and **seconds** are medians. †: some rows are noisy.
- **Our speedup** is the time divided by ours on the same machine.
- **Of the product** is the rate of all products of a step, relative to a large float32 product in the same run. Products in bfloat16 or
  int8 may exceed it.
- **Time to quality** is training without compilation and evaluation, up to the end of the first epoch with a test accuracy of 0.83 on the
  IMDB reviews (`sentiment`), or with 2.0 held-out bits a character on Python's documentation (`demo`, the model of `lstm-jax demo`).
"""


def leaderboard() -> str:
    """Return the text, in Markdown, of the page with the tables over all machines and
    commits.
    """
    tables = report.boards(throughput.PATH, accuracy.PATH)
    (_, *heads), rows = tables.pop("Leaderboard")
    works = {
        work: (heads, [cells[1:] for cells in rows if cells[0] == work])
        for work, *_ in rows
    }
    return ABOUT + "".join(
        f"\n## {title}\n\n{markdown(*table)}"
        for title, table in (works | tables).items()
    )
