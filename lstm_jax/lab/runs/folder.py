"""Folder of a training run, which holds its config, environment, metrics, TensorBoard
events, figures and checkpoints.

The manifest of a run holds the SHA-256 of each file that the predictions of the run
depend on, and the environments in which the run was trained. An environment is a dict
of versions, devices and settings; see `environment`. Checkpoints have manifests of
their own; see `checkpoint`.
"""

import contextlib
import json
import os
import platform
import re
import shlex
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lstm_jax.base.errors import InputError, parsing, require, system_errors
from lstm_jax.base.machine import cores
from lstm_jax.base.writing import (
    locked,
    read_summed,
    remove_temporaries,
    summed_json,
    write_atomically,
)
from lstm_jax.lab.config import config_changes, shown_changes
from lstm_jax.lab.files.reading import file_digest
from lstm_jax.lab.tasks import TASKS

if TYPE_CHECKING:  # the table of runs needs no JAX
    import jax
import subprocess

FILES = (
    "config.json",
    "data.sha256",
    *dict.fromkeys(name for task in TASKS.values() for name in task.config.files),
)
"""Names of all files that the predictions of a run can depend on. A run has only the
files of its task."""
PACKAGES = ("lstm-jax", "jax", "jaxlib", "flax", "optax", "numpy", "orbax-checkpoint")
Environment = dict[str, Any]
"""Versions, devices and settings of a process; see `environment`."""
_READABLE = "name the folder of a run that can be read"
_EVERYWHERE = (
    "lstm-jax",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "numpy",
    "backend",
    "devices",
    "hosts",
    "xla_flags",
    "matmul_precision",
)
_ON_A_CPU = ("cpu", "cores", "compiled")


