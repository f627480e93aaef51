"""HTML page that shows the benchmark results of one commit. The page works offline."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bench.accuracy import TARGETS, summarize
from bench.report.tables import banner, count_text
from bench.scaling import Curve, exponent
from bench.schema import FAILED, STEP, Row, Rows, select
from bench.summary import Line, peaks, verdicts
from lstm_jax.lab.inspection.window import fill_template

METRICS = {
    "ms": "ms_per_step",
    "tokens": "tokens_per_second",
    "gflops": "gflops",
    "memory": "peak_memory_mib",
}
TEMPLATE = Path(__file__).with_name("page.html")
COLUMNS = (
    "workload candidate round ms_per_step tokens_per_second gflops "
    "compile_seconds first_step_seconds peak_memory_mib backend_ran dtype "
    "B T H E V load noisy error git"
)
MACHINE = (
    "cpu cores platform python devices threads versions xla_flags matmul_precision git"
)
"""Fields of the table of rows, and fields that describe the machine, separated by
blanks."""


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def line_record(line: Line) -> Row:
    """Convert a line of the throughput summary to a dict for the JavaScript of the HTML
    page.
    """
    work, row = line.work, line.rows[-1]
    moved = line.gbs * line.ms * 1e6
    metrics = {name: line.median(field) for name, field in METRICS.items()}
    metrics["intensity"] = (
        metrics["gflops"] * line.ms * 1e6 / moved if moved else float("nan")
    )
    speedup = None if line.speedup is None else list(map(_finite, line.speedup))
    return {
        "name": work.name,
        "kind": work.kind,
        "candidate": line.candidate,
        "processes": len(line.rows),
        "noisy": line.noisy,
        "speedup": speedup,
        "B": work.batch,
        "T": work.length,
        "H": work.units,
        "E": work.features,
        "compile": line.compile_seconds,
        "device": row["devices"][0].split(":")[0].split(",")[0],
        "dtype": row["dtype"],
        **{name: _finite(value) for name, value in metrics.items()},
    }


def page(
    lines: Sequence[Line],
    rows: Rows,
    curves: Sequence[Curve],
    commit: str,
    trained: Rows,
    more: Row,
) -> str:
    """Return the text of the HTML page that shows the results of one commit.

    `more` has "tables", a dict from titles to `Table`, and "links", a dict from names
    of machines to their pages.
    """
    gemm, copy = peaks(rows)
    tried, timed = select(rows, STEP, FAILED), select(rows, STEP)
    environments = Counter(
        json.dumps({name: row[name] for name in MACHINE.split()}, sort_keys=True)
        for row in timed
    )
    data = {
        "about": banner(lines, rows, commit),
        "gemm": _finite(gemm),
        "copy": _finite(copy),
        "lines": [line_record(line) for line in lines if not line.error],
        "verdicts": verdicts(rows),
        "scaling": [
            vars(curve) | {"exponent": exponent(curve.sizes[-2:], curve.ms[-2:])}
            for curve in curves
        ],
        "accuracy": [
            line
            | {
                "title": f"{line['task']}, {count_text(line['epochs'], 'epoch')}",
                "seconds_to_target": _finite(line["seconds_to_target"]),
            }
            for line in summarize(trained)
        ],
        "accuracy_commit": trained[0]["git"] if trained else "",
        "targets": TARGETS,
        "columns": COLUMNS.split(),
        "rows": [[row.get(name) for name in COLUMNS.split()] for row in tried],
        "environments": [
            (json.loads(machine), count)
            for machine, count in environments.most_common()
        ],
    }
    return fill_template(TEMPLATE, data | more)
