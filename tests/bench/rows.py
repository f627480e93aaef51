"""Rows of `bench.throughput` made up for tests."""

import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from bench.schema import FIELDS, TIMED, VERSION  # noqa: E402
from bench.workloads import workload  # noqa: E402


def timed(name: str, side: str, ms: float, number: int = 0, git: str = "abc", **changes: Any) -> dict[str, Any]:
    """A valid row of a process."""
    work = workload(name)
    examples = {str: "", int: 1, float: 1.0, list: [], dict: {}, type(None): None}
    row = {field: examples[about.types[0]] for field, about in FIELDS.items() if TIMED in about.of}
    row |= {"schema": VERSION, "peer": side.split(":")[0], "side": side, "git": git, "round": number, "workload": name, "kind": work.kind}
    row |= {"B": work.batch, "T": work.length, "H": work.units, "E": work.features, "V": work.vocabulary}
    row |= {"dropout": work.dropout, "recurrent_dropout": work.dropout, "backend": None, "ms_per_step": ms, "samples": [ms] * 5}
    row |= {
        "cpu": "chip",
        "cores": 2,
        "devices": ["cpu:cpu"],
        "tokens_per_second": 1000 / ms * work.batch * work.length,
        "dtype": "float32",
    }
    return row | {"gflops": 3.0 / ms, "least_bytes": 1000, "noisy": ""} | changes
