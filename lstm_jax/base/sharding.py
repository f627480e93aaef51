"""Device meshes, and the sharding of the batch, the parameters and the optimiser state
over the devices of a mesh.

The devices are CPU cores, or GPUs of one or several hosts. A mesh has one axis, "data".
The rows of the batch are sharded over this axis. An embedding table and its optimiser
state are sharded by columns over the same axis, if the number of columns is a multiple
of the number of devices. Each of their entries is then stored and updated on one
device. All other parameters are replicated on each device. If there is only one device,
the mesh has size one.
"""

import contextlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from lstm_jax.base import machine
from lstm_jax.base.errors import InputError, require

DATA = "data"
MOST_CPU_DEVICES = 64
"""Largest number of CPU devices that `use_cpu_cores` sets, unless the process may run
on more cores: each device starts threads."""


def use_cpu_cores(cores: int = 0) -> None:
    """Set the number of CPU devices that JAX has in this process. GPUs and TPUs are not
    affected.

    Several devices make a program faster if it shards its batches over them and does
    not use the backend `compiled`. This backend uses all cores even with a single
    device, which is JAX's default. Call this function before JAX makes its first array.
    It also makes the process keep freed memory; see `machine.keep_freed_memory`.

    Args:
        cores: number of CPU devices, at most `MOST_CPU_DEVICES` or, if they are more,
            all cores of this process. 0 means all cores.

    Raises:
        InputError: if `cores` is negative, or if JAX has already made a different
            number of CPU devices.
    """
    require(cores >= 0, "devices", cores, "give 0 (all) or more")
    available = len(machine.cores())
    wanted = min(cores or available, max(available, MOST_CPU_DEVICES))
    machine.keep_freed_memory()
    try:
        jax.config.update("jax_num_cpu_devices", wanted)
    except RuntimeError as error:
        if jax.local_device_count("cpu") != wanted:
            raise InputError(
                "devices",
                cores or wanted,
                "call use_cpu_cores before JAX is first used",
            ) from error


def prefer_cpu_devices(count: int) -> None:
    """Like `use_cpu_cores`, but if JAX has already made its devices, do not change
    their number.
    """
    with contextlib.suppress(InputError):
        use_cpu_cores(count)


