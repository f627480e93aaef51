"""Rows of `throughput`, `accuracy` and `scaling` as one page that opens offline, static figures and a summary in Markdown.

python -m bench report                              # of the newest commit that has rows, into bench/report/
python -m bench report --commit 32f0c1 --out page
python -m bench report --results mine.jsonl
"""

import argparse
import html
import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench import accuracy, scaling, schema
from bench.sides import BASE, side
from bench.throughput import PATH, Line, geometric_mean, kept, over_sizes, peaks, rows_in, summary
from bench.workloads import Workload, workload
from lstm_jax.errors import InputError
from lstm_jax.files.writing import MARK, check_output, write_atomically
from lstm_jax.inspection import plots
from lstm_jax.sweep.rows import read_rows

TEMPLATE = Path(__file__).with_name("report.html")
COLUMNS = ("workload", "side", "round", "ms_per_step", "tokens_per_second", "gflops", "compile_seconds", "first_step_seconds")
COLUMNS += ("peak_memory_mib", "backend_ran", "dtype", "B", "T", "H", "E", "V", "load", "noisy", "error", "git")
TITLES = {
    "ours": "this project",
    "torch_lstm": "PyTorch {torch}, nn.LSTM, fused Adam",
    "torch_compiled": "PyTorch {torch}, the same under torch.compile",
    "jax_rnn": "jax.experimental.rnn {jax}",
    "flax_nnx": "Flax {flax}, nnx.RNN",
    "flax_linen": "Flax {flax}, Linen",
    "haiku": "Haiku {dm-haiku}",
    "equinox": "Equinox {equinox}",
    "keras_jax": "Keras {keras} on JAX, `fit`",
    "keras_torch": "Keras {keras} on PyTorch, `fit`",
    "keras_tensorflow": "Keras {keras} on TensorFlow, `fit`",
}
"""Of sides, with the versions of a row."""
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


def newest_trained(path: Path) -> list[dict[str, Any]]:
    """Rows of `bench.accuracy` of the last commit that has some."""
    rows = list(read_rows(path, schema.check))
    return [row for row in rows if row["git"] == rows[-1]["git"]]


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


def accuracy_records(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the page knows of the cells of `bench.accuracy`."""
    lines = accuracy.summary(rows)
    ahead = accuracy.front(lines)
    found = []
    for line in lines:
        scores = line["scores"]
        reached = float(np.median(line["to_accuracy"])) if line["to_accuracy"] else float("nan")
        record = {name: line[name] for name in ("task", "side", *accuracy.FLAGS, "seeds")}
        record |= {"score": float(np.mean(scores)), "low": min(scores), "high": max(scores), "speed": line["examples_per_second"]}
        found.append(record | {"reached": _finite(reached), "front": line in ahead})
    return found


def page(
    lines: Sequence[Line],
    rows: Sequence[dict[str, Any]],
    curves: Sequence[scaling.Curve],
    sha: str,
    trained: Sequence[dict[str, Any]] = (),
) -> str:
    """The page's HTML; trained: rows of `bench.accuracy`."""
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
        "accuracy": accuracy_records(trained),
        "accuracy_commit": trained[0]["git"] if trained else "",
        "reached": accuracy.REACHED,
        "columns": COLUMNS,
        "rows": [[row.get(name) for name in COLUMNS] for row in timed],
        "environments": [(json.loads(machine), count) for machine, count in machines.most_common()],
    }
    # "</script" would end the script, and "<!--<script" keep it from ending
    template = TEMPLATE.read_text().replace("<!doctype html>", f"<!doctype html>\n<!-- {MARK} -->", 1)
    return template.replace("DATA</script>", json.dumps(data, allow_nan=False).replace("<", "\\u003c") + "</script>", 1)


def title(name: str, rows: Sequence[dict[str, Any]]) -> str:
    """Of a side, with the versions that its rows have."""
    versions = next((row["versions"] for row in rows if row.get("side") == name and "versions" in row), {})
    peer, _, options = name.partition(":")
    short = {package: text.split("+")[0] for package, text in versions.items()}
    return TITLES[peer].format_map(defaultdict(str, short)) + (f", {options.replace(':', ', ')}" if options else "")


def markdown(lines: Sequence[Line], rows: Sequence[dict[str, Any]], sha: str) -> str:
    """A table of the source's workloads, and one of the ratios over other sizes."""
    gemm, copy = peaks(rows)
    plain = [line for line in lines if ":" not in line.work.name and not line.error]
    names = list(dict.fromkeys(line.work.name for line in plain))
    sides = list(dict.fromkeys(line.side for line in plain))
    most = max((line.processes for line in plain), default=0)
    text = f"Milliseconds a step, medians of fresh processes ({most} a side); in brackets the 95 % interval of the ratio to this project. "
    text += f"Commit {sha}, {gemm:.0f} GFLOP/s of a float32 product, {copy:.0f} GB/s of a copy.\n\n"
    text += f"| | {' | '.join(names)} |\n|{' --- |' * (len(names) + 1)}\n"
    for name in sides:
        cells = []
        for work in names:
            line = next((line for line in plain if (line.work.name, line.side) == (work, name)), None)
            said = "" if line is None else f"{line.ms:#.3g}" if line.ms < 100 else f"{line.ms:,.0f}"
            cells.append(said + (": {:.2f} times ({:.2f} to {:.2f})".format(*line.ratio) if line and line.ratio else ""))
        text += f"| {title(name, rows)} | {' | '.join(cells)} |\n"
    kinds = {"sentiment": "A", "characters": "B", "recurrence": "the recurrence alone"}
    grids = {kind: over_sizes(lines, kind) for kind in kinds}
    others = [name for name in dict.fromkeys(name for grid in grids.values() for name in grid) if not name.startswith(BASE)]
    if not others:
        return text
    shown = [kind for kind in kinds if grids[kind]]
    heads = [f"{kinds[kind]}, {max(map(len, grids[kind].values()))} sizes" for kind in shown]
    text += (
        "\nTimes as long as this project over other sizes: the geometric mean, the least and the most, and at how many sizes this project "
    )
    text += f"is slower.\n\n| | {' | '.join(heads)} |\n|{' --- |' * (len(heads) + 1)}\n"
    for name in others:
        cells = []
        for kind in shown:
            ratios = grids[kind].get(name)
            slower = sum(ratio < 1 for ratio, _, _ in ratios or ())
            told = f"({min(ratios)[0]:.2f} to {max(ratios)[0]:.2f}), slower at {slower}" if ratios else ""
            cells.append(f"{geometric_mean(ratios):.2f} {told}" if ratios else "")
        text += f"| {title(name, rows)} | {' | '.join(cells)} |\n"
    return text


