r"""Peak memory of training steps of the sentiment model or, with --run, of a whole
training run of the character model.

    python -m bench memory                         # about a minute on two cores
    python -m bench memory --report
    LSTM_JAX_DATA=... python -m bench memory \
        --run # text generation on tiny Shakespeare; about 5 minutes on two cores

Each combination of the sequence length T and `remat` takes two training steps in a
fresh process. With remat "none" the forward pass keeps all residuals for the backward
pass; with "sqrt" the backward pass recomputes them in segments. All other sizes are
those of the Keras example imdb_lstm. The result is the peak memory of the whole
process, JAX included. The report also has the exponent with which the memory above that
at the smallest T grows with T.

With --run, `lstm-jax train generation` trains for one epoch on 1.1 million windows of
100 characters, one from each character on. The peak is the largest resident memory of
the process (ru_maxrss). Each call adds a result.
"""

import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from time import perf_counter

import numpy as np

from bench import (
    RESULTS,
    add_flags,
    commit,
    data_file,
    make_parser,
    read_flags,
    timing,
    worker,
)
from bench.schema import (
    RUN_MEMORY,
    STEP_MEMORY,
    Row,
    Rows,
    make_row,
    rows_of,
    rows_of_commit,
)
from bench.summary import names_of
from bench.workloads import read_sizes
from lstm_jax.base.errors import require
from lstm_jax.lab.sweep.rows import append_rows

PATH = RESULTS / "memory.jsonl"
LENGTHS = (1, 100, 1000, 10_000)
RUN_FLAGS = {"length": 100, "step": 1, "epochs": 1, "batch-size": 256, "clean": "none"}


def measure_here(name: str, remat: str) -> Row:
    """Take two training steps in this process, and return fields of the result row."""
    work, built = worker.build_ours(name, remat=remat)
    before = worker.peak_mib()
    built.run(2)
    return work.sizes | {
        "backend_ran": built.backend,
        "before_mib": before,
        "peak_mib": worker.peak_mib(),
    }


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Fit the power law value = factor * size ** p by least squares of the logarithms,
    and return the exponent p.
    """
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def report(rows: Rows) -> None:
    """Print the peak memory of each result row and, for each value of `remat`, the
    exponent with which the memory grows with T.
    """
    for remat in dict.fromkeys(row["remat"] for row in rows):
        found = sorted(
            (row for row in rows if row["remat"] == remat), key=lambda row: row["T"]
        )
        for row in found:
            print(
                f"remat {remat}, T {row['T']:,}: peak {row['peak_mib']:.0f} "
                f"MiB, {row['before_mib']:.0f} before the first step"
            )
        base = found[0]
        longer = [row for row in found if row["peak_mib"] > base["peak_mib"]]
        if len(longer) > 1:
            power = exponent(
                [row["T"] for row in longer],
                [row["peak_mib"] - base["peak_mib"] for row in longer],
            )
            print(
                f"remat {remat}: above T {base['T']} it grows as T ** "
                f"{power:.2f} from T {longer[0]['T']:,} to {longer[-1]['T']:,}"
            )


def measure_run() -> Row:
    """Train a text generation model for one epoch in a new process, and return a result
    row with the peak memory of that process in MiB.
    """
    corpus = data_file("charlm", "tinyshakespeare.txt")
    flags = [
        word for name, value in RUN_FLAGS.items() for word in (f"--{name}", str(value))
    ]
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-m",
            "lstm_jax.lab.cli",
            "train",
            "generation",
            "--data",
            corpus,
            "--run",
            f"{folder}/run",
            *flags,
        ]
        began = perf_counter()
        subprocess.run(command, check=True)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    return make_row(
        RUN_MEMORY,
        peer="ours",
        flags=RUN_FLAGS,
        peak_mib=peak,
        seconds=perf_counter() - began,
    )


def main() -> None:
    """Measure the peak memory, unless `--report` is given. Then print the report."""
    parser = make_parser(__doc__, PATH)
    add_flags(parser, read_sizes, length="steps T, as in 1,100,1000")
    add_flags(parser, bool, run="measure a training run")
    parser.set_defaults(length=LENGTHS)
    options = read_flags(parser)
    if options.run:
        if not options.report:
            append_rows(options.results, measure_run())
        for row in rows_of(options.results, RUN_MEMORY):
            print(
                f"{row['flags']}: peak {row['peak_mib']:.0f} MiB resident, "
                f"{row['seconds']:.0f} s"
            )
        return
    sha = options.commit or commit()
    names = [f"A:T={length}" for length in options.length]

    def measure(item: Row):
        row = timing.run_function(
            "bench.memory:measure_here", name=item["workload"], remat=item["remat"]
        )
        return [row | {"backend": None}]

    items = [
        {"workload": name, "remat": remat, "git": sha}
        for name in names
        for remat in ("none", "sqrt")
    ]
    found = timing.measure_missing(
        options.results,
        STEP_MEMORY,
        items,
        measure,
        lambda rows: f"{rows[-1]['peak_mib']:.0f} MiB",
        not options.report,
    )
    rows = rows_of_commit(options.results, STEP_MEMORY, git=sha)
    remedy = (
        "measure them first, or report some of "
        f"{names_of(row['workload'] for row in rows)}"
    )
    require(bool(found), f"rows of commit {sha}", f"none of {', '.join(names)}", remedy)
    report(found)
