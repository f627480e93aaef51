"""Peak memory of a training step of the sentiment model over T, all kept and in segments (`remat`), JAX included.

    python -m bench memory                         # about a minute on two cores
    python -m bench memory --report

Fresh processes, the source's sizes (V 20,000, E 128, H 128, B 32, both dropouts 0.2, Adam), two steps each. Rows that are there already, of
the same commit, are skipped. The exponents are those of a log-log fit of what a process needs above one with T = 1, that has the
libraries, the parameters and the compiler too.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from bench import RESULTS, timing
from bench.axes import sizes
from bench.peer import Options
from bench.throughput import commit
from bench.worker import peak_mib
from bench.workloads import make_arrays, workload
from lstm_jax.sweep.rows import append_rows, read_rows

PATH = RESULTS / "memory.jsonl"
LENGTHS = {"quick": (1, 100, 1000), "standard": (1, 100, 1000, 10_000), "full": (1, 100, 300, 1000, 3000, 10_000, 30_000)}
REMATS = ("none", "sqrt")


def measure(work: str, remat: str, backend: str | None) -> dict[str, Any]:
    """A row: the most memory that this process has had before and after two steps."""
    from bench.peers import ours

    sized = workload(work)
    built = ours.build(sized, make_arrays(sized), Options(backend, sized.dropout, sized.dropout, remat))
    before = peak_mib()
    built.run(2)
    sizes = {"B": sized.batch, "T": sized.length, "H": sized.units, "E": sized.features, "V": sized.vocabulary}
    return {"remat": remat} | sizes | {"backend": built.backend, "before_mib": before, "peak_mib": peak_mib()}


def exponent(sizes, values) -> float:
    """Of a power law through these points, by least squares of the logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def report(rows: list[dict[str, Any]]) -> None:
    """Print a line a row, and the exponent of each side."""
    for remat in dict.fromkeys(row["remat"] for row in rows):
        found = sorted((row for row in rows if row["remat"] == remat), key=lambda row: row["T"])
        for row in found:
            print(f"remat {remat}, T {row['T']:,}: {row['peak_mib']:.0f} MiB at most, {row['before_mib']:.0f} before the first step")
        if len(found) > 2:
            base, *longer = found
            grown = [row["peak_mib"] - base["peak_mib"] for row in longer]
            power = exponent([row["T"] for row in longer], grown)
            print(f"remat {remat}: above T {base['T']} it grows as T ** {power:.2f} from T {longer[0]['T']:,} to {longer[-1]['T']:,}")


def main() -> None:
    """Measure what is missing, and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=list(LENGTHS), default="standard")
    parser.add_argument("--length", type=sizes, help="as in 1,100,1000; the preset's if not given")
    parser.add_argument("--sizes", default="", help="other sizes, as in B=4,H=8,E=8,V=30")
    parser.add_argument("--backend", default=None)
    parser.add_argument("--report", action="store_true", help="measure nothing")
    parser.add_argument("--commit", default=None, help="whose rows to report; this checkout's if not given")
    parser.add_argument("--results", type=Path, default=PATH)
    parser.add_argument("--here", nargs=2, metavar=("WORKLOAD", "REMAT"), help="measure in this process")
    options = parser.parse_args()
    if options.here:
        work, remat = options.here
        print(json.dumps(measure(work, remat, options.backend)))
        return
    sha = options.commit or commit()
    extra = ["--backend", options.backend] if options.backend else []
    for length in () if options.report else options.length or LENGTHS[options.preset]:
        for remat in REMATS:
            name = f"A:T={length}" + (f",{options.sizes}" if options.sizes else "")
            known = {"git": sha, "workload": name, "asked": options.backend, "remat": remat}
            if not any(known.items() <= row.items() for row in read_rows(options.results)):
                row = timing.run_module(["bench", "memory", "--here", name, remat, *extra])[-1]
                append_rows(options.results, known | {"cores": timing.CORES} | row)
    report([row for row in read_rows(options.results) if row["git"] == sha and row["asked"] == options.backend])
