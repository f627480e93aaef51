"""Submission of results from your machine: a fixed suite, measured for at most 10
minutes, in one file.

    # writes bench/results/submissions/MACHINE_COMMIT.jsonl
    python -m bench submit
    python -m bench check bench/results/submissions/MACHINE_COMMIT.jsonl

Nothing else should run meanwhile. Peers that are not installed are left out: pip
install -e ".[peers,torch,onnx]" adds them. Each round starts a fresh process for each
peer on each workload, and up to three rounds are measured. The command then checks the
file as `bench check` does, and names what makes it less reliable: noisy rows, load,
throttling. CONTRIBUTING.md says how to send the file.
"""

import json
import tempfile
from pathlib import Path
from time import perf_counter

from bench import add_flags, commit, hardware, machine, make_parser, throughput, timing
from bench.check import SUBMISSIONS, SUITE, notes, verified
from bench.peers import PEERS, installed, read_candidate
from bench.schema import FAILED, PEAK, STEP, Row, Rows, rows_of, select
from bench.summary import speedups
from bench.workloads import workload
from lstm_jax.base.errors import require
from lstm_jax.base.writing import check_output, write_atomically

MINUTES, ROUNDS, SECONDS = 10, 3, 0.7  # the rows of 3 rounds take 80 kB
SHARED = (
    "schema git machine cores cpu python platform hosts xla_flags "
    "matmul_precision threads"
)


def packed(about: Row, rows: Rows) -> str:
    """Return the text of a submission: a row for the machine, which has the fields that
    all rows share, and the other rows.
    """
    first = next(iter(select(rows, STEP)), {})
    shared = {
        name: first[name]
        for name in SHARED.split()
        if name in first
        and all(row.get(name, first[name]) == first[name] for row in rows)
    }
    shared["versions"] = about["versions"]  # has those of all peers
    lines = [
        about | {"shared": shared},
        *({name: row[name] for name in row if name not in shared} for row in rows),
    ]
    return "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)


def main() -> None:
    """Measure the suite, write the submission, check it, and print its report."""
    began, parser = perf_counter(), make_parser(__doc__)
    add_flags(parser, Path, out="file to write")
    options, git = parser.parse_args(), commit()
    path = options.out or SUBMISSIONS / f"{hardware.machine_id()}_{git}.jsonl"
    require(
        git and "+" not in git,
        "commit",
        git or "none",
        "measure a clone without changes of its code",
    )
    require(
        not path.exists(),
        f"submission {path}",
        "exists",
        "remove it, or give another file in --out",
    )
    check_output(path)
    timing.require_compiled()
    names = dict.fromkeys(name for peers in SUITE.values() for name in peers.split())
    candidates = installed(map(read_candidate, names))
    here = [candidate.name for candidate in candidates]
    items = [
        {"workload": name, "candidate": peer, "round": number, "git": git}
        for number in range(ROUNDS)
        for name, peers in SUITE.items()
        for peer in peers.split()
        if peer in here and not PEERS[peer].lacks(workload(name))
    ]
    with tempfile.TemporaryDirectory() as folder:
        measured = Path(folder) / "rows.jsonl"
        # half a minute is left for the peaks at the end
        throughput.sweep(items, SECONDS, measured, 1, began + 60 * MINUTES - 30)
        rows = rows_of(measured, PEAK, FAILED, STEP)
    about = machine.describe() | {
        "git": git,
        "speedups": speedups(rows),
        "seconds": round(perf_counter() - began, 1),
    }
    write_atomically(path, packed(about, rows))
    print(
        f"{path}: {path.stat().st_size / 1000:.0f} kB, {len(rows)} rows, "
        f"{about['seconds'] / 60:.1f} minutes"
    )
    throughput.report_machine([workload(name) for name in SUITE], candidates, rows)
    for line in notes(verified(path)):
        print(line)
