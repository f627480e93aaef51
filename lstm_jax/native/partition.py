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

            arg_shardings = tuple(_sharding(mesh, axis, names) for axis in arg_axes)
            result_shardings = [_sharding(mesh, axis, names) for axis in out_axes]
            return mesh, call_part, result_shardings, arg_shardings

        def map_calls(axis_size, mapped, *leaves):
            del axis_size
            in_axes = tuple(0 if is_mapped else None for is_mapped in mapped)
            vmapped = jax.vmap(of_leaves, in_axes=in_axes)
            axes = [
                axis + 1 if is_mapped and axis is not None else axis
                for axis, is_mapped in zip(arg_axes, mapped, strict=True)
            ]
            results_axes = [a + 1 if isinstance(a, int) else a for a in out_axes]
            results = partitioned(vmapped, axes, results_axes)(*leaves)
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
        spec = getattr(shape.sharding, "spec", None) or ()
        if axis is None or axis >= len(spec) or spec[axis] is None:
            continue
        names: Any = spec[axis]
        names = names if isinstance(names, tuple) else (names,)
        devices = math.prod(mesh.shape[name] for name in names)
        return names if shape.shape[axis] % devices == 0 else ()
    return ()


def _sharding(mesh, axis, names: Texts) -> NamedSharding:
    if not names or not isinstance(axis, int):
        return NamedSharding(mesh, PartitionSpec())
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, names))


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
        ", ".join(factors(axis, value) for axis, value in zip(*pair, strict=True))
        for pair in ((arg_axes, args), (result_axes, results))
    )
    replicated = tuple(f"d{n}" for n in range(next(numbers)))
    return f"{left} -> {right}", {"need_replication_factors": replicated}


def vary_together(*trees) -> tuple:
    """Cast pytrees of arrays so that all arrays have the same set of varying mesh axes,
    and return the pytrees.
    """
    if not jax.sharding.get_abstract_mesh().manual_axes:
        return trees
    leaves = jax.tree.leaves(trees)
    names = tuple(sorted(set().union(*map(_varying, leaves))))

    def cast(leaf):
        missing = tuple(name for name in names if name not in _varying(leaf))
        return lax.pcast(leaf, missing, to="varying") if missing else leaf

    return jax.tree.map(cast, trees)


def _varying(leaf) -> frozenset[str]:
    aval: Any = jax.typeof(leaf)
    kind = getattr(aval, "manual_axis_type", None)
    return frozenset(getattr(aval, "vma", ()) if kind is None else kind.varying)


def in_automatic_mode(function: Callable, out_axes, *args) -> Any:
    """Return `function(*args)`, also for arrays on a mesh with explicit axes. Axis 1 of
    the second argument is the batch.
    """
    shardings = [*map(explicit_sharding, jax.tree.leaves(args))]
    explicit = next((found for found in shardings if found is not None), None)
    if explicit is None:
        return function(*args)
    of_batch = explicit_sharding(args[1])
    names = None if of_batch is None else of_batch.spec[1]

    def sharding(axis):
        return NamedSharding(explicit.mesh, PartitionSpec(*[None] * axis, names))

    return auto_axes(function, out_sharding=jax.tree.map(sharding, out_axes))(*args)
