"""Newton's method for recurrent cells (DEER, Lim et al. 2024, "Parallelizing non-linear
sequential models"): the states of all steps at once.

The states s solve the equations s[t] = f(s[t - 1], z[t]), where f is a step of the cell
and z its projected input. An iteration evaluates all steps and their Jacobians at the
current guess of the states, without a loop over time, and then solves a linear
recurrence with a parallel scan. With full Jacobians, its work grows with the cube of
the number of state components. With their diagonal blocks, one for each unit, it is
proportional to the number of units, but more iterations are needed (quasi-DEER,
Gonzalez et al. 2024, "Towards scalable and stable parallelization of nonlinear RNNs").
Each iteration makes at least one more state exact, so that T always suffice.

B is the batch size, T the number of steps and H the number of units. The K arrays of a
state, h and c of an LSTM, are one array (B, H, K).
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from lstm_jax.cells import Cell


@dataclass(frozen=True)
class Newton:
    """Options of Newton's method.

    Attributes:
        jacobian: "full" uses the whole Jacobian of a step. "diagonal" uses only its
            diagonal blocks, one matrix K x K for each unit: the derivatives of the
            state of the unit with respect to its previous state.
        damping: weight of the damping (ELK, Gonzalez et al. 2024), which makes the
            changes of an iteration smaller; see `damped_scan`. 0 means no damping.
        tolerance: the iterations end when the difference between the two sides of each
            equation, divided by max(1, absolute value of the right side), is at most
            this number.
        limit: largest number of iterations.
    """

    jacobian: Literal["full", "diagonal"]
    damping: float
    tolerance: float
    limit: int


class Solution(NamedTuple):
    """Result of `solve_states`.

    Attributes:
        states: the state of the cell after each step, with arrays (T, B, H).
        iterations: number of iterations, an int32 scalar.
        residual: largest absolute difference, over all entries of `states`, between the
            state s[t] and the result of the cell's step from s[t - 1].
    """

    states: Any
    iterations: Array
    residual: Array


def solve_states(
    cell: Cell, params, x: Array, initial_state, options: Newton
) -> Solution:
    """Compute the state of a cell after each step by Newton's method, which starts from
    a guess of zeros.

    x holds ids (T, B) or vectors (T, B, E). For "diagonal", each column of the product
    of h and the recurrent kernel must be used by only one gate of one unit, as in
    `lstm` and `gru`.
    """
    z = cell.project(params, x, None, None)
    start = jnp.stack(initial_state, axis=-1)  # (B, H, K)
    shape = (len(z), *start.shape)
    full = options.jacobian == "full"

    def evaluate(states):
        after = _steps(cell, params, z, _before(states, start))
        scale = jnp.where(jnp.isfinite(after), jnp.maximum(1, jnp.abs(after)), 1)
        return after, (_differences(states, after) / scale).max()

    def goes_on(carry):
        _, _, error, count = carry
        return (error > options.tolerance) & (count < options.limit)

    def iteration(carry):
        states, after, _, count = carry
        jacobians = _jacobians(cell, params, z, _before(states, start), full)
        violated = after - states
        if options.damping:
            change = damped_scan(jacobians, violated, options.damping)
        else:
            change = linear_scan(jacobians, violated)
        new = states + change.reshape(shape)

        # the step after an exact state is exact; elsewhere, products of large Jacobians
        # may overflow
        exact = jnp.arange(len(z), dtype=jnp.int32)[:, None, None, None] <= count
        new = jnp.where(jnp.isfinite(new) & ~exact, new, after)
        return new, *evaluate(new), count + 1

    guess = jnp.zeros(shape, start.dtype)
    states, after, _, count = lax.while_loop(
        goes_on, iteration, (guess, *evaluate(guess), jnp.int32(0))
    )
    named = type(initial_state)(*jnp.unstack(states, axis=-1))
    return Solution(named, count, _differences(states, after).max())


def _own_units(params, h: Array, z: Array):
    """Change the parameters and the input z of a step so that its derivatives with
    respect to h have no terms between different units.
    """
    # In the recurrent kernel of each gate only the diagonal is kept. The product of h
    # and the other entries is treated as a constant, which is added to z or, for a GRU,
    # to the recurrent bias. The values of the step stay the same, apart from rounding.
    kernel = params.recurrent_kernel
    units, gates = len(kernel), kernel.shape[1] // len(kernel)
    own = kernel * jnp.tile(jnp.eye(units, dtype=kernel.dtype), (1, gates))
    others = lax.stop_gradient(h) @ (kernel - own)
    params = params._replace(recurrent_kernel=own)
    if not hasattr(params, "recurrent_bias"):
        return params, z + others
    bias = jnp.broadcast_to(params.recurrent_bias, others.shape)
    return params._replace(recurrent_bias=bias + others), z


def _steps(cell: Cell, params, z: Array, before: Array, own: bool = False) -> Array:
    """Compute all steps of the cell in parallel, each from the given state before it,
    and return the states (T, B, H, K) after them.

    If `own` is true, the derivatives of the result leave out the terms between
    different units; see `_own_units`.
    """
    state = type(cell.state_like())

    def step(before, z):
        first = state(*jnp.unstack(before, axis=-1))
        used = _own_units(params, first.h, z) if own else (params, z)
        new = cell.step(used[0], first, used[1], None, None)
        return jnp.stack(new, axis=-1)

    return jax.vmap(step)(before, z)


def _before(states: Array, start: Array) -> Array:
    return jnp.concatenate([start[None], states[:-1]])


def _jacobians(cell: Cell, params, z: Array, before: Array, full: bool) -> Array:
    """Return the Jacobians (T, B, 1, H * K, H * K) of all steps with respect to the
    states before the steps, or their diagonal blocks (T, B, H, K, K).
    """
    units, count = before.shape[2:]

    def push(direction):
        steps = partial(_steps, cell, params, z, own=not full)
        tangent = jnp.broadcast_to(direction, before.shape)
        return jax.jvp(steps, (before,), (tangent,))[1]

    if not full:
        columns = [push(direction) for direction in jnp.eye(count, dtype=before.dtype)]
        return jnp.stack(columns, axis=-1)
    flat = units * count
    directions = jnp.eye(flat, dtype=before.dtype).reshape(flat, units, count)
    pushed = jax.vmap(push)(directions).reshape(flat, *before.shape[:2], flat)
    return jnp.moveaxis(pushed, 0, -1)[:, :, None]


def _differences(found: Array, wanted: Array) -> Array:
    """Return absolute differences: 0 where both arrays are NaN or the same infinity,
    infinite where only one is NaN.
    """
    off = jnp.abs(wanted - found)
    equal = (found == wanted) | (jnp.isnan(found) & jnp.isnan(wanted))
    return jnp.where(equal, 0, jnp.where(jnp.isnan(off), jnp.inf, off))


# Parallel scans over time for linear recurrences with block diagonal matrices. Vectors
# are stored as (T, ..., n), and the diagonal blocks of the matrices as (T, ..., n, n).
# Each index along the middle axes is a separate recurrence with n components.
_SMALL = 4
"""Largest n for which products are computed elementwise, which XLA computes faster than
a batched matrix product."""


def _dot(a: Array, b: Array) -> Array:
    if a.shape[-1] > _SMALL:
        return a @ b
    return (a[..., :, :, None] * b[..., None, :, :]).sum(-2)


def _apply(a: Array, v: Array) -> Array:
    return (a * v[..., None, :]).sum(-1)


def _inverse(a: Array) -> Array:
    if a.shape[-1] == 1:
        return 1 / a
    if a.shape[-1] == 2:
        p, q, r, s = a[..., 0, 0], a[..., 0, 1], a[..., 1, 0], a[..., 1, 1]
        adjugate = jnp.stack([jnp.stack([s, -q], -1), jnp.stack([-r, p], -1)], -2)
        return adjugate / (p * s - q * r)[..., None, None]
    return jnp.linalg.inv(a)


def linear_scan(a: Array, b: Array, reverse: bool = False) -> Array:
    """Return the solution v (T, ..., n) of the linear recurrence v[t] = a[t] v[t - 1] +
    b[t], where v before the first step is 0.

    b is reshaped to (T, ..., n). If `reverse` is true, the recurrence is v[t] = a[t]
    v[t + 1] + b[t], where v after the last step is 0.
    """

    def compose(first, second):
        return _dot(second[0], first[0]), _apply(second[0], first[1]) + second[1]

    terms = (a, b.reshape(a.shape[:-1]))
    return lax.associative_scan(compose, terms, reverse=reverse)[1]


class _Filtered(NamedTuple):
    """Summary of some consecutive steps in the parallel Kalman filter of Särkkä &
    García-Fernández (2021).
    """

    # Let s be the state before these steps. Given s and the observations in these
    # steps, the state after them has the mean a s + b and the covariance c. The
    # likelihood of the observations, given s, is proportional to exp(eta^T s - s^T j s
    # / 2). `a`, `c` and `j` are matrices, and `b` and `eta` are vectors.

    a: Array
    b: Array
    c: Array
    eta: Array
    j: Array


def _compose(first: _Filtered, second: _Filtered) -> _Filtered:
    """Return the summary of the steps of `first` and the following steps of `second`
    (Särkkä & García-Fernández 2021, lemma 8).
    """
    product = _dot(first.c, second.j)
    eye = jnp.eye(product.shape[-1], dtype=product.dtype)
    gain = _inverse(jnp.broadcast_to(eye, product.shape) + product)
    forward = _dot(second.a, gain)
    back = _dot(gain, first.a).mT
    return _Filtered(
        _dot(forward, first.a),
        _apply(forward, first.b + _apply(first.c, second.eta)) + second.b,
        _dot(_dot(forward, first.c), second.a.mT) + second.c,
        _apply(back, second.eta - _apply(second.j, first.b)) + first.eta,
        _dot(_dot(back, second.j), first.a) + first.j,
    )


def damped_scan(a: Array, b: Array, damping: float) -> Array:
    """Return vectors v (T, ..., n) that are small and approximately satisfy a linear
    recurrence.

    The recurrence is v[t] = a[t] v[t - 1] + b[t], as in `linear_scan`. The vectors
    minimise the sum over t of |v[t] - a[t] v[t - 1] - b[t]|^2 + damping |v[t]|^2, where
    v before the first step is 0. Each iteration of the Levenberg-Marquardt method
    minimises such a sum. The vectors that minimise it are the means of a Kalman
    smoother (Gonzalez et al. 2024), which parallel scans compute (Särkkä &
    García-Fernández 2021, "Temporal parallelization of Bayesian smoothers").
    """
    a, b = a.at[0].set(0), b.reshape(a.shape[:-1])

    # of a Kalman filter that observes v[t] = 0 with variance 1 / damping, where each
    # step adds variance 1
    gain = damping / (1 + damping)
    eye = jnp.broadcast_to(jnp.eye(a.shape[-1], dtype=a.dtype), a.shape)
    back = a.mT * gain
    elements = _Filtered(
        (1 - gain) * a,
        (1 - gain) * b,
        (1 - gain) * eye,
        -_apply(back, b),
        _dot(back, a),
    )
    filtered = lax.associative_scan(_compose, elements)

    # those of the step after each step, zeros after the last one
    next_a, next_b = (jnp.concatenate([p[1:], jnp.zeros_like(p[:1])]) for p in (a, b))
    cross = _dot(filtered.c, next_a.mT)
    smoothing = _dot(cross, _inverse(_dot(next_a, cross) + eye))
    shift = _apply(smoothing, _apply(next_a, filtered.b) + next_b)
    return linear_scan(smoothing, filtered.b - shift, reverse=True)
