"""Checkpoints of the training state, with detection of damage.

Orbax writes and reads the arrays, one for each leaf of the state. A manifest of SHA-256
checksums shows whether the arrays are intact. A folder can hold the checkpoints of
several steps. For example, the checkpoint of step 1200 consists of these two entries of
the folder:

    1200/                  folder of the arrays, as Orbax writes them; named "1200.1/" if
                           "1200/" existed when the checkpoint was saved
    1200.manifest.json     manifest, which is written last: a checkpoint is finished if
                           and only if it has a manifest

The first line of a manifest is the SHA-256 of the JSON text that follows it. The JSON
text holds the step, the name of the folder of arrays, and the dict `extra` that the
caller of `save` gave. It also holds a checksum of each file and a checksum of each
leaf. The checksum of a leaf covers the dtype, the shape and the bytes of the global
array.

If several hosts share the folder, every process calls `save`, `restore` and `prune`,
but only process 0 writes manifests and removes files.

Orbax' `CheckpointManager` is not used, for three reasons. If a bit of a stored array
has flipped, it restores the damaged array and raises no error. It finalises a
checkpoint before checksums can be written beside it. It keeps the newest checkpoints
even if they are damaged, and could thus remove the last intact one.
"""

import contextlib
import errno
import hashlib
import itertools
import logging
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import PyTree
from numpy import ndarray

from lstm_jax.base.checks import frozen
from lstm_jax.base.errors import InputError, require
from lstm_jax.base.types import Ints
from lstm_jax.base.writing import (
    locked,
    read_summed,
    remove_temporaries,
    summed_json,
    write_atomically,
)
from lstm_jax.lab.machine import processes

ATTEMPTS = 5
"""Number of times that the checkpoints are listed anew if a training replaces them
while they are read."""
Record = dict[str, Any]
"""Dict that a manifest holds, or a dict of arrays by name."""
_KEYS = {"leaves": {"dtype", "shape", "sha256"}, "files": {"bytes", "sha256"}}
_ARRAYS = re.compile(r"([0-9]+)(\.[0-9]+)?(\.orbax-checkpoint-tmp.*)?")
_MANIFEST = re.compile(r"(0|[1-9][0-9]*)\.manifest\.json")
_OS_ERROR = re.compile(r"\[os_error_code='?(\d+)'?\]")


@frozen
class Restored:
    """Result of `restore`, which is the content of the restored checkpoint."""

    step: int
    state: PyTree
    """State as a tree with the structure of the argument `like` of `restore`."""
    extra: Record
    """Dict that was given to `save` as `extra`. Since it is stored as JSON, its tuples
    have become lists, and its keys strings."""
    rejected: tuple[tuple[int, str], ...]
    """Newer checkpoints that were skipped because they are damaged, newest first, each
    as a pair (step, damage)."""
    unfinished: Ints = ()
    """Steps of newer checkpoints that have no manifest, newest first. Either the save
    was interrupted, or the manifest was removed."""


def steps(folder: Path) -> list[int]:
    """Return the steps of all finished checkpoints in a folder, in ascending order.
    Damaged checkpoints are included.

    If the folder does not exist, return [].
    """
    return sorted(
        int(match[1])
        for entry in folder.glob("*")
        if (match := _MANIFEST.fullmatch(entry.name))
    )


def save(folder: Path, step: int, state: PyTree, extra: Record) -> Path:
    """Write a checkpoint and return the path of its manifest.

    When this function returns, the checkpoint is finished and its bytes have been
    flushed to disk. Leftovers of an interrupted save are removed. If there is a
    finished checkpoint of the same step, it stays untouched until the new checkpoint is
    finished and replaces it.

    Args:
        folder: folder that holds the checkpoints of a run. It is created if it does not
            exist.
        step: number of the step, at least 0.
        state: tree of JAX or NumPy arrays, none of which is empty. Random keys made by
            `jax.random.key` are arrays, too.
        extra: dict that JSON can represent, for example the history of a run.

    Raises:
        InputError: if the state cannot be stored, or if there is not enough space in
            the folder.
    """
    require(step >= 0, "step", step, "give 0 or more")
    leaves = check_state(state)
    with _explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        _clean(folder)
        size = sum(leaf.nbytes for leaf in leaves.values())
        # including the metadata of each leaf
        if shutil.disk_usage(folder).free < size + size // 50 + 2**12 * (
            4 + len(leaves)
        ):
            # now, and not with a trail of TensorStore's own messages
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        _barrier("cleaned")
        try:
            names = (
                f"{step}.{again}" if again else str(step) for again in itertools.count()
            )
            name = next(name for name in names if not (folder / name).exists())
            _barrier("named")
            _save_arrays(folder / name, leaves)
            content = {
                "step": step,
                "folder": name,
                "extra": extra,
                "leaves": {path: _leaf_record(leaf) for path, leaf in leaves.items()},
            }
            if processes.first():
                files = _file_records(folder / name, sync=True)
                write_atomically(
                    _manifest_path(folder, step),
                    summed_json(content | {"files": files}),
                )
            _barrier("saved")
        finally:
            _clean(folder)
    return _manifest_path(folder, step)


