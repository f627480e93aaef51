"""Folder of a run: config, environment, metrics.jsonl, TensorBoard events, figures, checkpoints."""

import contextlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from lstm_jax.backend_names import with_current_names
from lstm_jax.config import with_task
from lstm_jax.errors import InputError, require
from lstm_jax.files.locks import locked
from lstm_jax.files.writing import remove_temporaries, write_atomically
from lstm_jax.training import manifest


class RunFolder:
    """Paths of the files of a run in the folder `path`, and methods that write and check them."""

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
        self.manifest = path / manifest.NAME
        self.lock = path / "run.lock"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Lock out other processes that would write to this folder, until the context ends; the folder is made if absent.

        Raises:
            InputError: if another process holds the lock, or the folder is a file or cannot be made.
        """
        thing = f"run folder {self.path}"
        try:
            require(not self.path.exists() or self.path.is_dir(), thing, "is a file", "name a new folder")
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(thing, error.strerror, "name a folder that can be written") from error
        with locked(self.lock, thing):
            yield

    def start(self, config_json: str, resume: bool) -> None:
        """Write the config to a new folder, or check that the folder holds a run of this config that can be resumed.

        Files that a killed process left half written are removed.

        Raises:
            InputError: if the folder holds a run and `resume` is false; if it holds a run of another config, or a run of which a file has
                changed; if it holds other files.
        """
        require(not self.path.exists() or self.path.is_dir(), f"run folder {self.path}", "is a file", "name a new folder")
        for folder in (self.path, self.events, self.figures):
            remove_temporaries(folder)
        if not self.config.exists():
            others = self.path.exists() and any(path != self.lock for path in self.path.iterdir())
            require(not others, f"run folder {self.path}", "not empty", "name a new folder")
            write_atomically(self.config, config_json)
            return
        require(resume, f"run folder {self.path}", "holds a run", "resume it with --resume, or name another folder")
        self.verify()
        require(
            _same(self.config, config_json),
            f"run folder {self.path}",
            "holds a run of another config",
            "give its config to resume it",
        )

    def fix_data(self, fingerprint: str) -> None:
        """Record the fingerprint of the data if the run has none yet, else check that it has not changed.

        Raises:
            InputError: if the run began with other data, or if its fingerprint cannot be read.
        """
        if not self.data.exists():
            write_atomically(self.data, fingerprint + "\n")
        try:
            same = self.data.read_bytes().strip() == fingerprint.encode()
        except OSError as error:
            raise InputError(f"file {self.data}", error.strerror, "name the folder of a run that can be read") from error
        require(same, f"data of run {self.path}", "changed since the run began", "give the old data to resume it, or name a new folder")

    def verify(self) -> tuple[str, ...]:
        """Check that the files on which predictions depend are as the run wrote them, and return warnings.

        Raises:
            InputError: if a file has changed; the error names it.
        """
        found = manifest.read(self.path)
        if found is not None:
            manifest.verify(self.path, found)
            return ()
        note = f"run {self.path} has no {manifest.NAME}, as runs of older versions: a change of its files would go unnoticed; "
        return (f"{note}lstm-jax run accept --run {self.path} writes one",) if self.config.exists() else ()

    def environments(self) -> tuple[dict[str, Any], ...]:
        """Return the environments that the run was trained in, oldest first; () if the run has not begun.

        Raises:
            InputError: if the manifest is damaged.
        """
        found = manifest.read(self.path)
        return found.environments if found is not None else self._written_environments()

    def _written_environments(self) -> tuple[dict[str, Any], ...]:
        """Return the environments in environment.json, which is a copy for people to read, or () if the file cannot be read."""
        try:
            raw = json.loads(self.environment.read_bytes())
            later = raw.pop("resumed", [])
            return tuple(environment for environment in (raw, *later) if isinstance(environment, dict))
        except (OSError, ValueError, AttributeError, TypeError, RecursionError):
            return ()

    def seal(self, environments: tuple[dict[str, Any], ...]) -> None:
        """Write the manifest of the files as they are now, and environment.json.

        environment.json holds the entries of the first environment, and a list "resumed" of the later environments.
        """
        manifest.write(self.path, environments)
        if environments:
            first, *later = environments
            write_atomically(self.environment, json.dumps(first | ({"resumed": later} if later else {}), indent=2) + "\n")

    def accept(self) -> dict[str, str]:
        """Write a manifest of the files as they are now, and return by name how each file differs from the previous manifest.

        Raises:
            InputError: if the folder holds no run, another process uses it, or it cannot be written.
        """
        require(self.config.exists(), f"run {self.path}", "no config.json", "name the folder of a run")
        with self.locked():
            try:
                old = manifest.read(self.path) or manifest.Manifest({}, self._written_environments())
            except InputError:
                old = manifest.Manifest({}, self._written_environments())
            found = manifest.changes(self.path, old)
            self.seal(old.environments)
        return found


def _same(config: Path, new: str) -> bool:
    try:
        return with_task(with_current_names(json.loads(config.read_bytes()))) == with_task(json.loads(new))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"config {config}", error, "the run folder is damaged; name a new one") from error


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Return the differences between two environments that can change the last bits of a number, such as "cores 4, now 2"."""
    old, new = (with_current_names({**environment, **environment.get("versions", {})}) for environment in (old, new))
    names = [*_EVERYWHERE, *(_ON_A_CPU if str(new.get("devices", "")).startswith("['cpu") else ())]
    changed = (name for name in names if name in old and name in new and old[name] != new[name])
    return [f"{name.replace('_', ' ')} {_shown(old[name])}, now {_shown(new[name])}" for name in changed]


_EVERYWHERE = ("lstm-jax", "jax", "jaxlib", "flax", "optax", "numpy", "backend", "devices", "hosts", "xla_flags", "matmul_precision")
_ON_A_CPU = ("cpu", "cores", "compiled")


def _shown(value: Any) -> str:
    if isinstance(value, list):
        kinds = sorted(set(map(str, value)))
        return " and ".join(f"{value.count(kind)} x {kind}" for kind in kinds)
    return str(value) or "none"


def environment(mesh: Mesh) -> dict[str, Any]:
    """Return the versions, devices and settings of this process that can change a number or a time."""
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
    """Return the commit of this package's checkout, followed by "+" if its code has been changed; "" if it is not a checkout."""
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
    """Return the name, the family and the model of the CPU; CPUs of the same name can differ in family and model."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    pairs = [[part.strip() for part in line.partition(":")[::2]] for line in reversed(lines)]
    first = {name: value for name, value in pairs if name in ("model name", "cpu family", "model")}
    parts = [first.get("model name") or platform.processor()]
    parts += [f"{name.removeprefix('cpu ')} {first[name]}" for name in ("cpu family", "model") if name in first]
    return ", ".join(parts)
