"""Schema of the result files in `bench/results`, and functions that create, check and select their rows.

A row is one result: a JSON object on a line of its own. Rows are only ever appended to a file. Each row contains the version of the schema
and the kind of measurement. To print all kinds of measurements and all fields, run

    python -m bench.schema
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.workloads import workload
from lstm_jax.backend_names import with_current_names
from lstm_jax.errors import InputError, require
from lstm_jax.sweep.rows import read_rows

Row = dict[str, Any]
"""Result row, or some of its fields."""
VERSION = 3
KEPT_SAMPLES = 20
STEP, FAILED, PEAK, FIRST_STEP = "step", "failed", "peak", "first_step"
GRID, SEEDS, LOSS, HELD_OUT, EPOCH_TIME = "grid", "seeds", "loss", "held_out", "epoch_time"
SAMPLING, STEP_MEMORY, RUN_MEMORY, SCALING = "sampling", "step_memory", "run_memory", "scaling"
BREAKDOWN, DUEL, FALSE_ALARM = "breakdown", "duel", "false_alarm"
TIMED = (STEP, SCALING)


@dataclass(frozen=True)
class Kind:
    """Kind of measurement, with its meaning and the names of the fields that its rows must have, separated by blanks."""

    meaning: str
    required: str


MEASUREMENTS = {
    STEP: Kind(
        "training steps, evaluation or the recurrence of a peer (throughput)",
        "git cores load peer candidate versions round workload backend backend_ran dropout recurrent_dropout kind cell B T H E V "
        "build_seconds first_step_seconds compile_seconds peak_memory_mib ms_per_step samples sample_count steps_per_block "
        "steps_per_second tokens_per_second flops gflops least_bytes distance note dtype devices threads python platform cpu "
        "hosts xla_flags matmul_precision noisy",
    ),
    FAILED: Kind(
        "a process of throughput that failed",
        "git cores load peer candidate round workload backend dropout recurrent_dropout error",
    ),
    PEAK: Kind(
        "matrix product and copy of the machine (throughput)",
        "git cores load",
    ),
    FIRST_STEP: Kind(
        "build and first step, cold and with a cache (throughput --first-step)",
        "git cores load candidate round workload cache",
    ),
    GRID: Kind(
        "an epoch of training over length, step and units (accuracy)",
        "git cores load peer T H task seed epochs epoch seconds",
    ),
    SEEDS: Kind(
        "an epoch of the Keras example imdb_lstm over seeds (accuracy --study seeds)",
        "peer task recipe seed epoch test_accuracy",
    ),
    LOSS: Kind(
        "an epoch of the Keras example lstm_text_generation (accuracy --study loss)",
        "peer task recipe seed epoch train_loss",
    ),
    HELD_OUT: Kind(
        "an epoch of a recipe of text generation, a tenth held out (accuracy --study held_out)",
        "peer task recipe seed epoch",
    ),
    EPOCH_TIME: Kind(
        "seconds of an epoch, peers interleaved (accuracy --study epoch_time)",
        "cores load peer round task recipe seed epoch seconds",
    ),
    SAMPLING: Kind(
        "seconds to draw characters",
        "cores load peer round seconds units chars method",
    ),
    STEP_MEMORY: Kind(
        "peak memory of a training step (memory)",
        "git workload backend backend_ran B T H E V remat before_mib peak_mib",
    ),
    RUN_MEMORY: Kind(
        "peak memory of a training run (memory --run)",
        "peer seconds flags peak_mib",
    ),
    SCALING: Kind(
        "time and memory of the recurrence at a size",
        "git cores load versions round backend_ran B T H E V peak_mib ms_per_step samples sample_count steps_per_block devices "
        "python platform cpu hosts xla_flags matmul_precision",
    ),
    BREAKDOWN: Kind(
        "parts of a training step",
        "git cores load workload backend_ran ms_per_step parts_ms floors_ms gemm_gflops copy_gbs",
    ),
    DUEL: Kind(
        "blocks of steps of a checkout that takes turns with another",
        "cores load role versions round workload ms_per_step samples steps_per_block cpu",
    ),
    FALSE_ALARM: Kind(
        "like duel, this checkout against itself (duel --false-alarms)",
        "git cores load role round comparison workload ms_per_step samples steps_per_block cpu",
    ),
}
"""Kinds of measurements. The rows of all kinds must also have the fields of `EVERY`."""
EVERY = ("schema", "measurement")


@dataclass(frozen=True)
class Field:
    """Description of one field of the result rows.

    Attributes:
        types: Python types that the value may have after the JSON object is read.
        meaning: description that `python -m bench.schema` prints.
    """

    types: tuple[type, ...]
    meaning: str

    def __str__(self) -> str:
        return " or ".join("null" if kind is NONE else kind.__name__ for kind in self.types)


TEXT, NUMBER, WHOLE, LIST, DICT, NONE = (str,), (float, int), (int,), (list,), (dict,), type(None)
FIELDS = {
    "schema": Field(WHOLE, f"version of these fields, now {VERSION}"),
    "measurement": Field(TEXT, "a name of `bench.schema.MEASUREMENTS`"),
    "git": Field(TEXT, "commit of this project, + if its code differed"),
    "cores": Field(WHOLE, "cores that the process could use"),
    "load": Field(NUMBER, "load average of the minute before"),
    "peer": Field(TEXT, "name in `bench.peers.PEERS`"),
    "candidate": Field(TEXT, "peer and its options, as --peer takes them"),
    "role": Field(TEXT, "baseline, candidate or slower"),
    "versions": Field(DICT, "of packages; of the two checkouts of a duel"),
    "series": Field(TEXT, "name of rows that are kept apart from the others of their commit; empty if absent"),
    "round": Field(WHOLE, "number of the round in which its process ran"),
    "comparison": Field(WHOLE, "number of the comparison that the round belongs to"),
    "workload": Field(TEXT, "as `bench.workloads.workload` reads it"),
    "backend": Field((str, NONE), "backend asked for, null for the choice of the peer"),
    "backend_ran": Field(TEXT, "backend that ran"),
    "dropout": Field(NUMBER, "rate of input dropout"),
    "recurrent_dropout": Field(NUMBER, "rate of recurrent dropout; the note says what a peer lacks of it"),
    "kind": Field(TEXT, "sentiment, characters, evaluation, recurrence or forward"),
    "cell": Field(TEXT, "recurrent cell"),
    "B": Field(WHOLE, "batch"),
    "T": Field(WHOLE, "steps"),
    "H": Field(WHOLE, "hidden size"),
    "E": Field(WHOLE, "features"),
    "V": Field(WHOLE, "vocabulary"),
    "S": Field(WHOLE, "characters from one window to the next, of generation"),
    "task": Field(TEXT, "sentiment or generation"),
    "recipe": Field(TEXT, "name in `bench.recipes`"),
    "seed": Field(WHOLE, "seed of weights, dropout and order"),
    "epochs": Field(WHOLE, "planned epochs of the run"),
    "epoch": Field((int, str), "number from 1; best or last for the final scores of a run"),
    "seconds": Field(NUMBER, "of the epoch's training without compilation, of a call, of a run, of a block of a duel"),
    "train_loss": Field(NUMBER, "mean loss of the epoch"),
    "test_accuracy": Field(NUMBER, "share of 25,000 reviews, of sentiment"),
    "validation_bits": Field(NUMBER, "bits a character of the last tenth of the text, of generation"),
    "units": Field(WHOLE, "hidden size"),
    "chars": Field(WHOLE, "characters drawn in a call"),
    "method": Field(TEXT, "predict loop; carried or window, and the number of samples if more than one"),
    "remat": Field(TEXT, "none, or sqrt for segments"),
    "cache": Field(TEXT, "cold or warm"),
    "flags": Field(DICT, "of `lstm-jax train generation`"),
    "build_seconds": Field(NUMBER, "importing the peer and building the model"),
    "first_step_seconds": Field(NUMBER, "the first step, compilation included"),
    "compile_seconds": Field((float, int, NONE), "part of the first step in XLA's compiler; null where JAX does not run"),
    "peak_memory_mib": Field(NUMBER, "peak resident memory of the process, up to the end of timing"),
    "before_mib": Field(NUMBER, "peak resident memory before the first step"),
    "peak_mib": Field(NUMBER, "peak resident memory"),
    "ms_per_step": Field(NUMBER, "median over all blocks of steps"),
    "samples": Field(LIST, f"milliseconds a step of each block; of more than {KEPT_SAMPLES} evenly spaced order statistics"),
    "sample_count": Field(WHOLE, "blocks that were timed"),
    "steps_per_block": Field(WHOLE, "steps in a block"),
    "probe_gflops": Field(LIST, "of a product before and after timing, see `bench.machine.probe`"),
    "steps_per_second": Field(NUMBER, "1000 / ms_per_step"),
    "tokens_per_second": Field(NUMBER, "steps_per_second T, times the examples of a step: B, of evaluation 25,000"),
    "flops": Field(WHOLE, "of the products of a step, see `bench.flops`"),
    "gflops": Field(NUMBER, "flops / ms_per_step, in 1e9 a second"),
    "least_bytes": Field(WHOLE, "lower bound of the bytes that a step moves, see `bench.flops`"),
    "distance": Field(NUMBER, "largest relative distance from the reference, of outputs and one step; found once a commit"),
    "note": Field(TEXT, "difference of the peer's work from ours"),
    "dtype": Field(TEXT, "of parameters and products"),
    "devices": Field((list, int), "names of the devices used; their number, of scaling"),
    "threads": Field(TEXT, "OMP_NUM_THREADS"),
    "python": Field(TEXT, "version"),
    "platform": Field(TEXT, "operating system"),
    "cpu": Field(TEXT, "model of the processor"),
    "hosts": Field(WHOLE, "processes of JAX"),
    "xla_flags": Field(TEXT, "XLA_FLAGS"),
    "matmul_precision": Field(TEXT, "jax_default_matmul_precision"),
    "slower": Field(NUMBER, "share of its time that each call waits on top of it; 0 if absent"),
    "noisy": Field(TEXT, "reason not to trust its time, empty if none"),
    "parts_ms": Field(DICT, "milliseconds a step by part"),
    "floors_ms": Field(DICT, "lower bound of the milliseconds by part"),
    "gemm_gflops": Field(NUMBER, "of a large float32 product"),
    "copy_gbs": Field(NUMBER, "GB/s of a copy"),
    "error": Field(TEXT, "first line of the error"),
}


def required_in(name: str) -> list[str]:
    """Return the kinds of measurements whose rows must have a field."""
    return [measurement for measurement, kind in MEASUREMENTS.items() if name in (*EVERY, *kind.required.split())]


def make_row(measurement: str, **fields: Any) -> Row:
    """Return a result row with the current schema version, the kind of measurement and the given fields."""
    row = {"schema": VERSION, "measurement": measurement} | fields
    if measurement in TIMED:
        row = rounded(row | {"samples": thinned(row["samples"]), "sample_count": len(row["samples"])})
    return row


def rounded(value: Any) -> Any:
    """Return a JSON value in which every floating-point number is rounded to 6 significant digits."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {name: rounded(part) for name, part in value.items()}
    return [rounded(part) for part in value] if isinstance(value, list) else value


