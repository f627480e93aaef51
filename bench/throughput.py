r"""Time per training step of this project and other libraries (peers), on two Keras
examples and on a recurrent layer alone.

    python -m bench throughput --preset quick
    python -m bench throughput --workload A B \
        --peer ours ours:recurrent=0 torch_lstm flax_nnx keras_jax --rounds 5 \
            --seconds 3
    python -m bench throughput --workload A --units 32,64,128 --length 20,80
    python -m bench throughput --workload recurrence --cell slstm lru \
        --peer ours ours:backend=reference xlstm memax --batch 32
    python -m bench throughput --workload A B recurrence --report
    python -m bench throughput --first-step --workload A \
        --peer ours flax_nnx torch_compiled

The workloads are described in bench/workloads.py. The name of a peer may be followed by
options, such as `ours:backend=reference`, `ours:dtype=bfloat16` or
`ours:dropout=0:recurrent=0`. In each round, each library runs in a fresh process on two cores,
one after the other. Before a library is timed for the first time, its results are
compared with those of our backend `reference`. Results of this commit and machine are
not measured again, but failed and noisy ones are. The machine's peak speeds of a matrix
product and a memory copy are measured first.

With --first-step, pairs of fresh processes measure the time to build the model and that
of the first step: with an empty compilation cache (cold), then with the programs that
the first process compiled (warm).

On a machine with GPUs, all libraries run on the first GPU in float32 without TF32, and
the results are written to a separate file.
"""

import json
import math
import subprocess
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np

from bench import (
    RESULTS,
    add_flags,
    commit,
    groups,
    hardware,
    make_parser,
    read_flags,
    timing,
)
from bench.peers import (
    OURS,
    PEERS,
    Candidate,
    installed,
    read_candidate,
    row_key,
)
from bench.schema import (
    FAILED,
    FIRST_STEP,
    PEAK,
    STEP,
    Row,
    Rows,
    by_machine,
    make_row,
    rows_of,
    rows_of_commit,
)
from bench.summary import (
    kept,
    names_of,
    peaks,
    print_table,
    speedup_text,
    summarize,
    verdicts,
)
from bench.workloads import (
    LENGTHS,
    LETTERS,
    UNITS,
    WORKLOADS,
    Axes,
    Workload,
    add_size_flags,
    read_workloads,
    workload,
)
from lstm_jax.base.errors import require
from lstm_jax.lab.sweep.rows import append_rows

PATH = RESULTS / (
    "throughput_gpu.jsonl.gz" if hardware.gpu() else "throughput.jsonl.gz"
)
# a noisy measurement is repeated until `TRIES` were made, unless a step takes `SLOW` ms
TRIES, SLOW = 3, 10_000
CACHES = ("cold", "warm")
PHASES = ("build_seconds", "first_step_seconds", "compile_seconds")


def _process(row: Row) -> tuple:
    return row["workload"], row["candidate"], row["round"]


