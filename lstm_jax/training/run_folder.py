"""Folder of a training run, which holds its config, environment, metrics, TensorBoard events, figures and checkpoints."""

import contextlib
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from lstm_jax.backend_names import with_current_names
from lstm_jax.config.files import config_changes, shown_changes
from lstm_jax.errors import InputError, require, system_errors
from lstm_jax.files.locks import locked
from lstm_jax.files.writing import remove_temporaries, write_atomically
from lstm_jax.runtime.machine import cores
from lstm_jax.training import manifest


class RunFolder:
    """Folder of a training run at `path`: the paths of its files, and methods that write and check these files.

    Args:
        path: path of the folder.
        checkpoints: folder of the checkpoints. If None, it is the subfolder `checkpoints`.
    """

    def __init__(self, path: Path, checkpoints: Path | None = None):
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
        self.pretraining_metrics = path / "pretraining.jsonl"
        self.result = path / "result.json"
        self.events = path / "events"
        self.figures = path / "figures"
        self.checkpoints = checkpoints or path / "checkpoints"
        self.language_model = self.checkpoints / "language_model"
        self.manifest = path / manifest.NAME
        self.lock = path / "run.lock"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the folder against other processes until the context ends. The folder is created if it does not exist.

        Raises:
            InputError: if another process holds the lock, if the path is a file, or if the folder cannot be created.
        """
        thing = f"run folder {self.path}"
        with system_errors(thing, "name a folder that can be written"):
            require(not self.path.exists() or self.path.is_dir(), thing, "is a file", "name a new folder")
            self.path.mkdir(parents=True, exist_ok=True)
        with locked(self.lock, thing):
            yield

    def start(self, config_json: str, resume: bool) -> bool:
        """Start a run in the folder by writing its config, or check that the run in the folder can be resumed with this config.

        Files that a killed process left half-written are removed.

        Args:
            config_json: config of the run as JSON.
            resume: whether the folder may hold a run.

        Returns:
            False if a run was started, or if the config equals that of the run in the folder. True if the config differs from that of the
            run only by a larger number of epochs. This difference is allowed if the learning-rate schedule is constant, because the number
            of epochs does not change the steps of such a run. The config in the folder is kept until `lengthen` is called.

        Raises:
            InputError: in one of these cases.

                - The folder holds a run, and `resume` is false.
                - The config differs from that of the run in the folder in a way that is not allowed.
                - A file of the run in the folder has changed.
                - The folder holds no run, but a file or a folder with a name that a run uses.
                - The path is a file.
        """
        require(not self.path.exists() or self.path.is_dir(), f"run folder {self.path}", "is a file", "name a new folder")
        for folder in (self.path, self.events, self.figures):
            remove_temporaries(folder)
        if not self.config.exists():
            own = {*manifest.FILES, *(path.name for path in vars(self).values() if path.parent == self.path and path != self.lock)}
            taken = sorted(name for name in own if (self.path / name).exists())
            require(not taken, f"run folder {self.path}", f"holds {', '.join(taken)}", "name a new folder, or move this away")
            write_atomically(self.config, config_json)
            return False
        require(resume, f"run folder {self.path}", "holds a run", "resume it with --resume, or name another folder")
        self.verify()
        try:
            changes = config_changes(with_current_names(json.loads(self.config.read_bytes())), json.loads(config_json))
        except (OSError, ValueError, RecursionError) as error:
            raise InputError(f"config {self.config}", error, "the run folder is damaged; name a new one") from error
        old, new = changes.get(EPOCHS, (None, 0))
        more = len(changes) == 1 and isinstance(old, int) and new > old
        longer = more and json.loads(config_json)["train"]["schedule"] == "constant"  # each step is then the same
        note = " (more epochs need a constant schedule)" if more else ""
        remedy = f"give its config to resume it: {shown_changes(changes)}{note}"
        require(longer or not changes, f"run folder {self.path}", "holds a run of another config", remedy)
        return longer

    def check_exists(self, *_: Any) -> None:
        """Raise an `InputError` if the folder has been removed during the training. This function is also a callback of the training."""
        require(self.config.exists(), f"run folder {self.path}", "removed while it trained", "train anew")

    def lengthen(self, config_json: str) -> None:
        """Replace the config of the run by one with more epochs, and remove the result of the training with fewer epochs.

        The manifest is removed, too, because it holds the checksum of the old config. Call `seal` next to write a new manifest.

        Args:
            config_json: the new config as JSON, for which `start` returned true.

        Raises:
            InputError: if the config cannot be written.
        """
        self.manifest.unlink(missing_ok=True)  # else a kill before `seal` would leave a config that the manifest denies
        self.result.unlink(missing_ok=True)
        write_atomically(self.config, config_json)

    def fix_data(self, fingerprint: str) -> None:
        """Write the fingerprint (a checksum) of the data of a new run, or check that a resumed run has the same data as before.

        Raises:
            InputError: if the run began with other data, or if the fingerprint of its data cannot be read.
        """
        if not self.data.exists():
            write_atomically(self.data, fingerprint + "\n")
        with system_errors(f"file {self.data}", "name the folder of a run that can be read"):
            same = same_data(self.data.read_bytes(), fingerprint)
        require(same, f"data of run {self.path}", "changed since the run began", "give the old data to resume it, or name a new folder")

    def verify(self) -> tuple[str, ...]:
        """Check that the files on which predictions depend are unchanged since the run wrote them, and return a tuple of warnings.

        The files are compared with their checksums in the manifest of the run. If an older version of lstm_jax wrote the run, the run has
        no manifest, and the tuple has one warning: changes of the files cannot be noticed. Otherwise the tuple is empty.

        Raises:
            InputError: if a file has changed. The error names the file.
        """
        found = manifest.read(self.path)
        if found is not None:
            manifest.verify(self.path, found)
            return ()
        note = f"run {self.path} has no {manifest.NAME}, as runs of older versions: a change of its files would go unnoticed; "
        return (f"{note}lstm-jax run accept --run {shlex.quote(str(self.path))} writes one",) if self.config.exists() else ()

    def environments(self) -> tuple[dict[str, Any], ...]:
        """Return the environments that the run was trained in, oldest first, or () if the run has not begun.

        An environment is a dict of versions, devices and settings; see the function `environment`.

        Raises:
            InputError: if the manifest is damaged.
        """
        found = manifest.read(self.path)
        return found.environments if found is not None else self._written_environments()

    def _written_environments(self) -> tuple[dict[str, Any], ...]:
        """Return the environments in environment.json, oldest first, or () if the file cannot be read."""
        try:
            raw = json.loads(self.environment.read_bytes())
            later = raw.pop("resumed", [])
            return tuple(environment for environment in (raw, *later) if isinstance(environment, dict))
        except (OSError, ValueError, AttributeError, TypeError, RecursionError):
            return ()

    def seal(self, environments: tuple[dict[str, Any], ...]) -> None:
        """Write the two files that record the state of a run: its manifest and environment.json.

        The manifest contains the current checksums of the files on which the predictions of the run depend, and all environments.
        environment.json contains the first environment and, under the key "resumed", a list of the later ones.

        Args:
            environments: environments that the run was trained in, oldest first; see the function `environment`.
        """
        manifest.write(self.path, environments)
        if environments:
            first, *later = environments
            write_atomically(self.environment, json.dumps(first | ({"resumed": later} if later else {}), indent=2) + "\n")

    def accept(self) -> dict[str, str]:
        """Accept the files of the run as they are now, by writing a new manifest with their checksums.

        Returns:
            A dict with one entry for each file that differs from the old manifest. The key is the name of the file, and the value is the
            kind of difference: "changed", "missing" or "added".

        Raises:
            InputError: if the folder holds no run, if another process uses the folder, or if the folder cannot be written.
        """
        require(self.config.exists(), f"run {self.path}", "no config.json", "name the folder of a run")
        with self.locked():
            old = manifest.Manifest({}, self._written_environments())
            with contextlib.suppress(InputError):
                old = manifest.read(self.path) or old
            found = manifest.changes(self.path, old)
            self.seal(old.environments)
        return found


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Compare two environments, and return a list of those differences that can change the last bits of results.

    A difference is a text such as "cores 4, now 2". An environment is a dict of versions, devices and settings; see `environment`.
    """
    old, new = (with_current_names({**environment, **environment.get("versions", {})}) for environment in (old, new))
    names = [*_EVERYWHERE, *(_ON_A_CPU if str(new.get("devices", "")).startswith("['cpu") else ())]
    changed = (name for name in names if name in old and name in new and old[name] != new[name])
    return [f"{name.replace('_', ' ')} {_shown(old[name])}, now {_shown(new[name])}" for name in changed]


