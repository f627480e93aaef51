"""Manifest of a run: SHA-256 sums of the files that its answers depend on, and the environments that it was trained in.

Checkpoints have their own manifests, see `checkpoint`.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lstm_jax.errors import InputError, require
from lstm_jax.files.writing import read_summed, summed_json, write_atomically

NAME = "manifest.json"
FILES = ("config.json", "data.sha256", "vocabulary.json", "words.npz", "characters.json", "scale.json")
"""Files that answers of a run depend on; a run has those of its task."""


@dataclass(frozen=True)
class Manifest:
    """files: name -> SHA-256; environments: as `run_folder.environment` returns them, oldest first."""

    files: dict[str, str]
    environments: tuple[dict[str, Any], ...]


def accepting(folder: Path) -> str:
    """Return the remedy for a file that has changed."""
    return f"bring the old one back, or if this is meant: lstm-jax run accept --run {folder}"


def write(folder: Path, environments: tuple[dict[str, Any], ...]) -> Manifest:
    """Record the files as they are now.

    Raises:
        InputError: if one cannot be read, or the manifest cannot be written.
    """
    found = {name: digest for name in FILES if (digest := _digest(folder / name))}
    write_atomically(folder / NAME, summed_json({"files": found, "environments": list(environments)}))
    return Manifest(found, environments)


def read(folder: Path) -> Manifest | None:
    """Read the manifest; None if the folder has none, as a run of an older version.

    Raises:
        InputError: if it cannot be read or is not as it was written.
    """
    path = folder / NAME
    try:
        raw = read_summed(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(f"manifest {path}", error.strerror, "name the folder of a run that can be read") from error
    if raw is None:
        raise InputError(f"manifest {path}", "damaged", accepting(folder))
    return Manifest(raw["files"], tuple(raw["environments"]))


def verify(folder: Path, manifest: Manifest) -> None:
    """Compare the files with their sums.

    Raises:
        InputError: naming the first file that is missing, changed or added.
    """
    for name, kind in changes(folder, manifest).items():
        raise InputError(f"file {folder / name}", f"{kind} since the run wrote its files", accepting(folder))


def changes(folder: Path, manifest: Manifest) -> dict[str, str]:
    """Return "changed", "missing" or "added" by name, for the files that differ from the manifest."""
    found = {name: _digest(folder / name) for name in FILES}
    kinds = {name: "missing" if not found[name] else "changed" if name in manifest.files else "added" for name in FILES}
    return {name: kinds[name] for name in FILES if found[name] != manifest.files.get(name, "")}


def _digest(path: Path) -> str:
    """SHA-256 of a file; empty if there is none."""
    try:
        require(path.is_file() or not path.exists(), f"file {path}", "not a regular file", "name the folder of a run")
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise InputError(f"file {path}", error.strerror, "name the folder of a run that can be read") from error
