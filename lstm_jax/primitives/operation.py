"""Operations with custom forward and backward passes that support all transformations of JAX.

`apply(operation, *args)` runs an `Operation`. The custom passes may be compiled code that JAX cannot differentiate. Therefore each
operation also has a twin, which is the same computation written in JAX.
- Reverse mode runs the custom passes. Forward mode and derivatives of order 2 and higher differentiate the twin.
- `vmap` merges the mapped axis with the batch axis. If a mapped or differentiated leaf (array) has no batch axis, the operation that
  `Operation.mapped` returns is run instead.
- The custom passes run on the platforms that `Operation.runs_on` returns. Other platforms and exported programs run the twin.

JAX sees three primitives, which are named forward, tangents and backward. The derivative (JVP) of the primitive forward is the primitive
tangents. The primitive tangents is linear, and its transpose is the primitive backward.

A leaf is one array of a pytree. The index of a leaf is its position in the list that `jax.tree.leaves` returns.
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Primitive, jaxpr_as_fun
from jax.interpreters import ad, batching, mlir

Leaves = Sequence[Any]
PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


class Operation:
    """Base class of operations. An operation is a function of pytrees of arrays that has custom forward and backward passes.

    Subclasses are frozen dataclasses, whose fields are static options of a JAX program. Several methods have these arguments:
    - `keep`: whether the forward pass also returns residuals, which are the arrays that the backward pass reads.
    - `wanted`: a tree with the structure of `args` that is True where a gradient is wanted, else False.
    - `cotangents`: the gradients with respect to the outputs, in the structure of the outputs. A gradient that is zero is None.
    """

    @abstractmethod
    def forward(self, keep: bool, *args) -> tuple[Any, Any]:
        """Run the forward pass and return (outputs, residuals). The residuals, which `backward` reads, are None if `keep` is false."""

    @abstractmethod
    def backward(self, wanted: Any, args: tuple, residuals: Any, cotangents: Any) -> tuple:
        """Return the gradients with respect to `args` as a tuple of the same structure."""

    @abstractmethod
    def plain_forward(self, keep: bool, *args) -> tuple[Any, Any]:
        """Return the same results as `forward`. This method is its twin: it uses ordinary JAX operations instead of compiled code."""

    def plain_backward(self, wanted: Any, args: tuple, residuals: Any, cotangents: Any) -> tuple:
        """Return the same results as `backward`, computed by ordinary JAX operations instead of compiled code."""
        del residuals
        leaves, tree = jax.tree.flatten(args)
        given = [n for n, want in enumerate(tree.flatten_up_to(wanted)) if want]
        function = _of_leaves(given, lambda *leaves: self.plain_forward(False, *tree.unflatten(leaves))[0], leaves)
        outputs, pull = jax.vjp(function, *(leaves[n] for n in given))
        flat, out_tree = jax.tree.flatten(outputs)
        filled = [jnp.zeros_like(o) if d is None else d for o, d in zip(flat, out_tree.flatten_up_to(cotangents), strict=True)]
        gradients = dict(zip(given, pull(out_tree.unflatten(filled)), strict=True))
        return tree.unflatten([gradients.get(n) for n in range(len(leaves))])

    @abstractmethod
    def runs_on(self) -> tuple[str, ...]:
        """Return the platforms, such as "cpu", on which `forward` and `backward` run."""

    @abstractmethod
    def rows(self, args: tuple) -> list[int | None]:
        """Return a list with one entry for each array in `args`: the index of its batch axis, or None if it has no batch axis."""

    @abstractmethod
    def output_rows(self, outputs: Any) -> list[int]:
        """Return a list with the index of the batch axis of each array in the outputs."""

    def residual_rows(self, residuals: Any) -> list[int]:
        """Return a list with the index of the batch axis of each array in the residuals. This base class returns 1 for every array."""
        return [1] * len(jax.tree.leaves(residuals))

    def mapped(self, dims: tuple[int | None, ...], size: int) -> "Operation":
        """Return an operation that runs this operation `size` times, on arguments that are stacked along a leading axis."""
        return Vmapped(self, dims, size)


class ForwardOperation(Operation):
    """Base class of operations without a custom backward pass. JAX computes their gradients by differentiating `plain_forward`."""

    def backward(self, wanted, args, residuals, cotangents):
        return self.plain_backward(wanted, args, residuals, cotangents)

    def rows(self, args: tuple) -> list[int | None]:
        return [None] * len(jax.tree.leaves(args))

    def output_rows(self, outputs) -> list[int]:
        return []


def _of_leaves(given: Sequence[int], function: Callable, leaves: Leaves) -> Callable:
    """Return `function(*leaves)` as a function of the leaves whose indices are in `given`."""

    def of_given(*values):
        filled = list(leaves)
        for n, value in zip(given, values, strict=True):
            filled[n] = value
        return function(*filled)

    return of_given


def _jvp(function: Callable, leaves: Leaves, given: Sequence[int], tangents: Leaves) -> Leaves:
    """Return the tangents of the results of `function(*leaves)`. There is one tangent for each index in `given`."""
    return jax.jvp(_of_leaves(given, function, leaves), tuple(leaves[n] for n in given), tuple(tangents))[1]


def apply(operation: Operation, *args):
    """Run an operation on the arguments `args`, which are pytrees of arrays, and return its outputs."""
    return _apply(operation, args)


@partial(jax.jit, static_argnums=0, inline=True)
def _apply(operation: Operation, args: tuple):
    leaves, tree = jax.tree.flatten(args)
    outputs, _ = _run_forward(operation, False, tree, leaves)
    return outputs


def _run_forward(operation: Operation, keep: bool, tree, leaves: Leaves) -> tuple[Any, Any]:
    """Run `operation.forward` as a JAX primitive, and return (outputs, residuals)."""

    def compiled(*leaves):
        return operation.forward(keep, *tree.unflatten(leaves))

    def plain(*leaves):
        return operation.plain_forward(keep, *tree.unflatten(leaves))

    branches, out_tree = _trace(operation, compiled, plain, leaves)
    return out_tree.unflatten(_forward.bind(*leaves, operation=operation, keep=keep, tree=tree, branches=branches))


@partial(jax.jit, static_argnums=(0, 1, 2, 3), inline=True)  # gradients outside of jit are traced once
def _run_backward(operation: Operation, wanted: tuple[int, ...], trees: tuple, given: tuple[int, ...], leaves: Leaves) -> Leaves:
    """Run the backward pass as a JAX primitive, and return the gradients of the argument leaves whose indices are in `wanted`."""
    functions = (operation.backward, operation.plain_backward)
    compiled, plain = (partial(_call_backward, function, wanted, trees, given) for function in functions)
    branches, _ = _trace(operation, compiled, plain, leaves)
    return _backward.bind(*leaves, operation=operation, wanted=wanted, trees=trees, given=given, branches=branches)


def _call_backward(function: Callable, wanted: tuple[int, ...], trees: tuple, given: tuple[int, ...], *leaves) -> Leaves:
    args, residuals, cotangents = _cut(trees, leaves)
    flags = trees[0].unflatten([n in wanted for n in range(trees[0].num_leaves)])
    filled = dict(zip(given, cotangents, strict=True))
    by_output = trees[2].unflatten([filled.get(n) for n in range(trees[2].num_leaves)])
    gradients = function(flags, trees[0].unflatten(args), trees[1].unflatten(residuals), by_output)
    flat = trees[0].flatten_up_to(gradients)
    return [flat[n] for n in wanted]


def _cut(trees: tuple, leaves: Sequence) -> tuple[Sequence, Sequence, Sequence]:
    args, residuals = trees[0].num_leaves, trees[1].num_leaves
    return leaves[:args], leaves[args : args + residuals], leaves[args + residuals :]


def _trace(operation: Operation, compiled: Callable, plain: Callable, leaves: Leaves) -> tuple[tuple[ClosedJaxpr, ClosedJaxpr], Any]:
    twin, shapes = jax.make_jaxpr(plain, return_shape=True)(*leaves)
    return (jax.make_jaxpr(compiled)(*leaves) if operation.runs_on() else twin, twin), jax.tree.structure(shapes)


def _tangents(operation: Operation, trees: tuple, given: tuple[int, ...], *leaves) -> Leaves:
    """Return the tangents of an operation's outputs, computed by forward-mode differentiation of `plain_forward`."""
    args, _, tangents = _cut(trees, leaves)
    return _jvp(lambda *args: jax.tree.leaves(operation.plain_forward(False, *trees[0].unflatten(args))[0]), args, given, tangents)


