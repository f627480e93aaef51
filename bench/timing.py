"""The only timer: sides run interleaved, each time in a fresh process on the same cores; ratios of medians with a bootstrap interval."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench import device

ROOT = Path(__file__).parents[1]
TURN = "your turn"
"""What a process that takes turns says when it waits."""
CORES = min(2, len(os.sched_getaffinity(0)))


def pinned(cores: int = CORES) -> dict[str, str]:
    """Environment in which the usual numeric libraries use that many threads, and a GPU computes in float32."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
    return os.environ | dict.fromkeys(names, str(cores)) | device.settings()


def run_module(
    arguments: Sequence[str], cores: int = CORES, environment: Mapping[str, str] | None = None, first: int = 0
) -> list[dict[str, Any]]:
    """Run `python -m ...` in a fresh process on `cores` cores from the `first` on, with these variables besides; its JSON lines.

    Raises:
        subprocess.CalledProcessError: if it fails.
    """
    allowed = sorted(os.sched_getaffinity(0))[first : first + cores]
    command = [sys.executable, "-m", *arguments]
    settings = {**pinned(cores), **(environment or {})}
    run = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, check=True, env=settings, preexec_fn=lambda: os.sched_setaffinity(0, allowed)
    )
    return [json.loads(line) for line in run.stdout.splitlines() if line.startswith("{")]


def run_in_turns(
    arguments: Sequence[Sequence[str]],
    turns: int,
    folders: Sequence[Path] | None = None,
    environment: Mapping[str, str] | None = None,
) -> list[dict[str, Any]]:
    """The rows of `bench.worker --turns` in as many processes as there are arguments, all on the same cores: a block of the first, of the
    second, ..., then of all in reverse, and so on, so that what slows the machine for a while slows all of them.

    Args:
        folders: a checkout for each; this one for all if not given.

    Raises:
        subprocess.CalledProcessError: if one fails.
    """
    allowed = sorted(os.sched_getaffinity(0))[:CORES]
    settings = {**pinned(), **(environment or {})}
    started: list[subprocess.Popen] = []
    with contextlib.ExitStack() as stack:
        for folder, some in zip(folders or [ROOT] * len(arguments), arguments, strict=True):
            command = [sys.executable, "-m", *some, "--turns"]
            own = settings | {"PYTHONPATH": os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))}
            pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": own, "cwd": folder}
            process = stack.enter_context(subprocess.Popen(command, **pipes))
            os.sched_setaffinity(process.pid, allowed)  # before it has threads, which inherit it
            stack.callback(process.kill)
            started.append(process)

        def waiting(process: subprocess.Popen) -> None:
            said = []
            for line in process.stdout or ():
                if line.strip() == TURN:
                    return
                said.append(line)
            raise subprocess.CalledProcessError(process.wait(), process.args, "".join(said))

        for process in started:
            waiting(process)
        for turn in range(turns):
            for process in started if turn % 2 == 0 else reversed(started):
                assert process.stdin
                process.stdin.write("\n")
                process.stdin.flush()
                waiting(process)
        rows = []
        for process in started:
            said, _ = process.communicate()
            if process.returncode:
                raise subprocess.CalledProcessError(process.returncode, process.args, said)
            rows.append(json.loads(next(line for line in said.splitlines() if line.startswith("{"))))
        return rows


def ratio_interval(slow: Sequence[float], fast: Sequence[float], seed: int = 0, draws: int = 10_000) -> tuple[float, float, float]:
    """median(slow) / median(fast), and the 95 % interval of that ratio by the percentile bootstrap (Efron 1979)."""
    rng = np.random.default_rng(seed)
    a, b = np.asarray(slow), np.asarray(fast)
    ratios = np.median(rng.choice(a, (draws, len(a))), axis=1) / np.median(rng.choice(b, (draws, len(b))), axis=1)
    low, high = np.quantile(ratios, [0.025, 0.975])
    return float(np.median(a) / np.median(b)), float(low), float(high)


def load() -> float:
    """Processes that wanted a core in the last minute; a row notes it, since a busy machine is a noisy one."""
    return os.getloadavg()[0]
