"""Attribution of an output of a model to the steps of its input, by gradients.

T is the number of steps of the input and E the number of features of a step.
"""

import inspect
import operator
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Array
from numpy import ndarray

from lstm_jax.base.checks import frozen
from lstm_jax.base.errors import require

Function = Callable[..., Array]  # called as function(inputs, *args)
MOST_POINTS = 2048
"""Largest number of points at which `integrated_gradients` computes the gradient."""
_AT_ONCE = 16
"""Number of gradients that are computed at the same time."""


@frozen
class Attribution:
    """Result of integrated gradients: the contribution of each step of an input to the
    output of a model.

    The contributions are relative to a second input, the baseline. Up to a numerical
    error, their sum is the output for the input minus the output for the baseline.
    """

    values: ndarray
    """float64 (T,): contribution of each step to the difference, summed over the
    features of the step."""
    difference: float
    """Output for the input minus output for the baseline."""
    error: float
    """Absolute difference between the sum of `values` and `difference`. It comes from
    the finite number of points and from rounding."""
    points: int
    """Number of points at which the gradient was computed."""


def integrated_gradients(
    function: Function,
    inputs: Array,
    *args,
    baseline: Array | None = None,
    tolerance: float = 1e-3,
) -> Attribution:
    """Return how much each step of an input contributes to an output, by integrated
    gradients (Sundararajan, Taly & Yan 2017).

    The gradient is integrated along the straight line from a baseline to the input by
    Gauss-Legendre quadrature. The number of points is doubled until the sum of all
    contributions is, up to `tolerance`, the output for the input minus the output for
    the baseline, or until there are `MOST_POINTS` points.

    Args:
        function: a function that is called as function(inputs, *args) and returns a
            scalar, the output. A method of an object that is no NNX module is compiled
            once for each shape of the arguments: parameters that change must be passed
            in `args`. Any other function is compiled at each call.
        inputs: the input (T, E).
        args: further arguments of the function: pytrees of arrays, such as parameters.
        baseline: the baseline (T, E). If None, it is zeros.
        tolerance: largest accepted absolute difference of the sum; see above.

    Raises:
        InputError: if `inputs` are no floats, have another number of axes than 2 or no
            elements, if `baseline` has another shape than `inputs`, or if the function
            does not return a scalar.
    """
    _check_inputs(inputs)
    start = jnp.zeros_like(inputs) if baseline is None else baseline
    require(
        start.shape == inputs.shape,
        "baseline",
        f"shape {start.shape}",
        f"give the shape of the inputs, {inputs.shape}",
    )
    step = inputs - start
    output_of = _compiled(operator.call, function)
    shares_of = _compiled(_shares, function)
    output = output_of(inputs, *args)
    _check_axes("function", output, 0, "return a scalar")
    difference = float(output) - float(output_of(start, *args))
    points = _AT_ONCE
    while True:
        places, weights = np.polynomial.legendre.leggauss(points)
        found = np.asarray(
            shares_of(start, step, jnp.asarray((places + 1) / 2, inputs.dtype), *args),
            np.float64,
        )
        values = (weights[:, None] / 2 * found).sum(0)
        error = abs(float(values.sum()) - difference)
        if error <= tolerance or points >= MOST_POINTS:
            return Attribution(values, difference, error, points)
        points *= 2


def _check_inputs(inputs: Array) -> None:
    valid = (
        inputs.ndim == 2
        and inputs.size > 0
        and jnp.issubdtype(inputs.dtype, jnp.floating)
    )
    require(valid, "inputs", jax.typeof(inputs), "give floats (T, E) with elements")


def _check_axes(name: str, output: Any, axes: int, remedy: str) -> None:
    shape = getattr(output, "shape", None)
    require(
        shape is not None and len(shape) == axes,
        name,
        type(output).__name__ if shape is None else f"shape {shape}",
        remedy,
    )


def _compiled(plain: Callable[..., Any], function: Function) -> Callable[..., Any]:
    if inspect.ismethod(function) and not isinstance(function.__self__, nnx.Module):
        return partial(_cached(plain), function)
    return jax.jit(partial(plain, function))


_cached = cache(partial(jax.jit, static_argnums=0))


def _shares(
    function: Function, start: Array, step: Array, places: Array, *args
) -> Array:
    gradient = jax.grad(function)
    return lax.map(
        lambda place: (gradient(start + place * step, *args) * step).sum(-1),
        places,
        batch_size=_AT_ONCE,
    )


def gradient_norms(function: Function, inputs: Array, *args) -> Array:
    """Return an array (K, T): the Euclidean norms of the gradients of K outputs with
    respect to the features of each step of the input.

    `function` returns the outputs, an array (K,). `integrated_gradients` describes the
    arguments and errors.
    """
    _check_inputs(inputs)
    return _compiled(_norms, function)(inputs, *args)


def _norms(function: Function, inputs: Array, *args) -> Array:
    outputs, pull_back = jax.vjp(lambda given: function(given, *args), inputs)
    _check_axes("outputs", outputs, 1, "return an array (K,)")
    rows = jnp.eye(outputs.shape[0], dtype=outputs.dtype)
    return lax.map(
        lambda row: jnp.linalg.norm(pull_back(row)[0], axis=-1),
        rows,
        batch_size=_AT_ONCE,
    )


def reach(norms: ndarray | Array, share: float = 0.9) -> ndarray:
    """Return how many earlier steps of the input matter to each output, as an int array
    (K,).

    Output k comes after step s = T - K + k. Its result is the smallest n for which the
    norms of the steps s - n to s sum to at least `share` times the sum of the norms of
    the steps 0 to s, or 0 if one of these norms is not finite.

    Args:
        norms: norms (K, T), as `gradient_norms` returns them.
        share: fraction of the sum of the norms, above 0 and at most 1.

    Raises:
        InputError: if `share` is not above 0 and at most 1, or if `norms` is no array
            (K, T) with K at most T.
    """
    require(0 < share <= 1, "share", share, "give a number above 0, at most 1")
    require(
        norms.ndim == 2 and norms.shape[0] <= norms.shape[1],
        "norms",
        f"shape {norms.shape}",
        "give (K, T), with K at most T",
    )
    rows = np.asarray(norms, np.float64)
    count, steps = rows.shape
    reached = np.zeros(count, int)
    for k, row in enumerate(rows):
        backwards = np.cumsum(row[: steps - count + k + 1][::-1])
        if np.isfinite(backwards[-1]):
            reached[k] = np.searchsorted(backwards, share * backwards[-1] * (1 - 1e-12))
    return reached