def _run_compiled(primitive: Primitive, *leaves, **params) -> Leaves:
    with jax.disable_jit(False):  # under jax.disable_jit() this function would call itself without end
        return jax.jit(partial(primitive.bind, **params))(*leaves)


def _primitive(name: str) -> Primitive:
    made = Primitive(f"lstm_jax_{name}")
    made.multiple_results = True
    made.def_impl(partial(_run_compiled, made))
    made.def_abstract_eval(lambda *avals, branches, **params: branches[1].out_avals)

    def lower(platform: str, context, *leaves, operation, branches, **params):
        # an exported program must also run on machines without the compiled code
        exported = getattr(context.module_context.lowering_parameters, "for_export", False)
        here = platform in operation.runs_on() and not exported
        return mlir.lower_fun(jaxpr_as_fun(branches[0 if here else 1]), multiple_results=True)(context, *leaves)

    for platform in PLATFORMS:
        mlir.register_lowering(made, partial(lower, platform), platform=platform)
    return made


_forward, _linear, _backward = _primitive("forward"), _primitive("tangents"), _primitive("backward")


def _given(tangents: Leaves) -> tuple[tuple[int, ...], list[Any]]:
    """Return the indices of the tangents that are not zero, and these tangents."""
    found = [n for n, t in enumerate(tangents) if not (isinstance(t, ad.Zero) or t.dtype == jax.dtypes.float0)]
    return tuple(found), [tangents[n] for n in found]


