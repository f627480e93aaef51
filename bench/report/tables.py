"""Markdown tables of the benchmark results."""

from collections.abc import Sequence

from bench import groups
from bench.accuracy import EXAMPLE_SIZES, TARGETS, summarize
from bench.check import SUITE
from bench.peers import OURS, title
from bench.schema import STEP, Row, Rows, by_machine, select
from bench.summary import (
    KINDS,
    Line,
    mean_speedup,
    peaks,
    shown,
    speedup_text,
    speedups_over_sizes,
)
from bench.workloads import EVALUATED, TITLES

Table = tuple[Sequence[str], Sequence[Sequence[str]]]
"""Heads and rows of a table."""


def markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def count_text(count: int, what: str) -> str:
    """Return a number and a noun, which gets an "s" unless the number is 1, such as "3
    epochs".
    """
    return f"{count} {what}{'s' * (count != 1)}"


def banner(lines: Sequence[Line], rows: Rows, commit: str) -> str:
    """Return the line of text above the tables and the page of a commit: peaks of the
    machine, and the number of noisy rows.
    """
    gemm, copy = peaks(rows)
    text = (
        f"Commit {commit}, {gemm:.0f} GFLOP/s of a float32 product, {copy:.0f} "
        "GB/s of a copy"
    )
    noisy = sum(line.noisy for line in lines)
    return text + (
        (
            f"; {noisy} of {len(select(rows, STEP))} rows "
            f"{'is' if noisy == 1 else 'are'} noisy (†)."
        )
        if noisy
        else "."
    )


def throughput_tables(lines: Sequence[Line], rows: Rows, commit: str) -> str:
    """Return the Markdown tables of the throughput results."""
    return f"{banner(lines, rows, commit)}\n{_own_sizes(lines, rows)}{_over_sizes(lines, rows)}"


def _own_sizes(lines: Sequence[Line], rows: Rows) -> str:
    found = {
        (line.candidate, line.work.name): line
        for line in lines
        if ":" not in line.work.name and not line.error
    }
    if not found:
        return ""
    names, works = (list(dict.fromkeys(key[n] for key in found)) for n in (0, 1))
    count = _span([len(line.rows) for line in found.values()])
    what = (
        f"an evaluation of {EVALUATED:,} reviews"
        if works == ["evaluation"]
        else "a step"
    )
    text = (
        f"\nMilliseconds {what}, medians of {count} fresh processes, and our "
        "speedup over the peer with "
    )
    text += "its 95 % confidence interval.\n\n"
    return text + markdown(
        ["", *works],
        [
            [title(name, rows), *(_time(found.get((name, work))) for work in works)]
            for name in names
        ],
    )


def _span(counts: Sequence[int]) -> str:
    return " to ".join(dict.fromkeys(map(str, (min(counts), max(counts)))))


def milliseconds(line: Line) -> str:
    """Return the milliseconds of a line, to three digits, marked if some of its rows
    are noisy.
    """
    return (f"{line.ms:#.3g}" if line.ms < 100 else f"{line.ms:,.0f}") + "†" * (
        line.noisy > 0
    )


def _time(line: Line | None) -> str:
    return (
        f"{milliseconds(line)}: {speedup_text(line.speedup)}".removesuffix(": ")
        if line
        else ""
    )


def _over_sizes(lines: Sequence[Line], rows: Rows) -> str:
    cells = dict.fromkeys(line.work.cell for line in lines)
    peers = [line for line in lines if not line.candidate.startswith(OURS)]
    grids = {
        (name, cell): grid
        for name in TITLES
        for cell in cells
        if (grid := speedups_over_sizes(peers, name, cell))
    }
    names = list(dict.fromkeys(name for grid in grids.values() for name in grid))
    if not names:
        return ""
    sizes = [f"{max(map(len, grid.values()))} sizes" for grid in grids.values()]
    heads = [
        f"{TITLES[name]}{'' if cell == 'lstm' else f', {cell}'}, {count}"
        for (name, cell), count in zip(grids, sizes, strict=True)
    ]
    text = (
        "\nOur speedup over each peer at other sizes: geometric mean with its 95 "
        "% confidence interval, smallest to largest, and the sizes "
    )
    text += "at which we are slower.\n\n"
    table = [
        [
            title(name, rows),
            *(
                mean_speedup(grid[name]) if name in grid else ""
                for grid in grids.values()
            ),
        ]
        for name in names
    ]
    return text + markdown(["", *heads], table)


