"""Functions that save, restore and prune checkpoints."""

import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import PyTree

from lstm_jax.errors import InputError, require
from lstm_jax.runtime import processes
from lstm_jax.training.checkpoint import arrays
from lstm_jax.training.checkpoint.disk import explained, require_space
from lstm_jax.training.checkpoint.sums import (
    file_records,
    leaf_record,
    manifest_path,
    read_manifest,
    read_verified,
    require_same_tree,
    steps,
    write_manifest,
)

ATTEMPTS = 5
"""Number of times that the checkpoints are listed anew if a training replaces them while they are read."""
_ARRAYS = re.compile(r"([0-9]+)(\.[0-9]+)?(\.orbax-checkpoint-tmp.*)?")


@dataclass(frozen=True)
class Restored:
    """Result of `restore`, which is the content of the restored checkpoint."""

    step: int
    state: PyTree
    """State as a tree with the structure of the argument `like` of `restore`."""
    extra: dict[str, Any]
    """Dict that was given to `save` as `extra`. Since it is stored as JSON, its tuples have become lists, and its keys strings."""
    rejected: tuple[tuple[int, str], ...]
    """Newer checkpoints that were skipped because they are damaged, newest first, each as a pair (step, damage)."""
    unfinished: tuple[int, ...] = ()
    """Steps of newer checkpoints that have no manifest, newest first. Either the save was interrupted, or the manifest was removed."""


def save(folder: Path, step: int, state: PyTree, extra: dict[str, Any]) -> Path:
    """Write a checkpoint and return the path of its manifest.

    When this function returns, the checkpoint is finished and its bytes have been flushed to disk. Leftovers of an interrupted save are
    removed. If there is a finished checkpoint of the same step, it stays untouched until the new checkpoint is finished and replaces it.

    Args:
        folder: folder that holds the checkpoints of a run. It is created if it does not exist.
        step: number of the step, at least 0.
        state: tree of JAX or NumPy arrays, none of which is empty. Random keys made by `jax.random.key` are arrays, too.
        extra: dict that JSON can represent, for example the history of a run.

    Raises:
        InputError: in one of these cases.

            - `step` is below 0.
            - `state` has no leaves, or two of its leaves have the same path.
            - A leaf is not an array, or is empty.
            - `extra` cannot be written as JSON.
            - The folder cannot be written, or there is not enough space.
    """
    require(step >= 0, "checkpoint step", step, "give 0 or more")
    leaves = {name: _native(leaf) for name, leaf in check_state(state).items()}
    try:
        extra = json.loads(json.dumps(extra))
    except (TypeError, ValueError) as error:
        raise InputError("checkpoint extra", error, "keep to what JSON can hold") from error
    first = processes.first()
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if first:
            _clean(folder)
        _barrier("cleaned")
        require_space(folder, leaves)
        try:
            names = (str(step), *(f"{step}.{again}" for again in range(1, 1000)))
            name = next(name for name in names if not (folder / name).exists())
            _barrier("named")
            arrays.save_arrays(folder / name, leaves)
            sums = {path: leaf_record(leaf) for path, leaf in leaves.items()}
            if first:
                files = file_records(folder / name, sync=True)
                content = {"step": step, "folder": name, "extra": extra, "leaves": sums, "files": files}
                write_manifest(folder, step, content)
            _barrier("saved")
        finally:
            if first:
                _clean(folder)
    return manifest_path(folder, step)


def check_state(state: PyTree) -> dict[str, Any]:
    """Check that `save` can store a tree, and return its leaves as a dict from paths, such as "state.step", to leaves.

    Raises:
        InputError: if the tree has no leaves, if two of its leaves have the same path, or if a leaf is not an array or is empty.
    """
    leaves = _named(state)
    for name, leaf in leaves.items():
        require(isinstance(leaf, jax.Array | np.ndarray | np.generic), f"checkpoint leaf {name}", type(leaf).__name__, "give an array")
        require(leaf.size > 0, f"checkpoint leaf {name}", f"shape {leaf.shape}", "leave arrays without elements out of the state")
    return leaves