def _thousands(value: float) -> str:
    return f"{value / 1000:.2g}" if value < 1e5 else f"{value / 1000:.0f}"


def trained_markdown(trained: Sequence[dict[str, Any]]) -> str:
    """Tables of what `bench.accuracy` found: units over length, the mean over seeds, of generation a table a step."""
    records = [record for record in accuracy_records(trained) if record["side"] == BASE]
    text = ""
    for task, step in dict.fromkeys((record["task"], record["S"]) for record in records):
        those = {(record["H"], record["T"]): record for record in records if (record["task"], record["S"]) == (task, step)}
        lengths, units = (sorted({sizes[n] for sizes in those}) for n in (1, 0))
        of = "Sentiment: test accuracy" if task == "sentiment" else f"Generation, windows every {step}: held-out bits a character"
        seeds = max(record["seeds"] for record in those.values())
        text += f"{of}, mean of {seeds} seeds; in brackets thousand training examples a second. Commit {trained[0]['git']}.\n\n"
        text += f"| units | {' | '.join(f'length {T}' for T in lengths)} |\n|{' --- |' * (len(lengths) + 1)}\n"
        for H in units:
            cells = (those.get((H, T)) for T in lengths)
            told = (f"{cell['score']:.4f}{'*' * cell['front']} ({_thousands(cell['speed'])})" if cell else "" for cell in cells)
            text += f"| {H} | {' | '.join(told)} |\n"
        text += "\n"
    return text + "\\*: no other cell of the task is both better and faster.\n" if text else ""


def draw_grid(lines: Sequence[Line], peer: str, path: Path, force: bool = True) -> None:
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
        plots.write_figure(path, (1.5 + 3.2 * len(batches), 0.9 + 0.6 * len(units)), fill, force)


def works_in(rows: Sequence[dict[str, Any]]) -> list[Workload]:
    """Workloads that have rows, the source's own first."""
    names = dict.fromkeys(row["workload"] for row in rows if row["peer"] != "peak")
    return [workload(name) for name in sorted(names, key=lambda name: ":" in name)]


def of_commit(path: Path, sha: str) -> tuple[list[dict[str, Any]], list[Line]]:
    """Rows of a commit, and what they come to.

    Raises:
        InputError: if it has no timed rows, or some of several machines.
    """
    rows = [row for row in rows_in(path) if row["git"].startswith(sha)]
    timed = [row for row in kept(rows) if "ms_per_step" in row]
    if not timed:
        raise InputError("commit", sha, f"give one that {path} has timed rows of")
    machines = sorted({f"{row['cpu']}, {row['cores']} cores" for row in timed})
    if len(machines) > 1:
        raise InputError("machines", " and ".join(machines), "report rows of one machine")
    sides = [side(name) for name in dict.fromkeys(row["side"] for row in kept(rows))]
    return rows, summary(works_in(rows), sides, rows)


def main() -> None:
    """Write page, figures and summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=PATH)
    parser.add_argument(
        "--accuracy", type=Path, default=accuracy.PATH, help="rows of bench accuracy, of which the newest commit's are shown"
    )
    parser.add_argument("--commit", default=None, help="whose rows; the newest that has some if not given")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("report"))
    parser.add_argument("--force", action="store_true", help="replace files in --out that no report wrote")
    options = parser.parse_args()
    sha = options.commit or newest(options.results)
    rows, lines = of_commit(options.results, sha)
    timed = kept(rows)
    others = (name for name in over_sizes(lines, "recurrence") if not name.startswith(BASE))
    grids = {name: options.out / f"grid_{name.replace(':', '_').replace('=', '_')}.png" for name in others}
    figures = [path for grid in grids.values() for path in plots.files_of(grid)]
    for path in (options.out / "index.html", options.out / "summary.md", *figures):
        check_output(path, (options.results, options.accuracy), options.force)
    of_scaling = [line for line in read_rows(scaling.PATH) if line["git"].startswith(sha)] if options.results == PATH else []
    trained = newest_trained(options.accuracy)
    curves = list(scaling.curves(of_scaling, scaling.MIDDLE, scaling.DEVICES))
    write_atomically(options.out / "index.html", page(lines, rows, curves, html.escape(sha), trained), options.force)
    text = "\n".join((f"<!-- {MARK} -->\n", markdown(lines, rows, sha), trained_markdown(trained)))
    write_atomically(options.out / "summary.md", text, options.force)
    for name, path in grids.items():
        draw_grid(lines, name, path, options.force)
    works, sides = {line.work.name for line in lines}, {line.side for line in lines}
    print(f"{options.out / 'index.html'}: {len(timed)} rows, {len(works)} workloads, {len(sides)} sides")
