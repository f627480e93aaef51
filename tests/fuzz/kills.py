"""Fuzzer of interruptions: a training run is killed or interrupted at random moments,
once or twice, and resumed.

The results of the resumed run must be bit-identical to those of an uninterrupted run.
"""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lstm_jax.base.errors import RESTART
from tests.fuzz.case import Verdict
from tests.fuzz.judge import fault_of, left_behind, snapshot
from tests.fuzz.runs import final
from tests.fuzz.shell import HANGS, PATIENT, Command, Outcome, Shell
from tests.fuzz.world import TRAIN, World

EPOCHS = 3
FLAGS = {
    task: f"{flags.replace('--epochs 2', f'--epochs {EPOCHS}')} --checkpoint-steps 2"
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
    task: str, resume: bool, signals: tuple[tuple[float, int], ...] = ()
) -> Command:
    """Return the command that trains or resumes a run of a task.

    The command gets the given signals, which are pairs (seconds after the start, number
    of the signal).
    """
    return Command(
        ("train", task, *FLAGS[task].split(), "--run", RUN, *["--resume"] * resume),
        signals=signals,
    )


def start(fresh: bool, command: Command, shell: Shell, folder: Path) -> Outcome:
    """Run a command: in a new Python process if `fresh` is true, else in a process that
    is forked from the server.
    """
    if not fresh:
        return shell.run(command, folder)
    began = time.monotonic()
    words = [sys.executable, "-m", "lstm_jax.lab.cli", *command.arguments]
    pipes = dict.fromkeys(("stdout", "stderr"), subprocess.PIPE) | {
        "stdin": subprocess.DEVNULL
    }
    environment = shell.environment | {"TMPDIR": str(folder.parent)}
    with subprocess.Popen(
        words,
        cwd=folder,
        env=environment,
        process_group=0,
        text=True,
        errors="replace",
        **pipes,
    ) as process:
        timers = [
            threading.Timer(moment, process.send_signal, [number])
            for moment, number in command.signals
        ]
        hang = threading.Timer(
            PATIENT + HANGS, os.killpg, [process.pid, signal.SIGKILL]
        )
        for timer in (*timers, hang):
            timer.start()
        out, err = process.communicate()
        seconds = time.monotonic() - began
        for timer in (*timers, hang):
            timer.cancel()
    ended = "hang" if seconds >= PATIENT + HANGS else ""
    return Outcome(command, process.returncode, out, err, ended, seconds, False, ())


def whole(task: str, shell: Shell, world: World) -> Whole:
    """Return the results of the uninterrupted run of a task. The run is made only once."""
    with _lock:
        if (world.root, task) not in _whole:
            with world.case() as folder:
                outcome = shell.run(command_of(task, resume=False), folder)
                if outcome.code != 0:
                    raise RuntimeError(f"{outcome.command}: {outcome.err}")
                _whole[world.root, task] = Whole(
                    final(folder / RUN), rows_of(folder), outcome.seconds
                )
        return _whole[world.root, task]


def rows_of(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of metrics.jsonl without times."""
    rows = [
        json.loads(line)
        for line in (folder / RUN / "metrics.jsonl").read_text().splitlines()
    ]
    return [
        {key: value for key, value in row.items() if "second" not in key}
        for row in rows
    ]


def run(draw: random.Random, shell: Shell, world: World) -> Verdict:
    """Stop a run once or twice, resume it, compare it with the uninterrupted run, and
    return the verdict.
    """
    task, fresh = draw.choice(list(FLAGS)), draw.random() < 0.4
    known = whole(task, shell, world)
    seconds = known.seconds + shell.startup * fresh
    stops = [
        (draw.uniform(0, 1.05), draw.choice(SIGNALS))
        for _ in range(draw.choice((1, 1, 2)))
    ]
    told = ", then ".join(
        f"{signal.Signals(number).name} after {share:.0%}" for share, number in stops
    )
    line = f"train {task} {'as a new process' if fresh else 'forked'}: {told}"
    with world.case() as folder:
        before = set(snapshot(folder))
        fault = ""
        for share, number in stops:
            command = command_of(task, _begun(folder), ((share * seconds, number),))
            outcome = start(fresh, command, shell, folder)
            fault = fault or _stop_fault(outcome, number)
        outcome = start(False, command_of(task, _begun(folder)), shell, folder)
        fault = fault or _end_fault(outcome, folder, known, before)
    return Verdict.of(line, outcome, [fault])


def _begun(folder: Path) -> bool:
    """Return whether the folder holds a run that can be resumed, that is, whether the
    config file of the run exists.

    If it does not exist, the training command must be given without --resume.
    """
    return (folder / RUN / "config.json").exists()


def _stop_fault(outcome: Outcome, number: int) -> str:
    name = signal.Signals(number).name
    if fault := fault_of(outcome):
        return f"{name}: {fault}"
    # interrupted while Python starts or ends, see `fault_of`
    by_python = outcome.code == 1 and "Traceback" in outcome.err
    expected = (
        (0, 130, RESTART, -number) if number == signal.SIGTERM else (0, 130, -number)
    )
    return (
        ""
        if by_python or outcome.code in expected
        else f"exit code {outcome.code} after {name}: {outcome.err[-200:]}"
    )


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
