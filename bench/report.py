"""Rows of `bench.throughput` and `bench.scaling` as one page that opens offline, static figures and a summary in Markdown.

python -m bench report                              # of the newest commit that has rows, into bench/report/
python -m bench report --commit 32f0c1 --out page
python -m bench report --results mine.jsonl
"""

import argparse
import html
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench import results, scaling
from bench.throughput import BASE, PATH, Line, geometric_means, kept, peaks, rows_in, side, summary
from bench.workloads import Workload, workload
from lstm_jax import plots
from lstm_jax.errors import InputError
from lstm_jax.files import write_atomically

TEMPLATE = Path(__file__).with_name("report.html")
COLUMNS = ("workload", "side", "round", "ms_per_step", "tokens_per_second", "gflops", "compile_seconds", "first_step_seconds")
COLUMNS += ("peak_memory_mib", "backend_ran", "dtype", "B", "T", "H", "E", "V", "load", "noisy", "error", "git")
MACHINE = ("cpu", "cores", "platform", "python", "devices", "threads", "versions", "xla_flags", "matmul_precision", "git")


def newest(path: Path) -> str:
    """The commit of the last timed row.

    Raises:
        InputError: if there is none.
    """
    commits = [row["git"] for row in rows_in(path) if "ms_per_step" in row]
    if not commits:
        raise InputError("rows", path, "run bench throughput first, or name a file with rows in --results")
    return commits[-1]


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def line_record(line: Line, row: dict[str, Any] | None) -> dict[str, Any]:
    """What the page knows of a line; `row`: one of its rows."""
    work = line.work
    sizes = {"B": work.batch, "T": work.length, "H": work.units, "E": work.features}
    moved = line.gbs * line.ms * 1e6
    figures = {"ms": line.ms, "tokens": line.tokens_per_second, "gflops": line.gflops, "memory": line.memory_mib}
    figures["intensity"] = line.gflops * line.ms * 1e6 / moved if moved else float("nan")
    about = {"name": work.name, "kind": work.kind, "side": line.side, "processes": line.processes, "ratio": line.ratio}
    where = {"device": ", ".join(row["devices"]) if row else "", "dtype": row["dtype"] if row else ""}
    where["device"] = where["device"].split(":")[0].split(",")[0]
    return about | sizes | where | {name: _finite(value) for name, value in figures.items()} | {"compile": line.compile_seconds}


def page(lines: Sequence[Line], rows: Sequence[dict[str, Any]], curves: Sequence[scaling.Curve], sha: str) -> str:
    """The page's HTML."""
    gemm, copy = peaks(rows)
    timed = [row for row in rows if row["peer"] != "peak"]
    example = {(row["workload"], row.get("side", row["peer"])): row for row in timed if "ms_per_step" in row}
    machines = Counter(json.dumps({name: row[name] for name in MACHINE}, sort_keys=True) for row in timed if "ms_per_step" in row)
    data = {
        "about": f"Commit {sha}: {len(timed)} rows; {gemm:.0f} GFLOP/s of a float32 product, {copy:.0f} GB/s of a copy.",
        "gemm": _finite(gemm),
        "copy": _finite(copy),
        "lines": [line_record(line, example.get((line.work.name, line.side))) for line in lines if not line.error],
        "scaling": [vars(curve) | {"exponent": scaling.exponent(curve.sizes[-2:], curve.ms[-2:])} for curve in curves],
        "columns": COLUMNS,
        "rows": [[row.get(name) for name in COLUMNS] for row in timed],
        "environments": [(json.loads(machine), count) for machine, count in machines.most_common()],
    }
    # "</" would end the script
    return TEMPLATE.read_text().replace("DATA</script>", json.dumps(data, allow_nan=False).replace("</", "<\\/") + "</script>", 1)


