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

VERSION = 3
KEPT_SAMPLES = 20
STEP, FAILED, PEAK, FIRST_STEP = "step", "failed", "peak", "first_step"
GRID, SEEDS, LOSS, HELD_OUT, EPOCH_TIME = "grid", "seeds", "loss", "held_out", "epoch_time"
SAMPLING, STEP_MEMORY, RUN_MEMORY, SCALING = "sampling", "step_memory", "run_memory", "scaling"
BREAKDOWN, DUEL, FALSE_ALARM = "breakdown", "duel", "false_alarm"
MEASUREMENTS = {
    STEP: "training steps, evaluation or the recurrence of a peer (throughput)",
    FAILED: "a process of throughput that failed",
    PEAK: "matrix product and copy of the machine (throughput)",
    FIRST_STEP: "build and first step, cold and with a cache (throughput --first-step)",
    GRID: "an epoch of training over length, step and units (accuracy)",
    SEEDS: "an epoch of the Keras example imdb_lstm over seeds (accuracy --study seeds)",
    LOSS: "an epoch of the Keras example lstm_text_generation (accuracy --study loss)",
    HELD_OUT: "an epoch of a recipe of text generation, a tenth held out (accuracy --study held_out)",
    EPOCH_TIME: "seconds of an epoch, peers interleaved (accuracy --study epoch_time)",
    SAMPLING: "seconds to draw characters",
    STEP_MEMORY: "peak memory of a training step (memory)",
    RUN_MEMORY: "peak memory of a training run (memory --run)",
    SCALING: "time and memory of the recurrence at a size",
    BREAKDOWN: "parts of a training step",
    DUEL: "blocks of steps of a checkout that takes turns with another",
    FALSE_ALARM: "like duel, this checkout against itself (duel --false-alarms)",
}


@dataclass(frozen=True)
class Field:
    """Description of one field of the result rows.

    Attributes:
        types: Python types that the value may have after the JSON object is read.
        required: kinds of measurements whose rows must have the field.
        meaning: description that `python -m bench.schema` prints.
    """

    types: tuple[type, ...]
    required: tuple[str, ...]
    meaning: str