def check_state(state: PyTree) -> Record:
    """Check that `save` can store a tree, and return its leaves as a dict from paths,
    such as "state.step", to leaves.
    """
    leaves = _named(state)
    for name, leaf in leaves.items():
        require(
            leaf.size > 0,
            f"checkpoint leaf {name}",
            f"shape {leaf.shape}",
            "leave arrays without elements out of the state",
        )
    return leaves


def restore(
    folder: Path,
    like: PyTree,
    step: int | None = None,
    optional: Mapping[str, str] = MappingProxyType({}),
    check: Callable[[Record], None] = lambda extra: None,
) -> Restored:
    """Load the newest intact checkpoint, or the checkpoint of a given step. A
    checkpoint is intact if all its checksums are correct.

    If a training in another process replaces the checkpoints meanwhile, the new
    checkpoints are read.

    Args:
        folder: folder that was given to `save`.
        like: tree with the structure, shapes and dtypes of the state. Each leaf is an
            array or a `jax.ShapeDtypeStruct`. If a leaf is a NumPy array, the result
            holds a NumPy array in its place. Otherwise the result holds a JAX array
            with the sharding of the leaf. If the leaf has no sharding, the JAX array is
            placed on the first local device.
        step: number of the step whose checkpoint is loaded. If None, the newest intact
            checkpoint is loaded.
        optional: dict from the paths of leaves, such as "state.behind", that the
            checkpoint or `like` may lack, to advice for the user. In place of a leaf
            that the checkpoint lacks, the result holds the leaf of `like`. A leaf that
            `like` lacks is left out of the result. All its values must be 0. Otherwise
            an error is raised whose message ends with the advice.
        check: function check(extra) that is called with the dict `extra` of the
            checkpoint before its arrays are compared with `like`. It may raise an
            error.

    Raises:
        InputError: if there is no intact checkpoint, or none of the step `step`. Also
            if, except as `optional` allows, its leaves have other paths, shapes or
            dtypes than those in `like`.
    """
    wanted, rejected = _named(like), []
    for _ in range(ATTEMPTS):
        found, rejected = steps(folder), []
        for number in reversed([one for one in found if step in (None, one)]):
            manifest, damage = _read_verified(folder, number)
            damage, loaded = _agreed(damage), {}
            if not damage:
                check(manifest["extra"])
                loaded, damage = _load(folder, manifest, wanted, optional)
                damage = _agreed(damage)
            if not damage:
                state = jax.tree.unflatten(
                    jax.tree.structure(like),
                    [loaded.get(name, leaf) for name, leaf in wanted.items()],
                )
                unfinished = {
                    own for own, _ in _array_folders(folder) if own > number
                } - {*steps(folder)}
                return Restored(
                    number,
                    state,
                    manifest["extra"],
                    tuple(rejected),
                    tuple(sorted(unfinished, reverse=True)),
                )
            rejected.append((number, damage))
        if steps(folder) == found or processes.several():
            break
    reasons = ", ".join(f"step {number}: {reason}" for number, reason in rejected)
    problem = f"all are damaged ({reasons})" if rejected else "none is there"
    raise InputError(
        f"checkpoints in {folder}",
        problem,
        "name the folder of a run that has saved one, or start anew",
    )


def damage(folder: Path, step: int) -> str:
    """Return a description of the damage to the checkpoint of a step, or "" if its
    files are intact.
    """
    return _agreed(
        _read_verified(folder, step)[1] if step in steps(folder) else "it is missing"
    )


def prune(folder: Path, keep: int, newest: int | None = None) -> None:
    """Keep the newest `keep` intact checkpoints, and remove all older checkpoints.

    If `newest` is given, all checkpoints of steps after step `newest` are removed
    first.

    Damaged checkpoints do not count towards `keep`, so that they cannot displace intact
    ones. A damaged checkpoint is removed only if it is older than all intact
    checkpoints that are kept, or later than `newest`. Leftovers of interrupted saves
    are removed, too.

    Raises:
        InputError: if the folder cannot be written.
    """
    good = 0
    if processes.first():
        with _explained(folder):
            for step in reversed(steps(folder)):
                if good < keep and (newest is None or step <= newest):
                    good += not _read_verified(folder, step)[1]
                else:
                    _manifest_path(folder, step).unlink()
            _clean(folder)
    _barrier("pruned")


