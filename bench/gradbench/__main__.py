"""A tool that speaks GradBench's protocol: JSON messages on standard input, an answer
to each on standard output.

Like GradBench's other tools, it runs on one core unless told otherwise.
"""

import json
import os
import sys
from itertools import chain, pairwise, repeat
from time import perf_counter_ns
from typing import Any

import jax
import jax.numpy as jnp

from bench import add_flags, make_parser
from bench.gradbench.lstm import jacobian, objective

LSTM = ("main_params", "extra_params", "state", "sequence")
FUNCTIONS = {
    "hello": {"square": jnp.square, "double": jax.grad(jnp.square)},
    "lstm": {"objective": objective, "jacobian": jacobian},
}


def evaluate(function, given: Any) -> dict[str, Any]:
    """Run a function as often as its input asks for, and return its output and times.
    Compilation counts as `prepare`.
    """
    runs = given if isinstance(given, dict) else {}
    operands = [
        jnp.asarray(part, jnp.float64)
        for part in ([given[name] for name in LSTM] if runs else [given])
    ]
    times = [perf_counter_ns()]
    compiled = jax.jit(function).lower(*operands).compile()
    times.append(perf_counter_ns())
    output: Any = None
    while len(times) < 2 + runs.get("min_runs", 1) or times[-1] - times[
        1
    ] < 1e9 * runs.get("min_seconds", 0):
        output = jax.block_until_ready(compiled(*operands))
        times.append(perf_counter_ns())
    names = chain(["prepare"], repeat("evaluate"))
    timings = [
        {"name": name, "nanoseconds": end - begun}
        for name, (begun, end) in zip(names, pairwise(times), strict=False)
    ]
    return {"success": True, "output": output.tolist(), "timings": timings}


def respond(message: dict[str, Any]) -> dict[str, Any]:
    """Return the answer to a message, without its id."""
    match message:
        case {"kind": "start"}:
            return {"tool": "lstm_jax"}
        case {"kind": "define"}:
            return {"success": message["module"] in FUNCTIONS}
        case {"kind": "evaluate"}:
            return evaluate(
                FUNCTIONS[message["module"]][message["function"]], message["input"]
            )
    return {}


if __name__ == "__main__":
    parser = make_parser(__doc__)
    add_flags(parser, bool, multithreaded="use all cores")
    if not parser.parse_args().multithreaded:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    jax.config.update("jax_enable_x64", True)
    for line in sys.stdin:
        message = json.loads(line)
        print(json.dumps({"id": message["id"]} | respond(message)), flush=True)
