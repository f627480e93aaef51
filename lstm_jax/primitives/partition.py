"""Functions that run compiled code on sharded arrays, so that each device runs the code on its own shard of the arrays."""

import math
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from itertools import count
from typing import Any

import jax
from jax.custom_batching import custom_vmap
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import AxisType, NamedSharding, PartitionSpec, auto_axes

_DEVICES: ContextVar[int] = ContextVar("devices", default=1)
SUM = "sum"
"""Value given instead of the index of an axis for a result that is summed over all devices."""


def partitioned(function: Callable, arg_axes: Sequence[int | None], result_axes: Sequence[int | str | None]) -> Callable:
    """Return a version of `function` that accepts sharded arrays in a jitted program. Each device calls `function` on its own shard.

    Each array is sharded along at most one axis, for example its batch axis, and replicated along all other axes. Under `shard_map`, and on
    a single device, the returned function just calls `function`.

    Args:
        function: function(*arrays) that returns a list of arrays. Its results for one shard must not depend on the other shards.
        arg_axes: for each argument the index of its sharded axis, or None if the argument is replicated.
        result_axes: for each result the index of its sharded axis. It is None if the result is replicated, and SUM if the result is summed
            over all devices.
    """

    @custom_partitioning
    def made(*args):
        return function(*args)

    def partition(mesh, arg_shapes, result_shapes):
        names = _names(mesh, arg_shapes, arg_axes)
        arg_shardings, result_shardings = ([_sharding(mesh, axis, names) for axis in axes] for axes in (arg_axes, result_axes))

        def call_part(*args):
            outside = _DEVICES.set(mesh.size)
            try:
                results = function(*args)
            finally:
                _DEVICES.reset(outside)
            summed = [jax.lax.psum(r, names) if axis == SUM and names else r for r, axis in zip(results, result_axes, strict=True)]
            return jax.tree.unflatten(jax.tree.structure(result_shapes), summed)

        return mesh, call_part, jax.tree.unflatten(jax.tree.structure(result_shapes), result_shardings), tuple(arg_shardings)

    made.def_partition(partition, sharding_rule=lambda mesh, args, results: _rule(arg_axes, result_axes, args, results))

    def map_calls(axis_size: int, mapped: Sequence[bool], *args):
        del axis_size
        call = jax.vmap(function, in_axes=tuple(0 if is_mapped else None for is_mapped in mapped))
        axes = [axis + 1 if is_mapped and axis is not None else axis for axis, is_mapped in zip(arg_axes, mapped, strict=True)]
        results = partitioned(call, axes, [axis + 1 if isinstance(axis, int) else axis for axis in result_axes])(*args)
        return results, [True] * len(results)

    called = custom_vmap(lambda *args: list(made(*args)))
    called.def_vmap(map_calls)
    return called


def devices_at_once() -> int:
    """Return the number of devices that run a function at the same time, each on its own shard, while the function is traced.

    Outside a function of `partitioned` and outside `shard_map`, this is 1, even if JAX has several devices.
    """
    mesh = jax.sharding.get_abstract_mesh()
    return max(_DEVICES.get(), math.prod(mesh.shape[name] for name in mesh.manual_axes))


def _names(mesh, shapes, axes) -> tuple[str, ...]:
    """Return the names of the mesh axes over which arrays are sharded.

    Only one axis of each array is examined, the one in `axes`. The first array that is sharded along this axis determines the names. Return
    () if there is no such array, or if the size of the sharded axis is not divisible by the number of shards.

    Args:
        mesh: the device mesh.
        shapes: the shapes and shardings of the arrays.
        axes: for each array the index of the axis that may be sharded, or None.
    """
    for shape, axis in zip(shapes, axes, strict=True):
        spec = getattr(shape.sharding, "spec", None)
        entry = spec[axis] if axis is not None and spec is not None and axis < len(spec) else None
        if entry is not None:
            names = entry if isinstance(entry, tuple) else (entry,)
            parts = 1
            for name in names:
                parts *= mesh.shape[name]
            return tuple(names) if shape.shape[axis] % parts == 0 else ()
    return ()


def _sharding(mesh, axis: Any, names: tuple[str, ...]) -> NamedSharding:
    split = isinstance(axis, int) and names
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, names) if split else PartitionSpec())


def _rule(arg_axes, result_axes, args, results) -> tuple[str, dict[str, tuple[str, ...]]]:
    """Return the sharding rule of `partitioned` for Shardy, the partitioner of XLA.

    The sharded axes, whose indices are in `arg_axes` and `result_axes`, all get the name "rows". All other axes must be replicated.
    """
    numbers = count()
    unsplit: list[str] = []

    def factors(axis, value) -> str:
        names = []
        for dimension in range(len(value.shape)):
            if dimension == axis:
                names.append("rows")
            else:
                unsplit.append(f"d{next(numbers)}")
                names.append(unsplit[-1])
        return " ".join(names)

    left, right = ([factors(axis, value) for axis, value in zip(*pair, strict=True)] for pair in ((arg_axes, args), (result_axes, results)))
    return f"{', '.join(left)} -> {', '.join(right)}", {"need_replication_factors": tuple(unsplit)}


def vary_together(*trees: Any) -> tuple:
    """Cast pytrees of arrays so that all arrays vary over the same mesh axes, and return the pytrees.

    A `lax.scan` under `shard_map` requires this. An array that varies over a mesh axis may have different values on the devices along this
    axis. Arrays whose type says that they are equal on all devices are cast with `jax.lax.pcast`. JAX then sums the gradients of these
    arrays over the devices. Outside of `shard_map` nothing is changed.
    """
    leaves = jax.tree.leaves(trees)
    names = tuple(sorted(set().union(*map(_varying, leaves))))
    if not names:
        return trees

    def cast(leaf):
        missing = tuple(name for name in names if name not in _varying(leaf))
        return jax.lax.pcast(leaf, missing, to="varying") if missing else leaf

    return jax.tree.map(cast, trees)


def _varying(leaf) -> frozenset[str]:
    aval: Any = jax.typeof(leaf)
    kind = getattr(aval, "manual_axis_type", None)
    return frozenset(getattr(aval, "vma", ()) if kind is None else kind.varying)


def explicit_sharding(array: Any) -> Any:
    """Return the sharding of an array that is on a mesh with explicit axes (`AxisType.Explicit`), or None for any other array."""
    found: Any = getattr(jax.typeof(array), "sharding", None)
    return found if found is not None and AxisType.Explicit in found.mesh.axis_types else None


def in_automatic_mode(function: Callable, rows_of: int, out_axes: Any) -> Callable:
    """Return a version of `function` that also accepts arrays on a mesh with explicit axes (`AxisType.Explicit`).

    For such arrays the function is run with automatic axes, by `jax.sharding.auto_axes`.

    Args:
        function: function(*trees) that returns a pytree of arrays.
        rows_of: index of an argument that is an array with batch axis 1. The batch axes of the results get the same sharding as the batch
            axis of this argument.
        out_axes: pytree with the structure of the results. It contains the index of the batch axis of each result.
    """

    def run(*args):
        explicit = [found for found in map(explicit_sharding, jax.tree.leaves(args)) if found is not None]
        if not explicit:
            return function(*args)
        batch_sharding = explicit_sharding(args[rows_of])
        names = None if batch_sharding is None else batch_sharding.spec[1]
        shardings = jax.tree.map(lambda axis: NamedSharding(explicit[0].mesh, PartitionSpec(*[None] * axis, names)), out_axes)
        return auto_axes(function, out_sharding=shardings)(*args)

    return run
