"""Check of submissions, the files that `bench submit` writes: schema, agreement of the
numbers with each other, impossible numbers.

    python -m bench check bench/results/submissions/*.jsonl

A file that fails is refused with one line and exit code 2. A file that passes may still
be noisy, which is printed. The numbers are not
proven to be true: the peak speeds, for example, are measured by the same machine.
"""

import math
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from bench import RESULTS, flops, hardware, make_parser
from bench.peers import KEY, OURS, PEERS, TABLE, read_candidate
from bench.schema import (
    FAILED,
    KEPT_SAMPLES,
    MACHINE,
    PEAK,
    STEP,
    TYPES,
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
        whole = (
            len(rows) == len(path.read_bytes().splitlines())
            and [row["measurement"] for row in rows].count(MACHINE) == 1
        )
        require(
            whole and rows[0]["measurement"] == MACHINE,
            f"rows of {path}",
            len(rows),
            "give a row of a machine, then complete lines",
        )
        _check_machine(rows[0], f"{path}, line 1")
        speeds = [rows[0]["peaks"], *select(rows, PEAK)]
        peak = max(
            value
            for row in speeds
            for name, value in row.items()
            if name.startswith("gemm_gflops")
        )
        for number, row in enumerate(rows[1:], 2):
            _check_row(row, rows[0], peak, f"{path}, line {number}")
        steps = select(rows, STEP)
        for what, known in (
            (
                "samples",
                [str(row["samples"]) for row in steps if len(row["samples"]) > 4],
            ),
            (
                "round",
                [
                    (row["workload"], row["candidate"], row["round"])
                    for row in select(rows, STEP, FAILED)
                ],
            ),
        ):
            twice = next(
                (value for n, value in enumerate(known) if value in known[:n]), None
            )
            require(
                twice is None, f"{path}: {what}", twice, "give each measurement once"
            )
        missing = {"A", "B"} - {
            row["workload"] for row in steps if row["candidate"] == OURS
        }
        require(
            not missing,
            f"{path}: workload",
            f"no {OURS} on {' and '.join(sorted(missing))}",
            "measure again",
        )
        spent = sum(_seconds(row) for row in steps)
        require(
            spent <= rows[0]["seconds"],
            f"{path}: seconds",
            rows[0]["seconds"],
            f"its samples took {spent:.0f} s",
        )
        ratios, stated = speedups(rows), rows[0]["speedups"]
        same = ratios.keys() == stated.keys() and all(
            stated[name].keys() == own.keys() for name, own in ratios.items()
        )
        for name in ratios if same else ():
            same = same and all(
                math.isclose(stated[name][peer], ratio, rel_tol=1e-3)
                for peer, ratio in ratios[name].items()
            )
        require(same, f"{path}: speedups", stated, "do not follow from the samples")
        return rows


def _seconds(row: Row) -> float:
    return (
        row["build_seconds"]
        + row["first_step_seconds"]
        + row["sample_count"] * row["steps_per_block"] * row["ms_per_step"] / 1000
    )


def _check_numbers(row: Row, place: str) -> None:
    for name, value in row.items():
        require(
            name in TYPES or re.fullmatch(r"(gemm_gflops|copy_gbs)_(gpu|\d+)", name),
            f"{place}: {name}",
            value,
            "no such field",
        )
        for number in (
            value
            if isinstance(value, list)
            else value.values()
            if name == "peaks"
            else [value]
        ):
            good = not isinstance(number, int | float) or (
                0 <= number < math.inf
                and (number > 0 or name not in ("samples", "peaks"))
            )
            require(good, f"{place}: {name}", number, "give a positive number")


def _check_machine(row: Row, place: str) -> None:
    for name in ("git", "seconds", "speedups", "shared"):
        require(
            name in row,
            f"{place}: {name}",
            "missing",
            "give a file of python -m bench submit",
        )
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
    with parsing(f"{place}: date", "give UTC, as in 2026-01-31T12:00:00+00:00"):
        future = datetime.fromisoformat(row["date"]) > datetime.now(UTC) + timedelta(
            days=1
        )
    require(not future, f"{place}: date", row["date"], "lies in the future")


def _check_row(row: Row, about: Row, peak: float, place: str) -> None:
    _check_numbers(row, place)
    kinds = PEAK, FAILED, STEP
    require(
        row["measurement"] in kinds,
        f"{place}: measurement",
        row["measurement"],
        f"a submission has {', '.join(kinds)}",
    )
    for name in ("machine", "git"):
        require(
            row.get(name) == about[name],
            f"{place}: {name}",
            row.get(name),
            f"the first row has {about[name]}",
        )
    if row["measurement"] == PEAK:
        return
    name, samples = row["workload"], row.get("samples", [])
    require(
        name in SUITE, f"{place}: workload", name, f"give one of {', '.join(SUITE)}"
    )
    require(
        row["candidate"] in SUITE[name].split(),
        f"{place}: candidate",
        row["candidate"],
        f"give one of {SUITE[name]}",
    )
    if row["measurement"] == FAILED:
        return
    work, ms, count = workload(name), row["ms_per_step"], len(samples)
    kept = samples == sorted(samples) and count == min(
        row["sample_count"], KEPT_SAMPLES
    )
    require(
        kept,
        f"{place}: samples",
        count,
        f"give {KEPT_SAMPLES} of sample_count at most, in order",
    )
    require(
        len(set(samples)) >= min(3, (count + 1) // 2),
        f"{place}: samples",
        samples,
        "measured times differ",
    )
    low, high = samples[(count - 1) // 2], samples[count // 2]
    require(
        0.999 * low <= ms <= 1.001 * high,
        f"{place}: ms_per_step",
        ms,
        f"the median of the samples is about {low}",
    )
    count = flops.step_flops(work)
    known = (
        read_candidate(row["candidate"]).fields(work)
        | work.sizes
        | {"kind": work.kind, "cell": work.cell}
    )
    known |= {
        "flops": count,
        "least_bytes": flops.least_bytes(work),
        "steps_per_second": 1000 / ms,
    }
    known |= {"tokens_per_second": 1000 / ms * work.tokens, "gflops": count / ms / 1e6}
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
    speed = (
        (count - (flops.forward_flops(work)["projection"] if work.words else 0))
        / ms
        / 1e6
    )
    require(
        speed <= ABOVE * peak,
        f"{place}: gflops",
        f"{speed:.0f}",
        f"above the peak of {peak:.0f} GFLOP/s",
    )


def notes(rows: Rows) -> Iterator[str]:
    """Yield lines of text about a submission: the machine, then what is missing from it
    or makes its times less reliable.
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
    tried = {(row["workload"], row["candidate"]) for row in select(rows, STEP, FAILED)}
    for name, peers in SUITE.items():
        can = [
            peer
            for peer in map(PEERS.__getitem__, peers.split())
            if about["hardware"]["gpus"] or not peer.gpu
        ]
        if left := [
            peer.name
            for peer in can
            if (name, peer.name) not in tried and not peer.lacks(workload(name))
        ]:
            yield f"not measured: {', '.join(left)} on {name}"
    rounds = 1 + min(
        max(row["round"] for row in steps if row["workload"] == name)
        for name in {row["workload"] for row in steps}
    )
    if rounds < 5:
        yield (
            f"{rounds} complete round{'s' * (rounds > 1)}: with fewer than 5, "
            "intervals are too narrow"
        )


def main() -> None:
    """Check submissions, and print a summary of each."""
    parser = make_parser(__doc__)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    for path in parser.parse_args().files:
        rows = verified(path)
        print(f"{path}: {len(rows)} rows, accepted")
        for line in notes(rows):
            print(f"  {line}")