@contextlib.contextmanager
def claimed(folder: Path, parts: Iterable[str], resume: bool) -> Iterator[None]:
    """Lock the folder of the checkpoints of a training against other trainings, until
    the context ends. It is created if it is missing.

    Raises:
        InputError: if another training uses the folder, if it cannot be written, or if
            one of its subfolders `parts` holds checkpoints and `resume` is false.
    """
    with contextlib.ExitStack() as stack:
        with processes.together():
            if processes.first():
                subject = f"checkpoint folder {folder}"
                stack.enter_context(locked(folder / "run.lock", subject))
                held = any(steps(folder / part) for part in parts)
                remedy = "give resume=True to continue it, or name another folder"
                require(
                    resume or not held,
                    subject,
                    "holds checkpoints of a training",
                    remedy,
                )
        yield


def _named(tree: PyTree) -> Record:
    flat = jax.tree_util.tree_leaves_with_path(tree)
    named = {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf
        for path, leaf in flat
    }
    require(
        len(named) == len(flat),
        "checkpoint state",
        "two leaves of the same path",
        "keep dots out of the keys",
    )
    return named


def _manifest_path(folder: Path, step: int) -> Path:
    return folder / f"{step}.manifest.json"


def _leaf_record(leaf) -> Record:
    is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    array = processes.on_host(jax.random.key_data(leaf) if is_key else leaf)
    dtype, shape = leaf.dtype.name, list(leaf.shape)
    digest = hashlib.sha256(f"{dtype} {shape}\n".encode())
    digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return {"dtype": dtype, "shape": shape, "sha256": digest.hexdigest()}


def _file_records(arrays: Path, sync: bool = False) -> Record:
    records = {}
    for path in sorted(path for path in arrays.rglob("*") if not path.is_dir()):
        with path.open("rb") as file:
            if sync:
                os.fsync(file.fileno())
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        records[path.relative_to(arrays).as_posix()] = {
            "bytes": path.stat().st_size,
            "sha256": digest,
        }
    return records


def _read_manifest(folder: Path, step: int) -> Record:
    with contextlib.suppress(OSError, KeyError, AttributeError):
        manifest = read_summed(_manifest_path(folder, step).read_bytes()) or {}
        whole = (
            manifest["step"] == step
            and isinstance(manifest["folder"], str)
            and isinstance(manifest["extra"], dict)
        )
        if whole and all(
            record.keys() == keys
            for name, keys in _KEYS.items()
            for record in manifest[name].values()
        ):
            return manifest
    return {}


def _read_verified(folder: Path, step: int) -> tuple[Record, str]:
    """Return the manifest of a step, and a description of the damage to the files that
    it lists, or "".
    """
    manifest = _read_manifest(folder, step)
    if not manifest:
        return {}, "the manifest is damaged"
    try:
        found = _file_records(folder / manifest["folder"])
    except OSError as error:
        return manifest, f"unreadable: {error}"
    wrong = [
        name
        for name, record in manifest["files"].items()
        if found.pop(name, None) != record
    ]
    return manifest, f"file {wrong[0]} is damaged or missing" if wrong else "".join(
        f"file {name} was added" for name in [*found][:1]
    )


def _load(
    folder: Path, manifest: Record, wanted: Record, optional: Mapping[str, str]
) -> tuple[Record, str]:
    # the arrays by name, and a description of the first damaged one, or ""
    saved, leaves, remedy = (
        manifest["leaves"],
        {},
        "use the config that the run was saved with",
    )
    for name in saved | wanted:
        subject = f"checkpoint leaf {name} of step {manifest['step']}"
        require(
            name in saved or name in optional, subject, "not in the checkpoint", remedy
        )
        require(
            name in wanted or name in optional,
            subject,
            "not in this model or optimiser",
            remedy,
        )
        if name not in saved:
            continue
        record = saved[name]
        leaf = (
            wanted[name]
            if name in wanted
            else np.zeros(record["shape"], record["dtype"])
        )
        # also if it is not wanted, since Orbax reads all leaves or none
        leaves[name] = leaf
        require(
            name in wanted or _leaf_record(leaf) == record,
            subject,
            "not zero",
            optional.get(name, ""),
        )
        here, there = (
            (leaf.dtype.name, list(leaf.shape)),
            (record["dtype"], record["shape"]),
        )
        require(here == there, subject, f"saved as {there}, wanted as {here}", remedy)
    try:
        loaded = _restore_arrays(folder / manifest["folder"], leaves)
    except MemoryError:
        raise
    # Orbax raises many kinds of errors; an older checkpoint may still load
    except Exception as error:
        return {}, f"orbax cannot read it: {error}"
    return loaded, next(
        (
            f"leaf {name} is damaged"
            for name, leaf in loaded.items()
            if _leaf_record(leaf) != saved[name]
        ),
        "",
    )


