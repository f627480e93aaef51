"""Arrays of a checkpoint, written and read by Orbax."""

import contextlib
import logging
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence some messages of Orbax until the context ends."""
    logger = logging.getLogger("absl")
    level, hook = logger.level, sys.unraisablehook

    def note(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            hook(unraisable)

    logger.setLevel(logging.CRITICAL)
    sys.unraisablehook = note
    try:
        yield
        sys.unraisablehook = hook  # the hook stays after a failure, since threads may report errors later
    finally:
        logger.setLevel(level)


@contextlib.contextmanager
def _checkpointer() -> Iterator[Any]:
    """Yield an Orbax checkpointer that saves synchronously and without compression."""
    import orbax.checkpoint as ocp

    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=True, use_compression=False)) as checkpointer, quiet():
        yield checkpointer


@contextlib.contextmanager
def _plain_path(arrays: Path) -> Iterator[Path]:
    """Yield a path that leads to the folder `arrays` and contains no glob characters, such as "*" or "["."""
    path = arrays.absolute()
    if not set(str(path)) & set("[]*?\\") and str(path).isprintable():
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="lstm_jax_") as folder:
        link = Path(folder) / "checkpoints"
        link.symlink_to(path.parent)
        yield link / path.name


def is_random_key(leaf: Any) -> bool:
    """Return whether an array, or the template of an array, holds random keys made by `jax.random.key`."""
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def save_arrays(arrays: Path, leaves: dict[str, Any]) -> None:
    """Write the arrays in `leaves`, a dict from names to arrays, to the new folder `arrays`."""
    import orbax.checkpoint as ocp

    with _checkpointer() as checkpointer, _plain_path(arrays) as path:
        checkpointer.save(path, args=ocp.args.PyTreeSave(leaves))


def restore_arrays(arrays: Path, wanted: dict[str, Any]) -> dict[str, Any]:
    """Read arrays from the folder `arrays`, and return a dict from names to arrays."""
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
