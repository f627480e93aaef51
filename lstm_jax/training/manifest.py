"""Manifest of a run: a file that holds checksums of other files of the run, and the environments in which the run was trained.

The manifest holds the SHA-256 of each file that the predictions of the run depend on. An environment is a dict of the versions, devices and
settings that the run was trained with. Checkpoints have manifests of their own; see `checkpoint`.
"""

import hashlib
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lstm_jax.config import CONFIGS
from lstm_jax.errors import InputError, require
from lstm_jax.files.writing import read_summed, summed_json, write_atomically

NAME = "manifest.json"
FILES = ("config.json", "data.sha256", *dict.fromkeys(name for kind in CONFIGS.values() for name in kind.files))
"""Names of all files that the predictions of a run can depend on. A run has only the files of its task."""


@dataclass(frozen=True)
class Manifest:
    """Content of the manifest of a run.

    `files` is a dict from file names to SHA-256 checksums. `environments` holds the environments that the run was trained in, oldest first.
    An environment is a dict of versions, devices and settings; see `run_folder.environment`.
    """

    files: dict[str, str]
    environments: tuple[dict[str, Any], ...]


def accepting(folder: Path) -> str:
    """Return the last part of error messages about changed or damaged files of the run in `folder`."""
    return f"bring the old one back, or if this is meant: lstm-jax run accept --run {shlex.quote(str(folder))}"


def write(folder: Path, environments: tuple[dict[str, Any], ...]) -> None:
    """Write the manifest of the run in `folder`."""
    found = {name: digest for name in FILES if (digest := _digest(folder / name))}
    write_atomically(folder / NAME, summed_json({"files": found, "environments": list(environments)}))


def read(folder: Path) -> Manifest | None:
    """Return the content of the manifest of a run, or None if the run has no manifest."""
    path = folder / NAME
    try:
        raw = read_summed(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(f"manifest {path}", error.strerror, "name the folder of a run that can be read") from error
    files, environments = (raw or {}).get("files"), (raw or {}).get("environments")
    if not (
        isinstance(files, dict)
        and isinstance(environments, list)
        and all(isinstance(one, dict) and isinstance(one.get("versions", {}), dict) for one in environments)
    ):
        raise InputError(f"manifest {path}", "damaged", accepting(folder))
    return Manifest(files, tuple(environments))


def verify(folder: Path, manifest: Manifest) -> None:
    """Check that the files of a run have the checksums that its manifest gives."""
    for name, kind in changes(folder, manifest).items():
        raise InputError(f"file {folder / name}", f"{kind} since the run wrote its files", accepting(folder))


def changes(folder: Path, manifest: Manifest) -> dict[str, str]:
    """Return a dict with one entry for each file of `FILES` that differs from the manifest. Other files of the folder are not compared."""
    found = {name: _digest(folder / name) for name in FILES}
    kinds = {name: "missing" if not found[name] else "changed" if name in manifest.files else "added" for name in FILES}
    return {name: kinds[name] for name in FILES if found[name] != manifest.files.get(name, "")}


def _digest(path: Path) -> str:
    """Return the SHA-256 of a file, or "" if the file does not exist."""
    try:
        require(path.is_file() or not path.exists(), f"file {path}", "not a regular file", "name the folder of a run")
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise InputError(f"file {path}", error.strerror, "name the folder of a run that can be read") from error
