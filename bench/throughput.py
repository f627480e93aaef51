"""Milliseconds per step of this project and its peers, on two Keras examples and on the recurrence over a grid of sizes.

    python -m bench throughput --preset quick
    python -m bench throughput --workload A B --peer ours ours:recurrent=0 torch_lstm flax_nnx keras_jax --rounds 5 --seconds 3
    python -m bench throughput --workload A --units 32,64,128 --length 20,80
    python -m bench throughput --workload recurrence --peer ours torch_lstm haiku --units 32,64 --length 20,80 --batch 32,128
    python -m bench throughput --workload recurrence --cell gru simple_rnn --peer ours torch_lstm keras_jax --batch 32
    python -m bench throughput --workload A B recurrence --report
    python -m bench throughput --first-step --workload A --peer ours flax_nnx torch_compiled

A peer may have options, such as `ours:backend=reference`, `ours:dtype=bfloat16`, or the dropout rates of workload A,
`ours:dropout=0:recurrent=0`. Each peer runs in fresh processes on two cores, in turn with the other peers of the workload, and its results
are compared with the reference before it is timed for the first time. Processes that have a row of this commit are skipped; failed and
noisy ones are measured again. The peak speeds of the machine are measured with each call.

With --first-step, pairs of fresh processes measure the seconds from the start of the build to the end of the first step. The first process
of a pair starts with an empty folder of programs that JAX and PyTorch have compiled (cold), the second with what the first stored (warm).

On a machine with GPUs, all peers run on the first GPU, in float32 without TF32, and the rows are written to a separate file.
"""

import argparse
import json
import subprocess
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from bench import RESULTS, commit, machine, make_parser, timing
from bench.peers import DTYPES, KEY, OURS, PEERS, Candidate, installed, read_candidates, row_key
from bench.schema import FAILED, FIRST_STEP, PEAK, STEP, check, make_row, rows_of
from bench.summary import kept, mean_speedup, peaks, speedups_over_sizes, summarize
from bench.workloads import LENGTHS, UNITS, WORKLOADS, Workload, add_size_flags, given_axes, read_workloads
from lstm_jax.recurrence import BACKENDS
from lstm_jax.sweep.missing import run_missing
from lstm_jax.sweep.rows import append_rows

PATH = RESULTS / ("throughput_gpu.jsonl.gz" if machine.gpu() else "throughput.jsonl.gz")
SPREAD, TRIES = 0.1, 3
"""A row is noisy if the interquartile range of its samples is above `SPREAD` times their median; it is measured up to `TRIES` times."""
CACHES = ("cold", "warm")
SECONDS = ("build_seconds", "first_step_seconds", "compile_seconds")
Row = dict[str, Any]


@dataclass(frozen=True)
class Process:
    """A process to time.

    Attributes:
        work: workload.
        candidate: candidate that runs the workload.
        round: number of the round.
        series: name of the series of its rows; "" if they belong to none.
        tries: number of times that the process was measured before with a noisy result.
    """

    work: Workload
    candidate: Candidate
    round: int
    series: str = ""
    tries: int = 0

    @property
    def key(self) -> tuple:
        """Key that `key_of` returns for the rows of the process."""
        return (*self.candidate.key(self.work), self.round)

    def __str__(self) -> str:
        return f"{self.work.name} {self.candidate.name} round {self.round}"

    def about(self, sha: str) -> Row:
        """Return the fields of the rows of the process that are known before it runs; `sha` is the commit."""
        known = {"candidate": self.candidate.name, "workload": self.work.name, "round": self.round, "git": sha}
        return known | {"cores": timing.CORES, "load": timing.load()} | ({"series": self.series} if self.series else {})


def key_of(row: Row) -> tuple:
    """Return the key (that of `row_key`, and the round) that identifies the process that measured a row."""
    return (*row_key(row), row["round"])


def noise(row: Row, fastest: float = 0.0) -> str:
    """Return why the time of a row is noisy, or "" if it is not; `fastest` is the best probe of this machine, in GFLOP/s."""
    low, middle, high = np.quantile(row["samples"], [0.25, 0.5, 0.75])
    if (high - low) / middle > SPREAD:
        return f"samples spread over {100 * (high - low) / middle:.0f} % of their median"
    if slow := machine.slow_probe(row.get("probe_gflops", []), fastest):
        return slow
    return f"{row['load']:.1f} processes wanted a core" if row["load"] > 2 * row["cores"] else ""