def _native(leaf: Any) -> Any:
    foreign = isinstance(leaf, np.ndarray) and not leaf.dtype.isnative
    return leaf.astype(leaf.dtype.newbyteorder("=")) if foreign else leaf


def restore(
    folder: Path,
    like: PyTree,
    added: tuple[str, ...] = (),
    step: int | None = None,
    dropped: Mapping[str, str] | None = None,
    check: Callable[[dict[str, Any]], None] = lambda extra: None,
) -> Restored:
    """Load the newest intact checkpoint, or the checkpoint of a given step. A checkpoint is intact if all its checksums are correct.

    A training in another process may replace the checkpoints while this function reads them. The function then reads the new checkpoints.

    Args:
        folder: folder that was given to `save`.
        like: tree with the structure, shapes and dtypes of the state. Each leaf is an array or a `jax.ShapeDtypeStruct`. If a leaf is a
            NumPy array, the result holds a NumPy array in its place. Otherwise the result holds a JAX array with the sharding of the leaf.
            If the leaf has no sharding, the JAX array is placed on the first local device.
        added: paths of leaves, such as "state.behind", that may be absent from the checkpoint, because older versions did not write them.
            If such a leaf is absent, the result holds the leaf of `like` in its place.
        step: number of the step whose checkpoint is loaded. If None, the newest intact checkpoint is loaded.
        dropped: dict from the paths of some leaves to advice for the user. The checkpoint may have these leaves even if `like` lacks them.
            They are then left out of the result, and all their values in the checkpoint must be 0. If a value is not 0, an error is raised
            whose message ends with the advice. An entry for a leaf that `like` has is ignored.
        check: function check(extra) that is called with the dict `extra` of the checkpoint before its arrays are compared with `like`. It
            may raise an error.

    Raises:
        InputError: in one of these cases.

            - `step` is None, and there is no intact checkpoint.
            - `step` is given, and there is no intact checkpoint of this step.
            - Except as `added` and `dropped` allow, the leaves in the checkpoint have other paths, shapes or dtypes than those in `like`.
            - A leaf in `like` has a sharding that does not fit its shape.
            - A leaf that is in `dropped` but not in `like` has a value other than 0 in the checkpoint.
    """
    for _ in range(ATTEMPTS):
        found = steps(folder)
        try:
            return _restore(folder, like, added, step, dropped, check)
        except InputError:
            if steps(folder) == found or jax.process_count() > 1:
                raise
    return _restore(folder, like, added, step, dropped, check)


def _restore(folder: Path, like: PyTree, added: tuple[str, ...], step: int | None, dropped: Any, check: Any) -> Restored:
    """Load a checkpoint, as `restore` does, but list the checkpoints in the folder only once. The arguments are those of `restore`."""
    rejected: list[tuple[int, str]] = []
    wanted = _named(like)
    unwanted = {name: remedy for name, remedy in (dropped or {}).items() if name not in wanted}
    for number in reversed([one for one in steps(folder) if step in (None, one)]):
        manifest, damage = read_verified(folder, number)
        damage = _agreed(damage)
        loaded: dict[str, Any] = {}
        if not damage:
            check(manifest["extra"])
            present = {name: leaf for name, leaf in wanted.items() if name in manifest["leaves"] or name not in added}
            saved = manifest["leaves"]
            left = {name: _zeros(saved[name], number, name, remedy) for name, remedy in unwanted.items() if name in saved}
            require_same_tree(number, {name: leaf for name, leaf in saved.items() if name not in left}, present)
            loaded, damage = _load(folder / manifest["folder"], present | left, saved)  # Orbax reads all leaves or none
            damage = _agreed(damage)
        if not damage:
            state = jax.tree.unflatten(jax.tree.structure(like), [loaded.get(name, leaf) for name, leaf in wanted.items()])
            return Restored(number, state, manifest["extra"], tuple(rejected), _unfinished(folder, number))
        rejected.append((number, damage))
    reasons = ", ".join(f"step {number}: {reason}" for number, reason in rejected)
    found = f"all are damaged ({reasons})" if rejected else "none is there"
    raise InputError(f"checkpoints in {folder}", found, "name the folder of a run that has saved one, or start anew")


