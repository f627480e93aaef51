"""Manifest of a checkpoint: a file with the SHA-256 checksums of the checkpoint's files and of the leaves (arrays) of the saved state."""

import hashlib
import os
import re
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lstm_jax.errors import InputError, require
from lstm_jax.files.writing import read_summed, summed_json
from lstm_jax.runtime import processes
from lstm_jax.training.checkpoint.arrays import is_random_key

_KINDS = {"folder": str, "extra": dict, "leaves": dict, "files": dict}
_KEYS = {"leaves": {"dtype", "shape", "sha256"}, "files": {"bytes", "sha256"}}
_MANIFEST = re.compile(r"(0|[1-9][0-9]*)\.manifest\.json")


def manifest_path(folder: Path, step: int) -> Path:
    """Return the path of the manifest of the checkpoint of step `step`. A manifest is a file of checksums, written when a save ends."""
    return folder / f"{step}.manifest.json"


def steps(folder: Path) -> list[int]:
    """Return the steps of all finished checkpoints in a folder, in ascending order. Damaged checkpoints are included.

    If the folder does not exist, return [].
    """
    if not folder.is_dir():
        return []
    return sorted(int(match[1]) for entry in folder.iterdir() if (match := _MANIFEST.fullmatch(entry.name)))


def leaf_record(leaf: Any) -> dict[str, Any]:
    """Return the entry of a manifest for an array: a dict with the keys "dtype", "shape" and "sha256"."""
    array = processes.on_host(jax.random.key_data(leaf) if is_random_key(leaf) else leaf)
    dtype, shape = _dtype_name(leaf), list(leaf.shape)
    digest = hashlib.sha256(f"{dtype} {shape}\n".encode())
    digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return {"dtype": dtype, "shape": shape, "sha256": digest.hexdigest()}


def _dtype_name(leaf: Any) -> str:
    return str(leaf.dtype) if is_random_key(leaf) else np.dtype(leaf.dtype).name


def file_records(arrays: Path, sync: bool = False) -> dict[str, dict[str, Any]]:
    """Return the sizes and the checksums of all files below the folder `arrays`."""
    records: dict[str, dict[str, Any]] = {}
    for path in sorted(path for path in arrays.rglob("*") if not path.is_dir()):
        with path.open("rb") as file:
            if sync:
                os.fsync(file.fileno())
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        records[path.relative_to(arrays).as_posix()] = {"bytes": path.stat().st_size, "sha256": digest}
    return records


def write_manifest(folder: Path, step: int, content: dict[str, Any]) -> None:
    """Write the manifest that belongs to the checkpoint of step `step`, with the dict `content` as JSON."""
    path = manifest_path(folder, step)
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        file.write(summed_json(content))
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def read_manifest(folder: Path, step: int) -> dict[str, Any] | None:
    """Read the manifest that belongs to the checkpoint of step `step`, and return its content."""
    try:
        manifest = read_summed(manifest_path(folder, step).read_bytes())
    except OSError:
        return None
    if manifest is None or manifest.get("step") != step or not all(isinstance(manifest.get(name), kind) for name, kind in _KINDS.items()):
        return None
    records = ((record, keys) for name, keys in _KEYS.items() for record in manifest[name].values())
    return manifest if all(isinstance(record, dict) and record.keys() == keys for record, keys in records) else None


def read_verified(folder: Path, step: int) -> tuple[dict[str, Any], str]:
    """Read the manifest that belongs to the checkpoint of step `step`, and check the files that it lists against their checksums."""
    manifest = read_manifest(folder, step)
    if manifest is None:
        return {}, "the manifest is damaged"
    try:
        found = file_records(folder / manifest["folder"])
    except OSError as error:
        return manifest, f"unreadable: {error}"
    for name, record in manifest["files"].items():
        if name not in found:
            return manifest, f"file {name} is missing"
        if found[name]["bytes"] != record["bytes"]:
            return manifest, f"file {name} has {found[name]['bytes']} bytes instead of {record['bytes']}"
        if found[name] != record:
            return manifest, f"file {name} is damaged"
    added = sorted(set(found) - set(manifest["files"]))
    return manifest, f"file {added[0]} was added" if added else ""


def require_same_tree(step: int, saved: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Check that a checkpoint has the same leaves as the tree that is to be loaded."""
    remedy = "use the config that the run was saved with"
    for name in saved:
        require(name in wanted, f"checkpoint leaf {name} of step {step}", "not in this model or optimiser", remedy)
    for name, leaf in wanted.items():
        require(name in saved, f"checkpoint leaf {name} of step {step}", "not in the checkpoint", remedy)
        here, there = (_dtype_name(leaf), list(leaf.shape)), (saved[name]["dtype"], saved[name]["shape"])
        require(here == there, f"checkpoint leaf {name} of step {step}", f"saved as {there}, wanted as {here}", remedy)
        sharding = getattr(leaf, "sharding", None)
        try:
            _ = sharding and sharding.shard_shape(tuple(leaf.shape))
        except ValueError as error:
            raise InputError(f"checkpoint leaf {name} of step {step}", error, "shard it over a mesh that divides it") from error
