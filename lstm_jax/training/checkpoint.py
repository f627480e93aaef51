"""Checkpoints that notice damage: orbax writes and reads the arrays, a manifest of SHA-256 sums says whether to believe them.

orbax loads a flipped bit without a word, hence the sums. The layout below a run's checkpoint folder:

    1200/                  orbax' own output, one flat dict {path of the leaf: array}; "1200.1" if 1200 was saved again
    1200.manifest.json     written last and by one rename: a step is finished if and only if it is there

The manifest's first line is the SHA-256 of all that follows: JSON with the step, the name of its folder, the caller's `extra`,
one sum a leaf (over dtype, shape and bytes of the global array) and one sum a file. With several hosts the folder is shared,
every process calls `save`, `restore` and `prune`, and process 0 alone writes manifests and removes things.
"""

import contextlib
import errno
import hashlib
import json
import logging
import os
import re
import resource
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import PyTree

from lstm_jax.errors import InputError, require
from lstm_jax.files.writing import read_summed, summed_json

_MANIFEST = re.compile(r"(0|[1-9][0-9]*)\.manifest\.json")
_ARRAYS = re.compile(r"([0-9]+)(\.[0-9]+)?(\.orbax-checkpoint-tmp.*)?")
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_OS_ERROR = re.compile(r"\[os_error_code='?(\d+)'?\]")
_LARGEST_FILE = 2**31
"""Bytes after which tensorstore begins another file."""


@dataclass(frozen=True)
class Restored:
    """What `restore` found."""

    step: int
    state: PyTree
    """The tree of `like`, filled."""
    extra: dict[str, Any]
    """As given to `save`, after a round trip through JSON (tuples come back as lists)."""
    rejected: tuple[tuple[int, str], ...]
    """Newer steps that are damaged, newest first, each with the reason."""


def save(folder: Path, step: int, state: PyTree, extra: dict[str, Any]) -> Path:
    """Write a checkpoint and return its manifest's path; on return it is finished and its bytes are handed to the disk.

    What an interrupted save left behind is removed. A finished checkpoint of the same step is replaced at the moment the new one
    is finished, and not touched before.

    Args:
        folder: holds all steps of a run; made if absent.
        step: 0 or more.
        state: a tree of jax or numpy arrays of any shape but an empty one; keys of `jax.random.key` go in as `jax.random.key_data`.
        extra: anything JSON can hold (position in the data, config, history).

    Raises:
        InputError: no space left, a folder that cannot be written, a leaf that is no array, an `extra` that is not JSON.
    """
    require(step >= 0, "checkpoint step", step, "give 0 or more")
    leaves = _named(state)
    for name, leaf in leaves.items():
        plain = isinstance(getattr(leaf, "dtype", None), np.dtype)  # that of a typed random key is jax' own
        require(plain, f"checkpoint leaf {name}", type(leaf).__name__, "give an array (of a random key: jax.random.key_data(key))")
        require(leaf.size > 0, f"checkpoint leaf {name}", f"shape {leaf.shape}", "leave arrays without elements out of the state")
    try:
        extra = json.loads(json.dumps(extra))
    except (TypeError, ValueError) as error:
        raise InputError("checkpoint extra", error, "keep to what JSON can hold") from error
    first = jax.process_index() == 0
    with _explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if first:
            _clean(folder)
        _barrier("cleaned")
        _require_space(folder, leaves)
        try:
            arrays = _free_name(folder, step)
            _barrier("named")
            _orbax_save(folder / arrays, leaves)
            sums = {name: _leaf_record(leaf) for name, leaf in leaves.items()}
            if first:
                files = _file_records(folder / arrays, sync=True)
                content = {"step": step, "folder": arrays, "extra": extra, "leaves": sums, "files": files}
                _write_manifest(folder, step, content)
            _barrier("saved")
        finally:
            if first:
                _clean(folder)
    return _manifest_path(folder, step)


