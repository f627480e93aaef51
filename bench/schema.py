"""Schema of the result files in `bench/results`, and functions that create, check and
select their rows.

A row is one result: a JSON object on a line of its own. Rows are only ever appended to
a file. Each row contains the version of the schema and the kind of measurement.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.workloads import workload
from lstm_jax.base.errors import InputError, require
from lstm_jax.lab.sweep.rows import read_rows

Row = dict[str, Any]
"""Result row, or some of its fields."""
Rows = Sequence[Row]
VERSION = 3
RENAMED = {"native": "compiled"}
"""Dict from the former name of a backend, which old rows have, to its current name."""
KEPT_SAMPLES = 20
STEP, FAILED, PEAK, FIRST_STEP = "step", "failed", "peak", "first_step"
GRID, SEEDS, LOSS, HELD_OUT, EPOCH_TIME = (
    "grid",
    "seeds",
    "loss",
    "held_out",
    "epoch_time",
)
SAMPLING, STEP_MEMORY, RUN_MEMORY, SCALING = (
    "sampling",
    "step_memory",
    "run_memory",
    "scaling",
)
BREAKDOWN, DUEL, FALSE_ALARM, MACHINE = "breakdown", "duel", "false_alarm", "machine"


@dataclass(frozen=True)
class Kind:
    """Kind of measurement, with its meaning and the names of the fields that its rows
    must have, separated by blanks.
    """

    meaning: str
    required: str


MEASUREMENTS = {
    STEP: Kind(
        "training steps, evaluation or the recurrence of a peer (throughput)",
        "git cores load peer candidate versions round workload backend "
        "backend_ran dropout recurrent_dropout kind cell B T H E V "
        "build_seconds first_step_seconds compile_seconds peak_memory_mib "
        "ms_per_step samples sample_count steps_per_block "
        "steps_per_second tokens_per_second flops gflops least_bytes distance "
        "note dtype devices threads python platform cpu "
        "hosts xla_flags matmul_precision noisy",
    ),
    FAILED: Kind(
        "a process of throughput that failed",
        "git cores load peer candidate round workload backend dropout "
        "recurrent_dropout error",
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
        "an epoch of a recipe of text generation, a tenth held out (accuracy "
        "--study held_out)",
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
        "git cores load versions round backend_ran B T H E V peak_mib "
        "ms_per_step samples sample_count steps_per_block devices "
        "python platform cpu hosts xla_flags matmul_precision",
    ),
    BREAKDOWN: Kind(
        "parts of a training step",
        "git cores load workload backend_ran ms_per_step parts_ms floors_ms "
        "gemm_gflops copy_gbs",
    ),
    DUEL: Kind(
        "blocks of steps of a checkout that takes turns with another",
        "cores load role versions round workload ms_per_step samples "
        "steps_per_block cpu",
    ),
    FALSE_ALARM: Kind(
        "like duel, a checkout against itself; in old rows",
        "git cores load role round comparison workload ms_per_step samples "
        "steps_per_block cpu",
    ),
    MACHINE: Kind(
        "a machine (machine); first row of a submission, then with git, "
        "seconds, speedups and shared (submit)",
        "machine hardware settings versions python platform peaks date",
    ),
}
"""Kinds of measurements. The rows of all kinds must also have the fields of `EVERY`."""
EVERY = ("schema", "measurement")


NONE = type(None)
MEANINGS = {
    (int,): {
        "schema": f"version of these fields, now {VERSION}",
        "cores": "cores that the process could use",
        "round": "number of the round in which its process ran",
        "comparison": "number of the comparison that the round belongs to",
        "B": "batch",
        "T": "steps",
        "H": "hidden size",
        "E": "features",
        "V": "vocabulary",
        "S": "characters from one window to the next, of generation",
        "seed": "seed of weights, dropout and order",
        "epochs": "planned epochs of the run",
        "units": "hidden size",
        "chars": "characters drawn in a call",
        "sample_count": "blocks that were timed",
        "steps_per_block": "steps in a block",
        "flops": "of the products of a step, see `bench.flops`",
        "least_bytes": "lower bound of the bytes that a step moves, see `bench.flops`",
        "hosts": "processes of JAX",
    },
    (str,): {
        "measurement": "a name of `bench.schema.MEASUREMENTS`",
        "machine": "id of the machine, a checksum of its hardware",
        "date": "UTC date and time, as in 2026-01-31T12:00:00+00:00",
        "git": "commit of this project, + if its code differed",
        "peer": "name in `bench.peers.PEERS`",
        "candidate": "peer and its options, as --peer takes them",
        "role": "baseline or candidate; in old rows also slower",
        "series": (
            "name of old rows that are kept apart from the others of their commit"
        ),
        "workload": "as `bench.workloads.workload` reads it",
        "backend_ran": "backend that ran",
        "kind": "sentiment, characters, evaluation, recurrence or forward",
        "cell": "recurrent cell",
        "task": "sentiment or generation",
        "recipe": "name in `bench.recipes`",
        "method": (
            "predict loop; carried or window, and the number of samples if more "
            "than one"
        ),
        "remat": "none, or sqrt for segments",
        "cache": "cold or warm",
        "note": "difference of the peer's work from ours",
        "dtype": "of parameters and products",
        "threads": "OMP_NUM_THREADS",
        "python": "version",
        "platform": "operating system",
        "cpu": "model of the processor",
        "xla_flags": "XLA_FLAGS",
        "matmul_precision": "jax_default_matmul_precision",
        "noisy": "reason not to trust its time, empty if none",
        "error": "first line of the error",
    },
    (float, int): {
        "load": "load average of the minute before",
        "dropout": "rate of input dropout",
        "recurrent_dropout": "rate of recurrent dropout; the note says what a peer lacks of it",
        "seconds": (
            "of the epoch's training without compilation, of a call, of a run, of "
            "a block of a duel, of a whole submission"
        ),
        "train_loss": "mean loss of the epoch",
        "test_accuracy": "share of 25,000 reviews, of sentiment",
        "validation_bits": "bits a character of the last tenth of the text, of generation",
        "build_seconds": "importing the peer and building the model",
        "first_step_seconds": "the first step, compilation included",
        "peak_memory_mib": "peak resident memory of the process, up to the end of timing",
        "before_mib": "peak resident memory before the first step",
        "peak_mib": "peak resident memory",
        "ms_per_step": "median over all blocks of steps",
        "steps_per_second": "1000 / ms_per_step",
        "tokens_per_second": (
            "steps_per_second T, times the examples of a step: B, of evaluation 25,000"
        ),
        "gflops": "flops / ms_per_step, in 1e9 a second",
        "distance": (
            "largest relative distance from the reference, of outputs and one "
            "step; found once a commit"
        ),
        "slower": "share of its time that each call waited on top of it; in old rows",
        "gemm_gflops": "of a large float32 product",
        "copy_gbs": "GB/s of a copy",
    },
    (dict,): {
        "versions": "of packages; of the two checkouts of a duel",
        "flags": "of `lstm-jax train generation`",
        "hardware": (
            "properties that do not change: CPU, topology, caches, memory, "
            "hypervisor, GPUs"
        ),
        "settings": "properties that may change: governor, highest clock, driver",
        "peaks": "GFLOP/s of a float32 product and GB/s of a copy, by number of cores",
        "shared": "fields of all later rows of a submission",
        "speedups": "our speedup by workload and candidate",
        "parts_ms": "milliseconds a step by part",
        "floors_ms": "lower bound of the milliseconds by part",
    },
    (str, NONE): {
        "backend": "backend asked for, null for the choice of the peer",
    },
    (int, str): {
        "epoch": "number from 1; best or last for the final scores of a run",
    },
    (float, int, NONE): {
        "compile_seconds": "part of the first step in XLA's compiler; null where JAX does not run",
    },
    (list,): {
        "samples": (
            f"milliseconds a step of each block; of more than {KEPT_SAMPLES} "
            "evenly spaced order statistics"
        ),
        "probe_gflops": "of a product before and after timing, see `bench.hardware.probe`",
    },
    (list, int): {
        "devices": "names of the devices used; their number, of scaling",
    },
}
"""Dict from the Python types that a value may have after the JSON object is read to the
fields with such values and their meanings."""
TYPES = {name: types for types, fields in MEANINGS.items() for name in fields}


def described(name: str) -> tuple[str, str]:
    """Return the types of a field's values and the meaning of the field, for example
    ("float or int", "peak resident memory").
    """
    types = TYPES[name]
    return " or ".join(
        "null" if kind is NONE else kind.__name__ for kind in types
    ), MEANINGS[types][name]


def make_row(measurement: str, **fields) -> Row:
    """Return a result row with the current schema version, the kind of measurement and
    the given fields.
    """
    row = {"schema": VERSION, "measurement": measurement} | fields
    if measurement in (STEP, SCALING):
        row = rounded(
            row
            | {"samples": thinned(row["samples"]), "sample_count": len(row["samples"])}
        )
    return row


def rounded(value) -> Any:
    """Return a JSON value in which every floating-point number is rounded to 6
    significant digits.
    """
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {name: rounded(part) for name, part in value.items()}
    return [rounded(part) for part in value] if isinstance(value, list) else value


def thinned(samples: Sequence[float]) -> list[float]:
    """Sort the samples, and return at most `KEPT_SAMPLES` of them, evenly spaced by
    rank and rounded to 4 significant digits.
    """
    ordered = np.sort(samples)
    places = np.linspace(0, len(ordered) - 1, min(KEPT_SAMPLES, len(ordered)))
    return [float(f"{value:.4g}") for value in ordered[np.round(places).astype(int)]]


def check(row, place: str) -> Row:
    """Check a row of a result file against the schema, and return it."""
    require(
        isinstance(row, dict),
        place,
        row,
        "give rows of python -m bench, each an object",
    )
    require(
        row.get("schema") == VERSION,
        f"{place}: schema",
        row.get("schema", "missing"),
        f"give rows of version {VERSION}",
    )
    measurement = row.get("measurement", "missing")
    require(
        measurement in MEASUREMENTS,
        f"{place}: measurement",
        measurement,
        f"give one of {', '.join(MEASUREMENTS)}",
    )
    for name in MEASUREMENTS[measurement].required.split():
        if name not in row:
            raise InputError(
                f"{place}: {name}",
                "missing",
                f"a row of {measurement} has it ({described(name)[1]})",
            )
    for name in row.keys() & TYPES.keys():
        if not isinstance(row[name], TYPES[name]) or isinstance(row[name], bool):
            raise InputError(
                f"{place}: {name}", row[name], "give {} ({})".format(*described(name))
            )
    if measurement == STEP and row["kind"] == "evaluation":
        # old rows count the tokens of one batch
        row = row | {
            "tokens_per_second": 1000
            / row["ms_per_step"]
            * workload(row["workload"]).tokens
        }
    return row


def rows_of(path: Path, *measurements: str, git: str | None = None) -> list[Row]:
    """Read a result file, or all files below a folder, check the rows, and return those
    of the given kinds of measurements. Old rows of a series of their own are left out.
    """
    files = sorted(path.rglob("*.jsonl*")) if path.is_dir() else [path]
    rows = [row for file in files for row in read_checked(file)]
    return [row for row in select(rows, *measurements, git=git) if "series" not in row]


def read_checked(path: Path) -> Iterator[Row]:
    """Yield the rows of a result file, checked against the schema and with the fields
    that the rows of a submission share.
    """
    shared: Row = {}

    def whole(row, place: str):
        nonlocal shared
        if isinstance(row, dict):
            row = row if row.get("measurement") == MACHINE else shared | row
            shared = row.get("shared", shared)
        return check(row, place)

    return read_rows(path, whole)


def rows_of_commit(path: Path, *measurements: str, git: str) -> list[Row]:
    """Return the rows of the given kinds of the commit whose hash begins with the given
    digits.

    A commit and the same commit with uncommitted changes, marked by "+", are two
    commits.
    """
    rows = rows_of(path, *measurements)
    commits = list(dict.fromkeys(row["git"] for row in rows))
    digits = git.removesuffix("+")
    like = [
        commit
        for commit in commits
        if commit.startswith(digits) and commit.endswith("+") == git.endswith("+")
    ]
    found = [git] if git in commits else like
    remedy = (
        f"name one of the commits {', '.join(like or commits)}"
        if commits
        else "measure some first"
    )
    require(
        len(found) == 1,
        f"rows of commit {git}",
        f"none in {path}" if not found else f"those of {len(found)} commits",
        remedy,
    )
    return select(rows, *measurements, git=found[0])


def by_machine(rows: Rows, wanted: str = "") -> dict[str, list[Row]]:
    """Return the rows by the name of their machine (CPU, cores, GPU, id), of the
    machines whose name contains a text, the newest first.

    Rows without these fields are in every group, an old row without an id in that of
    the only machine with its CPU and cores.
    """

    def hardware(row: Row):
        text = f"{row['cpu']}, {row['cores']} cores" if "cpu" in row else ""
        return text + ", GPU" * ("gpu" in str(row.get("devices")).lower())

    texts = list(map(hardware, rows))
    known = {
        row["machine"]: text
        for row, text in zip(rows, texts, strict=True)
        if text and "machine" in row
    }
    only = {
        text: number
        for number, text in known.items()
        if [*known.values()].count(text) == 1
    }
    numbers = [
        row.get("machine") or only.get(text)
        for row, text in zip(rows, texts, strict=True)
    ]
    names = [
        f"{known.get(n, '')} ({n})".strip() if n else text
        for n, text in zip(numbers, texts, strict=True)
    ]
    machines = list(dict.fromkeys(filter(None, reversed(names)))) or [""]
    found = [name for name in machines if wanted in name]
    require(bool(found), "machine", wanted, f"name one of {'; '.join(machines)}")
    return {
        machine: [
            row for row, own in zip(rows, names, strict=True) if own in (machine, "")
        ]
        for machine in found
    }


def select(rows: Rows, *measurements: str, git: str | None = None) -> list[Row]:
    """Return the result rows of the given kinds of measurements. If `git` is not None,
    only rows of this commit are returned.
    """
    return [
        row
        for row in rows
        if row["measurement"] in measurements and (git is None or row["git"] == git)
    ]