def sweep(
    items: Rows,
    seconds: float,
    path: Path,
    most: int = TRIES,
    until: float = math.inf,
    patience: float = 0.0,
) -> None:
    """Measure the items that have no result yet or only noisy results, and append the
    new results to a file.

    A process goes on for `patience` seconds while it is noisy. It is left out if it
    would probably end later than `until`, a time of `perf_counter`.
    """
    git, mine = items[0]["git"], hardware.machine_id()
    items = [item | {"machine": mine} for item in items]
    rows = [row for row in rows_of(path, STEP, git=git) if row.get("machine") == mine]
    tries = Counter(_process(row) for row in rows if row["noisy"])
    distances = {row_key(row): row["distance"] for row in rows}
    references: list[str] = []  # names of workloads
    fastest: float | None = None
    longest = 0.0

    def check_flags(name: str, key: tuple):
        if key in distances:
            return ["--checked", str(distances[key])]
        reference = f"{folder}/reference.npz"
        if name not in references:
            # one file at a time, because that of a long sequence has gigabytes
            references[:] = [name]
            timing.run_module(
                ["bench.worker", OURS, name, "--write-reference", reference]
            )
        return ["--reference", reference]

    def attempt(item: Row):
        nonlocal fastest
        about = {"cores": timing.CORES, "load": timing.load()}
        if fastest is None:
            machine = {"git": git, "machine": mine} | about
            append_rows(path, make_row(PEAK, **machine, **timing.peaks()))
            fastest = timing.fastest_probe()
        work = workload(item["workload"])
        known = read_candidate(item["candidate"]).fields(work) | about
        flags = [
            *check_flags(item["workload"], row_key(known)),
            "--seconds",
            str(seconds),
        ]
        flags += ["--patience", str(patience), "--fastest", str(fastest)]
        command = ["bench.worker", item["candidate"], item["workload"], *flags]
        try:
            row = known | timing.run_module(command)[-1]
        except subprocess.CalledProcessError as error:
            printed = (error.stdout or "").splitlines()
            lines = [line for line in printed if line.startswith("{")]
            failure = {
                "measurement": FAILED,
                "error": f"ended with code {error.returncode}",
            }
            return known | failure | (json.loads(lines[-1]) if lines else {})
        distances[row_key(known)] = row["distance"]
        fastest = max(fastest or 0.0, *row["probe_gflops"])
        return row | {"noisy": timing.noise(row, fastest)}

    def measure(item: Row):
        nonlocal longest
        rows = []
        for _ in range(tries[_process(item)], most):
            if (began := perf_counter()) + longest > until:
                break
            rows.append(attempt(item))
            longest = max(longest, perf_counter() - began)
            if not rows[-1].get("noisy") or rows[-1]["ms_per_step"] > SLOW:
                break
        return rows

    def describe(rows: Rows):
        if not rows:
            return "left out, it takes too long"
        row = rows[-1]
        noisy = f", noisy: {row['noisy']}" if row.get("noisy") else ""
        return row.get("error") or f"{row['ms_per_step']:.3f} ms a step{noisy}"

    def done(row: Row):
        return not row["noisy"] or tries[_process(row)] >= most

    with tempfile.TemporaryDirectory() as folder:
        timing.measure_missing(path, STEP, items, measure, describe, counts=done)


def report(
    works: Sequence[Workload], candidates: Sequence[Candidate], path: Path, sha: str
) -> None:
    """Print, for each machine, a table of the step times of one commit and this
    project's speedup over every other candidate.
    """
    rows = rows_of_commit(path, STEP, FAILED, git=sha)
    have = names_of(row["workload"] for row in rows)
    require(
        bool(summarize(works, candidates, rows)),
        f"rows of commit {sha}",
        "none of these workloads and peers",
        f"measure them first, or report some of {have}",
    )
    device = "a GPU" if hardware.gpu() else f"{timing.CORES} cores"
    for name, own in by_machine([*rows, *rows_of(path, PEAK, git=sha)]).items():
        gemm, copy = peaks(own)
        print(
            f"commit {sha or 'unknown'}; machine {name}; {device}: {gemm:.0f} "
            f"GFLOP/s of a float32 product, {copy:.1f} GB/s of a copy"
        )
        report_machine(works, candidates, own)


