"""Search for the embedding tables of a loss function, so that a training step can
update only the rows that a batch looks up.

The loss function is traced to a jaxpr, which is JAX's representation of a program. A
parameter is an embedding table if both of these are true:

1. The program uses the parameter only to look up rows, as `jnp.take(table, ids,
   axis=0)`, `flax.nnx.Embed` and `lstm_jax.Embedding` do.
2. The row indices do not depend on any parameter.

A training step first reads the rows that the batch looks up. It then evaluates the
jaxpr with these rows as an argument, in place of the lookups. Therefore it computes the
gradient of these rows only, and not of the whole table.
"""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.extend import core
from jax.lax import GatherDimensionNumbers, GatherScatterMode

from lstm_jax.base import sharding
from lstm_jax.base.checks import frozen
from lstm_jax.base.types import Ints
from lstm_jax.base.types import Values as Params

LEAST = 2**14
"""Least number of entries of a table. A smaller parameter is not treated as a table,
because its ordinary update is fast."""


@frozen
class _Table:
    """Placeholder for an embedding table, used while a jaxpr is evaluated."""

    name: str


_UNKNOWN = object()
"""Placeholder for a value that depends on a parameter, used while a jaxpr is evaluated.
"""


def _evaluate(
    program: core.ClosedJaxpr, args: Sequence, lookup: Callable, given: Sequence = ()
) -> list:
    # `lookup(table, indices, equation)` returns the result of a lookup, or of any other
    # use of a table, whose `indices` are None. `given` holds the results that already
    # have a sharding.
    jaxpr = program.jaxpr
    names = [*jaxpr.constvars, *jaxpr.invars]
    values = dict(zip(names, [*program.consts, *args], strict=True))

    def read(atom):
        return atom.val if isinstance(atom, core.Literal) else values[atom]

    for equation in jaxpr.eqns:
        name = equation.primitive.name
        operands = [read(atom) for atom in equation.invars]
        count = len(equation.outvars)
        tables = [operand for operand in operands if isinstance(operand, _Table)]
        if tables and name in ("jit", "pjit"):
            results = _evaluate(equation.params["jaxpr"], operands, lookup, given)
        elif tables:
            indices = operands[1] if _is_lookup(equation, operands) else None
            found = [lookup(table, indices, equation) for table in tables]
            results = found[:1] * count
        elif any(operand is _UNKNOWN for operand in operands):
            results = [_UNKNOWN] * count
        elif name == "sharding_constraint" and any(operands[0] is a for a in given):
            results = operands
        else:
            used = [a for a in equation.invars if not isinstance(a, core.Literal)]
            alone = jaxpr.replace(
                constvars=[],
                invars=used,
                outvars=equation.outvars,
                eqns=[equation],
                effects=equation.effects,
            )
            compute = core.jaxpr_as_fun(core.ClosedJaxpr(alone, []))
            results = compute(*map(read, used))
        values.update(zip(equation.outvars, results, strict=True))
    results = [read(atom) for atom in jaxpr.outvars]
    for result in results:
        if isinstance(result, _Table):
            lookup(result, None, None)
    return results


def _is_lookup(equation, operands: list) -> bool:
    """Return whether an equation (operation) of a jaxpr looks up whole rows of an
    embedding table.
    """
    columns = equation.invars[0].aval.shape[-1]
    whole = equation.params.get("slice_sizes") == (1, columns)
    if not whole or not isinstance(operands[0], _Table):
        return False
    if equation.primitive.name != "gather":
        return equation.primitive.name == "dynamic_slice"
    last = equation.outvars[0].aval.ndim - 1
    fill = equation.params["fill_value"]
    rows = GatherDimensionNumbers(
        offset_dims=(last,), collapsed_slice_dims=(0,), start_index_map=(0,)
    )
    # a dynamic_slice under vmap; because it is clipped, the index of the column is
    # always 0
    slices = GatherDimensionNumbers(
        offset_dims=(last - 1, last), collapsed_slice_dims=(), start_index_map=(0, 1)
    )
    allowed = [rows, slices] if _mode(equation) == GatherScatterMode.CLIP else [rows]
    by_rows = equation.params["dimension_numbers"] in allowed
    return by_rows and (fill is None or bool(np.isnan(fill)))


def _mode(equation) -> GatherScatterMode:
    # a dynamic_slice has no mode
    return equation.params.get("mode", GatherScatterMode.CLIP)


def _row_indices(indices, equation) -> Array:
    """Return the row indices of one lookup in a table. An index outside the table is
    replaced by the number of rows.
    """
    rows = equation.invars[0].aval.shape[0]
    ids = indices if equation.primitive.name == "dynamic_slice" else indices[..., 0]
    if ids.dtype.itemsize < 4:
        # in a smaller type, such as uint8, the number of rows would wrap around
        ids = ids.astype(jnp.int32)
    if _mode(equation) == GatherScatterMode.CLIP:
        ids = jnp.clip(ids, 0, rows - 1)
    # int32 comes last: a larger uint32 or int64 would become negative, or another row
    return jnp.where((ids < 0) | (ids > rows), rows, ids).astype(jnp.int32)


