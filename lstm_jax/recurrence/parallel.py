"""The backend `parallel`, which computes the states of all steps of a nonlinear cell at
once, by Newton's method.

The method is DEER (Lim et al. 2024, "Parallelizing non-linear sequential models").

An iteration evaluates the steps s[t] = f(s[t - 1], x[t]) and their Jacobians at the
current guess of all states s, without a loop over time, and then solves a linear
recurrence with a parallel scan. With full Jacobians, its work grows with the cube of
the number of state components. With their diagonal blocks, one for each unit, it is
proportional to the number of units, but more iterations are needed (quasi-DEER,
Gonzalez et al. 2024, "Towards scalable and stable parallelization of nonlinear RNNs").
Each iteration makes at least one more state exact, so that T always suffice. Gradients
are the solution of another linear recurrence, by the implicit function theorem.

B is the batch size, T the number of steps and H the number of units. The K arrays of a
state, h and c of an LSTM, are one array (B, H, K).
"""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from lstm_jax.base.checks import frozen
from lstm_jax.base.errors import require
from lstm_jax.cells import Cell
from lstm_jax.cells.products import Mask, masked_matmul
from lstm_jax.native.partition import vary_together
from lstm_jax.recurrence.call import Call, Options, restart, select_rows

NEWTON_CELLS = (
    "lstm",
    "gru",
    "simple_rnn",
    "lstm_peephole",
    "lstm_no_input_gate",
    "lstm_no_forget_gate",
    "lstm_no_output_gate",
    "lstm_coupled",
    "lstm_no_input_activation",
    "lstm_no_output_activation",
)
"""Names of the cells that the backend `parallel` supports.

In these cells each column of the product of h and the recurrent kernel is used by only
one gate of one unit, as `_own_units` requires.
"""
_LARGEST_FULL = 16
"""Largest number of state components, H * K, for which the full Jacobian is the
default."""
_ROUNDINGS = 16
"""Relative error at which the iterations end by default, in units of the machine
epsilon of the dtype."""
_NEARLY = 64
"""Largest ratio of the error to the tolerance at which the iterations end because the
error no longer shrinks.

Rounding may keep the error above the tolerance, so that further iterations would have
no effect. If the user has set `Newton.tolerance`, this rule is not applied to the
iterations of Newton's method.
"""


@frozen
class Newton:
    """Options of Newton's method, which solves the equations s[t] = f(s[t - 1], x[t])
    for the states s, where f is a step of the cell.

    K is the number of arrays (B, H) in the state of the cell: two for an LSTM, and one
    for a GRU.

    Attributes:
        jacobian: "full" uses the whole Jacobian of a step. "diagonal" uses only its
            diagonal blocks, one matrix K x K for each unit: the derivatives of the
            state of the unit with respect to its previous state. None means "full" if H
            * K is at most 16, where H is the number of units, else "diagonal".
        damping: weight of the damping (ELK, Gonzalez et al. 2024), which makes the
            changes of an iteration smaller; see `damped_scan`. 0 means no damping.
        tolerance: the iterations end when the relative error of each equation is at
            most this number. The relative error is the absolute difference between the
            two sides, divided by max(1, absolute value of the right side). None means
            16 times the machine epsilon. With None, the iterations also end when the
            largest relative error is at most 64 times this tolerance and no longer
            shrinks.
        limit: largest number of iterations. None means the number of steps.

    Raises:
        InputError: if `jacobian` is unknown, `damping` is negative, `tolerance` is not
            positive or `limit` is below 1.
    """

    jacobian: Literal["full", "diagonal"] | None = None
    damping: float = 0.0
    tolerance: float | None = None
    limit: int | None = None

    def __post_init__(self) -> None:
        require(
            self.jacobian in (None, "full", "diagonal"),
            "jacobian",
            self.jacobian,
            "give full, diagonal or None",
        )
        require(self.damping >= 0, "damping", self.damping, "give 0 or more")
        require(
            self.tolerance is None or self.tolerance > 0,
            "tolerance",
            self.tolerance,
            "give a positive number, or None",
        )
        require(
            self.limit is None or self.limit >= 1,
            "limit",
            self.limit,
            "give 1 or more, or None",
        )


