"""The fields of a row of `bench.throughput` and of `bench.accuracy`, and their check when rows are read.

    python -m bench schema

prints them. Rows are JSON lines, only ever appended. Version 1 had no "schema", and no rows of accuracy; it is otherwise the same.
"""

from dataclasses import dataclass
from typing import Any

from lstm_jax.errors import InputError

VERSION = 2


@dataclass(frozen=True)
class Field:
    """types: of its JSON value; of: the kinds of rows that must have it ("" none), all kinds with it in `KINDS`."""

    types: tuple[type, ...]
    of: tuple[str, ...]
    meaning: str


TIMED, FAILED, PEAK, TRAINED = "timed", "failed", "peak", "trained"
TEXT, NUMBER, WHOLE, LIST, NONE = (str,), (float, int), (int,), (list,), type(None)
RUN, SIDE = (TIMED, FAILED, PEAK, TRAINED), (TIMED, FAILED, TRAINED)
TRIED = (TIMED, FAILED)
FIELDS = {
    "schema": Field(WHOLE, (), f"version of these fields, now {VERSION}"),
    "peer": Field(TEXT, RUN, 'name in `bench.peer.PEERS`, or "peak" for the machine itself'),
    "git": Field(TEXT, RUN, "commit of this project, + if its code differed"),
    "cores": Field(WHOLE, RUN, "cores that the process could use"),
    "load": Field(NUMBER, RUN, "processes that wanted a core in the minute before"),
    "side": Field(TEXT, SIDE, "peer and its options, as --peer takes them"),
    "round": Field(WHOLE, TRIED, "number of the round in which its process ran"),
    "workload": Field(TEXT, TRIED, "as `bench.workloads.workload` reads it"),
    "backend": Field((str, NONE), TRIED, "backend asked for, null for the choice of the peer"),
    "dropout": Field(NUMBER, TRIED, "rate of input dropout"),
    "recurrent_dropout": Field(NUMBER, TRIED, "rate of recurrent dropout; what a peer lacks of it, its note says"),
    "kind": Field(TEXT, (TIMED,), "sentiment, characters, evaluation or recurrence"),
    **{
        letter: Field(WHOLE, (TIMED, TRAINED) if letter in "TH" else (TIMED,), meaning)
        for letter, meaning in zip("BTHEV", ("batch", "steps", "units", "features", "vocabulary"), strict=True)
    },
    "cell": Field(TEXT, (), "recurrent cell, lstm if absent"),
    "S": Field(WHOLE, (), "characters from one window to the next, of generation"),
    "task": Field(TEXT, (TRAINED,), "sentiment or generation"),
    "seed": Field(WHOLE, (TRAINED,), "of weights, dropout and order"),
    "epochs": Field(WHOLE, (TRAINED,), "that the run was to take"),
    "epoch": Field(WHOLE, (TRAINED,), "that the row is of, from 1"),
    "seconds": Field(NUMBER, (TRAINED,), "of the epoch's training, compilation and evaluation apart"),
    "test_accuracy": Field(NUMBER, (), "share of 25,000 reviews, of sentiment"),
    "validation_bits": Field(NUMBER, (), "bits a character of the last tenth of the text, of generation"),
    "build_seconds": Field(NUMBER, (TIMED,), "importing the peer and building the model"),
    "first_step_seconds": Field(NUMBER, (TIMED,), "the first step, compilation in it"),
    "compile_seconds": Field((float, int, NONE), (TIMED,), "of these in XLA's compiler; null where JAX does not run"),
    "peak_memory_mib": Field(NUMBER, (TIMED,), "most resident memory of the process, up to the end of timing"),
    "ms_per_step": Field(NUMBER, (TIMED,), "median of samples"),
    "samples": Field(LIST, (TIMED,), "milliseconds a step of each block of steps"),
    "steps_per_block": Field(WHOLE, (TIMED,), "steps in a block"),
    "probe_gflops": Field(LIST, (), "of a product before and after timing, which tells how fast the machine was (`bench.probe`)"),
    "steps_per_second": Field(NUMBER, (TIMED,), "1000 / ms_per_step"),
    "tokens_per_second": Field(NUMBER, (TIMED,), "steps_per_second B T"),
    "flops": Field(WHOLE, (TIMED,), "of the products of a step, counted on paper (`bench.flops`)"),
    "gflops": Field(NUMBER, (TIMED,), "flops / ms_per_step, in 1e9 a second"),
    "least_bytes": Field(WHOLE, (TIMED,), "that a step moves at least (`bench.flops`)"),
    "farthest": Field(NUMBER, (TIMED,), "largest relative distance from the reference, in outputs and after a step; found once a commit"),
    "note": Field(TEXT, (TIMED,), "what the peer does otherwise"),
    "backend_ran": Field(TEXT, (TIMED,), "backend that ran"),
    "dtype": Field(TEXT, (TIMED,), "of parameters and products"),
    "devices": Field(LIST, (TIMED,), "that the peer used"),
    "threads": Field(TEXT, (TIMED,), "OMP_NUM_THREADS"),
    "versions": Field((dict,), (TIMED,), "of packages"),
    "python": Field(TEXT, (TIMED,), "version"),
    "platform": Field(TEXT, (TIMED,), "operating system"),
    "cpu": Field(TEXT, (TIMED,), "its model"),
    "hosts": Field(WHOLE, (TIMED,), "processes of JAX"),
    "xla_flags": Field(TEXT, (TIMED,), "XLA_FLAGS"),
    "matmul_precision": Field(TEXT, (TIMED,), "jax_default_matmul_precision"),
    "slower": Field(NUMBER, (), "share of its time that a call waits on top of it, to see whether `compare` finds it; 0 if absent"),
    "noisy": Field(TEXT, (), "why its time is not to be trusted, empty if it is"),
    "error": Field(TEXT, (FAILED,), "first line of what went wrong"),
}


def kind_of(row: dict[str, Any]) -> str:
    """The kind of a row."""
    if row.get("peer") == PEAK:
        return PEAK
    if "task" in row:
        return TRAINED
    return FAILED if "error" in row else TIMED


def check(row: Any, place: str) -> dict[str, Any]:
    """The row in today's version.

    Args:
        place: of the row, for the error.

    Raises:
        InputError: if it is of a later version, or lacks a field or has one of another type.
    """
    if not isinstance(row, dict):
        raise InputError(place, row, "give rows of bench throughput, each an object")
    version = row.get("schema", 1)
    if version not in range(1, VERSION + 1):
        raise InputError(f"{place}: schema", version, f"give rows of versions 1 to {VERSION}, or a newer bench")
    row = row | {"schema": VERSION}
    kind = kind_of(row)
    score = {"sentiment": "test_accuracy", "generation": "validation_bits"}.get(str(row.get("task")))
    if kind == TRAINED and (score is None or score not in row):
        raise InputError(f"{place}: task", row["task"], "give sentiment with test_accuracy, or generation with validation_bits")
    for name, field in FIELDS.items():
        if kind in field.of and name not in row:
            raise InputError(f"{place}: {name}", "missing", f"a row of kind {kind} has it ({field.meaning})")
        if name in row and not (isinstance(row[name], field.types) and (bool in field.types or not isinstance(row[name], bool))):
            raise InputError(f"{place}: {name}", row[name], f"give {' or '.join(t.__name__ for t in field.types)} ({field.meaning})")
    return row


def main() -> None:
    """Print the fields."""
    for name, field in FIELDS.items():
        types = " or ".join("null" if t is NONE else t.__name__ for t in field.types)
        print(f"{name:<20} {types:<16} {', '.join(field.of) or 'all':<22} {field.meaning}")
