"""Checkpoints of the training state, with detection of damage.

A folder holds the checkpoints of several steps. The checkpoint of step 1200 is the file
`1200.safetensors`, which programs of other libraries can read, too
(https://github.com/huggingface/safetensors). It is written to a temporary file and then
renamed, so that a checkpoint is there as a whole or not at all. The file consists of
these parts:

    8 bytes                number of bytes of the header, little-endian
    header                 JSON with the type, the shape and the position of each array
    bytes of the arrays    one array after the other, in the order of rows

The header's dict `__metadata__` holds the step, the dict `extra` that the caller of
`save` gave, the dtype and the shape of each leaf, and the SHA-256 of the file, in which
this checksum itself counts as 64 zeros.

If several hosts share the folder, every process calls `save`, `restore` and `prune`,
but only process 0 writes and removes files.
"""

import contextlib
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree
from numpy import ndarray

from lstm_jax.base import processes
from lstm_jax.base.checks import frozen
from lstm_jax.base.errors import InputError, require, system_errors
from lstm_jax.base.locks import locked
from lstm_jax.base.writing import remove_temporaries, write_atomically

ATTEMPTS = 5
"""Number of times that the checkpoints are listed anew if a training replaces them
while they are read."""
Record = dict[str, Any]
"""Dict of JSON values, or a dict of arrays by name."""
_FILE = re.compile(r"(0|[1-9][0-9]*)\.safetensors")
_SUM = re.compile(rb'"sha256": "([0-9a-f]{64})"')
_ZEROS = b"0" * 64


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


def steps(folder: Path) -> list[int]:
    """Return the steps of all checkpoints in a folder, in ascending order. Damaged
    checkpoints are included.

    If the folder does not exist, return [].
    """
    matches = [_FILE.fullmatch(entry.name) for entry in folder.glob("*")]
    return sorted(int(match[1]) for match in matches if match)