def restore(folder: Path, like: PyTree, added: tuple[str, ...] = ()) -> Restored:
    """Load the newest checkpoint in which every bit is as it was saved.

    Args:
        folder: as given to `save`.
        like: the tree to fill, of arrays or `jax.ShapeDtypeStruct`. A leaf comes back with the sharding of its counterpart here
            (the default device if it has none), as a numpy array where the counterpart is one.
        added: paths of leaves that checkpoints of older versions lack; those come back as in `like`.

    Raises:
        InputError: if there is no checkpoint, if all are damaged, or if leaves, shapes or dtypes differ from `like`.
    """
    rejected: list[tuple[int, str]] = []
    wanted = _named(like)
    for step in reversed(steps(folder)):
        manifest, damage = _read_verified(folder, step)
        damage = _agreed(damage)
        loaded: dict[str, Any] = {}
        if not damage:
            there = {name: leaf for name, leaf in wanted.items() if name in manifest["leaves"] or name not in added}
            _require_same_tree(step, manifest["leaves"], there)
            loaded, damage = _load(folder / manifest["folder"], there, manifest["leaves"])
            damage = _agreed(damage)
        if not damage:
            state = jax.tree.unflatten(jax.tree.structure(like), [loaded.get(name, leaf) for name, leaf in wanted.items()])
            return Restored(step, state, manifest["extra"], tuple(rejected))
        rejected.append((step, damage))
    reasons = ", ".join(f"step {step}: {reason}" for step, reason in rejected)
    found = f"all are damaged ({reasons})" if rejected else "none is there"
    raise InputError(f"checkpoints in {folder}", found, "name the folder of a run that has saved one, or start anew")


def steps(folder: Path) -> list[int]:
    """Steps with a manifest, ascending, damaged ones included; empty if the folder is absent."""
    if not folder.is_dir():
        return []
    return sorted(int(match[1]) for entry in folder.iterdir() if (match := _MANIFEST.fullmatch(entry.name)))


def prune(folder: Path, keep: int) -> None:
    """Remove every checkpoint older than the newest `keep` good ones.

    Damaged ones do not count, lest a damaged newest one push the last good one out; they go when they are the older ones.

    Raises:
        InputError: if `keep` is below 1, or the folder cannot be written.
    """
    require(keep >= 1, "checkpoints to keep", keep, "keep 1 or more")
    good = 0
    if jax.process_index() == 0:
        with _explained(folder):
            for step in reversed(steps(folder)):
                if good < keep:
                    good += not _read_verified(folder, step)[1]
                else:
                    _manifest_path(folder, step).unlink()
            _clean(folder)
    _barrier("pruned")


def _manifest_path(folder: Path, step: int) -> Path:
    return folder / f"{step}.manifest.json"


def _named(tree: PyTree) -> dict[str, Any]:
    """Leaves by their path, in the order of `jax.tree.leaves`."""
    flat = jax.tree_util.tree_leaves_with_path(tree)
    named = {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in flat}
    require(bool(flat), "checkpoint state", "a tree without leaves", "give one that holds arrays")
    require(len(named) == len(flat), "checkpoint state", "two leaves of the same path", "keep dots out of the keys")
    return named


def _free_name(folder: Path, step: int) -> str:
    """A folder name for the step's arrays that no finished checkpoint uses."""
    names = [str(step), *(f"{step}.{again}" for again in range(1, 1000))]
    return next(name for name in names if not (folder / name).exists())


def _require_space(folder: Path, leaves: dict[str, Any]) -> None:
    """Raise `OSError` before anything is written where the disk, or the largest file that this process may write, is too small."""
    size = sum(leaf.nbytes for leaf in leaves.values())
    needed = size + size // 50 + 2**12 * (4 + len(leaves))  # with what orbax notes of each leaf
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    for code, short in ((errno.ENOSPC, shutil.disk_usage(folder).free < needed), (errno.EFBIG, 0 <= limit < min(needed, _LARGEST_FILE))):
        if short:
            raise OSError(code, os.strerror(code))


