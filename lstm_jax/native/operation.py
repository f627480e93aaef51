"""Operations with custom forward and backward passes that support all transformations
of JAX.

`apply(operation, *args)` runs an `Operation`. The custom passes may be compiled code
that JAX cannot differentiate. Therefore each operation also has a twin, which is the
same computation written in JAX.
- Reverse mode runs the custom passes. Forward mode and derivatives of order 2 and
  higher differentiate the twin.
- `vmap` merges the mapped axis with the batch axis. If a mapped or differentiated leaf
  (array) has no batch axis, the operation that `Operation.mapped` returns is run
  instead.
- The custom passes run on the platforms in `Operation.platforms`. Other platforms and
  exported programs run the twin.

JAX sees one primitive, which runs a pass of an operation: the derivative (JVP) of the
pass `_Forward` is the pass `_Tangents`, which is linear, and whose transpose is the
pass `_Backward`.

A leaf is one array of a pytree. The index of a leaf is its position in the list that
`jax.tree.leaves` returns.
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive, jaxpr_as_fun
from jax.interpreters import ad, batching, mlir

from lstm_jax.base.checks import frozen
from lstm_jax.base.types import Ints

Leaves = Sequence
Axes = Sequence[int | None]
"""Index of the batch axis of each array, or None for an array that has no batch axis.
"""
PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


class Operation:
    """Base class of operations. An operation is a function of pytrees of arrays that
    has custom forward and backward passes.

    Subclasses are frozen dataclasses, whose fields are static options of a JAX program.
    Several methods have these arguments:
    - `custom`: whether the custom pass is run. If it is false, its twin is run, which
      uses ordinary JAX operations.
    - `keep`: whether the forward pass also returns residuals, which are the arrays that
      the backward pass reads.
    - `wanted`: a tree with the structure of `args` that is True where a gradient is
      wanted, else False.
    - `cotangents`: the gradients with respect to the outputs, in the structure of the
      outputs. A gradient that is zero is None.
    """

    platforms = ("cpu",)
    """Platforms on which the custom passes run."""
    residual_axis = 1
    """Index of the batch axis of each array in the residuals."""

    @abstractmethod
    def forward(self, custom: bool, keep: bool, *args) -> tuple[Any, Any]:
        """Run the forward pass and return (outputs, residuals). The residuals, which
        `backward` reads, are None if `keep` is false.
        """

    def backward(
        self, custom: bool, wanted, args: tuple, residuals, cotangents
    ) -> tuple:
        """Return the gradients with respect to `args` as a tuple of the same structure.
        This base class differentiates `forward`'s twin.
        """
        del custom, residuals
        outputs, pull = jax.vjp(
            lambda *args: self.forward(False, False, *args)[0], *args
        )
        gradients = pull(with_zeros(cotangents, outputs))
        return jax.tree.map(lambda want, d: d if want else None, wanted, gradients)

    def arg_axes(self, args: tuple) -> Axes:
        """Return the index of the batch axis of each array in `args`, or None if it has
        no batch axis. This base class returns None.
        """
        return [None] * len(jax.tree.leaves(args))

    @abstractmethod
    def result_axes(self, outputs) -> list[int]:
        """Return the index of the batch axis of each array in the outputs. It is called
        only if `arg_axes` has an axis.
        """

    def mapped(
        self, dims: tuple[int | None, ...], size: int, axes: Axes
    ) -> "Operation":
        """Return an operation that runs this operation, whose `arg_axes` are `axes`,
        `size` times, on arguments with a leading axis.
        """
        return Vmapped(self, dims, size, tuple(axes))


def with_zeros(cotangents, like) -> Any:
    """Return gradients with the structure of `like`, with zeros in place of each None."""
    return jax.tree.map(
        lambda leaf, d: jnp.zeros_like(leaf) if d is None else d, like, cotangents
    )


@partial(jax.jit, static_argnums=0, inline=True)
def apply(operation: Operation, *args):
    """Run an operation on the arguments `args`, which are pytrees of arrays, and return
    its outputs.
    """
    leaves, tree = jax.tree.flatten(args)
    return _bind(_Forward(operation, False, tree), leaves)[0]


@frozen
class _Forward:
    """Forward pass as a function of leaves. Like the other passes, it is a static
    parameter of the primitive, and has two methods.

    - `run(custom, *leaves)` returns the results of the custom pass if `custom` is true,
      else those of its twin.
    - `batch(size, leaves, dims, inner)` returns the stacked results of `size` calls.
      The leaves have the mapped axis in front, those of one call are like `inner`.
    """

    operation: Operation
    keep: bool
    tree: Any

    def run(self, custom, *leaves):
        return self.operation.forward(custom, self.keep, *self.tree.unflatten(leaves))

    def batch(self, size, leaves, dims, inner):
        operation = self.operation
        axes = operation.arg_axes(self.tree.unflatten(inner))
        each = zip(dims, axes, strict=True)
        if any(dim is not None and axis is None for dim, axis in each):
            mapped = replace(self, operation=operation.mapped(dims, size, axes))
            return jax.tree.leaves(_bind(mapped, leaves))
        outputs, residuals = _bind(self, _folded(leaves, dims, axes, size))
        of_residuals = [operation.residual_axis] * len(jax.tree.leaves(residuals))
        rows = [*operation.result_axes(outputs), *of_residuals]
        return _unfolded((outputs, residuals), rows, size)


@frozen
class _OfResiduals:
    """Base class of passes whose leaves are those of the arguments, of the residuals,
    and the tangents or cotangents that are not zero.

    Attributes:
        trees: structures of the arguments, the residuals and the outputs.
        given: indices of the argument leaves that have a tangent, or of the output
            leaves that have a cotangent.
    """

    operation: Operation
    trees: tuple[Any, Any, Any]
    given: Ints

    def cut(self, leaves: Leaves) -> tuple[Any, Any, Leaves]:
        """Return the arguments and the residuals as trees, and the tangents or
        cotangents.
        """
        of_args, of_residuals, _ = self.trees
        args, given = of_args.num_leaves, len(leaves) - len(self.given)
        residuals = of_residuals.unflatten(leaves[args:given])
        return of_args.unflatten(leaves[:args]), residuals, leaves[given:]


@frozen
class _Tangents(_OfResiduals):
    """Forward-mode differentiation of the twin of `forward`."""

    def run(self, custom, *leaves):
        args, _, tangents = self.cut(leaves)

        forward = _Forward(self.operation, False, self.trees[0])

        def outputs(*leaves):
            return forward.run(False, *leaves)[0]

        return _jvp(outputs, jax.tree.leaves(args), self.given, tangents)

    def batch(self, size, leaves, dims, inner):
        return jax.vmap(partial(self.run, False), in_axes=dims)(*leaves)


@frozen
class _Backward(_OfResiduals):
    wanted: Ints

    def run(self, custom, *leaves):
        args, residuals, cotangents = self.cut(leaves)
        of_args, _, of_outputs = self.trees
        wanted = of_args.unflatten(
            [n in self.wanted for n in range(of_args.num_leaves)]
        )
        known = dict(zip(self.given, cotangents, strict=True))
        by_output = of_outputs.unflatten(
            [known.get(n) for n in range(of_outputs.num_leaves)]
        )
        gradients = of_args.flatten_up_to(
            self.operation.backward(custom, wanted, args, residuals, by_output)
        )
        return [gradients[n] for n in self.wanted]

    def batch(self, size, leaves, dims, inner):
        operation, (_, of_residuals, of_outputs) = self.operation, self.trees
        axes = operation.arg_axes(self.cut(inner)[0])
        shared = [
            axis is None and (dim is not None or n in self.wanted)
            for n, (axis, dim) in enumerate(zip(axes, dims, strict=False))
        ]
        if not any(shared):
            outputs = of_outputs.unflatten(range(of_outputs.num_leaves))
            by_output = operation.result_axes(outputs)
            by_row = [*axes, *[operation.residual_axis] * of_residuals.num_leaves]
            by_row += [by_output[n] for n in self.given]
            found = _bind_once(self, _folded(leaves, dims, by_row, size))
            return _unfolded(found, [axes[n] for n in self.wanted], size)

        # each mapped call must return its own gradients; the gradient of an operand
        # that is not mapped would be the sum over all calls
        own = [n in self.wanted for n in range(len(axes))]
        dims_of_args = tuple(0 if own[n] else dims[n] for n in range(len(axes)))
        repeated = [
            _spread(leaf, dims[n], size) if n >= len(axes) or own[n] else leaf
            for n, leaf in enumerate(leaves)
        ]
        mapped = operation.mapped(dims_of_args, size, axes)
        return _bind_once(replace(self, operation=mapped), repeated)


_Pass = _Forward | _Tangents | _Backward


def _bind(one: _Forward | _Backward, leaves: Leaves) -> Any:
    """Run a pass as a JAX primitive. Without a custom pass, its twin is run."""
    run = partial(one.run, bool(one.operation.platforms))
    traced, shapes = jax.make_jaxpr(run, return_shape=True)(*leaves)
    avals = traced.out_avals
    if jax.sharding.get_abstract_mesh().manual_axes:
        # compiled code does not say over which axes its results vary, its twin does
        avals = jax.make_jaxpr(partial(one.run, False))(*leaves).out_avals
    results = _primitive.bind(*leaves, one=one, traced=traced, avals=tuple(avals))
    return jax.tree.structure(shapes).unflatten(results)


_bind_once = jax.jit(_bind, static_argnums=0, inline=True)
"""Version of `_bind` that traces a pass once, also outside of `jit`."""


def _jvp(
    function: Callable, leaves: Leaves, given: Sequence[int], tangents: Leaves
) -> Leaves:
    """Return the tangents of the results of `function(*leaves)`. There is one tangent
    for each index in `given`.
    """

    def of_given(*values):
        known = dict(zip(given, values, strict=True))
        return jax.tree.leaves(
            function(*(known.get(n, leaf) for n, leaf in enumerate(leaves)))
        )

    return jax.jvp(of_given, tuple(leaves[n] for n in given), tuple(tangents))[1]


def _run_jitted(*leaves, **params) -> Leaves:
    # under jax.disable_jit() this function would call itself without end
    with jax.disable_jit(False):
        return jax.jit(partial(_primitive.bind, **params))(*leaves)


def _lower(platform: str, context, *leaves, one: _Pass, traced, avals):
    del avals
    # an exported program must also run on machines without the compiled code
    exported = getattr(context.module_context.lowering_parameters, "for_export", False)
    platforms = one.operation.platforms
    if traced and (not platforms or (platform in platforms and not exported)):
        run = jaxpr_as_fun(traced)
    else:

        def run(*leaves):
            return jax.tree.leaves(one.run(False, *leaves))

    return mlir.lower_fun(run, multiple_results=True)(context, *leaves)


def _differentiate(primals, tangents, *, one: _Pass, **options):
    zero = [isinstance(t, ad.Zero) or t.dtype == jax.dtypes.float0 for t in tangents]
    given = tuple(n for n, is_zero in enumerate(zero) if not is_zero)
    tangents = [tangents[n] for n in given]
    # a second derivative differentiates the residuals too
    if not isinstance(one, _Forward) or one.keep:
        results = _primitive.bind(*primals, one=one, **options)
        return results, _jvp(partial(one.run, False), primals, given, tangents)

    outputs, residuals = _bind(replace(one, keep=True), primals)
    trees = (one.tree, jax.tree.structure(residuals), jax.tree.structure(outputs))
    results = jax.tree.leaves(outputs)
    # not traced: reverse mode transposes it
    new = _primitive.bind(
        *primals,
        *jax.tree.leaves(residuals),
        *tangents,
        one=_Tangents(one.operation, trees, given),
        traced=None,
        avals=tuple(jax.typeof(leaf).to_tangent_aval() for leaf in results),
    )
    return results, new


def _transpose(cotangents, *leaves, one: _Tangents, **options):
    del options
    given = len(leaves) - len(one.given)
    known = tuple(
        n
        for n, cotangent in enumerate(cotangents)
        if not isinstance(cotangent, ad.Zero)
    )
    found = {
        n: ad.Zero(t.aval)
        for n, t in zip(one.given, leaves[given:], strict=True)
        if ad.is_undefined_primal(t)
    }
    if known:
        backward = _Backward(one.operation, one.trees, known, tuple(found))
        operands = [*leaves[:given], *(cotangents[n] for n in known)]
        found = dict(zip(found, _bind_once(backward, operands), strict=True))
    return [None] * given + [found.get(n) for n in one.given]


def _batch(leaves, dims, *, one: _Pass, traced, avals):
    del traced
    each = [*zip(leaves, dims, strict=True)]
    size = next(leaf.shape[dim] for leaf, dim in each if dim is not None)
    if not size:  # `vmap` makes no call
        results = [jnp.zeros((0, *like.shape), like.dtype) for like in avals]
        return results, [0] * len(results)
    leaves = [leaf if dim is None else jnp.moveaxis(leaf, dim, 0) for leaf, dim in each]
    inner = [
        leaf if dim is None else jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype)
        for leaf, dim in zip(leaves, dims, strict=True)
    ]
    dims = tuple(None if dim is None else 0 for dim in dims)
    results = one.batch(size, leaves, dims, inner)
    return results, [0] * len(results)


_primitive = Primitive("lstm_jax_operation")
_primitive.multiple_results = True
_primitive.def_impl(_run_jitted)
_primitive.def_abstract_eval(lambda *leaves, avals, **options: avals)
for _platform in PLATFORMS:
    mlir.register_lowering(_primitive, partial(_lower, _platform), platform=_platform)
ad.primitive_jvps[_primitive] = _differentiate
ad.primitive_transposes[_primitive] = _transpose
batching.primitive_batchers[_primitive] = _batch


def _spread(leaf, dim: int | None, size: int):
    return jnp.broadcast_to(leaf[None], (size, *leaf.shape)) if dim is None else leaf


def _folded(leaves: Leaves, dims: Axes, axes: Axes, size: int) -> Leaves:
    """Merge the leading axis, over which `vmap` maps, into the batch axis of each array
    that has one.
    """

    def fold(leaf, dim, axis):
        if axis is None:
            return leaf
        moved = jnp.moveaxis(_spread(leaf, dim, size), 0, axis)
        return lax.collapse(moved, axis, axis + 2)

    return [fold(*each) for each in zip(leaves, dims, axes, strict=True)]


def _unfolded(tree, axes: Axes, size: int) -> Leaves:
    def unfold(leaf, axis):
        shape = list(leaf.shape)
        shape[axis : axis + 1] = size, shape[axis] // size
        return jnp.moveaxis(leaf.reshape(shape), axis, 0)

    return [unfold(*each) for each in zip(jax.tree.leaves(tree), axes, strict=True)]


@frozen
class Vmapped(Operation):
    """Operation that runs `inner` several times by `jax.vmap`. `Operation.mapped`
    describes the other fields.
    """

    inner: Operation
    dims: tuple[int | None, ...]
    size: int
    axes: tuple[int | None, ...]

    @property
    def residual_axis(self) -> int:
        return self.inner.residual_axis + 1

    @property
    def platforms(self):
        return self.inner.platforms

    def _over(self, function: Callable, args: tuple, *more):
        leaves, tree = jax.tree.flatten(args)
        in_axes = (list(self.dims), *(0 for _ in more))
        return jax.vmap(
            lambda leaves, *more: function(tree.unflatten(leaves), *more), in_axes
        )(leaves, *more)

    def forward(self, custom, keep, *args):
        return self._over(lambda args: self.inner.forward(custom, keep, *args), args)

    def backward(self, custom, wanted, args, residuals, cotangents):
        tree = jax.tree.structure(args)
        run = partial(self.inner.backward, custom, wanted)
        gradients = tree.flatten_up_to(self._over(run, args, residuals, cotangents))
        each = zip(self.dims, tree.flatten_up_to(wanted), gradients, strict=True)
        summed = [
            None if not want else gradient if dim == 0 else gradient.sum(0)
            for dim, want, gradient in each
        ]
        return tree.unflatten(summed)

    def arg_axes(self, args: tuple) -> Axes:
        return [
            axis if axis is None or dim is None else axis + 1
            for axis, dim in zip(self.axes, self.dims, strict=True)
        ]

    def result_axes(self, outputs) -> list[int]:
        return [axis + 1 for axis in self.inner.result_axes(outputs)]