def thinned(samples: Sequence[float]) -> list[float]:
    """Sort the samples, and return at most `KEPT_SAMPLES` of them, evenly spaced by rank and rounded to 4 significant digits."""
    ordered = np.sort(samples)
    places = np.linspace(0, len(ordered) - 1, min(KEPT_SAMPLES, len(ordered)))
    return [float(f"{value:.4g}") for value in ordered[np.round(places).astype(int)]]


def check(row: Any, place: str) -> Row:
    """Check a row of a result file against the schema, and return the row in its current form."""
    if not isinstance(row, dict):
        raise InputError(place, row, "give rows of python -m bench, each an object")
    require(row.get("schema") == VERSION, f"{place}: schema", row.get("schema", "missing"), f"give rows of version {VERSION}")
    measurement = row.get("measurement", "missing")
    require(measurement in MEASUREMENTS, f"{place}: measurement", measurement, f"give one of {', '.join(MEASUREMENTS)}")
    score = {"sentiment": "test_accuracy", "generation": "validation_bits"}.get(str(row.get("task")))
    if measurement == GRID and (score is None or score not in row):
        raise InputError(f"{place}: task", row.get("task"), "give sentiment with test_accuracy, or generation with validation_bits")
    for name in MEASUREMENTS[measurement].required.split():
        require(name in row, f"{place}: {name}", "missing", f"a row of {measurement} has it ({FIELDS[name].meaning})")
    for name in row.keys() & FIELDS.keys():
        valid = isinstance(row[name], FIELDS[name].types) and not isinstance(row[name], bool)
        require(valid, f"{place}: {name}", row[name], f"give {FIELDS[name]} ({FIELDS[name].meaning})")
    if measurement == STEP and row["kind"] == "evaluation":
        row = row | {"tokens_per_second": 1000 / row["ms_per_step"] * workload(row["workload"]).tokens}
    return with_current_names(row)  # old rows have another name for the backend `compiled`