def _forward_jvp(primals, tangents, *, operation, keep, tree, branches):
    del branches
    given, tangents = _given(tangents)
    outputs, residuals = _run_forward(operation, True, tree, primals)
    leaves = jax.tree.leaves((outputs, residuals if keep else None))
    if keep:  # a second derivative differentiates the residuals too
        return leaves, _jvp(lambda *args: jax.tree.leaves(operation.plain_forward(True, *tree.unflatten(args))), primals, given, tangents)
    trees = (tree, jax.tree.structure(residuals), jax.tree.structure(outputs))
    operands = [*primals, *jax.tree.leaves(residuals), *tangents]
    branches = (jax.make_jaxpr(partial(_tangents, operation, trees, given))(*operands),) * 2
    return leaves, _linear.bind(*operands, operation=operation, trees=trees, given=given, branches=branches)


def _linear_jvp(primals, tangents, **params):
    results = _linear.bind(*primals, **params)
    function = partial(_tangents, params["operation"], params["trees"], params["given"])
    return results, _jvp(function, primals, *_given(tangents))


def _linear_transpose(cotangents, *leaves, operation, trees, given, branches):
    del branches
    args, residuals, tangents = _cut(trees, leaves)
    known = tuple(n for n, cotangent in enumerate(cotangents) if not isinstance(cotangent, ad.Zero))
    zeros = {n: ad.Zero(tangent.aval) for n, tangent in zip(given, tangents, strict=True) if ad.is_undefined_primal(tangent)}
    operands = [*args, *residuals, *(cotangents[n] for n in known)]
    wanted = tuple(zeros)
    by_leaf = dict(zip(wanted, _run_backward(operation, wanted, trees, known, operands), strict=True)) if known else {}
    return [None] * (len(args) + len(residuals)) + [by_leaf.get(n, zeros.get(n)) for n in given]