def damage(folder: Path, step: int) -> str:
    """Return a description of the damage to the checkpoint of a step, or "" if its files are intact."""
    return _agreed(read_verified(folder, step)[1] if step in steps(folder) else "it is missing")


def prune(folder: Path, keep: int, newest: int | None = None) -> None:
    """Keep the newest `keep` intact checkpoints, and remove all older checkpoints.

    If `newest` is given, all checkpoints of steps after step `newest` are removed first.

    Damaged checkpoints do not count towards `keep`, so that they cannot displace intact ones. A damaged checkpoint is removed only if it is
    older than all intact checkpoints that are kept, or later than `newest`. Leftovers of interrupted saves are removed, too.

    Raises:
        InputError: if the folder cannot be written.
    """
    good = 0
    if processes.first():
        with explained(folder):
            for step in reversed(steps(folder)):
                if good < keep and (newest is None or step <= newest):
                    good += not read_verified(folder, step)[1]
                else:
                    manifest_path(folder, step).unlink()
            _clean(folder)
    _barrier("pruned")


def _named(tree: PyTree) -> dict[str, Any]:
    """Return the leaves of a tree as a dict from paths, such as "state.step", to leaves, in the order of `jax.tree.leaves`."""
    flat = jax.tree_util.tree_leaves_with_path(tree)
    named = {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in flat}
    require(bool(flat), "checkpoint state", "a tree without leaves", "give one that holds arrays")
    require(len(named) == len(flat), "checkpoint state", "two leaves of the same path", "keep dots out of the keys")
    return named


def _zeros(record: dict[str, Any], step: int, name: str, remedy: str) -> np.ndarray:
    zeros = np.zeros(record["shape"], record["dtype"])
    require(leaf_record(zeros) == record, f"checkpoint leaf {name} of step {step}", "not zero", remedy)
    return zeros


def _load(folder: Path, wanted: dict[str, Any], saved: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Load the arrays of a checkpoint and compare them with their checksums."""
    try:
        loaded = arrays.restore_arrays(folder, wanted)
    except MemoryError:
        raise
    except Exception as error:  # Orbax raises many kinds of errors; an older checkpoint may still load
        return {}, f"orbax cannot read it: {error}"
    for name, leaf in loaded.items():
        if leaf_record(leaf) != saved[name]:
            return loaded, f"leaf {name} is damaged"
    return loaded, ""


def _unfinished(folder: Path, step: int) -> tuple[int, ...]:
    matches = (_ARRAYS.fullmatch(entry.name) for entry in folder.iterdir() if entry.is_dir())
    there = {int(match[1]) for match in matches if match} - {*steps(folder)}
    return tuple(sorted((one for one in there if one > step), reverse=True))


def _clean(folder: Path) -> None:
    """Remove the leftovers of interrupted saves: unfinished manifests, and folders of arrays that belong to no finished checkpoint."""
    manifests = {step: read_manifest(folder, step) for step in steps(folder)}
    for entry in list(folder.iterdir()):
        match = _ARRAYS.fullmatch(entry.name)
        if entry.name.endswith(".manifest.json.tmp"):
            entry.unlink()
        elif match and entry.is_dir():
            manifest = manifests.get(int(match[1]), {"folder": None})
            if manifest is not None and manifest["folder"] != entry.name:
                shutil.rmtree(entry)


def _agreed(damage: str) -> str:
    (any_damage,) = processes.largest(bool(damage))  # called by each process, whether it has found damage or not
    return damage or ("another process found it damaged" if any_damage else "")


def _barrier(name: str) -> None:
    if processes.several():
        multihost_utils.sync_global_devices(f"checkpoint {name}")