def _host(leaf: Any) -> np.ndarray:
    """The global array on this host."""
    if isinstance(leaf, jax.Array) and not (leaf.is_fully_addressable or leaf.is_fully_replicated):
        return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))
    return np.asarray(leaf)


def _leaf_record(leaf: Any) -> dict[str, Any]:
    array = _host(leaf)
    digest = hashlib.sha256(f"{array.dtype.name} {list(array.shape)}\n".encode())
    digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return {"dtype": array.dtype.name, "shape": list(array.shape), "sha256": digest.hexdigest()}


def _file_records(arrays: Path, sync: bool = False) -> dict[str, dict[str, Any]]:
    """Size and sum of every file below `arrays`; `sync` hands them to the disk, so that no manifest outlives its files in a power cut."""
    records: dict[str, dict[str, Any]] = {}
    for path in sorted(path for path in arrays.rglob("*") if not path.is_dir()):
        with path.open("rb") as file:
            if sync:
                os.fsync(file.fileno())
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        records[path.relative_to(arrays).as_posix()] = {"bytes": path.stat().st_size, "sha256": digest}
    return records


def _write_manifest(folder: Path, step: int, content: dict[str, Any]) -> None:
    path = _manifest_path(folder, step)
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        file.write(summed_json(content))
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _read_manifest(folder: Path, step: int) -> dict[str, Any] | None:
    """The manifest, or None if it is not as written."""
    try:
        manifest = read_summed(_manifest_path(folder, step).read_bytes())
    except OSError:
        return None
    return manifest if manifest is not None and manifest["step"] == step else None


def _read_verified(folder: Path, step: int) -> tuple[dict[str, Any], str]:
    """The manifest and what is wrong with it or with the files that it lists ("": nothing)."""
    manifest = _read_manifest(folder, step)
    if manifest is None:
        return {}, "the manifest is damaged"
    try:
        found = _file_records(folder / manifest["folder"])
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