def _backward_jvp(primals, tangents, *, operation, wanted, trees, given, branches):
    results = _backward.bind(*primals, operation=operation, wanted=wanted, trees=trees, given=given, branches=branches)
    return results, _jvp(partial(_call_backward, operation.plain_backward, wanted, trees, given), primals, *_given(tangents))


ad.primitive_jvps[_forward] = _forward_jvp
ad.primitive_jvps[_linear] = _linear_jvp
ad.primitive_jvps[_backward] = _backward_jvp
ad.primitive_transposes[_linear] = _linear_transpose


def _without_leading(leaves: Leaves, dims: Sequence[int | None]) -> list[Any]:
    """Return the arguments of one of the calls that `vmap` makes, as arrays or as shapes and dtypes."""
    return [leaf if dim is None else jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype) for leaf, dim in zip(leaves, dims, strict=True)]


def _spread(leaf, dim: int | None, size: int):
    return jnp.broadcast_to(leaf[None], (size, *leaf.shape)) if dim is None else leaf


def _fold(leaf, dim: int | None, axis: int | None, size: int):
    """Merge the leading axis, over which `vmap` maps, into the batch axis of an array."""
    if axis is None:
        return leaf
    whole = jnp.moveaxis(_spread(leaf, dim, size), 0, axis)
    return whole.reshape(*whole.shape[:axis], size * whole.shape[axis + 1], *whole.shape[axis + 2 :])