_EVERYWHERE = ("lstm-jax", "jax", "jaxlib", "flax", "optax", "numpy", "backend", "devices", "hosts", "xla_flags", "matmul_precision")
EPOCHS = ("train", "epochs")
_ON_A_CPU = ("cpu", "cores", "compiled")


def _shown(value: Any) -> str:
    if isinstance(value, list):
        kinds = sorted(set(map(str, value)))
        return " and ".join(f"{value.count(kind)} x {kind}" for kind in kinds)
    return str(value) or "none"


def environment(mesh: Mesh) -> dict[str, Any]:
    """Return the environment of this process: a dict of the versions, devices and settings that can change results or speed.

    The keys are "python" (version), "versions" (dict from names of packages to versions), "git" (commit of this package), "platform"
    (operating system, as `platform.platform()` returns it), "cpu" (name, family and model), "cores" (number of
    cores that this process may use), "devices" (list of the names of the devices of `mesh`), "hosts" (number of processes), "xla_flags" and
    "matmul_precision".
    """
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


def versions() -> dict[str, str]:
    """Return the versions of the installed packages that can change results."""
    return {name: _version(name) for name in ("lstm-jax", "jax", "jaxlib", "flax", "optax", "numpy", "orbax-checkpoint")}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def git_commit() -> str:
    """Return the git commit of this package, followed by "+" if its code has uncommitted changes."""
    file = Path(__file__)
    commands = (["ls-files", "--", file.name], ["rev-parse", "--short=12", "HEAD"], ["status", "--porcelain", "--", ".."])
    try:
        tracked, commit, changes = (
            subprocess.run(["git", "-C", file.parent, *command], capture_output=True, text=True, timeout=5).stdout.strip()
            for command in commands
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return commit + ("+" if changes else "") if tracked and commit else ""


def cpu_name() -> str:
    """Return the name, the family and the model of the CPU."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    pairs = [[part.strip() for part in line.partition(":")[::2]] for line in reversed(lines)]
    first = {name: value for name, value in pairs if name in ("model name", "cpu family", "model")}
    parts = [first.get("model name") or platform.processor()]
    parts += [f"{name.removeprefix('cpu ')} {first[name]}" for name in ("cpu family", "model") if name in first]
    return ", ".join(parts)


def same_data(stored: bytes, fingerprint: str) -> bool:
    """Return whether the stored fingerprint of the data of a run matches another fingerprint.

    A fingerprint consists of one or more checksums, separated by spaces. Older versions of lstm_jax stored only the first checksums.
    Therefore the stored checksums are compared with as many checksums from the beginning of `fingerprint`. If no checksum is stored, the
    result is false.

    Args:
        stored: content of the file `data.sha256` of the run.
        fingerprint: fingerprint of the data to compare with.
    """
    words = stored.split()
    return bool(words) and words == fingerprint.encode().split()[: len(words)]
