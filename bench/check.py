"""Check of submissions, the files that `bench submit` writes: schema, agreement of the
numbers with each other, impossible numbers.

    python -m bench check bench/results/submissions/*.jsonl

A file that fails is refused with one line and exit code 2. A file that passes may still
be noisy, which is printed. The numbers are not
proven to be true: the peak speeds, for example, are measured by the same machine.
"""

import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench import RESULTS, flops, hardware, make_parser
from bench.peers import KEY, OURS, TABLE, read_candidate
from bench.schema import (
    FAILED,
    MACHINE,
    PEAK,
    STEP,
    Row,
    Rows,
    read_checked,
    select,
)
from bench.summary import speedups
from bench.worker import TOLERANCE
from bench.workloads import workload
from lstm_jax.base.errors import parsing, require

SUBMISSIONS = RESULTS / "submissions"
LAYERS = f"{OURS} torch_lstm flax_nnx"
SLOW = ("own_loop", "torch_compiled", "keras_torch")
TRAINING = " ".join(
    peer.name for peer in TABLE if peer.name not in SLOW and "sentiment" in peer.kinds
)
SUITE = {
    "A": TRAINING,
    "B": TRAINING,
    "recurrence:H=32,T=20,B=32": LAYERS,
    "recurrence:H=128,T=80,B=32": LAYERS,
    "recurrence:H=256,T=80,B=128": LAYERS,
    "recurrence:cell=gru": f"{OURS} torch_lstm keras_jax",
    "inference": f"{OURS} torch_lstm onnx_runtime",
    "inference:B=32": f"{OURS} torch_lstm onnx_runtime",
    "resets": f"{OURS} jax_scan torchrl",
}
"""Dict from the workloads of a submission to their peers, separated by blanks."""
BYTES, ABOVE, SLOWER = 100_000, 1.1, 0.9
"""Largest size of a file, largest ratio of a speed to the measured peak, and smallest
ratio of the late to the early speed of the CPU."""


def verified(path: Path) -> list[Row]:
    """Return the rows of a submission.

    Raises:
        InputError: if the file is not as `bench submit` writes it, or if its numbers
            contradict each other or are impossible.
    """
    with parsing(f"submission {path}", "give a file of python -m bench submit"):
        size = path.stat().st_size
        require(
            path.suffix == ".jsonl" and size <= BYTES,
            f"size of {path}",
            f"{size:,} bytes",
            f"give .jsonl of {BYTES:,} bytes at most",
        )
        rows = list(read_checked(path))
        kinds = [row["measurement"] for row in rows]
        require(
            len(rows) == len(path.read_bytes().splitlines())
            and kinds.count(MACHINE) == 1
            and kinds[0] == MACHINE,
            f"rows of {path}",
            len(rows),
            "give a row of a machine, then complete lines",
        )
        about, *measured = rows
        _check_machine(about, f"{path}, line 1")
        peak = max(
            value
            for row in (about["peaks"], *select(rows, PEAK))
            for name, value in row.items()
            if name.startswith("gemm_gflops")
        )
        for number, row in enumerate(measured, 2):
            _check_row(row, about, peak, f"{path}, line {number}")
        processes = [
            (row["workload"], row["candidate"], row["round"])
            for row in select(rows, STEP, FAILED)
        ]
        require(
            len(set(processes)) == len(processes),
            f"{path}: round",
            f"{len(processes)} rows",
            "give each measurement once",
        )
        ours = {row["workload"] for row in select(rows, STEP) if row["peer"] == OURS}
        require(
            {"A", "B"} <= ours,
            f"{path}: workload",
            f"{OURS} on {', '.join(sorted(ours))}",
            "measure again, with A and B",
        )
        require(
            speedups(rows) == about["speedups"],
            f"{path}: speedups",
            about["speedups"],
            "do not follow from the samples",
        )
        return rows


def _check_numbers(row: Row, place: str) -> None:
    for name, value in row.items():
        for number in value if isinstance(value, list) else [value]:
            require(
                not isinstance(number, int | float) or 0 <= number < math.inf,
                f"{place}: {name}",
                number,
                "give a positive number",
            )