def _clean(folder: Path):
    """Remove the leftovers of interrupted saves: unfinished manifests, and folders of
    arrays that belong to no finished checkpoint.
    """
    if not processes.first():
        return
    remove_temporaries(folder)
    owners = {
        step: _read_manifest(folder, step).get("folder") for step in steps(folder)
    }
    for step, arrays in _array_folders(folder):
        # None for a damaged manifest, which may have been that of this folder
        if owners.get(step, "") not in (arrays.name, None):
            shutil.rmtree(arrays)


def _array_folders(folder: Path) -> list[tuple[int, Path]]:
    return [
        (int(match[1]), entry)
        for entry in folder.glob("*")
        if (match := _ARRAYS.fullmatch(entry.name)) and entry.is_dir()
    ]


def _agreed(damage: str) -> str:
    # called by each process, whether it has found damage or not
    (any_damage,) = processes.largest(bool(damage))
    return damage or ("another process found it damaged" if any_damage else "")


def _barrier(name: str):
    if processes.several():
        multihost_utils.sync_global_devices(f"checkpoint {name}")


@contextlib.contextmanager
def _explained(folder: Path):
    """Convert errors of the file system, and those that TensorStore reports, to
    `InputError`.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        found = _OS_ERROR.search(str(error))
        code = int(found[1]) if found else getattr(error, "errno", None)
        message, remedy = (
            str(error) if code is None else os.strerror(code),
            "name a folder that can be written",
        )
        if "No space left" in message or "Disk quota" in message:
            message, remedy = (
                "no space left",
                "free some, or name a folder on another disk",
            )
        elif code == errno.EFBIG:
            remedy = "allow larger files (ulimit -f), or shrink the model"
        elif code is None and not isinstance(error, OSError):
            raise
        raise InputError(f"checkpoint folder {folder}", message, remedy) from error


@contextlib.contextmanager
def _quiet():
    logger = logging.getLogger("absl")
    level, hook = logger.level, sys.unraisablehook

    def note(unraisable):
        if str(unraisable.exc_value) != "Event loop is closed":
            hook(unraisable)

    logger.setLevel(logging.CRITICAL)
    sys.unraisablehook = note
    try:
        yield
        # the hook stays after a failure, since threads may report errors later
        sys.unraisablehook = hook
    finally:
        logger.setLevel(level)


@contextlib.contextmanager
def _checkpointer(arrays: Path):
    """Yield an Orbax checkpointer and a path to the folder `arrays` that contains no
    glob characters, such as "*" or "[".
    """
    import orbax.checkpoint as ocp

    path = arrays.absolute()
    with contextlib.ExitStack() as stack:
        if set(str(path)) & set("[]*?\\") or not str(path).isprintable():
            link = (
                Path(
                    stack.enter_context(tempfile.TemporaryDirectory(prefix="lstm_jax_"))
                )
                / "checkpoints"
            )
            link.symlink_to(path.parent)
            path = link / path.name
        checkpointer = stack.enter_context(
            ocp.Checkpointer(
                ocp.PyTreeCheckpointHandler(use_ocdbt=True, use_compression=False)
            )
        )
        stack.enter_context(_quiet())
        yield checkpointer, path


def _save_arrays(arrays: Path, leaves: Record):
    import orbax.checkpoint as ocp

    with _checkpointer(arrays) as (checkpointer, path):
        checkpointer.save(path, args=ocp.args.PyTreeSave(leaves))


def _restore_arrays(arrays: Path, wanted: Record) -> Record:
    import orbax.checkpoint as ocp

    def described(leaf):
        if isinstance(leaf, ndarray):
            return leaf
        sharding = getattr(leaf, "sharding", None) or jax.sharding.SingleDeviceSharding(
            jax.local_devices()[0]
        )
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    like = jax.tree.map(described, wanted)
    with _checkpointer(arrays) as (checkpointer, path):
        arguments = ocp.checkpoint_utils.construct_restore_args(like)
        return checkpointer.restore(
            path, args=ocp.args.PyTreeRestore(item=like, restore_args=arguments)
        )
