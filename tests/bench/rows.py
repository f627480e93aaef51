"""Helpers for the tests of `bench`: made-up result rows, and functions that run Python
and the benchmark commands.
"""

import contextlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from bench.__main__ import main  # noqa: E402
from bench.schema import FAILED, MEASUREMENTS, STEP, TYPES, VERSION  # noqa: E402
from bench.workloads import workload  # noqa: E402

TINY = ("A:B=4,T=5,H=8,E=6,V=30", "B:B=4,T=5,H=8,V=7", "recurrence:B=4,T=5,H=8")
"""Small workloads of the kinds sentiment, characters and recurrence."""


def run_python(arguments, first=()):
    """Run Python with `arguments` in the root of the checkout, and return its output.
    `first` precedes Python in the command line.
    """
    environment = os.environ | {
        "KERAS_BACKEND": "jax",
        "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
    }
    run = subprocess.run(
        [*first, sys.executable, *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return run.stdout


def bench_here(*arguments):
    """Run `python -m bench` with `arguments` in this process. The output of processes
    that the command starts is not returned.
    """
    out, err = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        patch.setattr(sys, "argv", ["bench", *map(str, arguments)])
        patch.chdir(ROOT)
        try:
            code = main()
        except SystemExit as stop:
            code = int(stop.code or 0)
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


def printed(*arguments):
    """Run a benchmark command that succeeds, and return the lines that it prints."""
    run = bench_here(*arguments)
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()


def complaint(*arguments):
    """Run a benchmark command that is refused, and return its line of error."""
    run = bench_here(*arguments)
    assert run.returncode == 2
    return run.stderr.splitlines()[-1]


def write_rows(path, rows):
    """Write rows to a result file, and return its path."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read_lines(path):
    """Return the rows of a result file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def made(measurement, **fields):
    """Return a valid result row of a kind of measurement, in which all fields that are
    not given have made-up values.
    """
    examples = {str: "", int: 1, float: 1.0, list: [], dict: {}, type(None): None}
    row = {
        name: examples[TYPES[name][0]]
        for name in MEASUREMENTS[measurement].required.split()
    }
    return (
        row
        | {
            "schema": VERSION,
            "measurement": measurement,
            "git": "abc",
            "cpu": "chip",
            "cores": 2,
        }
        | fields
    )


def timed(name, candidate, ms, number=0, **changes):
    """Return a valid result row of the round `number`, with the step time `ms` in
    milliseconds.
    """
    work = workload(name)
    row = made(
        STEP,
        peer=candidate.split(":")[0],
        candidate=candidate,
        round=number,
        workload=name,
        kind=work.kind,
        cell=work.cell,
    )
    row |= work.sizes | {
        "dropout": work.dropout,
        "recurrent_dropout": work.dropout,
        "backend": None,
        "dtype": "float32",
        "devices": ["cpu:cpu"],
    }
    row |= {
        "ms_per_step": ms,
        "samples": [ms] * 5,
        "tokens_per_second": 1000 / ms * work.tokens,
        "gflops": 3.0 / ms,
        "least_bytes": 1000,
    }
    return row | changes


def failed(name, candidate, error):
    """Return a valid result row of a process that failed with the message `error`."""
    row = timed(name, candidate, 1.0)
    return made(
        FAILED,
        **{
            field: row[field]
            for field in row.keys() & set(MEASUREMENTS[FAILED].required.split())
        }
        | {"error": error},
    )