def leaderboard(rows: Rows) -> Table:
    """Return the table of all candidates on the workloads of a submission, by machine,
    the fastest first.

    On each machine, a workload has the rows of the commit that measured the most peers,
    the newest of several.
    """
    found = []
    for machine, own in by_machine(rows).items():
        steps = [row for row in select(own, STEP) if row["workload"] in SUITE]
        for (work,), of_work in groups(steps, ["workload"]).items():
            commits = groups(of_work, ["git"])
            (git,) = max(
                reversed(commits),
                key=lambda key: len({row["peer"] for row in commits[key]}),
            )
            used, lines = shown(
                [
                    row
                    for row in select(own, *KINDS, git=git)
                    if row.get("workload", work) == work
                ]
            )
            for line in filter(lambda line: line.rows, lines):
                share = f"{100 * line.median('gflops') / peaks(used)[0]:.0f} %"
                times = milliseconds(line), speedup_text(line.speedup), share
                found.append(
                    (
                        work,
                        line.ms,
                        [
                            title(line.candidate, used),
                            *times,
                            machine,
                            f"{line.noisy} of {len(line.rows)}",
                            git,
                        ],
                    )
                )
    found.sort(key=lambda row: ([*SUITE].index(row[0]), row[1]))
    heads = [
        "workload",
        "library",
        "ms",
        "our speedup",
        "of the product",
        "machine",
        "noisy",
        "commit",
    ]
    return heads, [[work, *cells] for work, _, cells in found]


def quality_table(rows: Rows) -> Table:
    """Return the table of the training time to `TARGETS` at the sizes of the examples,
    the shortest first.
    """
    found = []
    for (machine, git, cores), own in groups(rows, ["machine", "git", "cores"]).items():
        for line in summarize(own):
            task, seconds = line["task"], line["seconds_to_target"]
            if task in TARGETS and EXAMPLE_SIZES[task].items() <= line.items():
                cells = (
                    machine or "not recorded",
                    line["peer"],
                    str(cores),
                    f"{seconds:.1f}".replace("inf", "not reached"),
                    f"{line['score']:.3f}",
                    str(line["seeds"]),
                    git,
                )
                found.append((f"{task} to {TARGETS[task]}", seconds, cells))
    heads = [
        "task",
        "machine",
        "library",
        "cores",
        "seconds",
        "best",
        "seeds",
        "commit",
    ]
    return heads, [[task, *cells] for task, _, cells in sorted(found)]


def history(rows: Rows) -> Table:
    """Return the table of our times of A and B by machine and commit, in the order of
    measurement.
    """
    table = []
    for machine, own in by_machine(rows).items():
        ours = [
            row
            for row in own
            if row.get("workload", "A") in "AB" and row.get("candidate", OURS) == OURS
        ]
        for (git,) in groups(ours, ["git"]):
            used, lines = shown(select(ours, *KINDS, git=git))
            found = {line.work.name: line for line in lines if line.rows}
            if found:
                version = (
                    next(iter(found.values())).rows[-1]["versions"].get("lstm-jax", "")
                )
                table.append(
                    [
                        machine,
                        version,
                        git,
                        *(_time(found.get(work)) for work in "AB"),
                        f"{peaks(used)[0]:.0f}",
                    ]
                )
    return ["machine", "version", "commit", "A, ms", "B, ms", "product, GFLOP/s"], table


def accuracy_tables(rows: Rows) -> str:
    """Return Markdown tables of this project's mean scores over seeds."""
    records = [record for record in summarize(rows) if record["peer"] == OURS]
    text = ""
    tables: dict[tuple, dict[tuple[int, int], Row]] = {}
    for record in records:
        tables.setdefault((record["task"], record["S"], record["epochs"]), {})[
            record["H"], record["T"]
        ] = record
    for (task, step, epochs), cells in tables.items():
        units, lengths = (sorted({sizes[n] for sizes in cells}) for n in (0, 1))
        bits = (
            f"Generation, windows every {step}"
            if task == "generation"
            else "Generation, Python's documentation"
        )
        score = (
            "Sentiment: test accuracy"
            if task == "sentiment"
            else f"{bits}: held-out bits a character"
        )
        seeds = _span([record["seeds"] for record in cells.values()])
        trained = (
            f"{count_text(epochs, 'epoch')}, mean of {seeds} seed{'s' * (seeds != '1')}"
        )
        text += (
            f"{score}, {trained}; in brackets thousand training examples a "
            f"second. Commit {rows[0]['git']}.\n\n"
        )
        heads = ["units", *(f"length {T}" for T in lengths)]
        text += (
            markdown(
                heads,
                [
                    [str(H), *(_score(cells.get((H, T))) for T in lengths)]
                    for H in units
                ],
            )
            + "\n"
        )
    return (
        text
        + (
            "\\*: Pareto front, no other cell of the task and its epochs is both "
            "better and faster.\n"
        )
        if text
        else ""
    )


def _score(record: Row | None) -> str:
    if record is None:
        return ""
    speed = (
        f"{record['speed'] / 1000:.2g}"
        if record["speed"] < 1e5
        else f"{record['speed'] / 1000:.0f}"
    )
    return f"{record['score']:.4f}{'*' * record['front']} ({speed})"