def report_machine(
    works: Sequence[Workload], candidates: Sequence[Candidate], rows: Rows
) -> None:
    """Print a table of the step times on one machine, and verdicts, which use only rows
    that are not noisy.
    """
    (gemm, copy), lines = peaks(rows), summarize(works, candidates, rows)
    shown = {candidate.key(work) for candidate in candidates for work in works}
    used = [row for row in kept(rows) if row_key(row) in shown]
    if loads := [row["load"] for row in used]:
        print(f"load average before a row: {min(loads):.1f} to {max(loads):.1f}")
    heads = (
        "peer",
        "backend",
        "ms/step",
        "our speedup (95 %)",
        "tokens/s",
        "prod.",
        "copy",
        "comp. s",
        "MiB",
        "n",
    )
    table, failures = [], []
    for n, line in enumerate(lines):
        if n == 0 or lines[n - 1].work != line.work:
            table.append((line.work.name,))
        if line.error:
            table.append((f"  {line.candidate}", "failed"))
            failures.append(f"{line.work.name}, {line.candidate}: failed: {line.error}")
            continue
        cells = (
            line.rows[-1].get("backend_ran") or "",
            f"{line.ms:.3f}",
            speedup_text(line.speedup),
            f"{line.median('tokens_per_second'):,.0f}",
            f"{100 * line.median('gflops') / gemm:.0f}",
            f"{100 * line.gbs / copy:.0f}",
            "" if line.compile_seconds is None else f"{line.compile_seconds:.1f}",
            f"{line.median('peak_memory_mib'):.0f}",
            f"{len(line.rows)}",
        )
        table.append((f"  {line.candidate}", *cells))
    print_table(heads, table)
    print(*failures, sep="\n", end="\n" * bool(failures))
    print(
        "prod., copy: % of the peaks of a product and of a copy; comp. s: "
        "seconds in the compiler; n: processes"
    )
    for name, note in {
        line.candidate: line.rows[-1]["note"]
        for line in lines
        if line.rows and line.rows[-1]["note"]
    }.items():
        print(f"{name}: {note}")
    print(
        "our speedup: the peer's time a step over ours, medians of processes, "
        "with a bootstrap interval; below 1 we are slower"
    )
    print(*verdicts(used), sep="\n")


@dataclass(frozen=True)
class Preset:
    """Default values of flags.

    `rounds` is the number of processes of a candidate, `seconds` the time of each,
    `without` has peers that are left out, and a process whose results are noisy is
    measured `tries` times at most.
    """

    workloads: dict[str, Axes]
    rounds: int
    seconds: float
    without: tuple[str, ...] = ()
    tries: int = TRIES


EVERY = {"H": UNITS, "T": LENGTHS, "B": (32, 128)}
PRESETS = {
    "quick": Preset({"A": {}, "B": {}}, 2, 0.7, ("torch_compiled", "keras_torch"), 1),
    "standard": Preset(
        {"A": {"H": (32, 64, 128, 256), "T": (20, 40, 80, 160)}, "B": {}}, 3, 1.0
    ),
    "full": Preset(
        {"A": EVERY, "B": EVERY, "recurrence": EVERY, "evaluation": {}}, 5, 3.0
    ),
}
"""Dict from the name of each preset to its default flag values. The preset "quick"
leaves out the libraries that are slow to start. On two cores, "quick" with all peers
took 4 to 12 minutes, and a round of "standard", of which there are three, 24 to 47."""


def sweep_first_step(items: Rows, path: Path) -> None:
    """Time the first step of each item with an empty compilation cache (cold), then
    with the filled cache (warm).
    """

    def measure(item: Row):
        command = ["bench.worker", item["candidate"], item["workload"]]
        command += ["--checked", "0", "--seconds", "0.001"]
        rows = []
        with tempfile.TemporaryDirectory() as folder:
            for state in CACHES:
                environment = timing.compilation_cache(folder)
                row = timing.run_module(command, environment=environment)[-1]
                kept = (*PHASES, "cpu", "versions", "backend_ran")
                rows.append({"cache": state} | {name: row[name] for name in kept})
        return rows

    def describe(rows: Rows):
        return ", ".join(
            f"{row['cache']} {row['first_step_seconds']:.2f} s" for row in rows
        )

    timing.measure_missing(path, FIRST_STEP, items, measure, describe)