def _indices(
    program: core.ClosedJaxpr,
    tables: Sequence[str],
    params: Params,
    args: tuple,
    modes: list,
) -> dict[str, list]:
    """Return the row indices of each lookup in each of the tables, without the tables
    that are also used in other ways.
    """
    # Pairs of a table and the mode of a lookup in it (see `gather_columns`) are added
    # to `modes`.
    found, others = {}, set()

    def lookup(table, indices, equation):
        if indices is None or indices is _UNKNOWN:
            others.add(table.name)
        else:
            found.setdefault(table.name, []).append(_row_indices(indices, equation))
            fills = _mode(equation) == GatherScatterMode.FILL_OR_DROP
            modes.append((table.name, "fill" if fills else "clip"))
        return _UNKNOWN

    given = {name: _Table(name) if name in tables else _UNKNOWN for name in params}
    _evaluate(program, jax.tree.leaves((given, *args)), lookup)
    return {name: ids for name, ids in found.items() if name not in others}


@frozen
class FoundLookups:
    """A loss function, traced by JAX to a jaxpr, that uses one of its parameters, the
    table, only by looking up rows of it.
    """

    table: str
    """Name of the table among the parameters."""
    program: core.ClosedJaxpr
    structure: Any
    """Tree structure of the results of the loss function."""
    modes: list[str]
    """Mode of each lookup in the table, "fill" or "clip"; see `gather_columns`."""
    batch_axes: Ints
    """Index of the batch axis of the row indices of each lookup in the table.

    It is -1, the last axis, if the batch axis is not known or if there is only one
    device.
    """

    def indices(self, params: Params, *args) -> list[Array]:
        """Return a list with one array (..., B) for each lookup in the embedding table:
        the row indices that are looked up.
        """
        found = _indices(self.program, (self.table,), params, args, [])[self.table]
        return [
            jnp.moveaxis(ids, axis, -1) if ids.ndim else ids
            for ids, axis in zip(found, self.batch_axes, strict=True)
        ]

    def vectors(self, table: Array, indices: Sequence[Array]) -> list[Array]:
        """Look up rows of the table, and return a list with one array (..., B, E) of
        rows for each array (..., B) of indices.
        """
        return [
            sharding.gather_columns(table, ids, mode=mode)
            for ids, mode in zip(indices, self.modes, strict=True)
        ]

    def loss_of(self, params: Params, vectors: Sequence[Array], *args):
        """Return the results of the loss function, computed with `vectors` in place of
        the rows that it looks up in the embedding table.
        """
        pairs, given = iter(zip(vectors, self.batch_axes, strict=True)), []

        def lookup(table, indices, equation):
            rows, axis = next(pairs)
            if rows.ndim > 1:
                rows = jnp.moveaxis(rows, -2, axis % (rows.ndim - 1))
            given.append(rows.reshape(equation.outvars[0].aval.shape))
            return given[-1]

        leaves = jax.tree.leaves((params | {self.table: _Table(self.table)}, *args))
        results = _evaluate(self.program, leaves, lookup, given)
        return jax.tree.unflatten(self.structure, results)


def find_lookups(
    loss: Callable, params: Params, *args, table: str = ""
) -> FoundLookups | None:
    """Trace a loss function and find its largest embedding table, and return the traced
    function as a `FoundLookups`.

    If a table is named, find this one, whatever its size.
    """
    program, shapes = jax.make_jaxpr(loss, return_shape=True)(params, *args)
    if program.effects:  # they would happen twice, since the jaxpr is evaluated twice
        return None
    tables = [table]
    if not table:
        tables = [n for n, p in params.items() if p.ndim == 2 and p.size >= LEAST]
    modes = []
    found = jax.eval_shape(
        lambda *args: _indices(program, tables, params, args, modes), *args
    )
    if not found:
        return None
    largest = max(found, key=lambda name: (params[name].size, name))
    own_modes = [mode for name, mode in modes if name == largest]

    axes = [-1] * len(own_modes)
    if sharding.devices() > 1:
        with contextlib.suppress(Exception):  # the loss may take no other batch size
            axes = _batch_axes(loss, params, args, largest, found[largest])
    structure = jax.tree.structure(shapes)
    return FoundLookups(largest, program, structure, own_modes, tuple(axes))


def _batch_axes(
    loss: Callable, params: Params, args: tuple, table: str, small: list
) -> list[int]:
    """Return the axis of the row indices of each lookup that grows with the batch, or
    -1 if it is not known.
    """

    def doubled(leaf):
        shape = (2 * leaf.shape[0], *leaf.shape[1:]) if leaf.ndim else ()
        return jax.ShapeDtypeStruct(shape, leaf.dtype)

    larger = (*jax.tree.map(doubled, args[:2]), *args[2:])
    grown = jax.make_jaxpr(loss)(params, *larger)
    large = jax.eval_shape(
        lambda *args: _indices(grown, (table,), params, args, []), *larger
    )[table]
    axes = []
    for a, b in zip(small, large, strict=True):
        sizes = enumerate(zip(a.shape, b.shape, strict=True))
        changed = [axis for axis, (size, twice) in sizes if twice == 2 * size]
        axes.append(changed[0] if len(changed) == 1 else -1)
    return axes
