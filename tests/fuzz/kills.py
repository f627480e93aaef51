"""Fuzzer of interruptions: a training run is killed or interrupted at random moments,
once or twice, and resumed.

The results of the resumed run must be bit-identical to those of an uninterrupted run.
"""

import json
import random
import signal
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lstm_jax.base.errors import RESTART
from tests.fuzz.files import final, without_times
from tests.fuzz.judge import Verdict, fault_of, left_behind, snapshot
from tests.fuzz.shell import Command, Outcome, Shell
from tests.fuzz.world import TRAIN, World

FLAGS = {
    task: f"{flags.replace('--epochs 2', '--epochs 3')} --checkpoint-steps 2"
    for task, flags in TRAIN.items()
}
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
RUN = "runs/killed"


@dataclass(frozen=True)
class Whole:
    """Results of an uninterrupted run: its last checkpoints as `final` returns them,
    its rows of metrics, and its duration in seconds.
    """

    final: dict[str, Any]
    rows: list[dict[str, Any]]
    seconds: float


_whole: dict[tuple[Path, str], Whole] = {}
_lock = threading.Lock()


def command_of(
    task: str, folder: Path, signals: tuple[tuple[float, int], ...] = ()
) -> Command:
    """Return the command that trains a run of a task, or resumes it if it has begun.

    The command gets the given signals, which are pairs (seconds after the start, number
    of the signal).
    """
    words = ["train", task, *FLAGS[task].split(), "--run", RUN]
    if (folder / RUN / "config.json").exists():
        words.append("--resume")
    return Command(tuple(words), signals=signals)


def whole(task: str, shell: Shell, world: World) -> Whole:
    """Return the results of the uninterrupted run of a task. The run is made only once."""
    with _lock:
        if (world.root, task) not in _whole:
            with world.case() as folder:
                outcome = shell.run(command_of(task, folder), folder)
                if outcome.code != 0:
                    raise RuntimeError(f"{outcome.command}: {outcome.err}")
                found = Whole(final(folder / RUN), rows_of(folder), outcome.seconds)
                _whole[world.root, task] = found
        return _whole[world.root, task]


def rows_of(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / RUN / "metrics.jsonl").read_text().splitlines()
    return without_times([json.loads(line) for line in lines])


def run(draw: random.Random, shell: Shell, world: World) -> Verdict:
    """Stop a run once or twice, resume it, compare it with the uninterrupted run, and
    return the verdict.
    """
    task = draw.choice(list(FLAGS))
    known = whole(task, shell, world)
    count = draw.choice((1, 1, 2))
    stops = [(draw.uniform(0, 1.05), draw.choice(SIGNALS)) for _ in range(count)]
    names = [f"{number.name} after {share:.0%}" for share, number in stops]
    with world.case() as folder:
        before = set(snapshot(folder))
        faults = []
        for share, number in stops:
            signals = ((share * known.seconds, number),)
            outcome = shell.run(command_of(task, folder, signals), folder)
            faults.append(_stop_fault(outcome, number))
        outcome = shell.run(command_of(task, folder), folder)
        faults.append(_end_fault(outcome, folder, known, before))
    return Verdict.of(f"train {task}: {', then '.join(names)}", outcome, faults)


def _stop_fault(outcome: Outcome, number: signal.Signals) -> str:
    if fault := fault_of(outcome):
        return f"{number.name}: {fault}"
    # interrupted while Python ends, see `fault_of`
    by_python = outcome.code == 1 and "Traceback" in outcome.err
    expected = {0, 130, -number} | ({RESTART} if number == signal.SIGTERM else set())
    if by_python or outcome.code in expected:
        return ""
    return f"exit code {outcome.code} after {number.name}: {outcome.err[-200:]}"


def _end_fault(outcome: Outcome, folder: Path, known: Whole, before: set[str]) -> str:
    if fault := fault_of(outcome):
        return f"at the end: {fault}"
    if outcome.code != 0:
        return f"cannot go on: {outcome.err.strip().splitlines()[-1]}"
    if final(folder / RUN) != known.final:
        return "silent: other bits than the uninterrupted run"
    if rows_of(folder) != known.rows:
        return "silent: other rows in metrics.jsonl than the uninterrupted run"
    return left_behind(set(snapshot(folder)) - before)