def save(folder: Path, step: int, state: PyTree, extra: Record) -> Path:
    """Write a checkpoint and return its path.

    When this function returns, the checkpoint has been flushed to disk. If there is a
    checkpoint of the same step, it stays untouched until the new one replaces it.

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
    path = _path(folder, step)
    arrays = {name: _on_host(leaf) for name, leaf in leaves.items()}
    records = {name: _record(leaf) for name, leaf in leaves.items()}
    with processes.together():
        if processes.first():
            metadata = {
                "sha256": _ZEROS.decode(),
                "step": str(step),
                "extra": json.dumps(extra),
                "leaves": json.dumps(records),
            }
            header = _header(arrays, metadata)
            parts = [array.reshape(-1).view(np.uint8).data for array in arrays.values()]
            digest = _digest([header, *parts])
            header = header.replace(_ZEROS, digest.encode(), 1)
            write_atomically(path, lambda file: file.writelines([header, *parts]))
    return path


def check_state(state: PyTree) -> Record:
    """Check that `save` can store a tree, and return its leaves as a dict from paths,
    such as "state.step", to leaves.
    """
    leaves = _named(state)
    for name, leaf in leaves.items():
        subject = f"checkpoint leaf {name}"
        remedy = "leave arrays without elements out of the state"
        require(leaf.size > 0, subject, f"shape {leaf.shape}", remedy)
    return leaves


def restore(
    folder: Path,
    like: PyTree,
    step: int | None = None,
    check: Callable[[Record], None] = lambda extra: None,
) -> Restored:
    """Load the newest intact checkpoint, or the checkpoint of a given step. A
    checkpoint is intact if its checksum is correct.

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
        check: function check(extra) that is called with the dict `extra` of the
            checkpoint before its arrays are compared with `like`. It may raise an
            error.

    Raises:
        InputError: if there is no intact checkpoint, or none of the step `step`. Also
            if its leaves have other paths, shapes or dtypes than those in `like`.
    """
    wanted, rejected = _named(like), []
    for _ in range(ATTEMPTS):
        found, rejected = steps(folder), []
        for number in reversed([one for one in found if step in (None, one)]):
            content, damage = _read(folder, number)
            damage = _agreed(damage)
            if damage:
                rejected.append((number, damage))
                continue
            extra = json.loads(content["extra"])
            check(extra)
            saved = json.loads(content["leaves"])
            _compare(f"of step {number}", saved, wanted)
            leaves = [
                _placed(content["arrays"][name], saved[name], leaf)
                for name, leaf in wanted.items()
            ]
            state = jax.tree.unflatten(jax.tree.structure(like), leaves)
            return Restored(number, state, extra, tuple(rejected))
        if steps(folder) == found or processes.several():
            break
    reasons = ", ".join(f"step {number}: {reason}" for number, reason in rejected)
    problem = f"all are damaged ({reasons})" if rejected else "none is there"
    remedy = "name the folder of a run that has saved one, or start anew"
    raise InputError(f"checkpoints in {folder}", problem, remedy)


def damage(folder: Path, step: int) -> str:
    """Return a description of the damage to the checkpoint of a step, or "" if it is
    intact.
    """
    return _agreed(_read(folder, step)[1])


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
    subject = f"checkpoint folder {folder}"
    remedy = "name a folder that can be written"
    with processes.together(), system_errors(subject, remedy):
        good = 0
        for step in reversed(steps(folder)) if processes.first() else ():
            if good < keep and (newest is None or step <= newest):
                good += not _read(folder, step)[1]
            else:
                _path(folder, step).unlink()
        if processes.first():
            remove_temporaries(folder)


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
                problem = "holds checkpoints of a training"
                remedy = "give resume=True to continue it, or name another folder"
                require(resume or not held, subject, problem, remedy)
        yield


def _path(folder: Path, step: int) -> Path:
    return folder / f"{step}.safetensors"


def _named(tree: PyTree) -> Record:
    flat = jax.tree_util.tree_leaves_with_path(tree)
    named = {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf
        for path, leaf in flat
    }
    problem = "two leaves of the same path"
    remedy = "keep dots out of the keys"
    require(len(named) == len(flat), "checkpoint state", problem, remedy)
    return named


def _is_key(leaf) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _on_host(leaf) -> ndarray:
    array = processes.on_host(jax.random.key_data(leaf) if _is_key(leaf) else leaf)
    return np.ascontiguousarray(array).reshape(array.shape)


def _record(leaf) -> Record:
    generator = str(jax.random.key_impl(leaf)) if _is_key(leaf) else ""
    shape = list(leaf.shape)
    return {"dtype": leaf.dtype.name, "shape": shape, "generator": generator}


def _code(dtype: np.dtype) -> str:
    """Return the name of a dtype in a file of safetensors."""
    if dtype.name in ("bool", "bfloat16"):
        return {"bool": "BOOL", "bfloat16": "BF16"}[dtype.name]
    return f"{dtype.kind.upper()}{8 * dtype.itemsize}"


def _header(arrays: Record, metadata: dict[str, str]) -> bytes:
    content: Record = {"__metadata__": metadata}
    end = 0
    for name, array in arrays.items():
        begin, end = end, end + array.nbytes
        content[name] = {
            "dtype": _code(array.dtype),
            "shape": list(array.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(content).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _digest(parts: Iterable) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def _read(folder: Path, step: int) -> tuple[Record, str]:
    """Return the metadata of a checkpoint, with its arrays as the entry "arrays", and a
    description of its damage, or "".
    """
    try:
        file = memoryview(_path(folder, step).read_bytes())
    except FileNotFoundError:
        return {}, "it is missing"
    except OSError as error:
        return {}, f"unreadable: {error}"
    start = 8 + int.from_bytes(file[:8], "little")
    header, data = bytes(file[:start]), file[start:]
    found = _SUM.search(header)
    if not found:
        return {}, "its header is damaged"
    if _digest([header.replace(found[1], _ZEROS, 1), data]) != found[1].decode():
        return {}, "its bytes are damaged"
    content = json.loads(header[8:])
    metadata = content.pop("__metadata__")
    records = json.loads(metadata["leaves"])
    arrays = {}
    for name, entry in content.items():
        key = records[name]["generator"]
        dtype = jnp.dtype(np.uint32 if key else records[name]["dtype"])
        array = np.frombuffer(data[slice(*entry["data_offsets"])], dtype)
        arrays[name] = array.reshape(entry["shape"]).copy()
    return metadata | {"arrays": arrays}, ""


def _compare(place: str, saved: Record, wanted: Record) -> None:
    """Check that a checkpoint has the wanted leaves, of the wanted dtypes and shapes."""
    remedy = "use the config and the compiled code that the run was saved with"
    for name in saved | wanted:
        subject = f"checkpoint leaf {name} {place}"
        require(name in saved, subject, "not in the checkpoint", remedy)
        require(name in wanted, subject, "not in this model or optimiser", remedy)
        here = (wanted[name].dtype.name, list(wanted[name].shape))
        there = (saved[name]["dtype"], saved[name]["shape"])
        require(here == there, subject, f"saved as {there}, wanted as {here}", remedy)


def _placed(array: ndarray, record: Record, leaf) -> Any:
    if isinstance(leaf, ndarray):
        return array
    sharding = getattr(leaf, "sharding", None)
    sharding = sharding or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    if record["generator"]:
        wrap = jax.jit(
            lambda data: jax.random.wrap_key_data(data, impl=record["generator"]),
            out_shardings=sharding,
        )
        return wrap(array)
    return jax.make_array_from_callback(
        array.shape, sharding, lambda index: array[index]
    )


def _agreed(damage: str) -> str:
    # called by each process, whether it has found damage or not
    (any_damage,) = processes.largest(bool(damage))
    return damage or ("another process found it damaged" if any_damage else "")
