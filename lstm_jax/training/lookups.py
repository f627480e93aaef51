"""Search for the embedding tables of a loss function, so that a training step can update only the rows that a batch looks up.

The loss is traced to a jaxpr, JAX's representation of a program. A parameter is an embedding table if the program uses it in no other way
than to look up rows, as `jnp.take(table, ids, axis=0)`, `flax.nnx.Embed` and `lstm_jax.Embedding` do, and if the row indices do not depend
on any parameter. The jaxpr is then evaluated with row vectors in place of the lookups.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core
from jax.lax import GatherScatterMode as _Mode

LEAST = 2**14
"""Least number of entries of a table. The update of a smaller parameter is fast anyway."""


class _Table(NamedTuple):
    """Stands for an embedding table while a jaxpr is evaluated."""

    name: str


class _Unknown(NamedTuple):
    """Stands for a value that depends on a parameter."""


class _OtherUseError(Exception):
    """Raised if a program uses the table `name` in another way than to look up rows."""

    def __init__(self, name: str):
        self.name = name


Lookup = Callable[[_Table, Any, Any], Any]
"""Function lookup(table, indices, equation) that returns the result of a lookup."""


def _evaluate(jaxpr: core.Jaxpr, consts: Sequence[Any], args: Sequence[Any], lookup: Lookup) -> list[Any]:
    """Evaluate a jaxpr, some of whose arguments may be `_Table` or `_Unknown`, and return its results.

    The result of an operation with an `_Unknown` operand is `_Unknown`.

    Raises:
        _OtherUseError: if an operation other than a lookup has a `_Table` as an operand, or a `_Table` is a result.
    """
    values: dict[core.Var, Any] = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args], strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, core.Literal) else values[atom]

    for equation in jaxpr.eqns:
        operands = [read(atom) for atom in equation.invars]
        table = next((operand for operand in operands if isinstance(operand, _Table)), None)
        inner = equation.params.get("jaxpr") if equation.primitive.name in ("jit", "pjit") else None
        if table is not None and inner is not None:
            results = _evaluate(inner.jaxpr, inner.consts, operands, lookup)
        elif table is not None:
            if not _is_lookup(equation, operands):
                raise _OtherUseError(table.name)
            results = [lookup(table, operands[1], equation)]
        elif any(isinstance(operand, _Unknown) for operand in operands):
            results = [_Unknown()] * len(equation.outvars)
        else:
            values |= _run(jaxpr, equation, values)
            continue
        values.update(zip(equation.outvars, results, strict=True))
    results = [read(atom) for atom in jaxpr.outvars]
    for result in results:
        if isinstance(result, _Table):
            raise _OtherUseError(result.name)
    return results


def _run(jaxpr: core.Jaxpr, equation: Any, values: dict[core.Var, Any]) -> dict[core.Var, Any]:
    """Evaluate one equation of a jaxpr with the given values of its variables, and return the values of its results."""
    read = list(dict.fromkeys(atom for atom in equation.invars if not isinstance(atom, core.Literal)))
    made = [var for var in equation.outvars if type(var).__name__ != "DropVar"]
    alone = jaxpr.replace(constvars=[], invars=read, outvars=made, eqns=[equation], effects=equation.effects)
    return dict(zip(made, core.jaxpr_as_fun(core.ClosedJaxpr(alone, []))(*(values[var] for var in read)), strict=True))


def _is_lookup(equation: Any, operands: Sequence[Any]) -> bool:
    """Return whether an operation looks up whole rows of its first operand, which is a table."""
    if not isinstance(operands[0], _Table) or any(isinstance(operand, _Table) for operand in operands[1:]):
        return False
    if equation.params.get("slice_sizes") != (1, equation.invars[0].aval.shape[1]):
        return False
    if equation.primitive.name == "dynamic_slice":
        return True
    if equation.primitive.name != "gather":
        return False
    numbers, axes = equation.params["dimension_numbers"], equation.outvars[0].aval.ndim
    if numbers.operand_batching_dims:
        return False
    if numbers.collapsed_slice_dims == (0,):
        return numbers.start_index_map == (0,) and numbers.offset_dims == (axes - 1,)
    # a dynamic_slice under vmap; because it is clipped, the index of the column is always 0
    return numbers.start_index_map == (0, 1) and numbers.offset_dims == (axes - 2, axes - 1) and equation.params["mode"] == _Mode.CLIP


def _mode(equation: Any) -> _Mode:
    return _Mode.CLIP if equation.primitive.name == "dynamic_slice" else equation.params["mode"]


def _row_indices(indices: Any, equation: Any, rows: int) -> jax.Array:
    """Return the row indices of a lookup in a table of `rows` rows, where an index without a gradient is `rows`."""
    ids = indices if equation.primitive.name == "dynamic_slice" else indices[..., 0]
    if _mode(equation) == _Mode.CLIP:
        ids = jnp.clip(ids, 0, rows - 1)
    return jnp.where((ids < 0) | (ids > rows), rows, ids).astype(jnp.int32)


@dataclass(frozen=True)
class FoundLookups:
    """Loss function, traced to a jaxpr, that reads one of the parameters, the table, only by looking up some of its rows."""

    table: str
    """Name of the table among the parameters."""
    jaxpr: core.ClosedJaxpr
    structure: Any
    """Tree structure of the results of the loss function."""
    fills: tuple[bool, ...]
    """For each lookup in the table, whether an index outside the table gives a row of NaN. If false, it gives the last row."""

    def __call__(self, params: dict[str, Any], *args: Any) -> Any:
        """Return the results of the loss function, computed without substitution of the lookups."""
        return jax.tree.unflatten(self.structure, core.jaxpr_as_fun(self.jaxpr)(*_leaves(params, args)))

    def indices(self, params: dict[str, Any], *args: Any) -> list[jax.Array]:
        """Return the row indices of each lookup in the table. The arguments are those of the loss function.

        An index outside the table, which has no gradient, is replaced by the number of rows.
        """
        found = []
        rows = len(params[self.table])

        def lookup(table: _Table, indices: Any, equation: Any) -> Any:
            found.append(_row_indices(indices, equation, rows))
            return _Unknown()

        unknown = {name: _Table(name) if name == self.table else jax.tree.map(lambda _: _Unknown(), params[name]) for name in params}
        _evaluate(self.jaxpr.jaxpr, self.jaxpr.consts, _leaves(unknown, args), lookup)
        return found

    def vectors(self, table: jax.Array, indices: Sequence[jax.Array]) -> list[jax.Array]:
        """Return the rows (..., E) with the given indices (...) for each lookup."""
        modes = ("fill" if fill else "clip" for fill in self.fills)
        return [jnp.take(table, ids, axis=0, mode=mode) for ids, mode in zip(indices, modes, strict=True)]

    def loss_of(self, params: dict[str, Any], vectors: Sequence[jax.Array], *args: Any) -> Any:
        """Return the results of the loss function, in which the lookups are replaced by the given vectors."""
        given: Iterator[jax.Array] = iter(vectors)
        known = {name: _Table(name) if name == self.table else param for name, param in params.items()}

        def lookup(table: _Table, indices: Any, equation: Any) -> jax.Array:
            return next(given).reshape(equation.outvars[0].aval.shape)

        results = _evaluate(self.jaxpr.jaxpr, self.jaxpr.consts, _leaves(known, args), lookup)
        return jax.tree.unflatten(self.structure, results)


def _leaves(params: dict[str, Any], args: tuple) -> list[Any]:
    return jax.tree.leaves((params, *args), is_leaf=lambda leaf: isinstance(leaf, _Table | _Unknown))


def find_lookups(loss: Callable, params: dict[str, Any], *args: Any, table: str = "") -> FoundLookups | None:
    """Return the lookups of a loss function in its largest embedding table, or None if it has no embedding table.

    Args:
        loss: function loss(params, *args) with any pytree of arrays as its results.
        params: dict from the names of the parameters to arrays. Only parameters with two axes and at least `LEAST` entries can be tables.
        args: further arguments, pytrees of arrays.
        table: name of a parameter. If given, only this parameter can be the table.
    """
    jaxpr, shapes = jax.make_jaxpr(loss, return_shape=True)(params, *args)
    if jaxpr.effects:  # they would happen twice, since the jaxpr is evaluated twice
        return None
    tables = {name for name, param in params.items() if param.ndim == 2 and param.size >= LEAST and table in ("", name)}
    fills: dict[str, list[bool]] = {}

    def lookup(table: _Table, indices: Any, equation: Any) -> Any:
        if isinstance(indices, _Unknown):
            raise _OtherUseError(table.name)
        fills.setdefault(table.name, []).append(_mode(equation) == _Mode.FILL_OR_DROP)
        return _Unknown()

    def search(*args: Any) -> Any:
        given = {name: _Table(name) if name in tables else _Unknown() for name in params}
        _evaluate(jaxpr.jaxpr, jaxpr.consts, _leaves(given, args), lookup)

    while tables:
        fills.clear()
        try:
            jax.eval_shape(search, *args)
        except _OtherUseError as error:
            tables.remove(error.name)
        else:
            break
    used = sorted(tables & fills.keys(), key=lambda name: (params[name].size, name))
    return FoundLookups(used[-1], jaxpr, jax.tree.structure(shapes), tuple(fills[used[-1]])) if used else None