class RunFolder:
    """Folder of a training run at `path`: the paths of its files, and methods that
    write and check these files.
    """

    def __init__(self, path: Path, checkpoints: Path | None = None):
        self.path = path
        self.config = path / "config.json"  # written by `start` and `lengthen`
        self.fingerprint = path / "data.sha256"  # by `fix_data`
        self.environment = path / "environment.json"  # by `seal`
        # this and the next three by `Task._begin`, from `Task.files`
        self.vocabulary = path / "vocabulary.json"
        self.words = path / "words.npz"
        self.characters = path / "characters.json"
        self.scale = path / "scale.json"
        self.samples = path / "samples.jsonl"  # by `Generation.callbacks`
        self.metrics = path / "metrics.jsonl"  # by `reports.metrics_file`
        # by `Sentiment.pretrained`
        self.pretraining_metrics = path / "pretraining.jsonl"
        self.result = path / "result.json"  # by `Task.finish`
        self.events = path / "events"  # by `reports.tensorboard`
        self.figures = path / "figures"  # by `Task.finish`, from `Task.results`
        self.checkpoints = checkpoints or path / "checkpoints"  # by `run_epochs`
        # by `Sentiment.pretrained`
        self.language_model = self.checkpoints / "language_model"
        self.manifest = path / "manifest.json"  # by `seal`
        self.lock = path / "run.lock"

    def locked(self) -> contextlib.AbstractContextManager[None]:
        """Lock the folder against other processes until the context ends. The folder is
        created if it does not exist.
        """
        return locked(self.lock, f"run folder {self.path}")

    def start(self, config_json: str, resume: bool) -> bool:
        """Write the config of a new run, or check that the run in the folder can be
        resumed with this config.

        Files that a killed process left half-written are removed. `resume` says whether
        the folder may hold a run.

        Returns:
            Whether the config differs from that of the run in the folder, which is
            allowed if only its number of epochs is larger and its learning-rate
            schedule is constant. The config in the folder is kept until `lengthen` is
            called.

        Raises:
            InputError: if the folder holds a run, and `resume` is false, the config
                differs in another way, or a file of the run has changed; or if it holds
                no run, but a file or a folder with a name that a run uses.
        """
        for folder in (self.path, self.events, self.figures):
            remove_temporaries(folder)
        if not self.config.exists():
            own = {
                *FILES,
                *(
                    path.name
                    for path in vars(self).values()
                    if path.parent == self.path and path != self.lock
                ),
            }
            taken = sorted(name for name in own if (self.path / name).exists())
            require(
                not taken,
                f"run folder {self.path}",
                f"holds {', '.join(taken)}",
                "name a new folder, or move this away",
            )
            write_atomically(self.config, config_json)
            return False
        require(
            resume,
            f"run folder {self.path}",
            "holds a run",
            "resume it with --resume, or name another folder",
        )
        if self.manifest.exists():  # not yet, if the run was killed as it began
            self.verify()
        given = json.loads(config_json)
        with parsing(
            f"config {self.config}", "the run folder is damaged; name a new one"
        ):
            changes = config_changes(json.loads(self.config.read_bytes()), given)
        old, new = changes.get("train.epochs", (None, 0))
        more = len(changes) == 1 and isinstance(old, int) and new > old
        # each step is then the same
        longer = more and given["train"]["schedule"] == "constant"
        note = " (more epochs need a constant schedule)" if more else ""
        remedy = f"give its config to resume it: {shown_changes(changes)}{note}"
        require(
            longer or not changes,
            f"run folder {self.path}",
            "holds a run of another config",
            remedy,
        )
        return longer

    def check_exists(self, *_) -> None:
        """Raise an `InputError` if the folder has been removed during the training.
        This function is also a callback of the training.
        """
        require(
            self.config.exists(),
            f"run folder {self.path}",
            "removed while it trained",
            "train anew",
        )

    def lengthen(self, config_json: str) -> None:
        """Replace the config of the run by one with more epochs, for which `start`
        returned true, and remove the result and the manifest.

        Call `seal` next to write a new manifest.
        """
        # else a kill before `seal` would leave a config that the manifest denies
        self.manifest.unlink(missing_ok=True)
        self.result.unlink(missing_ok=True)
        write_atomically(self.config, config_json)

    def fix_data(self, fingerprint: str) -> None:
        """Write the fingerprint (a checksum) of the data of a new run, or check that a
        resumed run has the same data as before.
        """
        if not self.fingerprint.exists():
            write_atomically(self.fingerprint, fingerprint + "\n")
        with system_errors(f"file {self.fingerprint}", _READABLE):
            same = same_data(self.fingerprint.read_bytes(), fingerprint)
        require(
            same,
            f"data of run {self.path}",
            "changed since the run began",
            "give the old data to resume it, or name a new folder",
        )

    def verify(self) -> None:
        """Check that the files on which predictions depend have the checksums in the
        manifest.

        Raises:
            InputError: if a file has changed or the manifest is missing. The error
                names the file.
        """
        sealed, _ = self._sealed()
        remedy = self._accepting
        if sealed is None and not self.config.exists():
            return  # no run at all, which its reader says
        if sealed is None:
            raise InputError(f"manifest {self.manifest}", "missing", remedy)
        for name, kind in self._changes(sealed).items():
            problem = f"{kind} since the run wrote its files"
            raise InputError(f"file {self.path / name}", problem, remedy)

    def environments(self) -> tuple[Environment, ...]:
        """Return the environments that the run was trained in, oldest first, or () if
        the run has not begun.
        """
        return self._sealed()[1]

    def seal(self, environments: tuple[Environment, ...]) -> None:
        """Write the manifest, and environment.json with the first environment and,
        under the key "resumed", the later ones.
        """
        files = {name: digest for name in FILES if (digest := self._digest(name))}
        write_atomically(
            self.manifest,
            summed_json({"files": files, "environments": list(environments)}),
        )
        if environments:
            first, *later = environments
            write_atomically(
                self.environment,
                json.dumps(first | ({"resumed": later} if later else {}), indent=2)
                + "\n",
            )

    def accept(self) -> dict[str, str]:
        """Accept the files of the run as they are now, by writing a new manifest with
        their checksums.

        Returns:
            For each file that differs from the old manifest, the kind of difference:
                "changed", "missing" or "added".
        """
        require(
            self.config.exists(),
            f"run {self.path}",
            "no config.json",
            "name the folder of a run",
        )
        with self.locked():
            sealed, environments = self._sealed(accept=True)
            found = self._changes(sealed or {})
            self.seal(environments)
        return found

    @property
    def _accepting(self) -> str:
        return (
            "bring the old one back, or if this is meant: lstm-jax run accept "
            f"--run {shlex.quote(str(self.path))}"
        )

    def _sealed(self, accept: bool = False):
        """Return the checksums in the manifest, and the environments, oldest first."""
        # If there is no manifest, or a damaged one that is accepted, return None and
        # the environments in environment.json, if it can be read.
        subject = f"manifest {self.manifest}"
        with system_errors(subject, _READABLE):
            content: Any = (
                read_summed(self.manifest.read_bytes()) or {}
                if self.manifest.exists()
                else None
            )
        if content is not None:
            files, environments = content.get("files"), content.get("environments")
            whole = isinstance(files, dict) and isinstance(environments, list)
            if whole and all(
                isinstance(one, dict) and isinstance(one.get("versions", {}), dict)
                for one in environments
            ):
                return files, tuple(environments)
            require(accept, subject, "damaged", self._accepting)
        with contextlib.suppress(
            OSError, ValueError, AttributeError, TypeError, RecursionError
        ):
            first = json.loads(self.environment.read_bytes())
            return None, tuple(
                one
                for one in (first, *first.pop("resumed", []))
                if isinstance(one, dict)
            )
        return None, ()

    def _changes(self, sealed: dict[str, str]) -> dict[str, str]:
        pairs = {name: (sealed.get(name, ""), self._digest(name)) for name in FILES}
        return {
            name: "missing" if not now else "changed" if before else "added"
            for name, (before, now) in pairs.items()
            if now != before
        }

    def _digest(self, name: str) -> str:
        path = self.path / name
        with system_errors(f"file {path}", _READABLE):
            return file_digest(path) if path.exists() else ""


