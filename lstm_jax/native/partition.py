"""Functions that run compiled code on sharded arrays, so that each device runs the code
on its own shard of the arrays.
"""

import math
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

import jax
from jax import lax
from jax.custom_batching import custom_vmap
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import NamedSharding, PartitionSpec, auto_axes

from lstm_jax.base.sharding import explicit_sharding
from lstm_jax.base.types import Texts

Axes = Sequence[int | None]
_devices = jax.make_user_context(default_value=1)
SUM = "sum"
"""Entry of `result_axes` for a result that is summed over all devices, in place of the
index of an axis."""


def partitioned(function: Callable, arg_axes: Axes, result_axes) -> Callable:
    """Return a version of `function` that accepts sharded arrays in a jitted program.
    Each device calls `function` on its own shard.

    Args:
        function: function of pytrees of arrays.
        arg_axes: index of the axis of each array in the arguments that is sharded, or
            None if each device reads the whole array.
        result_axes: pytree with the structure of the results, of the index of the
            sharded axis of each result, or `SUM`.
    """
    out_axes, out_tree = jax.tree.flatten(result_axes)

    def called(*args):
        leaves, tree = jax.tree.flatten(args)

        def of_leaves(*leaves):
            return jax.tree.leaves(function(*tree.unflatten(leaves)))

        def partition(mesh, arg_shapes, result_shapes):
            del result_shapes
            names = _names(mesh, arg_shapes, arg_axes)

            def call_part(*leaves):
                with _devices(mesh.size):
                    results = of_leaves(*leaves)
                return [
                    lax.psum(r, names) if axis == SUM and names else r
                    for r, axis in zip(results, out_axes, strict=True)
                ]

            arg_shardings, result_shardings = (
                [_sharding(mesh, axis, names) for axis in axes]
                for axes in (arg_axes, out_axes)
            )
            return mesh, call_part, result_shardings, tuple(arg_shardings)

        def map_calls(axis_size, mapped, *leaves):
            del axis_size
            vmapped = jax.vmap(
                of_leaves,
                in_axes=tuple(0 if is_mapped else None for is_mapped in mapped),
            )
            axes = [
                axis + 1 if is_mapped and axis is not None else axis
                for axis, is_mapped in zip(arg_axes, mapped, strict=True)
            ]
            results = partitioned(
                vmapped,
                axes,
                [axis + 1 if isinstance(axis, int) else axis for axis in out_axes],
            )(*leaves)
            return results, [True] * len(results)

        made = custom_partitioning(of_leaves)
        made.def_partition(
            partition,
            sharding_rule=lambda mesh, args, results: _rule(
                arg_axes, out_axes, args, results
            ),
        )
        mappable = custom_vmap(made)
        mappable.def_vmap(map_calls)
        return out_tree.unflatten(mappable(*leaves))

    return called


def devices_at_once() -> int:
    """Return the number of devices that will run the function that JAX is tracing. Each
    device runs it on its own shard.
    """
    mesh = jax.sharding.get_abstract_mesh()
    return max(_devices.value, math.prod(mesh.shape[name] for name in mesh.manual_axes))


def _names(mesh, shapes, axes) -> Texts:
    """Return the names of the mesh axes over which arrays are sharded, or () if they
    are not sharded.
    """
    for shape, axis in zip(shapes, axes, strict=True):
        spec = getattr(shape.sharding, "spec", None)
        entry = (
            spec[axis]
            if axis is not None and spec is not None and axis < len(spec)
            else None
        )
        if entry is not None:
            names = entry if isinstance(entry, tuple) else (entry,)
            return (
                tuple(names)
                if shape.shape[axis] % math.prod(mesh.shape[name] for name in names)
                == 0
                else ()
            )
    return ()


def _sharding(mesh, axis, names: Texts) -> NamedSharding:
    split = isinstance(axis, int) and names
    return NamedSharding(
        mesh, PartitionSpec(*[None] * axis, names) if split else PartitionSpec()
    )


def _rule(arg_axes, result_axes, args, results):
    """Return the sharding rule of `partitioned` for Shardy, the partitioner of XLA: a
    pair (text of the rule, dict of its options).
    """
    numbers = count()

    def factors(axis, value):
        return " ".join(
            "rows" if dimension == axis else f"d{next(numbers)}"
            for dimension in range(len(value.shape))
        )

    left, right = (
        [factors(axis, value) for axis, value in zip(*pair, strict=True)]
        for pair in ((arg_axes, args), (result_axes, results))
    )
    return f"{', '.join(left)} -> {', '.join(right)}", {
        "need_replication_factors": tuple(f"d{n}" for n in range(next(numbers)))
    }


def vary_together(*trees) -> tuple:
    """Cast pytrees of arrays so that all arrays have the same set of varying mesh axes,
    and return the pytrees.
    """
    leaves = jax.tree.leaves(trees)
    names = tuple(sorted(set().union(*map(_varying, leaves))))
    if not names:
        return trees

    def cast(leaf):
        missing = tuple(name for name in names if name not in _varying(leaf))
        return lax.pcast(leaf, missing, to="varying") if missing else leaf

    return jax.tree.map(cast, trees)


def _varying(leaf) -> frozenset[str]:
    aval: Any = jax.typeof(leaf)
    kind = getattr(aval, "manual_axis_type", None)
    return frozenset(getattr(aval, "vma", ()) if kind is None else kind.varying)


def in_automatic_mode(function: Callable, out_axes) -> Callable:
    """Return a version of `function` that also accepts arrays on a mesh with explicit
    axes. Axis 1 of the second argument is the batch.
    """

    def run(*args):
        explicit = [
            found
            for found in map(explicit_sharding, jax.tree.leaves(args))
            if found is not None
        ]
        if not explicit:
            return function(*args)
        batch_sharding = explicit_sharding(args[1])
        names = None if batch_sharding is None else batch_sharding.spec[1]
        shardings = jax.tree.map(
            lambda axis: NamedSharding(
                explicit[0].mesh, PartitionSpec(*[None] * axis, names)
            ),
            out_axes,
        )
        return auto_axes(function, out_sharding=shardings)(*args)

    return run