def make_mesh(devices: int = 0) -> Mesh:
    """Return a device mesh with one axis, "data", of the first `devices` devices in
    `jax.devices()`. 0 means all devices.

    Raises:
        InputError: if `devices` is negative or larger than the number of devices.
    """
    found = jax.devices()
    require(
        0 <= devices <= len(found), "devices", devices, f"give 0 (all) to {len(found)}"
    )
    return Mesh(
        np.asarray(found[: devices or len(found)]), (DATA,), axis_types=(AxisType.Auto,)
    )


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding of an array of which each device of the mesh holds a copy."""
    return NamedSharding(mesh, PartitionSpec())


def rows(mesh: Mesh, axis: int = 0) -> NamedSharding:
    """Return the sharding of an array that is sharded along one axis over the devices
    of the mesh.
    """
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, DATA))


def put(tree, shardings) -> Any:
    """Copy a pytree of arrays to the devices of a mesh, which may belong to several
    processes, and return the sharded JAX arrays.

    All processes give the same arrays, and each copies only the parts that belong on
    its own devices. `shardings` is one sharding for all arrays, or a pytree with one
    sharding for each array.
    """
    if jax.process_count() == 1:
        return jax.device_put(tree, shardings)
    if isinstance(shardings, NamedSharding):
        shardings = jax.tree.map(lambda _: shardings, tree)

    def place(leaf, sharding: NamedSharding):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.jit(jax.random.wrap_key_data, out_shardings=sharding)(
                np.asarray(jax.random.key_data(leaf))
            )
        array = np.asarray(leaf)
        return jax.make_array_from_callback(
            array.shape, sharding, lambda index: array[index]
        )

    return jax.tree.map(place, tree, shardings)


def own_rows(mesh: Mesh, count: int) -> slice:
    """Return the slice of the rows that the devices of this process hold, if a batch of
    `count` rows is sharded over the mesh.

    Raises:
        InputError: if the mesh has no consecutive devices of this process, or if
            `count` is not a multiple of the number of all devices.
    """
    places = [
        place
        for place, device in enumerate(mesh.devices.flat)
        if device.process_index == jax.process_index()
    ]
    remedy = "make the mesh with lstm_jax.base.sharding.make_mesh()"
    require(
        places and places == list(range(places[0], places[-1] + 1)),
        "mesh",
        f"devices {places} of this process",
        remedy,
    )
    require(
        count >= 0 and count % mesh.size == 0,
        "rows",
        count,
        f"give a multiple of the mesh's {mesh.size} devices",
    )
    per_device = count // mesh.size
    return slice(places[0] * per_device, (places[-1] + 1) * per_device)


def from_own_rows(tree, mesh: Mesh, axis: int = 0) -> Any:
    """Return arrays that are sharded along their axis `axis`, from NumPy arrays with
    the rows of this process; see `own_rows`.
    """
    over = rows(mesh, axis)
    return jax.tree.map(
        lambda array: jax.make_array_from_process_local_data(over, array), tree
    )


def param_spec(devices: int, path: tuple, leaf) -> PartitionSpec:
    """Return the `PartitionSpec` of one parameter, or of one array of the optimiser
    state, on a mesh of `devices` devices.

    A matrix whose path in its pytree ends in "embedding" is taken as an embedding table
    or its optimiser state. It is sharded by columns if the number of columns is a
    multiple of the number of devices. All other arrays are replicated.
    """
    name = str(getattr(path[-1], "key", "")) if path else ""
    if (
        name.split("/")[-1] == "embedding"
        and leaf.ndim == 2
        and leaf.shape[1] % devices == 0
    ):
        return PartitionSpec(None, DATA)
    return PartitionSpec()


def constrain(x: Array, axis: int) -> Array:
    """Constrain an array to be sharded along an axis over the devices of the current
    mesh, which `jax.set_mesh` has set.

    If there is no mesh, or if the size of the axis is not a multiple of the number of
    devices, return `x` unchanged.
    """
    if not splits(x.shape[axis]):
        return x
    return lax.with_sharding_constraint(x, PartitionSpec(*[None] * axis, DATA))


def replicate(x: Array) -> Array:
    """Constrain an array to be replicated on all devices of the current mesh, if there
    is one.
    """
    return x if devices() == 1 else lax.with_sharding_constraint(x, PartitionSpec())


def explicit_sharding(array) -> Any:
    """Return the sharding of an array that is on a mesh with explicit axes
    (`AxisType.Explicit`), or None for any other array.
    """
    found: Any = getattr(jax.typeof(array), "sharding", None)
    return (
        found
        if found is not None and AxisType.Explicit in found.mesh.axis_types
        else None
    )


def gather_columns(
    table: Array, ids: Array, batch_axis: int = -1, mode: str = "fill"
) -> Array:
    """Look up ids (...) in an embedding table (V, E), and return the rows (..., E).

    On a mesh, each device first looks up all ids in its own columns of the table. Then
    the devices exchange data, so that each device has
    all columns for its own part of the batch: the result is sharded along the axis
    `batch_axis` of `ids`. With the `mode` "fill", the ids -V to -1 count from the end
    of the table, and any other id outside the table gives a row of NaN. With "clip", it
    gives the nearest row.
    """
    explicit = explicit_sharding(ids)
    if explicit is not None:
        if mode == "clip":
            # a narrow dtype does not hold the number of rows
            wide = ids if ids.dtype.itemsize >= 4 else ids.astype(jnp.int32)
            ids = jnp.clip(wide, 0, len(table) - 1)
        return table.at[ids].get(
            mode=mode,
            out_sharding=NamedSharding(
                explicit.mesh, PartitionSpec(*explicit.spec, None)
            ),
        )
    if ids.ndim == 0 or not splits(table.shape[1]) or not splits(ids.shape[batch_axis]):
        return jnp.take(table, ids, axis=0, mode=mode)
    return constrain(
        constrain(jnp.take(table, replicate(ids), axis=0, mode=mode), ids.ndim),
        batch_axis % ids.ndim,
    )


def rows_to_columns(rows: Array) -> Array:
    """Change the sharding of embedding vectors (..., B, E), or of their gradient, from
    the rows of the batch B to the columns E.
    """
    return constrain(constrain(rows, rows.ndim - 2), rows.ndim - 1)


def splits(size: int) -> bool:
    """Return whether an axis of this size can be sharded over the current mesh: it has
    several devices, whose number divides the size.
    """
    return devices() > 1 and size % devices() == 0


def devices() -> int:
    """Return the number of devices along the axis "data", of type `AxisType.Auto`, of
    the current mesh, or 1 if there is none.
    """
    mesh = jax.sharding.get_abstract_mesh()
    return mesh.shape[DATA] if DATA in mesh.auto_axes else 1


def on(mesh: Mesh) -> contextlib.AbstractContextManager:
    """Return a context manager that makes `mesh` the current mesh."""
    try:
        return jax.set_mesh(mesh)
    # inside of `jax.vmap` or `jax.jit`, where one device needs no mesh
    except ValueError:
        if mesh.size > 1:
            raise
        return contextlib.nullcontext()