def differences(old: Environment, new: Environment) -> list[str]:
    """Return those differences of two environments, such as "cores 4, now 2", that can
    change the last bits of results.
    """
    old, new = (
        {**environment, **environment.get("versions", {})} for environment in (old, new)
    )
    names = [
        *_EVERYWHERE,
        *(_ON_A_CPU if str(new.get("devices", "")).startswith("['cpu") else ()),
    ]
    changed = (
        name for name in names if name in old and name in new and old[name] != new[name]
    )
    return [
        f"{name.replace('_', ' ')} {_shown(old[name])}, now {_shown(new[name])}"
        for name in changed
    ]


def _shown(value) -> str:
    if isinstance(value, list):
        kinds = sorted(set(map(str, value)))
        return " and ".join(f"{value.count(kind)} x {kind}" for kind in kinds)
    return str(value) or "none"


def environment(mesh: "jax.sharding.Mesh") -> Environment:
    """Return the environment of this process: a dict of the versions, devices and
    settings that can change results or speed.

    The keys are "python" (version), "versions" (dict from names of packages to
    versions), "git" (commit of this package), "platform" (operating system, as
    `platform.platform()` returns it), "cpu" (name, family and model), "cores" (number
    of cores that this process may use), "devices" (list of the names of the devices of
    `mesh`), "hosts" (number of processes), "xla_flags" and "matmul_precision".
    """
    import jax

    return {
        "python": sys.version.split()[0],
        "versions": versions(),
        "git": git_commit(),
        "platform": platform.platform(),
        "cpu": cpu_name(),
        "cores": len(cores()),
        "devices": [f"{d.platform}:{d.device_kind}" for d in mesh.devices.flat],
        "hosts": jax.process_count(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "matmul_precision": str(jax.config.values.get("jax_default_matmul_precision")),
    }


def versions(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    """Return the versions of packages, by default of those that can change results."""
    found = dict.fromkeys(packages, "not installed")
    for package in found:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def git_commit() -> str:
    """Return the git commit of this package, followed by "+" if its code has
    uncommitted changes.
    """
    return commit_of(Path(__file__), "../..")


def cpu_name() -> str:
    """Return the name, the family and the model of the CPU."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor()
    first = dict(
        reversed(
            re.findall(r"^(model name|cpu family|model)\s*: (.+)$", text, re.MULTILINE)
        )
    )
    numbers = [
        f"{name.removeprefix('cpu ')} {first[name]}"
        for name in ("cpu family", "model")
        if name in first
    ]
    return ", ".join([first.get("model name") or platform.processor(), *numbers])


def same_data(stored: bytes, fingerprint: str) -> bool:
    """Return whether the content of the file `data.sha256` of a run is a fingerprint."""
    return stored.split() == fingerprint.encode().split()


def commit_of(file: Path, scope: str) -> str:
    """Return the commit of the checkout that tracks a file, or "" if there is none.

    "+" follows if files in `scope`, a pathspec of Git relative to the folder of the
    file, have uncommitted changes.
    """
    commands = (
        ["ls-files", "--", file.name],
        ["rev-parse", "--short=12", "HEAD"],
        ["status", "--porcelain", "--", scope],
    )
    try:
        tracked, commit, changes = (
            subprocess.run(
                ["git", "-C", file.parent, *command],
                capture_output=True,
                text=True,
                timeout=5,
            ).stdout.strip()
            for command in commands
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return commit + ("+" if changes else "") if tracked and commit else ""
