"""A run's folder: config, environment, metrics.jsonl, TensorBoard events, figures, checkpoints."""

import json
import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from lstm_jax.errors import InputError, require
from lstm_jax.files import write_atomically


class RunFolder:
    """Names of the files in `path`."""

    def __init__(self, path: Path):
        self.path = path
        self.config = path / "config.json"
        self.data = path / "data.sha256"
        self.environment = path / "environment.json"
        self.vocabulary = path / "vocabulary.json"
        self.words = path / "words.npz"
        self.characters = path / "characters.json"
        self.scale = path / "scale.json"
        self.samples = path / "samples.jsonl"
        self.metrics = path / "metrics.jsonl"
        self.result = path / "result.json"
        self.events = path / "events"
        self.figures = path / "figures"
        self.checkpoints = path / "checkpoints"

    def start(self, config_json: str, resume: bool) -> None:
        """Make the folder, or enter that of an interrupted run.

        Raises:
            InputError: if the folder holds a run already and `resume` is not set, or holds one with another config.
        """
        if not self.config.exists():
            require(not self.path.exists() or self.path.is_dir(), f"run folder {self.path}", "is a file", "name a new folder")
            require(not self.path.exists() or not any(self.path.iterdir()), f"run folder {self.path}", "not empty", "name a new folder")
            write_atomically(self.config, config_json)
            return
        require(resume, f"run folder {self.path}", "holds a run", "go on with it with --resume, or name another folder")
        require(
            _same(self.config, config_json),
            f"run folder {self.path}",
            "holds a run of another config",
            "give its config to resume it",
        )

    def fix_data(self, fingerprint: str) -> None:
        """Record what the run is trained on, or see that it is still the same.

        Raises:
            InputError: if it was something else when the run began.
        """
        if not self.data.exists():
            write_atomically(self.data, fingerprint + "\n")
        same = self.data.read_text().strip() == fingerprint
        require(same, f"data of run {self.path}", "changed since the run began", "give the old data to resume it, or name a new folder")

    def write_environment(self, mesh: Mesh, backend: str) -> None:
        """Record the machine, the versions and the backend that runs."""
        write_atomically(self.environment, json.dumps(environment(mesh) | {"backend": backend}, indent=2) + "\n")


def _same(config: Path, new: str) -> bool:
    try:
        return json.loads(config.read_bytes()) == json.loads(new)
    except (OSError, ValueError) as error:
        raise InputError(f"config {config}", error, "the run folder is damaged; name a new one") from error


def environment(mesh: Mesh) -> dict[str, Any]:
    """Versions, devices and settings that can change a number or a time."""
    return {
        "python": sys.version.split()[0],
        "versions": {name: _version(name) for name in ("lstm-jax", "jax", "jaxlib", "flax", "optax", "numpy", "orbax-checkpoint")},
        "git": _git(),
        "platform": platform.platform(),
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "devices": [f"{d.platform}:{d.device_kind}" for d in mesh.devices.flat],
        "hosts": jax.process_count(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "matmul_precision": str(jax.config.values.get("jax_default_matmul_precision")),
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _git() -> str:
    """Commit of this package's own checkout, with + if its code differs from it; empty where it is not one."""
    here = Path(__file__).parent.parent
    commands = (["rev-parse", "--short=12", "HEAD"], ["status", "--porcelain", "--", "."])
    try:
        commit, changes = (
            subprocess.run(["git", "-C", here, *command], capture_output=True, text=True, timeout=5).stdout.strip() for command in commands
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return commit + ("+" if commit and changes else "")


def _cpu() -> str:
    """Its name, and the family and model that tell processors of one name apart."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    pairs = [[part.strip() for part in line.partition(":")[::2]] for line in reversed(lines)]
    first = {name: value for name, value in pairs if name in ("model name", "cpu family", "model")}
    told = [first.get("model name") or platform.processor()]
    told += [f"{name.removeprefix('cpu ')} {first[name]}" for name in ("cpu family", "model") if name in first]
    return ", ".join(told)
