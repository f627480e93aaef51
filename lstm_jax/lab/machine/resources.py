"""Cores, accelerators and free memory that a run may use."""

import contextlib
import os
import subprocess
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

from lstm_jax.base.machine import control_groups

SELECTORS = "CUDA_VISIBLE_DEVICES", "TPU_VISIBLE_CHIPS", "JAX_PLATFORMS"
"""Environment variables that select the devices of a process."""


def pin(process: int, numbers: Iterable[int]) -> None:
    """Restrict a process to the processor cores in `numbers`, if the system can.

    Raises:
        OSError: if the process has ended, or may not be changed.
    """
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(process, numbers)


def accelerators() -> list[dict[str, str]]:
    """Return, for each GPU or TPU chip that JAX could use here, the environment
    variables that select it alone for another process.

    Neither JAX nor CUDA is initialised. The GPUs are those in CUDA_VISIBLE_DEVICES or,
    if it is not set and JAX has a plugin for CUDA, those that `nvidia-smi` lists. There
    are none if JAX_PLATFORMS is "cpu".
    """
    if os.environ.get("JAX_PLATFORMS") == "cpu":
        return []
    # not above: this import would take a tenth of the time of `lstm-jax --help`
    from importlib.metadata import entry_points

    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is None and any(
        "cuda" in plugin.name for plugin in entry_points(group="jax_plugins")
    ):
        with contextlib.suppress(OSError):
            lines = subprocess.run(
                ["nvidia-smi", "-L"], capture_output=True, text=True
            ).stdout.splitlines()
            given = ",".join(
                map(str, range(sum(line.startswith("GPU ") for line in lines)))
            )
    gpus = [number for number in (given or "").split(",") if number not in ("", "-1")]
    one_chip = {"TPU_PROCESS_BOUNDS": "1,1,1", "TPU_CHIPS_PER_PROCESS_BOUNDS": "1,1,1"}
    chips = enumerate(Path("/dev").glob("accel[0-9]*") if find_spec("libtpu") else ())
    return [{"CUDA_VISIBLE_DEVICES": number} for number in gpus] or [
        {"TPU_VISIBLE_CHIPS": str(chip), **one_chip} for chip, _ in chips
    ]


def free_memory() -> int | None:
    """Return the memory in bytes that this process can still allocate, or None if it is
    unknown.

    This is the lowest of these numbers: the available memory of the machine plus its
    free swap space, and the free memory of each Linux control group that contains this
    process and has a memory limit.
    """
    try:
        rows = dict(
            line.split(":", 1)
            for line in Path("/proc/meminfo").read_text().splitlines()
        )
        free = sum(
            int(rows[name].split()[0]) * 1024 for name in ("MemAvailable", "SwapFree")
        )
    except (OSError, KeyError, ValueError):
        return None
    return min([free, *(group.free for group in control_groups())])