@dataclass
class Sweep:
    """State of a sweep over processes.

    Attributes:
        folder: folder to which the references of the workloads are written.
        sha: commit that is written to the rows.
        seconds: seconds that each process measures for.
        most: largest number of measurements of a process whose results are noisy.
        distances: distance from the reference by `row_key`, for candidates and workloads that were checked already.
        fastest: best probe so far, in GFLOP/s.
        references: file of the reference by name of the workload.
    """

    folder: Path
    sha: str
    seconds: float
    most: int
    distances: dict[tuple, float]
    fastest: float = 0.0
    references: dict[str, Path] = field(default_factory=dict)

    def measure(self, process: Process) -> list[Row]:
        """Measure a process until a result is not noisy, at most `most` times in all, and return a row for each try."""
        rows = []
        for _ in range(process.tries, self.most):
            rows.append(self._try(process))
            if not rows[-1].get("noisy"):
                break
        return rows

    def _try(self, process: Process) -> Row:
        """Measure a process once and return its row; if the process fails, the row has the field "error"."""
        work, candidate = process.work, process.candidate
        peer, *options = candidate.arguments()
        about = process.about(self.sha)
        module = ["bench.worker", peer, work.name, *options, *self._against(work, candidate), "--seconds", str(self.seconds)]
        try:
            row = about | timing.run_module(module)[-1]
        except subprocess.CalledProcessError as error:
            lines = [line for line in (error.stdout or "").splitlines() if line.startswith("{")]
            known = dict(zip(KEY, candidate.key(work), strict=True))
            row = known | about | (json.loads(lines[-1]) if lines else {"error": f"ended with code {error.returncode}"})
            return make_row(FAILED, **row)
        self.distances[candidate.key(work)] = row["distance"]
        self.fastest = max([self.fastest, *row["probe_gflops"]])
        return make_row(STEP, **row, noisy=noise(row, self.fastest))

    def _against(self, work: Workload, candidate: Candidate) -> list[str]:
        """Return the arguments by which the worker checks its results against the reference.

        They give the distance if the candidate was checked already, else the file of the reference, which is written if it does not exist.
        """
        if (distance := self.distances.get(candidate.key(work))) is not None:
            return ["--checked", str(distance)]
        if work.name not in self.references:
            path = self.folder / f"{len(self.references)}.npz"
            timing.run_module(["bench.worker", OURS, work.name, "--backend", "reference", "--write-reference", str(path)])
            self.references[work.name] = path
        return ["--reference", str(self.references[work.name])]


def sweep(processes: Sequence[Process], seconds: float, path: Path, sha: str, most: int = TRIES) -> None:
    """Measure the processes that have no row yet or only noisy rows.

    Args:
        processes: processes to measure.
        seconds: seconds that each process measures for.
        path: file of rows.
        sha: commit.
        most: largest number of measurements of a process whose results are noisy, earlier calls included.
    """
    rows = [row for series in {process.series for process in processes} for row in rows_of(path, STEP, git=sha, series=series)]
    tries = Counter(key_of(row) for row in rows if row["noisy"])
    done = {key_of(row) for row in rows if not row["noisy"]} | {key for key, count in tries.items() if count >= most}
    wanted = {process.key: replace(process, tries=tries[process.key]) for process in processes if process.key not in done}
    if not wanted:
        return
    append_rows(path, make_row(PEAK, git=sha, cores=timing.CORES, load=timing.load(), **timing.peaks()))

    def describe(process: Process, rows: Sequence[Row]) -> str:
        result = rows[-1].get("error") or f"{rows[-1]['ms_per_step']:.3f} ms a step"
        return f"{process}: {result}" + (f", noisy: {rows[-1]['noisy']}" if rows[-1].get("noisy") else "")

    with tempfile.TemporaryDirectory() as folder:
        state = Sweep(Path(folder), sha, seconds, most, {row_key(row): row["distance"] for row in rows}, timing.fastest_probe())
        run_missing(path, wanted, lambda row: None, state.measure, "rows", describe, check)


