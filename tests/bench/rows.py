"""Helpers for the tests of `bench`: made-up result rows, and functions that run Python and the benchmark commands."""

import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from bench.__main__ import main  # noqa: E402
from bench.schema import FIELDS, STEP, VERSION  # noqa: E402
from bench.workloads import workload  # noqa: E402

FAILED_FIELDS = ("schema", "git", "cores", "load", "peer", "candidate", "round", "workload", "backend", "dropout", "recurrent_dropout")

TINY = ("A:B=4,T=5,H=8,E=6,V=30", "B:B=4,T=5,H=8,V=7", "recurrence:B=4,T=5,H=8")
"""Small workloads of the kinds sentiment, characters and recurrence."""


def run_python(arguments: Sequence[str], first: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    """Run Python with `arguments` in the root of the checkout.

    `first` holds the words that precede Python in the command line, such as taskset and its flags.
    """
    environment = os.environ | {"KERAS_BACKEND": "jax", "PYTHONPATH": str(ROOT)}
    return subprocess.run([*first, sys.executable, *arguments], capture_output=True, text=True, cwd=ROOT, env=environment)


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m bench` with `arguments` in a new process."""
    return run_python(["-m", "bench", *arguments])


def bench_here(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m bench` with `arguments` in this process. The output of processes that the command starts is not returned."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.setattr(sys, "argv", ["bench", *arguments])
        patch.chdir(ROOT)
        try:
            code = main()
        except SystemExit as stop:
            code = int(stop.code or 0)
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """Write rows to a result file, and return its path."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a result file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def timed(name: str, candidate: str, ms: float, number: int = 0, git: str = "abc", **changes: Any) -> dict[str, Any]:
    """Return a valid result row of the round `number`, with the step time `ms` in milliseconds.

    The values in `changes` replace the values of the fields with the same names.
    """
    work = workload(name)
    examples = {str: "", int: 1, float: 1.0, list: [], dict: {}, type(None): None}
    row = {field: examples[about.types[0]] for field, about in FIELDS.items() if STEP in about.required}
    row |= {"schema": VERSION, "measurement": STEP, "peer": candidate.split(":")[0], "candidate": candidate, "git": git, "round": number}
    row |= {"workload": name, "kind": work.kind, "cell": work.cell} | work.sizes
    row |= {"dropout": work.dropout, "recurrent_dropout": work.dropout, "backend": None, "ms_per_step": ms, "samples": [ms] * 5}
    row |= {
        "cpu": "chip",
        "cores": 2,
        "devices": ["cpu:cpu"],
        "tokens_per_second": 1000 / ms * work.tokens,
        "dtype": "float32",
    }
    return row | {"gflops": 3.0 / ms, "least_bytes": 1000, "noisy": ""} | changes


def failed(name: str, candidate: str, error: str, number: int = 0) -> dict[str, Any]:
    """Return a valid result row of a process that failed with the message `error` in the round `number`."""
    row = timed(name, candidate, 1.0, number)
    return {field: row[field] for field in FAILED_FIELDS} | {"measurement": "failed", "error": error}