def _unfold(leaf, axis: int, size: int):
    """Undo `_fold`."""
    cut = leaf.reshape(*leaf.shape[:axis], size, leaf.shape[axis] // size, *leaf.shape[axis + 1 :])
    return jnp.moveaxis(cut, axis, 0)


def _batched(rule: Callable, run_inner: Callable):
    """Return a batching rule of JAX from rule(size, leaves, dims, inner, **params), whose leaves have the mapped axis in front."""

    def batch(leaves, dims, *, branches, **params):
        del branches
        size = next(leaf.shape[dim] for leaf, dim in zip(leaves, dims, strict=True) if dim is not None)
        leaves = [leaf if dim is None else jnp.moveaxis(leaf, dim, 0) for leaf, dim in zip(leaves, dims, strict=True)]
        dims = tuple(None if dim is None else 0 for dim in dims)
        inner = _without_leading(leaves, dims)
        if size:
            results = rule(size, leaves, dims, inner, **params)
        else:  # `vmap` makes no call
            shapes = jax.tree.leaves(jax.eval_shape(lambda *leaves: run_inner(leaves=leaves, **params), *inner))
            results = [jnp.zeros((0, *one.shape), one.dtype) for one in shapes]
        return results, [0] * len(results)

    return batch


def _forward_batch(size, leaves, dims, inner, operation, keep, tree) -> Leaves:
    axes = operation.rows(tree.unflatten(inner))
    if any(dim is not None and axis is None for dim, axis in zip(dims, axes, strict=True)):
        return jax.tree.leaves(_run_forward(operation.mapped(dims, size), keep, tree, leaves))
    folded = [_fold(*each, size) for each in zip(leaves, dims, axes, strict=True)]
    outputs, residuals = _run_forward(operation, keep, tree, folded)
    by_row = [*operation.output_rows(outputs), *(operation.residual_rows(residuals) if keep else [])]
    return [_unfold(leaf, axis, size) for leaf, axis in zip(jax.tree.leaves((outputs, residuals)), by_row, strict=True)]


def _backward_batch(size, leaves, dims, inner, operation, wanted, trees, given) -> Leaves:
    args, residuals, _ = _cut(trees, inner)
    axes = operation.rows(trees[0].unflatten(args))
    all_by_row = all(axes[n] is not None for n in wanted)
    if all_by_row and all(dim is None or axis is not None for dim, axis in zip(dims, axes, strict=False)):
        outputs = operation.output_rows(trees[2].unflatten(list(range(trees[2].num_leaves))))
        by_row = [*axes, *operation.residual_rows(trees[1].unflatten(residuals)), *(outputs[n] for n in given)]
        folded = [_fold(*each, size) for each in zip(leaves, dims, by_row, strict=True)]
        gradients = _run_backward(operation, wanted, trees, given, folded)
        return [_unfold(leaf, axes[n], size) for n, leaf in zip(wanted, gradients, strict=True)]
    # each mapped call must return its own gradients; the gradient of an operand that is not mapped would be the sum over all calls
    count = trees[0].num_leaves
    dims_of_args = tuple(0 if n in wanted else dim for n, dim in enumerate(dims[:count]))
    repeated = [_spread(leaf, dims[n], size) if n >= count or n in wanted else leaf for n, leaf in enumerate(leaves)]
    return _run_backward(operation.mapped(dims_of_args, size), wanted, trees, given, repeated)


def _linear_batch(leaves, dims, *, operation, trees, given, branches):
    del branches
    results = jax.vmap(partial(_tangents, operation, trees, given), in_axes=tuple(dims))(*leaves)
    return results, [0] * len(results)


batching.primitive_batchers[_forward] = _batched(_forward_batch, _run_forward)
batching.primitive_batchers[_backward] = _batched(_backward_batch, _run_backward)
batching.primitive_batchers[_linear] = _linear_batch


@dataclass(frozen=True)
class Vmapped(Operation):
    """Operation that runs `inner` several times by `jax.vmap`. `Operation.mapped` describes the fields `dims` and `size`."""

    inner: Operation
    dims: tuple[int | None, ...]
    size: int

    def runs_on(self) -> tuple[str, ...]:
        return self.inner.runs_on()

    def _over(self, function: Callable, args: tuple, *more):
        leaves, tree = jax.tree.flatten(args)
        return jax.vmap(lambda leaves, *more: function(tree.unflatten(leaves), *more), (list(self.dims), *(0 for _ in more)))(leaves, *more)

    def forward(self, keep: bool, *args):
        return self._over(lambda args: self.inner.forward(keep, *args), args)

    def plain_forward(self, keep: bool, *args):
        return self._over(lambda args: self.inner.plain_forward(keep, *args), args)

    def backward(self, wanted, args, residuals, cotangents):
        return self._back(self.inner.backward, wanted, args, residuals, cotangents)

    def plain_backward(self, wanted, args, residuals, cotangents):
        return self._back(self.inner.plain_backward, wanted, args, residuals, cotangents)

    def _back(self, function: Callable, wanted, args, residuals, cotangents):
        tree = jax.tree.structure(args)

        def call(args, residuals, cotangents):
            flat = tree.flatten_up_to(function(wanted, args, residuals, cotangents))
            return [gradient for gradient, want in zip(flat, tree.flatten_up_to(wanted), strict=True) if want]

        found = iter(self._over(call, args, residuals, cotangents))
        pairs = zip(self.dims, tree.flatten_up_to(wanted), strict=True)
        return tree.unflatten([None if not want else next(found) if dim == 0 else next(found).sum(0) for dim, want in pairs])

    def rows(self, args: tuple) -> list[int | None]:
        leaves, tree = jax.tree.flatten(args)
        axes = self.inner.rows(tree.unflatten(_without_leading(leaves, self.dims)))
        return [axis if axis is None or dim is None else axis + 1 for axis, dim in zip(axes, self.dims, strict=True)]

    def output_rows(self, outputs) -> list[int]:
        return [axis + 1 for axis in self.inner.output_rows(outputs)]

    def residual_rows(self, residuals) -> list[int]:
        return [axis + 1 for axis in self.inner.residual_rows(residuals)]