TEXT, NUMBER, WHOLE, LIST, DICT, NONE = (str,), (float, int), (int,), (list,), (dict,), type(None)
TIMED, RECIPES, TURNS = (STEP, SCALING), (SEEDS, LOSS, HELD_OUT, EPOCH_TIME), (DUEL, FALSE_ALARM)
TRAINED, TRIED = (GRID, *RECIPES), (STEP, FAILED, FIRST_STEP)
LOADED = (*TRIED, PEAK, GRID, EPOCH_TIME, SAMPLING, SCALING, BREAKDOWN, *TURNS)
SIZES = dict(zip("BTHEV", ("batch", "steps", "hidden size", "features", "vocabulary"), strict=True))
FIELDS = {
    "schema": Field(WHOLE, tuple(MEASUREMENTS), f"version of these fields, now {VERSION}"),
    "measurement": Field(TEXT, tuple(MEASUREMENTS), "a name of `bench.schema.MEASUREMENTS`"),
    "git": Field(
        TEXT, (*TRIED, PEAK, GRID, STEP_MEMORY, SCALING, BREAKDOWN, FALSE_ALARM), "commit of this project, + if its code differed"
    ),
    "cores": Field(WHOLE, LOADED, "cores that the process could use"),
    "load": Field(NUMBER, LOADED, "load average of the minute before"),
    "peer": Field(TEXT, (STEP, FAILED, *TRAINED, SAMPLING, RUN_MEMORY), "name in `bench.peers.PEERS`"),
    "candidate": Field(TEXT, TRIED, "peer and its options, as --peer takes them"),
    "role": Field(TEXT, TURNS, "baseline, candidate or slower"),
    "versions": Field(DICT, (*TIMED, DUEL), "of packages; of the two checkouts of a duel"),
    "series": Field(TEXT, (), "name of rows that are kept apart from the others of their commit; empty if absent"),
    "round": Field(WHOLE, (*TRIED, EPOCH_TIME, SAMPLING, SCALING, *TURNS), "number of the round in which its process ran"),
    "comparison": Field(WHOLE, (FALSE_ALARM,), "number of the comparison that the round belongs to"),
    "workload": Field(TEXT, (*TRIED, STEP_MEMORY, BREAKDOWN, *TURNS), "as `bench.workloads.workload` reads it"),
    "backend": Field((str, NONE), (STEP, FAILED, STEP_MEMORY), "backend asked for, null for the choice of the peer"),
    "backend_ran": Field(TEXT, (*TIMED, STEP_MEMORY, BREAKDOWN), "backend that ran"),
    "dropout": Field(NUMBER, (STEP, FAILED), "rate of input dropout"),
    "recurrent_dropout": Field(NUMBER, (STEP, FAILED), "rate of recurrent dropout; the note says what a peer lacks of it"),
    "kind": Field(TEXT, (STEP,), "sentiment, characters, evaluation, recurrence or forward"),
    "cell": Field(TEXT, (STEP,), "recurrent cell"),
    **{letter: Field(WHOLE, (*TIMED, STEP_MEMORY, *(GRID,) * (letter in "TH")), meaning) for letter, meaning in SIZES.items()},
    "S": Field(WHOLE, (), "characters from one window to the next, of generation"),
    "task": Field(TEXT, TRAINED, "sentiment or generation"),
    "recipe": Field(TEXT, RECIPES, "name in `bench.recipes`"),
    "seed": Field(WHOLE, TRAINED, "seed of weights, dropout and order"),
    "epochs": Field(WHOLE, (GRID,), "planned epochs of the run"),
    "epoch": Field((int, str), TRAINED, "number from 1; best or last for the final scores of a run"),
    "seconds": Field(
        NUMBER,
        (GRID, EPOCH_TIME, SAMPLING, RUN_MEMORY),
        "of the epoch's training without compilation, of a call, of a run, of a block of a duel",
    ),
    "train_loss": Field(NUMBER, (LOSS,), "mean loss of the epoch"),
    "test_accuracy": Field(NUMBER, (SEEDS,), "share of 25,000 reviews, of sentiment"),
    "validation_bits": Field(NUMBER, (), "bits a character of the last tenth of the text, of generation"),
    "units": Field(WHOLE, (SAMPLING,), "hidden size"),
    "chars": Field(WHOLE, (SAMPLING,), "characters drawn in a call"),
    "method": Field(TEXT, (SAMPLING,), "predict loop; carried or window, and the number of samples if more than one"),
    "remat": Field(TEXT, (STEP_MEMORY,), "none, or sqrt for segments"),
    "cache": Field(TEXT, (FIRST_STEP,), "cold or warm"),
    "flags": Field(DICT, (RUN_MEMORY,), "of `lstm-jax train generation`"),
    "build_seconds": Field(NUMBER, (STEP,), "importing the peer and building the model"),
    "first_step_seconds": Field(NUMBER, (STEP,), "the first step, compilation included"),
    "compile_seconds": Field((float, int, NONE), (STEP,), "part of the first step in XLA's compiler; null where JAX does not run"),
    "peak_memory_mib": Field(NUMBER, (STEP,), "peak resident memory of the process, up to the end of timing"),
    "before_mib": Field(NUMBER, (STEP_MEMORY,), "peak resident memory before the first step"),
    "peak_mib": Field(NUMBER, (STEP_MEMORY, RUN_MEMORY, SCALING), "peak resident memory"),
    "ms_per_step": Field(NUMBER, (*TIMED, BREAKDOWN, *TURNS), "median over all blocks of steps"),
    "samples": Field(
        LIST, (*TIMED, *TURNS), f"milliseconds a step of each block; of more than {KEPT_SAMPLES} evenly spaced order statistics"
    ),
    "sample_count": Field(WHOLE, TIMED, "blocks that were timed"),
    "steps_per_block": Field(WHOLE, (*TIMED, *TURNS), "steps in a block"),
    "probe_gflops": Field(LIST, (), "of a product before and after timing, see `bench.machine.probe`"),
    "steps_per_second": Field(NUMBER, (STEP,), "1000 / ms_per_step"),
    "tokens_per_second": Field(NUMBER, (STEP,), "steps_per_second T, times the examples of a step: B, of evaluation 25,000"),
    "flops": Field(WHOLE, (STEP,), "of the products of a step, see `bench.flops`"),
    "gflops": Field(NUMBER, (STEP,), "flops / ms_per_step, in 1e9 a second"),
    "least_bytes": Field(WHOLE, (STEP,), "lower bound of the bytes that a step moves, see `bench.flops`"),
    "distance": Field(NUMBER, (STEP,), "largest relative distance from the reference, of outputs and one step; found once a commit"),
    "note": Field(TEXT, (STEP,), "difference of the peer's work from ours"),
    "dtype": Field(TEXT, (STEP,), "of parameters and products"),
    "devices": Field((list, int), TIMED, "names of the devices used; their number, of scaling"),
    "threads": Field(TEXT, (STEP,), "OMP_NUM_THREADS"),
    "python": Field(TEXT, TIMED, "version"),
    "platform": Field(TEXT, TIMED, "operating system"),
    "cpu": Field(TEXT, (*TIMED, *TURNS), "model of the processor"),
    "hosts": Field(WHOLE, TIMED, "processes of JAX"),
    "xla_flags": Field(TEXT, TIMED, "XLA_FLAGS"),
    "matmul_precision": Field(TEXT, TIMED, "jax_default_matmul_precision"),
    "slower": Field(NUMBER, (), "share of its time that each call waits on top of it; 0 if absent"),
    "noisy": Field(TEXT, (STEP,), "reason not to trust its time, empty if none"),
    "parts_ms": Field(DICT, (BREAKDOWN,), "milliseconds a step by part"),
    "floors_ms": Field(DICT, (BREAKDOWN,), "lower bound of the milliseconds by part"),
    "gemm_gflops": Field(NUMBER, (BREAKDOWN,), "of a large float32 product"),
    "copy_gbs": Field(NUMBER, (BREAKDOWN,), "GB/s of a copy"),
    "error": Field(TEXT, (FAILED,), "first line of the error"),
}


