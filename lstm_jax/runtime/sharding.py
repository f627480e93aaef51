"""The device mesh (CPU cores, or GPUs of one or several hosts), and the sharding of the batch, the parameters and the optimiser state.

The mesh has one axis, "data". The rows of the batch are sharded over it, and parameters are replicated on each device. Only an embedding
table and its optimiser moments are sharded by columns, so that each entry is stored and updated on one device alone. A single device is a
mesh of one.
"""

import contextlib
import os

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from lstm_jax.errors import InputError, require
from lstm_jax.primitives.partition import explicit_sharding
from lstm_jax.runtime import machine

DATA = "data"
MOST_CPU_DEVICES = 64
"""Largest number of CPU devices on a machine with fewer cores. It is limited because each device has its own threads."""


def use_cpu_cores(cores: int = 0) -> None:
    """Make JAX use one CPU device for each core in this process. GPUs and TPUs are not affected.

    Call this function before the first array is made. It also calls `machine.keep_freed_memory`.

    Args:
        cores: number of CPU devices. If 0, the number of cores that this process may run on.

    Raises:
        InputError: if `cores` is negative, or if JAX has already made a different number of CPU devices.
    """
    require(cores >= 0, "devices", cores, "give 0 (all) or more")
    available = len(os.sched_getaffinity(0))
    wanted = min(cores or available, max(available, MOST_CPU_DEVICES))
    machine.keep_freed_memory()
    try:
        jax.config.update("jax_num_cpu_devices", wanted)
    except RuntimeError as error:
        if jax.local_device_count("cpu") != wanted:
            raise InputError("devices", cores or wanted, "call use_cpu_cores before JAX is first used") from error


def prefer_cpu_devices(count: int) -> None:
    """Make JAX use `count` CPU devices in this process, unless it has already made its devices.

    This function also calls `machine.keep_freed_memory`.

    Args:
        count: number of CPU devices. If 0, the number of cores that this process may run on.
    """
    machine.keep_freed_memory()
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", count or len(os.sched_getaffinity(0)))


def make_mesh(devices: int = 0) -> Mesh:
    """Return a mesh of devices with the axis "data".

    Args:
        devices: number of devices; the first ones among those of all hosts are taken. If 0, all.

    Raises:
        InputError: if `devices` is negative, or if there are fewer devices.
    """
    found = jax.devices()
    require(0 <= devices <= len(found), "devices", devices, f"give 0 (all) to {len(found)}")
    return Mesh(np.asarray(found[: devices or len(found)]), (DATA,), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding of an array that has a copy on each device."""
    return NamedSharding(mesh, PartitionSpec())


def rows(mesh: Mesh, axis: int = 0) -> NamedSharding:
    """Return the sharding of an array whose axis number `axis` is sharded over the devices."""
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, DATA))


def param_spec(devices: int, path: tuple, leaf) -> PartitionSpec:
    """Return the partition of one parameter, or of one leaf of the optimiser state.

    An embedding table is sharded by columns if their number is a multiple of the number of devices. All other leaves are replicated.

    Args:
        devices: number of devices of the mesh.
        path: path of the leaf in its tree, as given by `jax.tree_util.tree_map_with_path`.
        leaf: the array.
    """
    name = str(getattr(path[-1], "key", "")) if path else ""
    if name.split("/")[-1] == "embedding" and leaf.ndim == 2 and leaf.shape[1] % devices == 0:
        return PartitionSpec(None, DATA)
    return PartitionSpec()


def constrain(x: jax.Array, axis: int) -> jax.Array:
    """Shard an axis of an array over the devices.

    Outside a computation under `jax.set_mesh`, and if the size of the axis is not a multiple of the number of devices, return `x` itself.
    """
    if not _divides(x, axis):
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*[None] * axis, DATA))


def replicate(x: jax.Array) -> jax.Array:
    """Replicate an array on all devices. Outside a computation under `jax.set_mesh`, return `x` itself."""
    return x if devices() == 1 else jax.lax.with_sharding_constraint(x, PartitionSpec())


def gather_columns(table: jax.Array, ids: jax.Array) -> jax.Array:
    """Look up rows of an embedding table and shard the result over the devices.

    On a mesh the table is sharded by columns. Each device gathers its own columns of all rows, and then the devices exchange columns for
    rows. An id outside the table gives a row of NaN, as with `jnp.take`.

    Args:
        table: (V, E) the table.
        ids: (...,) the ids of the rows.

    Returns:
        (..., E) the rows, sharded along the last axis of `ids`, which is the batch.
    """
    explicit = explicit_sharding(ids)
    if explicit is not None:
        return table.at[ids].get(mode="fill", out_sharding=NamedSharding(explicit.mesh, PartitionSpec(*explicit.spec, None)))
    if ids.ndim == 0 or not _divides(table, 1) or not _divides(ids, ids.ndim - 1):
        return jnp.take(table, ids, axis=0)
    return constrain(constrain(jnp.take(table, replicate(ids), axis=0), ids.ndim), ids.ndim - 1)


def rows_to_columns(rows: jax.Array) -> jax.Array:
    """Reshard the result of `gather_columns`, or its gradient, from the rows of the batch to the columns of the table.

    Args:
        rows: (..., B, E), sharded along B, the rows of the batch.

    Returns:
        The same array, sharded along E, the columns of the table.
    """
    return constrain(constrain(rows, rows.ndim - 2), rows.ndim - 1)


def _divides(x: jax.Array, axis: int) -> bool:
    return splits(x.shape[axis])


def splits(size: int) -> bool:
    """Return whether an axis of that size is sharded: there are several devices, and their number divides the size.

    Outside a computation under `jax.set_mesh`, return False.
    """
    return devices() > 1 and size % devices() == 0


def devices() -> int:
    """Return the number of devices of the mesh that `jax.set_mesh` has set.

    Return 1 if no mesh is set, or if the type of its axis "data" is not `AxisType.Auto`.
    """
    mesh = jax.sharding.get_abstract_mesh()
    return mesh.shape[DATA] if not mesh.empty and DATA in mesh.auto_axes else 1


def on(mesh: Mesh) -> contextlib.AbstractContextManager:
    """Return a context in which `constrain` and the other functions of this module shard over `mesh`."""
    return jax.set_mesh(mesh)