def markdown(lines: Sequence[Line], rows: Sequence[dict[str, Any]], sha: str) -> str:
    """A table of the source's workloads, and a line on the grid."""
    gemm, copy = peaks(rows)
    plain = [line for line in lines if ":" not in line.work.name and not line.error]
    names = list(dict.fromkeys(line.work.name for line in plain))
    sides = list(dict.fromkeys(line.side for line in plain))
    text = f"Milliseconds a step, medians of fresh processes; in brackets the 95 % interval of the ratio to this project. Commit {sha}, "
    text += f"{gemm:.0f} GFLOP/s of a float32 product, {copy:.0f} GB/s of a copy.\n\n"
    text += f"| | {' | '.join(names)} |\n|{' --- |' * (len(names) + 1)}\n"
    for name in sides:
        cells = []
        for work in names:
            line = next((line for line in plain if (line.work.name, line.side) == (work, name)), None)
            said = "" if line is None else f"{line.ms:,.3g}" if line.ms < 100 else f"{line.ms:,.0f}"
            cells.append(said + (": {:.2f} times ({:.2f} to {:.2f})".format(*line.ratio) if line and line.ratio else ""))
        text += f"| {name} | {' | '.join(cells)} |\n"
    for name, ratios in geometric_means(lines).items():
        if name.startswith(BASE):
            continue
        values = [ratio for ratio, _ in ratios]
        mean = np.exp(np.mean(np.log(values)))
        text += f"\nThe recurrence alone, {len(values)} sizes: {name} takes {mean:.2f} times as long in the geometric mean "
        text += f"({min(values):.2f} to {max(values):.2f}).\n"
    return text


def draw_grid(lines: Sequence[Line], peer: str, path: Path) -> None:
    """The ratio of `peer` to this project over units and length, a panel a batch."""
    grid = [line for line in lines if line.work.kind == "recurrence" and line.side == peer and line.ratio]
    batches = sorted({line.work.batch for line in grid})
    units, lengths = (sorted({getattr(line.work, name) for line in grid}) for name in ("units", "length"))

    def fill(figure: Any) -> None:
        figure.suptitle(f"{peer}'s time over {BASE}': the recurrence, forward and backward", x=0.01, ha="left")
        panels = figure.subplots(1, len(batches), squeeze=False, sharey=True)[0]
        for axes, batch in zip(panels, batches, strict=True):
            of = {(line.work.units, line.work.length): line.ratio[0] for line in grid if line.ratio and line.work.batch == batch}
            values = np.array([[np.log2(of.get((H, T), np.nan)) for T in lengths] for H in units])
            axes.imshow(values, cmap="RdBu", vmin=-2, vmax=2, aspect="auto")
            for (row, column), value in np.ndenumerate(values):
                if np.isfinite(value):
                    axes.text(column, row, f"{2**value:.2f}", ha="center", va="center", color="white" if abs(value) > 1.3 else "black")
            axes.set_xticks(range(len(lengths)), [str(T) for T in lengths])
            axes.set_yticks(range(len(units)), [str(H) for H in units])
            axes.set_xlabel("steps T")
            axes.set_title(f"batch {batch}")
        panels[0].set_ylabel("units H")

    if grid:
        plots.write_figure(path, (1.5 + 3.2 * len(batches), 0.9 + 0.6 * len(units)), fill)


def works_in(rows: Sequence[dict[str, Any]]) -> list[Workload]:
    """Workloads that have rows, the source's own first."""
    names = dict.fromkeys(row["workload"] for row in rows if row["peer"] != "peak")
    return [workload(name) for name in sorted(names, key=lambda name: ":" in name)]


def main() -> None:
    """Write page, figures and summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=PATH)
    parser.add_argument("--commit", default=None, help="whose rows; the newest that has some if not given")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("report"))
    options = parser.parse_args()
    sha = options.commit or newest(options.results)
    rows = [row for row in rows_in(options.results) if row["git"].startswith(sha)]
    if not any("ms_per_step" in row for row in rows):
        raise InputError("commit", sha, f"give one that {options.results} has timed rows of")
    timed = kept(rows)
    machines = sorted({f"{row['cpu']}, {row['cores']} cores" for row in timed if "ms_per_step" in row})
    if len(machines) > 1:
        raise InputError("machines", " and ".join(machines), "report rows of one machine")
    works = works_in(rows)
    sides = [side(name) for name in dict.fromkeys(row["side"] for row in timed)]
    lines = summary(works, sides, rows)
    of_scaling = [line for line in results.read(scaling.PATH) if line["git"].startswith(sha)] if options.results == PATH else []
    curves = list(scaling.curves(of_scaling, scaling.MIDDLE, scaling.DEVICES))
    options.out.mkdir(parents=True, exist_ok=True)
    write_atomically(options.out / "index.html", page(lines, rows, curves, html.escape(sha)).encode())
    write_atomically(options.out / "summary.md", markdown(lines, rows, sha).encode())
    for name in (name for name in geometric_means(lines) if not name.startswith(BASE)):
        draw_grid(lines, name, options.out / f"grid_{name.replace(':', '_').replace('=', '_')}.png")
    print(f"{options.out / 'index.html'}: {len(timed)} rows, {len(works)} workloads, {len(sides)} sides")
