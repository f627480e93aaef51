"""The device mesh (of CPU cores, GPUs or hosts), and the sharding of batch, parameters and optimiser state.

One axis, "data": the batch's rows are split over it, small parameters are copied to each device, and an embedding table and its
optimiser's moments are split by columns, so that no device holds or updates them twice. A single device is a mesh of one.
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
"""Most CPU devices on a machine with fewer cores: each device has threads of its own."""


def use_cpu_cores(cores: int = 0) -> None:
    """Give JAX one CPU device a core in this process; call it before the first array is made. GPUs and TPUs are not affected.

    Freed memory is kept too, see `machine.keep_freed_memory`.

    Args:
        cores: count of devices; 0 for all cores that this process may run on.

    Raises:
        InputError: for a negative count, or if JAX has made its devices already, with another count.
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
    """Give JAX `count` CPU devices in this process, 0 for one a core; devices that JAX has made already stay.

    Freed memory is kept too, see `machine.keep_freed_memory`.
    """
    machine.keep_freed_memory()
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", count or len(os.sched_getaffinity(0)))


def make_mesh(devices: int = 0) -> Mesh:
    """Return a mesh over the first `devices` devices of all hosts (0: all).

    Raises:
        InputError: if there are fewer, or `devices` is below 0.
    """
    found = jax.devices()
    require(0 <= devices <= len(found), "devices", devices, f"give 0 (all) to {len(found)}")
    return Mesh(np.asarray(found[: devices or len(found)]), (DATA,), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding with a copy on each device."""
    return NamedSharding(mesh, PartitionSpec())


def rows(mesh: Mesh, axis: int = 0) -> NamedSharding:
    """Return the sharding that splits axis number `axis` over the devices."""
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, DATA))


def param_spec(devices: int, path: tuple, leaf) -> PartitionSpec:
    """Return the partition of the parameter at a path of a tree: an embedding table by columns if they divide evenly, others copied.

    Args:
        devices: devices of the mesh.
        path: path of the parameter, as in `jax.tree_util.tree_map_with_path`.
        leaf: the parameter.
    """
    name = str(getattr(path[-1], "key", "")) if path else ""
    if name.split("/")[-1] == "embedding" and leaf.ndim == 2 and leaf.shape[1] % devices == 0:
        return PartitionSpec(None, DATA)
    return PartitionSpec()


def constrain(x: jax.Array, axis: int) -> jax.Array:
    """Split `axis` of `x` over the devices, inside a computation under `jax.set_mesh`; elsewhere, or if it does not divide, return `x`."""
    if not _divides(x, axis):
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*[None] * axis, DATA))


def replicate(x: jax.Array) -> jax.Array:
    """Return a copy of `x` on each device, inside a computation under `jax.set_mesh`."""
    return x if devices() == 1 else jax.lax.with_sharding_constraint(x, PartitionSpec())


def gather_columns(table: jax.Array, ids: jax.Array) -> jax.Array:
    """Return the rows `ids` (...,) of `table` (V, E) as (..., E), split over the devices along the last axis of `ids`.

    On a mesh the table is split by columns: each device gathers its columns of all rows, then the devices exchange columns for rows. An id
    outside the table gives NaN, as with `jnp.take`.
    """
    explicit = explicit_sharding(ids)
    if explicit is not None:
        return table.at[ids].get(mode="fill", out_sharding=NamedSharding(explicit.mesh, PartitionSpec(*explicit.spec, None)))
    if ids.ndim == 0 or not _divides(table, 1) or not _divides(ids, ids.ndim - 1):
        return jnp.take(table, ids, axis=0)
    return constrain(constrain(jnp.take(table, replicate(ids), axis=0), ids.ndim), ids.ndim - 1)


def rows_to_columns(rows: jax.Array) -> jax.Array:
    """Reshard the result of `gather_columns`, or its gradient (..., B, E), from the batch's rows to the table's columns."""
    return constrain(constrain(rows, rows.ndim - 2), rows.ndim - 1)


def _divides(x: jax.Array, axis: int) -> bool:
    return splits(x.shape[axis])


def splits(size: int) -> bool:
    """Return whether an axis of that size is split over several devices, inside a computation under `jax.set_mesh`."""
    return devices() > 1 and size % devices() == 0


def devices() -> int:
    """Return the count of devices, inside a computation under `jax.set_mesh` of a mesh whose axis "data" is automatic; elsewhere 1."""
    mesh = jax.sharding.get_abstract_mesh()
    return mesh.shape[DATA] if not mesh.empty and DATA in mesh.auto_axes else 1


def on(mesh: Mesh) -> contextlib.AbstractContextManager:
    """Return the context in which `constrain` splits over `mesh`."""
    return jax.set_mesh(mesh)