def make_row(measurement: str, **fields: Any) -> dict[str, Any]:
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


def check(row: Any, place: str) -> dict[str, Any]:
    """Check a row of a result file against the schema, and return the row in its current form."""
    if not isinstance(row, dict):
        raise InputError(place, row, "give rows of python -m bench, each an object")
    require(row.get("schema") == VERSION, f"{place}: schema", row.get("schema", "missing"), f"give rows of version {VERSION}")
    measurement = row.get("measurement", "missing")
    require(measurement in MEASUREMENTS, f"{place}: measurement", measurement, f"give one of {', '.join(MEASUREMENTS)}")
    score = {"sentiment": "test_accuracy", "generation": "validation_bits"}.get(str(row.get("task")))
    if measurement == GRID and (score is None or score not in row):
        raise InputError(f"{place}: task", row.get("task"), "give sentiment with test_accuracy, or generation with validation_bits")
    for name, field in FIELDS.items():
        if measurement in field.required and name not in row:
            raise InputError(f"{place}: {name}", "missing", f"a row of {measurement} has it ({field.meaning})")
        if name in row and (not isinstance(row[name], field.types) or isinstance(row[name], bool)):
            raise InputError(f"{place}: {name}", row[name], f"give {' or '.join(t.__name__ for t in field.types)} ({field.meaning})")
    if measurement == STEP and row["kind"] == "evaluation":
        row = row | {"tokens_per_second": 1000 / row["ms_per_step"] * workload(row["workload"]).tokens}
    return with_current_names(row)  # old rows have another name for the backend `compiled`


def rows_of(path: Path, *measurements: str, git: str | None = None, series: str = "") -> list[dict[str, Any]]:
    """Read a result file, check its rows against the schema, and return the rows of the given kinds of measurements."""
    return [row for row in select(read_rows(path, check), *measurements, git=git) if row.get("series", "") == series]


def rows_of_commit(path: Path, *measurements: str, git: str, series: str = "") -> list[dict[str, Any]]:
    """Return the rows of one commit that belong to the given kinds of measurements. See `rows_of` for the arguments."""
    rows = rows_of(path, *measurements, series=series)
    found, commits = select(rows, *measurements, git=git), ", ".join(dict.fromkeys(str(row["git"]) for row in rows))
    require(bool(found), f"rows of commit {git}", f"none in {path}", f"name a commit with --commit: {commits or 'none has rows'}")
    return found


def require_one_machine(rows: Iterable[dict[str, Any]], remedy: str = "report rows of one machine") -> None:
    """Check that all rows are from machines with the same CPU and the same number of cores. The rows have the fields "cpu" and "cores"."""
    machines = sorted({f"{row['cpu']}, {row['cores']} cores" for row in rows})
    require(len(machines) <= 1, "machines", " and ".join(machines), remedy)


def match_commit(rows: Iterable[dict[str, Any]], text: str) -> list[dict[str, Any]]:
    """Return the result rows of the commit whose hash begins with the given digits, or an empty list if no row has such a commit."""
    rows, digits = list(rows), text.removesuffix("+")
    commits = dict.fromkeys(row["git"] for row in rows)
    if text not in commits:
        found = [git for git in commits if git.startswith(digits) and git.endswith("+") == text.endswith("+")]
        remedy = f"give the digits of one of {', '.join(found or commits) or 'no commit: there are no rows'}"
        require(digits != "" and len(found) <= 1, "commit", text or "no digits", remedy)
        text = found[0] if found else text
    return [row for row in rows if row["git"] == text]


def select(rows: Iterable[dict[str, Any]], *measurements: str, git: str | None = None) -> list[dict[str, Any]]:
    """Return the result rows of the given kinds of measurements. If `git` is not None, only rows of this commit are returned."""
    return [row for row in rows if row["measurement"] in measurements and (git is None or row["git"] == git)]


def main() -> None:
    """Print all kinds of measurements, then all fields with their types, their meaning and the measurements that require them."""
    for name, meaning in MEASUREMENTS.items():
        print(f"{name:<20} {meaning}")
    for name, field in FIELDS.items():
        types = " or ".join("null" if t is NONE else t.__name__ for t in field.types)
        print(f"\n{name} ({types}): {field.meaning}\n  required in {', '.join(field.required) or 'none'}")


if __name__ == "__main__":
    main()