def rows_of(path: Path, *measurements: str, git: str | None = None, series: str = "") -> list[Row]:
    """Read a result file, check its rows against the schema, and return the rows of the given kinds of measurements."""
    return [row for row in select(read_rows(path, check), *measurements, git=git) if row.get("series", "") == series]


def rows_of_commit(path: Path, *measurements: str, git: str, series: str = "") -> list[Row]:
    """Return the rows of one commit that belong to the given kinds of measurements. See `rows_of` for the arguments."""
    rows = rows_of(path, *measurements, series=series)
    found, commits = select(rows, *measurements, git=git), ", ".join(dict.fromkeys(str(row["git"]) for row in rows))
    require(bool(found), f"rows of commit {git}", f"none in {path}", f"name a commit with --commit: {commits or 'none has rows'}")
    return found


def require_one_machine(rows: Iterable[Row], remedy: str = "report rows of one machine") -> None:
    """Check that all rows are from machines with the same CPU and the same number of cores. The rows have the fields "cpu" and "cores"."""
    machines = sorted({f"{row['cpu']}, {row['cores']} cores" for row in rows})
    require(len(machines) <= 1, "machines", " and ".join(machines), remedy)


def match_commit(rows: Iterable[Row], text: str) -> list[Row]:
    """Return the result rows of the commit whose hash begins with the given digits, or an empty list if no row has such a commit."""
    rows, digits = list(rows), text.removesuffix("+")
    commits = dict.fromkeys(row["git"] for row in rows)
    if text not in commits:
        found = [git for git in commits if git.startswith(digits) and git.endswith("+") == text.endswith("+")]
        remedy = f"give the digits of one of {', '.join(found or commits) or 'no commit: there are no rows'}"
        require(digits != "" and len(found) <= 1, "commit", text or "no digits", remedy)
        text = found[0] if found else text
    return [row for row in rows if row["git"] == text]


def select(rows: Iterable[Row], *measurements: str, git: str | None = None) -> list[Row]:
    """Return the result rows of the given kinds of measurements. If `git` is not None, only rows of this commit are returned."""
    return [row for row in rows if row["measurement"] in measurements and (git is None or row["git"] == git)]


def main() -> None:
    """Print all kinds of measurements, then all fields with their types, their meaning and the measurements that require them."""
    for name, kind in MEASUREMENTS.items():
        print(f"{name:<20} {kind.meaning}")
    for name, field in FIELDS.items():
        print(f"\n{name} ({field}): {field.meaning}\n  required in {', '.join(required_in(name)) or 'none'}")


if __name__ == "__main__":
    main()
