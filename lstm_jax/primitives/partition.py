"""Calls of compiled code that each device makes with its own part of the arrays, however a user has sharded them."""

from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

import jax
from jax.custom_batching import custom_vmap
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import AxisType, NamedSharding, PartitionSpec, auto_axes

SUM = "sum"
"""In place of an axis: the result is summed over all devices."""


def partitioned(function: Callable, arg_axes: Sequence[int | None], result_axes: Sequence[int | str | None]) -> Callable:
    """Return `function` of arrays for use where XLA partitions a program: each device calls it with its own part.

    The partitioner keeps one axis split, which all arrays share (the rows of a batch, the columns of a table), and copies all else to each
    device. Under `shard_map`, and on one device, it is `function` itself.

    Args:
        function: function(*arrays) -> list of arrays; what it does with a part is independent of the other parts.
        arg_axes: the number of the axis of each argument, None for one that has no such axis.
        result_axes: likewise of each result, or SUM.
    """

    @custom_partitioning
    def made(*args):
        return function(*args)

    def partition(mesh, arg_shapes, result_shapes):
        names = _names(mesh, arg_shapes, arg_axes)
        places = [[_place(mesh, axis, names) for axis in axes] for axes in (arg_axes, result_axes)]

        def of_part(*args):
            results = function(*args)
            summed = [jax.lax.psum(r, names) if axis == SUM and names else r for r, axis in zip(results, result_axes, strict=True)]
            return jax.tree.unflatten(jax.tree.structure(result_shapes), summed)

        return mesh, of_part, jax.tree.unflatten(jax.tree.structure(result_shapes), places[1]), tuple(places[0])

    made.def_partition(partition, sharding_rule=lambda mesh, args, results: _rule(arg_axes, result_axes, args, results))

    def of_mapped(axis_size: int, mapped: Sequence[bool], *args):
        del axis_size
        call = jax.vmap(function, in_axes=tuple(0 if one else None for one in mapped))
        axes = [axis + 1 if one and axis is not None else axis for axis, one in zip(arg_axes, mapped, strict=True)]
        results = partitioned(call, axes, [axis + 1 if isinstance(axis, int) else axis for axis in result_axes])(*args)
        return results, [True] * len(results)

    called = custom_vmap(lambda *args: list(made(*args)))
    called.def_vmap(of_mapped)
    return called


def partitioned_alike(function: Callable, arrays: int) -> Callable:
    """Return `function`, which works number by number, for use where XLA partitions a program: each device calls it with its own part.

    Args:
        function: function(*operands) -> list of arrays; the first `arrays` operands and all results have one shape, the others are scalars.
        arrays: how many.
    """

    @custom_partitioning
    def made(*args):
        return function(*args)

    def partition(mesh, arg_shapes, result_shapes):
        place = arg_shapes[0].sharding
        results = jax.tree.map(lambda shape: place, result_shapes)
        return mesh, function, results, (*[place] * arrays, *[NamedSharding(mesh, PartitionSpec())] * (len(arg_shapes) - arrays))

    def rule(mesh, args, results):
        shape = " ".join(f"d{n}" for n in range(len(args[0].shape)))
        return ", ".join([shape] * arrays + [""] * (len(args) - arrays)) + " -> " + ", ".join([shape] * len(results)), {}

    made.def_partition(partition, sharding_rule=rule)

    def of_mapped(axis_size: int, mapped: Sequence[bool], *args):
        call = jax.vmap(function, in_axes=tuple(0 if one else None for one in mapped), axis_size=axis_size)
        results = call(*args)
        return results, [True] * len(results)

    called = custom_vmap(lambda *args: list(made(*args)))
    called.def_vmap(of_mapped)
    return called


def _names(mesh, shapes, axes) -> tuple[str, ...]:
    """Return the mesh axes over which the parts are split, () for none."""
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


def _place(mesh, axis: Any, names: tuple[str, ...]) -> NamedSharding:
    split = isinstance(axis, int) and names
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, names) if split else PartitionSpec())


def _rule(arg_axes, result_axes, args, results) -> tuple[str, dict[str, tuple[str, ...]]]:
    """Return Shardy's rule: one factor that all share, any other dimension is not to be split."""
    numbers = count()
    alone: list[str] = []

    def factors(axis, value) -> str:
        names = []
        for dimension in range(len(value.shape)):
            if dimension == axis:
                names.append("rows")
            else:
                alone.append(f"d{next(numbers)}")
                names.append(alone[-1])
        return " ".join(names)

    left, right = ([factors(axis, value) for axis, value in zip(*pair, strict=True)] for pair in ((arg_axes, args), (result_axes, results)))
    return f"{', '.join(left)} -> {', '.join(right)}", {"need_replication_factors": tuple(alone)}


def vary_together(*trees: Any) -> tuple:
    """Return the trees with all arrays of one type under `shard_map(..., check_vma=True)`, where a loop asks for that.

    An array that is the same on all devices becomes one that may differ; what JAX does to its gradient is the sum over devices.
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
    """Return the sharding in the type of an array on a mesh with explicit axes, else None."""
    found: Any = getattr(jax.typeof(array), "sharding", None)
    return found if found is not None and AxisType.Explicit in found.mesh.axis_types else None


def in_automatic_mode(function: Callable, rows_of: int, out_axes: Any) -> Callable:
    """Return `function` for arrays of any mesh: where their axes are explicit, it runs with automatic ones.

    Args:
        function: function(*trees) -> tree of arrays.
        rows_of: the number of the argument, an array, whose rows are the batch's; they are on its axis 1.
        out_axes: the axis of the rows of each result, a tree with the structure of the results.
    """

    def run(*args):
        found = [place for place in map(explicit_sharding, jax.tree.leaves(args)) if place is not None]
        if not found:
            return function(*args)
        own = explicit_sharding(args[rows_of])
        names = None if own is None else own.spec[1]
        places = jax.tree.map(lambda axis: NamedSharding(found[0].mesh, PartitionSpec(*[None] * axis, names)), out_axes)
        return auto_axes(function, out_sharding=places)(*args)

    return run