def _check_machine(row: Row, place: str) -> None:
    _check_numbers(row, place)
    own = hardware.machine_id(row["hardware"])
    require(
        row["machine"] == own,
        f"{place}: machine",
        row["machine"],
        f"the hardware has the id {own}",
    )
    require(
        re.fullmatch(r"[0-9a-f]{7,40}", row["git"]),
        f"{place}: git",
        row["git"],
        "measure a commit without changes",
    )


def _check_row(row: Row, about: Row, peak: float, place: str) -> None:
    _check_numbers(row, place)

    def require_one_of(field: str, choices: Sequence[str]):
        require(
            row.get(field) in choices,
            f"{place}: {field}",
            row.get(field),
            f"give one of {', '.join(choices)}",
        )

    require_one_of("measurement", (PEAK, FAILED, STEP))
    require_one_of("machine", [about["machine"]])
    require_one_of("git", [about["git"]])
    if row["measurement"] == PEAK:
        return
    require_one_of("workload", list(SUITE))
    require_one_of("candidate", SUITE[row["workload"]].split())
    if row["measurement"] == FAILED:
        return
    work, ms, samples = workload(row["workload"]), row["ms_per_step"], row["samples"]
    low, high = samples[(len(samples) - 1) // 2], samples[len(samples) // 2]
    require(
        0.999 * low <= ms <= 1.001 * high,
        f"{place}: ms_per_step",
        ms,
        f"the median of the samples is about {low}",
    )
    known = (
        read_candidate(row["candidate"]).fields(work)
        | work.fields
        | flops.speeds(work, ms)
    )
    for field, value in known.items():
        given: Any = row.get(field, KEY.get(field))
        same = given == value or (
            isinstance(value, float) and math.isclose(given, value, rel_tol=1e-3)
        )
        require(
            same,
            f"{place}: {field}",
            given,
            f"follows from the workload and the time: {value}",
        )
    require(
        row["distance"] <= TOLERANCE["float32"],
        f"{place}: distance",
        row["distance"],
        "too far from the reference",
    )
    # products of repeated words, and of the kernel before inference, can be saved
    saved = flops.forward_flops(work)["projection"] if work.words else 0
    speed = (row["flops"] - saved) / ms / 1e6
    require(
        speed <= ABOVE * peak,
        f"{place}: gflops",
        f"{speed:.0f}",
        f"above the peak of {peak:.0f} GFLOP/s",
    )


def notes(rows: Rows) -> Iterator[str]:
    """Yield lines of text about a submission: the machine, then what makes its times
    less reliable.
    """
    about, steps = rows[0], select(rows, STEP)
    yield (
        f"machine {about['machine']}, {about['hardware']['cpu']}; commit "
        f"{about['git']}, {about['date']}"
    )
    if noisy := sum(bool(row["noisy"]) for row in steps):
        yield (
            f"{noisy} of {len(steps)} rows are noisy: close other programs and "
            "measure again"
        )
    if max(row["load"] for row in steps) > 1.5 * steps[0]["cores"]:
        yield (
            f"load average up to {max(row['load'] for row in steps):.1f} on "
            f"{steps[0]['cores']} cores: other programs ran"
        )
    probes = [np.mean(row["probe_gflops"]) for row in steps if row.get("probe_gflops")]
    third = len(probes) // 3
    if third and np.median(probes[-third:]) < SLOWER * np.median(probes[:third]):
        yield (
            f"throttled: small products went from {np.median(probes[:third]):.0f} "
            f"to {np.median(probes[-third:]):.0f} GFLOP/s"
        )
    for row in steps:
        if row["candidate"] == OURS and row["backend_ran"] != "compiled":
            yield (
                f"compiled code was not used: {row['workload']} ran "
                f"{row['backend_ran']}"
            )
    for row in select(rows, FAILED):
        yield f"failed: {row['candidate']} on {row['workload']}: {row['error']}"


def main() -> None:
    """Check submissions, and print a summary of each."""
    parser = make_parser(__doc__)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    for path in parser.parse_args().files:
        rows = verified(path)
        print(f"{path}: {len(rows)} rows, accepted")
        for line in notes(rows):
            print(f"  {line}")
