"""Manifest of a run: SHA-256 checksums of the files that its predictions depend on, and the environments that it was trained in.

Checkpoints have manifests of their own; see `checkpoint`.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lstm_jax.errors import InputError, require
from lstm_jax.files.writing import read_summed, summed_json, write_atomically

NAME = "manifest.json"
FILES = ("config.json", "data.sha256", "vocabulary.json", "words.npz", "characters.json", "scale.json")
"""Names of the files that the predictions of a run can depend on; a run has only those of its task."""


@dataclass(frozen=True)
class Manifest:
    """Content of a manifest.

    `files` maps file names to SHA-256 checksums. `environments` lists the environments that the run was trained in, oldest first, as
    returned by `run_folder.environment`.
    """

    files: dict[str, str]
    environments: tuple[dict[str, Any], ...]


def accepting(folder: Path) -> str:
    """Return the remedy for the error that a file has changed."""
    return f"bring the old one back, or if this is meant: lstm-jax run accept --run {folder}"


def write(folder: Path, environments: tuple[dict[str, Any], ...]) -> Manifest:
    """Write a manifest of the files as they are now, and return it.

    Raises:
        InputError: if a file cannot be read, or if the manifest cannot be written.
    """
    found = {name: digest for name in FILES if (digest := _digest(folder / name))}
    write_atomically(folder / NAME, summed_json({"files": found, "environments": list(environments)}))
    return Manifest(found, environments)


def read(folder: Path) -> Manifest | None:
    """Return the manifest, or None if the folder has none, as in runs of older versions.

    Raises:
        InputError: if the manifest cannot be read or is damaged.
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
    """Compare the files with their checksums in the manifest.

    Raises:
        InputError: if a file is missing, changed or added; the error names the first such file.
    """
    for name, kind in changes(folder, manifest).items():
        raise InputError(f"file {folder / name}", f"{kind} since the run wrote its files", accepting(folder))


def changes(folder: Path, manifest: Manifest) -> dict[str, str]:
    """Return "changed", "missing" or "added" for each file that differs from the manifest, by file name."""
    found = {name: _digest(folder / name) for name in FILES}
    kinds = {name: "missing" if not found[name] else "changed" if name in manifest.files else "added" for name in FILES}
    return {name: kinds[name] for name in FILES if found[name] != manifest.files.get(name, "")}


def _digest(path: Path) -> str:
    """Return the SHA-256 of a file, or "" if there is no such file."""
    try:
        require(path.is_file() or not path.exists(), f"file {path}", "not a regular file", "name the folder of a run")
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise InputError(f"file {path}", error.strerror, "name the folder of a run that can be read") from error