def _require_same_tree(step: int, saved: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raise `InputError` on the first leaf in which checkpoint and `like` differ: a wrong config, not damage."""
    remedy = "use the config that the run was saved with"
    for name in saved:
        require(name in wanted, f"checkpoint leaf {name} of step {step}", "not in this model or optimiser", remedy)
    for name, leaf in wanted.items():
        require(name in saved, f"checkpoint leaf {name} of step {step}", "not in the checkpoint", remedy)
        here, there = (np.dtype(leaf.dtype).name, list(leaf.shape)), (saved[name]["dtype"], saved[name]["shape"])
        require(here == there, f"checkpoint leaf {name} of step {step}", f"saved as {there}, wanted as {here}", remedy)
        sharding = getattr(leaf, "sharding", None)
        try:
            _ = sharding and sharding.shard_shape(tuple(leaf.shape))
        except ValueError as error:
            raise InputError(f"checkpoint leaf {name} of step {step}", error, "shard it over a mesh that divides it") from error


def _load(arrays: Path, wanted: dict[str, Any], saved: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """The leaves by path, and what is wrong with them ("": nothing)."""
    try:
        loaded = _orbax_restore(arrays, wanted)
    except MemoryError:
        raise
    except Exception as error:  # whatever orbax says of files that were verified, an older step may still load
        return {}, f"orbax cannot read it: {error}"
    for name, leaf in loaded.items():
        if _leaf_record(leaf) != saved[name]:
            return loaded, f"leaf {name} is damaged"
    return loaded, ""


def _clean(folder: Path) -> None:
    """Remove what belongs to no finished checkpoint. Arrays of a step whose manifest is unreadable stay."""
    manifests = {step: _read_manifest(folder, step) for step in steps(folder)}
    for entry in list(folder.iterdir()):
        match = _ARRAYS.fullmatch(entry.name)
        if entry.name.endswith(".manifest.json.tmp"):
            entry.unlink()
        elif match and entry.is_dir():
            manifest = manifests.get(int(match[1]), {"folder": None})
            if manifest is not None and manifest["folder"] != entry.name:
                shutil.rmtree(entry)


@contextlib.contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """Turn what the file system says into an `InputError`; tensorstore reports it as the text of another exception."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        found = _OS_ERROR.search(str(error))
        code: int | None = int(found[1]) if found else getattr(error, "errno", None)
        if code in _NO_SPACE or "No space left" in str(error) or "Disk quota" in str(error):
            raise InputError(f"checkpoint folder {folder}", "no space left", "free some, or name a folder on another disk") from error
        if code == errno.EFBIG:
            raise InputError(
                f"checkpoint folder {folder}", os.strerror(errno.EFBIG), "allow larger files (ulimit -f), or shrink the model"
            ) from error
        if code is not None or isinstance(error, OSError):
            said: object = error if code is None else os.strerror(code)
            raise InputError(f"checkpoint folder {folder}", said, "name a folder that can be written") from error
        raise


def _agreed(damage: str) -> str:
    """What is wrong on any process, so that all of them fall back to the same step."""
    if jax.process_count() == 1:
        return damage
    bad = multihost_utils.process_allgather(np.asarray(bool(damage)))
    return damage or ("another process found it damaged" if bad.any() else "")


def _barrier(name: str) -> None:
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(f"checkpoint {name}")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """orbax warns through absl of what is meant to be so; when it fails, its other threads miss an event loop that has closed."""
    logger = logging.getLogger("absl")
    level, hook = logger.level, sys.unraisablehook

    def note(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            hook(unraisable)

    logger.setLevel(logging.CRITICAL)
    sys.unraisablehook = note
    try:
        yield
        sys.unraisablehook = hook  # after a failure the threads may come later than this
    finally:
        logger.setLevel(level)


@contextlib.contextmanager
def _checkpointer() -> Iterator[Any]:
    """A synchronous orbax checkpointer. Float32 noise hardly shrinks, so it is stored uncompressed: twice as fast."""
    import orbax.checkpoint as ocp

    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=True, use_compression=False)) as checkpointer, _quiet():
        yield checkpointer


@contextlib.contextmanager
def _plain_path(arrays: Path) -> Iterator[Path]:
    """`arrays`, or a link to its folder if orbax would misread it: it globs below the path, so that with "[x]" in a name it saves half."""
    path = arrays.absolute()
    if not set(str(path)) & set("[]*?\\") and str(path).isprintable():
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="lstm_jax_") as folder:
        link = Path(folder) / "checkpoints"
        link.symlink_to(path.parent)
        yield link / path.name


def _orbax_save(arrays: Path, leaves: dict[str, Any]) -> None:
    import orbax.checkpoint as ocp

    with _checkpointer() as checkpointer, _plain_path(arrays) as path:
        checkpointer.save(path, args=ocp.args.PyTreeSave(leaves))


def _orbax_restore(arrays: Path, wanted: dict[str, Any]) -> dict[str, Any]:
    import orbax.checkpoint as ocp

    def how(leaf: Any) -> Any:
        if isinstance(leaf, np.ndarray):
            return ocp.RestoreArgs(restore_type=np.ndarray)
        sharding = getattr(leaf, "sharding", None) or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        return ocp.ArrayRestoreArgs(sharding=sharding, global_shape=tuple(leaf.shape), dtype=leaf.dtype)

    arguments = {name: how(leaf) for name, leaf in wanted.items()}
    shapes = {name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for name, leaf in wanted.items()}
    with _checkpointer() as checkpointer, _plain_path(arrays) as path:
        return checkpointer.restore(path, args=ocp.args.PyTreeRestore(item=shapes, restore_args=arguments))
