"""Markdown tables of the benchmark results."""

from collections.abc import Mapping, Sequence

from bench.accuracy import summarize
from bench.peers import OURS, OWN, title
from bench.schema import MACHINE, Row, Rows, select
from bench.summary import Line, kept, mean_speedup, peaks, speedup_text, speedups, speedups_over_sizes
from bench.workloads import EVALUATED, TITLES


def markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def count_text(count: int, what: str) -> str:
    """Return a number and a noun, which gets an "s" unless the number is 1, such as "3 epochs"."""
    return f"{count} {what}{'s' * (count != 1)}"


def throughput_tables(lines: Sequence[Line], rows: Rows, commit: str) -> str:
    """Return the Markdown tables of the throughput results."""
    gemm, copy = peaks(rows)
    text = f"Commit {commit}, {gemm:.0f} GFLOP/s of a float32 product, {copy:.0f} GB/s of a copy.\n"
    return text + _own_sizes(lines, rows) + _over_sizes(lines, rows)


def _own_sizes(lines: Sequence[Line], rows: Rows) -> str:
    found = {(line.candidate, line.work.name): line for line in lines if ":" not in line.work.name and not line.error}
    if not found:
        return ""
    names, works = (list(dict.fromkeys(key[n] for key in found)) for n in (0, 1))
    processes = [len(line.rows) for line in found.values()]
    count = " to ".join(map(str, sorted({min(processes), max(processes)})))
    what = f"an evaluation of {EVALUATED:,} reviews" if works == ["evaluation"] else "a step"
    text = f"\nMilliseconds {what}, medians of {count} fresh processes, and our speedup over the peer with "
    text += "its 95 % confidence interval.\n\n"
    return text + markdown(["", *works], [[title(name, rows), *(_time(found.get((name, work))) for work in works)] for name in names])


def _time(line: Line | None) -> str:
    if line is None:
        return ""
    ms = f"{line.ms:#.3g}" if line.ms < 100 else f"{line.ms:,.0f}"
    return f"{ms}: {speedup_text(line.speedup)}".removesuffix(": ")


def _over_sizes(lines: Sequence[Line], rows: Rows) -> str:
    cells = dict.fromkeys(line.work.cell for line in lines)
    peers = [line for line in lines if not line.candidate.startswith(OURS)]
    grids = {(name, cell): grid for name in TITLES for cell in cells if (grid := speedups_over_sizes(peers, name, cell))}
    names = list(dict.fromkeys(name for grid in grids.values() for name in grid))
    if not names:
        return ""
    sizes = [f"{max(map(len, grid.values()))} sizes" for grid in grids.values()]
    heads = [f"{TITLES[name]}{'' if cell == 'lstm' else f', {cell}'}, {count}" for (name, cell), count in zip(grids, sizes, strict=True)]
    text = (
        "\nOur speedup over each peer at other sizes: geometric mean with its 95 % confidence interval, smallest to largest, and the sizes "
    )
    text += "at which we are slower.\n\n"
    table = [[title(name, rows), *(mean_speedup(grid[name]) if name in grid else "" for grid in grids.values())] for name in names]
    return text + markdown(["", *heads], table)


def compare_machines(machines: Mapping[str, tuple[Rows, Sequence[Line]]]) -> tuple[list[str], list[list[str]]]:
    """Return the heads and rows of a table with our times on each workload by machine, the fastest machine first.

    The ratios use only rows that are not noisy.
    """
    found = []
    for name, (rows, lines) in machines.items():
        (gemm, _), about = peaks(rows), select(rows, MACHINE)
        cpu = about[0]["hardware"]["cpu"] if about else ""
        quiet = speedups([row for row in rows if not row.get("noisy")])
        for line in lines:
            if line.candidate != OURS or line.error:
                continue
            near = min(((ratio, peer) for peer, ratio in quiet.get(line.work.name, {}).items() if not peer.startswith(OWN)), default=None)
            used = [row for row in kept(rows) if row["workload"] == line.work.name]
            noisy = f"{sum(bool(row.get('noisy')) for row in used)} of {len(used)}"
            share = f"{100 * line.median('gflops') / gemm:.0f} %"
            nearest = f"{near[1]} {near[0]:.2f}x" if near else "no quiet rows"
            found.append((line.work.name, line.ms, [f"{cpu} {name}".strip(), f"{line.ms:#.3g}", share, nearest, noisy]))
    order = list(dict.fromkeys(name for name, *_ in found))
    found.sort(key=lambda row: (order.index(row[0]), row[1]))
    heads = ["workload", "machine", "ours, ms", "of the product", "nearest peer", "noisy rows"]
    return heads, [[name, *cells] for name, _, cells in found]


def accuracy_tables(rows: Rows) -> str:
    """Return Markdown tables of this project's mean scores over seeds."""
    records = [record for record in summarize(rows) if record["peer"] == OURS]
    text = ""
    tables: dict[tuple, dict[tuple[int, int], Row]] = {}
    for record in records:
        tables.setdefault((record["task"], record["S"], record["epochs"]), {})[record["H"], record["T"]] = record
    for (task, step, epochs), cells in tables.items():
        units, lengths = (sorted({sizes[n] for sizes in cells}) for n in (0, 1))
        score = "Sentiment: test accuracy" if task == "sentiment" else f"Generation, windows every {step}: held-out bits a character"
        seeds = {record["seeds"] for record in cells.values()}
        fewest = f"{min(seeds)} to " if len(seeds) > 1 else ""
        trained = f"{count_text(epochs, 'epoch')}, mean of {fewest}{count_text(max(seeds), 'seed')}"
        text += f"{score}, {trained}; in brackets thousand training examples a second. Commit {rows[0]['git']}.\n\n"
        heads = ["units", *(f"length {T}" for T in lengths)]
        text += markdown(heads, [[str(H), *(_score(cells.get((H, T))) for T in lengths)] for H in units]) + "\n"
    return text + "\\*: Pareto front, no other cell of the task and its epochs is both better and faster.\n" if text else ""


def _score(record: Row | None) -> str:
    if record is None:
        return ""
    speed = f"{record['speed'] / 1000:.2g}" if record["speed"] < 1e5 else f"{record['speed'] / 1000:.0f}"
    return f"{record['score']:.4f}{'*' * record['front']} ({speed})"