def _table(heads: Sequence[str]) -> Table:
    """Return an empty table with the given headings; the first two columns are aligned to the left, the others to the right."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for n, head in enumerate(heads):
        table.add_column(head, justify="left" if n < 2 else "right", overflow="fold")
    return table


def _print(table: Table) -> None:
    console = Console()
    (console if console.is_terminal else Console(width=160)).print(table)


def report(works: Sequence[Workload], candidates: Sequence[Candidate], path: Path, sha: str, series: str = "") -> None:
    """Print the table of a commit and series, and the geometric means of our speedups on the recurrence.

    Args:
        works: workloads in the table.
        candidates: candidates in the table.
        path: file of rows.
        sha: commit.
        series: name of the series; "" for rows that belong to none.
    """
    rows = rows_of(path, STEP, FAILED, git=sha, series=series)
    (gemm, copy), lines = peaks(rows_of(path, PEAK, git=sha)), summarize(works, candidates, rows)
    device = "a GPU" if machine.gpu() else f"{timing.CORES} cores"
    print(f"commit {sha or 'unknown'}; {device}: {gemm:.0f} GFLOP/s of a float32 product, {copy:.1f} GB/s of a copy")
    used = [row for row in kept(rows) if row["workload"] in {work.name for work in works}]
    if noisy := sum(bool(row.get("noisy")) for row in used):
        print(f"{noisy} rows are noisy (measured up to {TRIES} times, by the preset quick once)")
    if loads := [row["load"] for row in used]:
        print(f"load average before a row: {min(loads):.1f} to {max(loads):.1f}")
    heads = (
        "workload",
        "peer",
        "ms a step",
        "our speedup (95 %)",
        "tokens/s",
        "% of product",
        "% of copy",
        "compile s",
        "MiB",
        "processes",
    )
    table = _table(heads)
    for n, line in enumerate(lines):
        name = line.work.name if n == 0 or lines[n - 1].work != line.work else ""
        if line.error:
            table.add_row(name, line.candidate, f"failed: {line.error}")
            continue
        speedup = "" if line.speedup is None else "{:.2f}x ({:.2f} to {:.2f})".format(*line.speedup)
        compiling = "" if line.compile_seconds is None else f"{line.compile_seconds:.1f}"
        shares = (
            f"{100 * line.gflops / gemm:.0f}",
            f"{100 * line.gbs / copy:.0f}",
            compiling,
            f"{line.memory_mib:.0f}",
            f"{line.processes}",
        )
        table.add_row(name, line.candidate, f"{line.ms:.3f}", speedup, f"{line.tokens_per_second:,.0f}", *shares)
    _print(table)
    for name, note in {line.candidate: line.note for line in lines if line.note}.items():
        print(f"{name}: {note}")
    print("our speedup: the peer's time a step over ours, medians of processes, with a bootstrap interval; below 1 we are slower")
    for cell in dict.fromkeys(line.work.cell for line in lines):
        for name, speedups in speedups_over_sizes(lines, "recurrence", cell).items():
            print(f"geometric mean of our speedup over {name}, {len(speedups)} recurrences of {cell}: {mean_speedup(speedups)}")


def first_step_rows(process: Process, sha: str) -> list[Row]:
    """Measure the first step in a cold and then in a warm process, and return their rows; a failed process has the field "error"."""
    peer, *options = process.candidate.arguments()
    module = ["bench.worker", peer, process.work.name, *options, "--checked", "0", "--seconds", "0.001"]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for cache in CACHES:
            about = process.about(sha) | {"cache": cache}
            try:
                row = timing.run_module(module, environment=timing.compilation_cache(folder))[-1]
                rows.append(make_row(FIRST_STEP, **about, **{name: row[name] for name in (*SECONDS, "cpu", "versions", "backend_ran")}))
            except subprocess.CalledProcessError as error:
                rows.append(make_row(FIRST_STEP, **about, error=f"ended with code {error.returncode}"))
    return rows


def sweep_first_step(processes: Sequence[Process], path: Path, sha: str) -> None:
    """Measure the first step of the processes that have no first-step row of commit `sha` yet."""

    def key(row: Row) -> tuple | None:
        ours = row["measurement"] == FIRST_STEP and row["git"] == sha
        return (row["workload"], row["candidate"], row["round"]) if ours else None

    def describe(process: Process, rows: Sequence[Row]) -> str:
        return f"{process}: first step " + ", ".join(
            row.get("error") or f"{row['cache']} {row['first_step_seconds']:.2f} s" for row in rows
        )

    wanted = {(process.work.name, process.candidate.name, process.round): process for process in processes}
    run_missing(path, wanted, key, lambda process: first_step_rows(process, sha), "pairs", describe, check)


def report_first_step(works: Sequence[Workload], candidates: Sequence[Candidate], path: Path, sha: str) -> None:
    """Print a table of the seconds of build, first step and compilation, cold and warm, as medians over rounds."""
    table = _table(("workload", "peer", "build s", "first step s", "compiling s", "warm: build s", "first step s", "rounds"))
    wanted = {(work.name, candidate.name) for work in works for candidate in candidates}
    rows = [row for row in rows_of(path, FIRST_STEP, git=sha) if (row["workload"], row["candidate"]) in wanted]
    for work, name in dict.fromkeys((row["workload"], row["candidate"]) for row in rows):
        group = [row for row in rows if (row["workload"], row["candidate"]) == (work, name)]
        cold, warm = ([row for row in group if row["cache"] == cache] for cache in CACHES)
        if failed := next((row["error"] for row in group if "error" in row), ""):
            table.add_row(work, name, f"failed: {failed}")
            continue
        table.add_row(
            work, name, *(_median(cold, name) for name in SECONDS), *(_median(warm, name) for name in SECONDS[:2]), str(len(cold))
        )
    _print(table)
    print("build: importing the peer and building the model; compiling: part of the first step in XLA's compiler, where JAX runs")


def _median(rows: Sequence[Row], name: str) -> str:
    found = [row[name] for row in rows if row[name] is not None]
    return f"{np.median(found):.2f}" if found else ""


@dataclass(frozen=True)
class Preset:
    """Default values of the flags.

    Attributes:
        workloads: sizes by letter for each name of a workload.
        rounds: number of processes of each candidate on each workload.
        seconds: seconds that each process measures for.
        without: peers that are left out.
        tries: largest number of measurements of a process whose results are noisy.
    """

    workloads: dict[str, dict[str, tuple[int, ...]]]
    rounds: int
    seconds: float
    without: tuple[str, ...] = ()
    tries: int = TRIES


EVERY = {"H": UNITS, "T": LENGTHS, "B": (32, 128)}
PRESETS = {
    "quick": Preset({"A": {}, "B": {}}, 2, 0.7, ("torch_compiled", "keras_torch"), 1),
    "standard": Preset({"A": {"H": (32, 64, 128, 256), "T": (20, 40, 80, 160)}, "B": {}}, 3, 1.0),
    "full": Preset({"A": EVERY, "B": EVERY, "recurrence": EVERY, "evaluation": {}}, 5, 3.0),
}
"""On two cores quick took 4 minutes (it leaves out the peers that are slow to start), and one to two rounds of standard 47 minutes."""


def _parse() -> argparse.Namespace:
    parser = make_parser(__doc__, PATH)
    parser.add_argument("--preset", choices=list(PRESETS), default="quick")
    parser.add_argument("--workload", nargs="+", help=f"{', '.join(WORKLOADS)}; with other sizes: A:H=64,B=128; else the preset's")
    parser.add_argument("--peer", nargs="+", metavar="PEER", help=f"{', '.join(PEERS)}; the preset's if not given")
    add_size_flags(parser)
    parser.add_argument("--cell", nargs="+", default=["lstm"], help="cells of `lstm_jax.cells`; of peers, those that they have")
    parser.add_argument("--backend", nargs="+", help=f"of ours, a candidate each: {', '.join(BACKENDS)}")
    parser.add_argument("--dtype", nargs="+", default=["float32"], help=f"of ours, a candidate each: {', '.join(DTYPES)}")
    parser.add_argument("--rounds", type=int, help="processes of a candidate; the preset's if not given")
    parser.add_argument("--seconds", type=float, help="time to measure for in each process; the preset's if not given")
    parser.add_argument("--series", default="", help="name of rows that are measured and reported apart from the others of their commit")
    parser.add_argument("--first-step", action="store_true", help="measure build and first step, cold and with a cache")
    return parser.parse_args()


def main() -> None:
    """Measure the missing processes unless `--report` is given, and print the report."""
    options = _parse()
    preset, axes, sha = PRESETS[options.preset], given_axes(options), options.commit or commit()
    asked = dict.fromkeys(options.workload, axes) if options.workload else {name: own | axes for name, own in preset.workloads.items()}
    works = [work for name, over in asked.items() for work in read_workloads([name], over, options.cell)]
    names = options.peer or [peer for peer in PEERS if peer not in preset.without]
    candidates = read_candidates(names, options.backend or [None], options.dtype)
    candidates = candidates if options.report else installed(candidates)
    lacking = {(c, w): lack for w in works for c in candidates if (lack := PEERS[c.peer].lacks(w))}
    for line in dict.fromkeys(f"{candidate.name}: left out, {lack}" for (candidate, _), lack in lacking.items()):
        print(line, flush=True)
    rounds = range(0 if options.report else options.rounds or preset.rounds)
    processes = [Process(w, c, n, options.series) for w in works for n in rounds for c in candidates if (c, w) not in lacking]
    if options.first_step:
        sweep_first_step(processes, options.results, sha)
        report_first_step(works, candidates, options.results, sha)
        return
    most = TRIES if options.workload else preset.tries
    sweep(processes, options.seconds or preset.seconds, options.results, sha, most)
    report(works, candidates, options.results, sha, options.series)