DEFAULTS = Newton()


def run(options: Options, call: Call):
    """Run a cell with Newton's method with its default options. The arguments and
    results are those of `reference.run`.
    """
    states, _, _ = solve(options.cell, call)
    return states.h if options.sequences else None, jax.tree.map(
        lambda part: part[-1], states
    )


def solve(
    cell: Cell, call: Call, options: Newton = DEFAULTS
) -> tuple[Any, Array, Array]:
    """Compute the states of a cell, with arrays (T, B, H), and return them with the
    number of iterations and the residual.

    The residual is the largest absolute difference between a state s[t] and the result
    of the cell's step from s[t - 1]. Only the states are differentiable.
    """
    z = cell.project(call.params, call.x, call.dropout.input, None)
    projected = call._replace(
        x=z,
        state=jnp.stack(call.state, axis=-1),
        dropout=call.dropout._replace(input=None),
    )
    if options.jacobian is None:
        small = math.prod(projected.state.shape[1:]) <= _LARGEST_FULL
        options = replace(options, jacobian="full" if small else "diagonal")
    states, iterations, residual = _solved(cell, options, projected)
    return type(call.state)(*jnp.unstack(states, axis=-1)), iterations, residual


def _own_units(params, h: Array, z: Array, mask: Mask):
    """Change the parameters and the input z of a step so that its derivatives with
    respect to h have no terms between different units.
    """
    # In the recurrent kernel of each gate only the diagonal is kept. The product of h
    # and the other entries is treated as a constant, which is added to z or, for a GRU,
    # to the recurrent bias. The values of the step stay the same, apart from rounding.
    kernel = params.recurrent_kernel
    own = kernel * jnp.tile(
        jnp.eye(len(kernel), dtype=kernel.dtype), (1, kernel.shape[1] // len(kernel))
    )
    others = masked_matmul(lax.stop_gradient(h), kernel - own, mask)
    params = params._replace(recurrent_kernel=own)
    if not hasattr(params, "recurrent_bias"):
        return params, z + others
    return params._replace(
        recurrent_bias=jnp.broadcast_to(params.recurrent_bias, others.shape) + others
    ), z


def _steps(cell: Cell, call: Call, before: Array, own: bool = False) -> Array:
    """Compute all steps of the cell in parallel, each from the given state before it,
    and return the states (T, B, H, K) after them.
    """
    # `call.x` is the projected input (T, B, gates * H), and `call.state` one array (B,
    # H, K). If `own` is true, the derivatives of the result leave out the terms between
    # different units; see `_own_units`.
    params, mask, resets, state = (
        call.params,
        call.dropout.recurrent,
        call.resets,
        type(cell.state_like()),
    )

    def step(before, z, valid, at):
        first = restart(state(*jnp.unstack(before, axis=-1)), at, resets)
        used = _own_units(params, first.h, z, mask) if own else (params, z)
        new = cell.step(used[0], first, used[1], mask, None)
        return jnp.stack(select_rows(valid, new, first), axis=-1)

    return jax.vmap(step)(before, call.x, call.valid, resets and resets.at)


def _before(states: Array, start: Array) -> Array:
    """Return the states before each step, given the states (T, B, H, K) after each step
    and the initial state.
    """
    return jnp.concatenate([start[None], states[:-1]])


def _blocks(cell: Cell, call: Call, before: Array, full: bool) -> Array:
    """Return the Jacobians (T, B, 1, H * K, H * K) of all steps with respect to the
    states before the steps.
    """
    # If `full` is false, return their diagonal blocks (T, B, H, K, K), one for each
    # unit.
    units, count = before.shape[2:]

    def push(direction):
        steps = partial(_steps, cell, call, own=not full)
        return jax.jvp(steps, (before,), (jnp.broadcast_to(direction, before.shape),))[
            1
        ]

    if not full:
        return jnp.stack(
            [push(direction) for direction in jnp.eye(count, dtype=before.dtype)],
            axis=-1,
        )
    flat = units * count
    pushed = jax.vmap(push)(
        jnp.eye(flat, dtype=before.dtype).reshape(flat, units, count)
    )
    return jnp.moveaxis(pushed.reshape(flat, *before.shape[:2], flat), 0, -1)[
        :, :, None
    ]


def _differences(found: Array, wanted: Array) -> Array:
    """Return absolute differences: 0 where both arrays are NaN or the same infinity,
    infinite where only one is NaN.
    """
    off = jnp.abs(wanted - found)
    equal = (found == wanted) | (jnp.isnan(found) & jnp.isnan(wanted))
    return jnp.where(equal, 0, jnp.where(jnp.isnan(off), jnp.inf, off))


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _solved(cell: Cell, options: Newton, call: Call):
    """Return what `solve` returns, with states (T, B, H, K). Newton's method starts
    from a guess of zeros. See `_steps` for `call`.
    """
    start, steps = call.state, len(call.x)
    shape = (steps, *start.shape)
    tolerance = (
        _ROUNDINGS * jnp.finfo(start.dtype).eps
        if options.tolerance is None
        else options.tolerance
    )
    limit = steps if options.limit is None else options.limit

    def evaluate(states):
        """Return the states after a step from each guess, and the largest error of the
        guesses relative to max(1, |state|).
        """
        after = _steps(cell, call, _before(states, start))
        scale = jnp.where(jnp.isfinite(after), jnp.maximum(1, jnp.abs(after)), 1)
        return after, (_differences(states, after) / scale).max(initial=0)

    def goes_on(carry):
        _, _, off, previous, count = carry
        stalls = (
            (off <= _NEARLY * tolerance) & (off >= previous)
            if options.tolerance is None
            else False
        )
        return (off > tolerance) & ~jnp.asarray(stalls) & (count < limit)

    def iteration(carry):
        states, after, off, _, count = carry
        blocks = _blocks(cell, call, _before(states, start), options.jacobian == "full")
        violated = after - states
        change = (
            damped_scan(blocks, violated, options.damping)
            if options.damping
            else linear_scan(blocks, violated)
        )
        new = states + change.reshape(shape)
        # the step after an exact state is exact; elsewhere, products of large Jacobians
        # may overflow
        exact = jnp.arange(steps, dtype=jnp.int32)[:, None, None, None] <= count
        new = jnp.where(jnp.isfinite(new) & ~exact, new, after)
        return new, *evaluate(new), off, count + 1

    guess, _ = vary_together(jnp.zeros(shape, start.dtype), call)
    after, off = evaluate(guess)
    states, after, _, _, count = lax.while_loop(
        goes_on,
        iteration,
        (guess, after, off, jnp.full_like(off, jnp.inf), jnp.int32(0)),
    )
    return states, count, _differences(states, after).max(initial=0)


@_solved.defjvp
def _solved_jvp(cell: Cell, options: Newton, primals, tangents):
    """Differentiate `_solved`, whose iterations and residual have zero tangents."""
    # The tangents d of the states satisfy d[t] = J[t] d[t - 1] + e[t]. Here J[t] is the
    # Jacobian of step t with respect to the state before the step, and e[t] is the
    # tangent of the step if only the operands change.
    (call,), (d_call,) = primals, tangents
    states, count, residual = _solved(cell, options, call)

    def all_steps(states, call):
        return _steps(cell, call, _before(states, call.state))

    _, direct = jax.jvp(partial(all_steps, states), (call,), (d_call,))
    _, push = jax.linearize(partial(all_steps, call=call), states)
    fixed, at = lax.stop_gradient((call, states))
    blocks = _blocks(cell, fixed, _before(at, fixed.state), options.jacobian == "full")
    solvers = (
        partial(_solve_linear, blocks, False),
        partial(_solve_linear, _after(blocks.mT), True),
    )
    d_states = lax.custom_linear_solve(lambda d: d - push(d), direct, *solvers)
    no_tangent = np.zeros((), jax.dtypes.float0)
    return (states, count, residual), (d_states, no_tangent, jnp.zeros_like(residual))


def _after(array: Array) -> Array:
    """Return the entries of the steps after each step, with zeros after the last one."""
    return jnp.concatenate([array[1:], jnp.zeros_like(array[:1])])


def _solve_linear(blocks: Array, reverse: bool, matvec: Callable, b: Array) -> Array:
    """Solve the linear equations matvec(d) = b for d (T, B, H, K), and return d."""
    # One parallel scan gives only an approximate d: it leaves out derivatives between
    # different units, or it makes rounding errors. Therefore the scan is repeated for
    # the remaining right-hand side b - matvec(d), and each solution is added to d. The
    # repetitions end when this side is small in each row of the batch, compared with
    # the largest entry of b and d in the row.
    tolerance = _ROUNDINGS * jnp.finfo(b.dtype).eps
    # number of steps that are computed before a step
    done = lax.broadcasted_iota(jnp.int32, b.shape, 0)
    done = jnp.flip(done, 0) if reverse else done

    def by_row(array):
        return array.max((0, 2, 3), initial=0)

    def remaining(d, rest):
        """Return the largest absolute values in each row of the batch: those of `rest`,
        and those of `b` and `d` together.
        """
        off = jnp.where(
            jnp.isnan(rest), jnp.where(jnp.isnan(d), 0, jnp.inf), jnp.abs(rest)
        )
        return by_row(off), by_row(
            jnp.nan_to_num(jnp.maximum(jnp.abs(b), jnp.abs(d)), posinf=jnp.inf)
        )

    def goes_on(carry):
        d, rest, previous, count = carry
        size, scale = remaining(d, rest)
        stalls = (size <= _NEARLY * tolerance * scale) & (size >= previous)
        return ((size > tolerance * scale) & ~stalls).any() & (count < len(b))

    def repeat(carry):
        d, rest, previous, count = carry
        corrected = d + linear_scan(blocks, rest, reverse).reshape(b.shape)
        simple = d + rest  # needs no products of Jacobians, which may overflow
        # what follows from an exact d is exact, also NaN
        replacement = jnp.where(jnp.isfinite(simple) | (done <= count), simple, b)
        new = jnp.where(jnp.isfinite(corrected), corrected, replacement)
        return (
            new,
            b - matvec(new),
            jnp.minimum(previous, remaining(d, rest)[0]),
            count + 1,
        )

    first = (jnp.zeros_like(b), b, jnp.full_like(b[0, :, 0, 0], jnp.inf), jnp.int32(0))
    return lax.while_loop(goes_on, repeat, first)[0]


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

    return lax.associative_scan(compose, (a, b.reshape(a.shape[:-1])), reverse=reverse)[
        1
    ]


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
    gain = _inverse(
        jnp.broadcast_to(jnp.eye(product.shape[-1], dtype=product.dtype), product.shape)
        + product
    )
    forward, back = _dot(second.a, gain), _dot(gain, first.a).mT
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
    smoother (Gonzalez et al. 2024, "Towards scalable and stable parallelization of
    nonlinear RNNs"), which parallel scans compute (Särkkä & García-Fernández 2021,
    "Temporal parallelization of Bayesian smoothers").
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
    mean, covariance = filtered.b, filtered.c
    after = _after(a)
    cross = _dot(covariance, after.mT)
    smoothing = _dot(cross, _inverse(_dot(after, cross) + eye))
    return linear_scan(
        smoothing,
        mean - _apply(smoothing, _apply(after, mean) + _after(b)),
        reverse=True,
    )