def report_first_step(
    works: Sequence[Workload], candidates: Sequence[Candidate], path: Path, sha: str
) -> None:
    """Print a table of the time to build the model and the time of the first step, as
    medians over rounds.
    """
    wanted = {(work.name, candidate.name) for work in works for candidate in candidates}
    rows = [
        row
        for row in rows_of_commit(path, FIRST_STEP, git=sha)
        if (row["workload"], row["candidate"]) in wanted
    ]
    require(
        bool(rows),
        f"rows of commit {sha}",
        "none of these workloads and peers",
        "measure them first",
    )

    def median(rows: Rows, phase: str):
        found = [row[phase] for row in rows if row[phase] is not None]
        return f"{np.median(found):.2f}" if found else ""

    heads = ["workload", "peer", "build s", "first step s", "compiling s"]
    heads += ["warm: build s", "first step s", "n"]
    table = []
    for (work, name), own in groups(rows, ["workload", "candidate"]).items():
        cold, warm = ([row for row in own if row["cache"] == state] for state in CACHES)
        medians = [median(cold, phase) for phase in PHASES]
        medians += [median(warm, phase) for phase in PHASES[:2]]
        table.append((work, name, *medians, f"{len(cold)}"))
    print_table(heads, table)
    print(
        "build: importing the peer and building the model; compiling: part of "
        "the first step in XLA's compiler, where JAX runs"
    )


def main() -> None:
    """Run the measurements that have no results yet, unless `--report` is given, and
    print the report.
    """
    parser = make_parser(__doc__, PATH)
    parser.add_argument("--preset", choices=PRESETS, default="quick")
    parser.add_argument(
        "--workload",
        nargs="+",
        help=f"{', '.join(WORKLOADS)}; with other sizes: A:H=64,B=128; else the "
        "preset's",
    )
    parser.add_argument(
        "--peer",
        nargs="+",
        metavar="PEER",
        help=f"{', '.join(PEERS)}; the preset's if not given",
    )
    add_size_flags(parser, (LETTERS[letter] for letter in "HTBN"))
    parser.add_argument(
        "--cell",
        nargs="+",
        default=["lstm"],
        help="cells of `lstm_jax.cells`; of peers, those that they have",
    )
    add_flags(parser, int, rounds="processes of a candidate; the preset's if not given")
    add_flags(
        parser,
        float,
        seconds="time to measure for in each process; the preset's if not given",
    )
    add_flags(
        parser,
        float,
        patience="time for which a process goes on measuring while it is noisy, for a "
        "machine with neighbours",
    )
    add_flags(
        parser, bool, first_step="measure build and first step, cold and with a cache"
    )
    parser.set_defaults(patience=0.0)
    options = read_flags(parser)
    preset, sha = PRESETS[options.preset], options.commit or commit()
    axes = {
        letter: values
        for letter in "HTBN"
        if (values := getattr(options, LETTERS[letter]))
    }
    sizes = (
        {name: {} for name in options.workload}
        if options.workload
        else preset.workloads
    )
    works = [
        work
        for name, own in sizes.items()
        for work in read_workloads([name], own | axes, options.cell)
    ]
    names = options.peer or [peer for peer in PEERS if peer not in preset.without]
    candidates = list(map(read_candidate, names))
    candidates = candidates if options.report else installed(candidates)
    lacking = [
        f"{candidate.name}: left out, {lack}"
        for work in works
        for candidate in candidates
        if (lack := PEERS[candidate.peer].lacks(work))
    ]
    for line in dict.fromkeys(lacking):
        print(line, flush=True)
    rounds = range(0 if options.report else options.rounds or preset.rounds)
    items = [
        {
            "workload": work.name,
            "candidate": candidate.name,
            "round": number,
            "git": sha,
        }
        for work in works
        for number in rounds
        for candidate in candidates
        if not PEERS[candidate.peer].lacks(work)
    ]
    if items and any(
        candidate.peer == OURS and not candidate.given.get("backend")
        for candidate in candidates
    ):
        timing.require_compiled()
    if items and options.first_step:
        sweep_first_step(items, options.results)
    elif items:
        most = TRIES if options.workload else preset.tries
        seconds = options.seconds or preset.seconds
        sweep(items, seconds, options.results, most, patience=options.patience)
    shown = report_first_step if options.first_step else report
    shown(works, candidates, options.results, sha)
