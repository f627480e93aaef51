"""Tests of resuming: after kill -9 at any moment and --resume, the last checkpoint has
the bits of an uninterrupted run.
"""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.usefixtures("quick_processes", "kept_programs")

EPOCHS, PER_EPOCH = 3, 10


@pytest.fixture(scope="module")
def command(runs, tmp_path_factory) -> list[str]:
    """Return the command line of a training run, which needs another --run."""
    more = ("--epochs", str(EPOCHS), "--checkpoint-steps", "5")
    return [
        sys.executable,
        "-m",
        "lstm_jax.lab.cli",
        *runs.command("sentiment", tmp_path_factory.mktemp("none"), *more),
    ]


def manifests(latest: Path) -> list[int]:
    return (
        sorted(int(path.name.split(".")[0]) for path in latest.glob("*.manifest.json"))
        if latest.is_dir()
        else []
    )


def final(run: Path) -> dict[str, Any]:
    """Return the results of a run as a dict.

    The dict has the step of the last checkpoint and the checksums of its arrays, which
    are parameters, moments and totals. It also has the checksums of the arrays of the
    best checkpoint, and the rows of metrics without their times.
    """
    latest = run / "checkpoints" / "latest"
    manifest = json.loads(
        (latest / f"{manifests(latest)[-1]}.manifest.json")
        .read_text()
        .partition("\n")[2]
    )
    rows = [
        {k: v for k, v in row.items() if "seconds" not in k and "per_second" not in k}
        for row in manifest["extra"]["rows"]
    ]
    return {
        "step": manifest["step"],
        "leaves": manifest["leaves"],
        "rows": rows,
        "best": best(run),
    }


def best(run: Path) -> dict[str, Any]:
    folder = run / "checkpoints" / "best"
    return json.loads(
        (folder / f"{manifests(folder)[-1]}.manifest.json")
        .read_text()
        .partition("\n")[2]
    )["leaves"]


def stop_when(
    command: list[str], run: Path, step: int, delay: float, number: int
) -> tuple[int, str]:
    """Start a run, and send it a signal `delay` seconds after its first checkpoint at
    or beyond `step`.

    Returns:
        A pair: the exit code and the standard error of the run.
    """
    with subprocess.Popen(
        [*command, "--run", str(run)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        deadline = time.monotonic() + 120
        while (
            process.poll() is None
            and time.monotonic() < deadline
            and max(manifests(run / "checkpoints" / "latest"), default=0) < step
        ):
            time.sleep(0.002)
        time.sleep(delay)
        process.send_signal(number)
        said = process.communicate(timeout=60)[1]
        return process.returncode, said


@pytest.fixture(scope="module")
def uninterrupted(command, tmp_path_factory) -> dict[str, Any]:
    run = tmp_path_factory.mktemp("whole") / "run"
    subprocess.run(
        [*command, "--run", str(run)],
        check=True,
        stdout=subprocess.DEVNULL,
        timeout=120,
    )
    found = final(run)
    assert found["step"] == EPOCHS * PER_EPOCH
    assert sum(name.startswith("state.params") for name in found["leaves"]) == 6
    assert sum(".mu." in name or ".nu." in name for name in found["leaves"]) == 12
    return found


@pytest.mark.slow(keep=["[1]"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_kill_and_resume(seed, command, uninterrupted, tmp_path):
    draw = random.Random(seed)
    run = tmp_path / "run"
    code, _ = stop_when(
        command, run, draw.randint(1, 20), draw.uniform(0, 0.05), signal.SIGKILL
    )
    assert code == -signal.SIGKILL, "it ended before the signal came"
    assert not (run / "result.json").exists()
    for _ in range(3):
        done = subprocess.run(
            [*command, "--run", str(run), "--resume"],
            capture_output=True,
            text=True,
            timeout=120,
        )
        if done.returncode == 0:
            break
    assert done.returncode == 0, done.stderr
    assert "resumed after step " in done.stdout
    assert final(run) == uninterrupted
    rows = [
        json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()
    ]
    assert [row["epoch"] for row in rows] == list(range(1, EPOCHS + 1))


@pytest.mark.slow
def test_control_c(command, tmp_path):
    code, said = stop_when(command, tmp_path / "run", 5, 0, signal.SIGINT)
    assert code == 130
    assert said.splitlines()[-1].startswith("interrupted after step ")
    assert said.splitlines()[-1].endswith(" --resume")
    assert "Traceback" not in said
    step = int(said.split("after step ")[1].split(";")[0])
    assert manifests(tmp_path / "run" / "checkpoints" / "latest")[-1] == step
