"""Newton's method for the states of a nonlinear cell (DEER, Lim et al. 2024, "Parallelizing non-linear sequential models").

The steps of a cell are equations s[t] = f(s[t - 1], x[t]) for the states s. Newton's method solves the equations of all steps together.
An iteration evaluates f and its Jacobian at the current guess of all states, which needs no loop over time, and then solves a linear
recurrence with a parallel scan. If the scan uses the full Jacobian of each step, its work grows with the cube of the number of state
components. If it uses only the blocks on the diagonal of the Jacobian, one for each unit, its work is proportional to the number of units,
but more iterations are needed (quasi-DEER, Gonzalez et al. 2024, "Towards scalable and stable parallelization of nonlinear RNNs"). Each
iteration makes at least one more state exact, so that T iterations always suffice.

Gradients follow from the implicit function theorem: they are the solution of a linear recurrence, and the iterations are not
differentiated.

B is the batch size, T the number of steps and H the number of units. A cell has K arrays (B, H) in its state: two for an LSTM, h and c, and
one for a GRU or a simple RNN. All K arrays together are one array (B, H, K) here.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from lstm_jax.cells import Cell
from lstm_jax.cells.products import masked_matmul
from lstm_jax.errors import require
from lstm_jax.primitives.partition import vary_together
from lstm_jax.recurrence.operands import Call, Options
from lstm_jax.recurrence.parallel import scans
from lstm_jax.recurrence.resets import Resets, restart

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

In these cells each column of the product of h and the recurrent kernel is used by only one gate of one unit, as `_own_units` requires.
"""
_LARGEST_FULL = 16
"""Largest number of state components, H * K, for which the full Jacobian is the default."""
_ROUNDINGS = 16
"""Relative error at which the iterations end by default, in units of the machine epsilon of the dtype."""
_NEARLY = 64
"""Largest ratio of the error to the tolerance at which the iterations end because the error no longer shrinks.

Rounding may keep the error above the tolerance, so that further iterations would have no effect. If the user has set `Newton.tolerance`,
this rule is not applied to the iterations of Newton's method.
"""


@dataclass(frozen=True)
class Newton:
    """Options of Newton's method, which solves the equations s[t] = f(s[t - 1], x[t]) for the states s, where f is a step of the cell.

    K is the number of arrays (B, H) in the state of the cell: two for an LSTM, and one for a GRU.

    Attributes:
        jacobian: "full" uses the whole Jacobian of a step. "diagonal" uses only its diagonal blocks, one matrix K x K for each unit: the
            derivatives of the state of the unit with respect to its previous state. None means "full" if H * K is at most 16, where H is
            the number of units, else "diagonal".
        damping: weight of the damping (ELK, Gonzalez et al. 2024), which makes the changes of an iteration smaller; see `scans.damped`. 0
            means no damping.
        tolerance: the iterations end when the relative error of each equation is at most this number. The relative error is the absolute
            difference between the two sides, divided by max(1, absolute value of the right side). None means 16 times the machine epsilon.
            With None, the iterations also end when the largest relative error is at most 64 times this tolerance and no longer shrinks.
        limit: largest number of iterations. None means the number of steps.

    Raises:
        InputError: if `jacobian` is unknown, `damping` is negative, `tolerance` is not positive or `limit` is below 1.
    """

    jacobian: Literal["full", "diagonal"] | None = None
    damping: float = 0.0
    tolerance: float | None = None
    limit: int | None = None

    def __post_init__(self) -> None:
        require(self.jacobian in (None, "full", "diagonal"), "jacobian", self.jacobian, "give full, diagonal or None")
        require(self.damping >= 0, "damping", self.damping, "give 0 or more")
        require(self.tolerance is None or self.tolerance > 0, "tolerance", self.tolerance, "give a positive number, or None")
        require(self.limit is None or self.limit >= 1, "limit", self.limit, "give 1 or more, or None")


DEFAULTS = Newton()


class _Operands(NamedTuple):
    """Arrays that determine the equations s[t] = f(s[t - 1], x[t]) of the states s, where f is a step of the cell.

    Attributes:
        params: parameters of the cell.
        z: projected inputs (T, B, gates * H).
        start: initial state (B, H, K), where K is the number of arrays in the state.
        valid: bool (T, B), False at padded steps, or None.
        mask: mask of recurrent dropout, or None.
        resets: resets of the state, or None.
    """

    params: Any
    z: jax.Array
    start: jax.Array
    valid: jax.Array | None
    mask: jax.Array | None
    resets: Resets | None


def run(options: Options, call: Call):
    """Run a cell with Newton's method with its default options. The arguments and results are those of `reference.run`."""
    states, _, _ = solve(options.cell, call)
    return states.h if options.sequences else None, jax.tree.map(lambda part: part[-1], states)


def solve(cell: Cell, call: Call, options: Newton = DEFAULTS) -> tuple[Any, jax.Array, jax.Array]:
    """Compute the states of a cell with Newton's method.

    Returns:
        Three values: the state after each step, with arrays (T, B, H); the number of iterations, an int32 scalar; and the residual, which
        is the largest absolute difference between a state s[t] and the result of the cell's step from s[t - 1]. Only the states are
        differentiable.
    """
    params, x, state, valid, dropout, resets, _ = call
    z = cell.project(params, x, dropout.input, None)
    operands = _Operands(params, z, jnp.stack(state, axis=-1), valid, dropout.recurrent, resets)
    states, iterations, residual = _solved(cell, options, operands)
    return _unpack(states, state), iterations, residual


def _unpack(stacked: jax.Array, like: Any) -> Any:
    """Split one array (..., H, K) into the K arrays (..., H) of a state, and return the state, which has the same class as `like`."""
    return type(like)(*(stacked[..., k] for k in range(stacked.shape[-1])))


def _own_units(params: Any, h: jax.Array, z: jax.Array, mask: jax.Array | None) -> tuple[Any, jax.Array]:
    """Change the parameters and the input z of a step so that its derivatives with respect to h have no terms between different units.

    In the recurrent kernel of each gate only the diagonal is kept. The product of h and the other entries is treated as a constant, which
    is added to z or, for a GRU, to the recurrent bias. The changed step therefore returns the same values as before, apart from rounding.
    Only its derivatives with respect to h differ: those of a unit with respect to the h of other units are zero.

    Args:
        params: parameters of the cell.
        h: output (B, H) before the step.
        z: projected input (B, gates * H).
        mask: mask of recurrent dropout, or None.

    Returns:
        A pair: the changed parameters and the changed z.
    """
    kernel = params.recurrent_kernel
    own = kernel * jnp.tile(jnp.eye(len(kernel), dtype=kernel.dtype), (1, kernel.shape[1] // len(kernel)))
    others = masked_matmul(lax.stop_gradient(h), kernel - own, mask)
    params = params._replace(recurrent_kernel=own)
    if not hasattr(params, "recurrent_bias"):
        return params, z + others
    return params._replace(recurrent_bias=jnp.broadcast_to(params.recurrent_bias, others.shape) + others), z


def _steps(cell: Cell, operands: _Operands, before: jax.Array, own: bool = False) -> jax.Array:
    """Compute all steps of the cell in parallel, each from the given state before it, and return the states (T, B, H, K) after the steps.

    K is the number of arrays (B, H) in the state.

    Args:
        cell: the cell.
        operands: parameters, inputs, masks and resets of the steps.
        before: states (T, B, H, K) before each step. Resets are not yet applied.
        own: whether the derivatives of the result leave out the terms between different units; see `_own_units`. The result itself does not
            depend on `own`, apart from rounding.
    """
    params, z, _, valid, mask, resets = operands
    names = cell.state_like()

    def step(before, z, valid, at):
        state = _unpack(before, names)
        first = restart(state, at, resets)
        used = _own_units(params, first.h, z, mask) if own else (params, z)
        new = cell.step(used[0], first, used[1], mask, None)
        if valid is not None:
            new = jax.tree.map(lambda a, b: jnp.where(valid[:, None], a, b), new, first)
        return jnp.stack(new, axis=-1)

    return jax.vmap(step)(before, z, valid, None if resets is None else resets.at)


def _before(states: jax.Array, start: jax.Array) -> jax.Array:
    """Return the states before each step, given the states (T, B, H, K) after each step and the initial state."""
    return jnp.concatenate([start[None], states[:-1]])


def _is_full(options: Newton, states: jax.Array) -> bool:
    small = states.shape[-2] * states.shape[-1] <= _LARGEST_FULL
    return options.jacobian == "full" or (options.jacobian is None and small)


def _blocks(cell: Cell, operands: _Operands, before: jax.Array, full: bool) -> jax.Array:
    """Return the Jacobians of all steps with respect to the states before the steps, or their diagonal blocks.

    K is the number of arrays (B, H) in the state. A block has the derivatives of the K state values of a unit with respect to the K
    previous values of the same unit.

    Returns:
        An array (T, B, 1, H * K, H * K) if `full` is true, else (T, B, H, K, K).
    """
    units, count = before.shape[2:]
    if full:
        flat = units * count
        directions = jnp.eye(flat, dtype=before.dtype).reshape(flat, units, count)
        push = jax.vmap(lambda v: jax.jvp(lambda s: _steps(cell, operands, s), (before,), (jnp.broadcast_to(v, before.shape),))[1])
        return jnp.moveaxis(push(directions).reshape(flat, *before.shape[:2], flat), 0, -1)[:, :, None]
    directions = jnp.eye(count, dtype=before.dtype)
    own = partial(_steps, cell, operands, own=True)
    return jnp.stack([jax.jvp(own, (before,), (jnp.broadcast_to(v, before.shape),))[1] for v in directions], axis=-1)


def _in_blocks(vectors: jax.Array, blocks: jax.Array) -> jax.Array:
    """Reshape an array (T, B, H, K) such that its last axis fits the matrices in `blocks`, which is a result of `_blocks`.

    K is the number of arrays (B, H) in the state. If the matrices are full Jacobians, the new shape is (T, B, 1, H * K). If they are
    diagonal blocks, the shape stays (T, B, H, K).
    """
    return vectors.reshape(blocks.shape[:-1])


def _differences(found: jax.Array, wanted: jax.Array) -> jax.Array:
    """Return the absolute differences of two arrays.

    Where both arrays are NaN or the same infinity, the difference is 0. Where only one array is NaN, the difference is infinite.
    """
    off = jnp.abs(wanted - found)
    equal = (found == wanted) | (jnp.isnan(found) & jnp.isnan(wanted))
    return jnp.where(equal, 0, jnp.where(jnp.isnan(off), jnp.inf, off))


def _iterate(cell: Cell, options: Newton, operands: _Operands) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Compute the states of all steps with Newton's method, which starts from a guess of zeros.

    Returns:
        Three values: the states (T, B, H, K), where K is the number of arrays in the state; the number of iterations; and the largest
        absolute difference between a state and the result of the cell's step from the state before it.
    """
    start = operands.start
    steps = len(operands.z)
    shape = (steps, *start.shape)
    tolerance = _ROUNDINGS * jnp.finfo(start.dtype).eps if options.tolerance is None else options.tolerance
    limit = steps if options.limit is None else options.limit

    def evaluate(states):
        """Return the state after each step, computed from guesses of the states, and the largest relative error of the guesses.

        `states` has a guess of the state after each step. The state after step t is computed by one step of the cell from the guess for
        step t - 1. The relative error is the absolute difference between a computed state and the guess for the same step, divided by
        max(1, absolute value of the computed state).
        """
        after = _steps(cell, operands, _before(states, start))
        scale = jnp.where(jnp.isfinite(after), jnp.maximum(1, jnp.abs(after)), 1)
        return after, (_differences(states, after) / scale).max(initial=0)

    def goes_on(carry):
        _, _, off, previous, count = carry
        stalls = (off <= _NEARLY * tolerance) & (off >= previous) if options.tolerance is None else False
        return (off > tolerance) & ~jnp.asarray(stalls) & (count < limit)

    def iteration(carry):
        states, after, off, _, count = carry
        blocks = _blocks(cell, operands, _before(states, start), _is_full(options, states))
        violated = _in_blocks(after - states, blocks)
        change = scans.damped(blocks, violated, options.damping) if options.damping else scans.linear(blocks, violated)
        new = states + change.reshape(shape)
        # the step after an exact state is exact; elsewhere, products of large Jacobians may overflow
        exact = jnp.arange(steps, dtype=jnp.int32)[:, None, None, None] <= count
        new = jnp.where(jnp.isfinite(new) & ~exact, new, after)
        return new, *evaluate(new), off, count + 1

    guess, _ = vary_together(jnp.zeros(shape, start.dtype), operands)
    after, off = evaluate(guess)
    states, after, _, _, count = lax.while_loop(goes_on, iteration, (guess, after, off, jnp.full_like(off, jnp.inf), jnp.int32(0)))
    return states, count, _differences(states, after).max(initial=0)


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _solved(cell: Cell, options: Newton, operands: _Operands) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Compute the states of all steps with Newton's method.

    The three results are those of `_iterate`: the states (T, B, H, K), the number of iterations, and the largest absolute difference
    between a state and the result of the cell's step from the state before it. JAX differentiates the states by the rule `_solved_jvp`,
    without differentiating the iterations.
    """
    return _iterate(cell, options, operands)


@_solved.defjvp
def _solved_jvp(cell: Cell, options: Newton, primals, tangents):
    """Differentiate `_solved`: return its results and their tangents, in the form that `jax.custom_jvp` requires.

    The tangents d of the states satisfy d[t] = J[t] d[t - 1] + e[t]. Here J[t] is the Jacobian of step t with respect to the state before
    the step, and e[t] is the tangent of the step if only the operands change. The other two results of `_solved`, the number of iterations
    and the residual (see `solve`), have zero tangents.

    Args:
        cell: the cell.
        options: options of Newton's method.
        primals: tuple that contains the operands.
        tangents: tuple that contains the tangents of the operands.
    """
    (operands,), (d_operands,) = primals, tangents
    states, count, residual = _solved(cell, options, operands)

    def all_steps(states, operands):
        return _steps(cell, operands, _before(states, operands.start))

    _, direct = jax.jvp(partial(all_steps, states), (operands,), (d_operands,))
    _, push = jax.linearize(partial(all_steps, operands=operands), states)
    fixed, at = lax.stop_gradient((operands, states))
    blocks = _blocks(cell, fixed, _before(at, fixed.start), _is_full(options, states))
    back = jnp.concatenate([scans.transposed(blocks)[1:], jnp.zeros_like(blocks[:1])])
    forwards = partial(_solve_linear, lambda b: scans.linear(blocks, _in_blocks(b, blocks)), False)
    backwards = partial(_solve_linear, lambda b: scans.linear(back, _in_blocks(b, blocks), reverse=True), True)
    d_states = lax.custom_linear_solve(lambda d: d - push(d), direct, forwards, backwards)
    no_tangent = np.zeros((), jax.dtypes.float0)
    return (states, count, residual), (d_states, no_tangent, jnp.zeros_like(residual))


def _solve_linear(scan, reverse: bool, matvec, b: jax.Array) -> jax.Array:
    """Solve the linear equations matvec(d) = b for d (T, B, H, K), and return d. K is the number of arrays in the state.

    One parallel scan gives only an approximate d: it leaves out derivatives between different units, or it makes rounding errors. Therefore
    the scan is repeated for the remaining right-hand side b - matvec(d), and each solution is added to d.

    The rows of the batch are independent of each other. The repetitions end when the remaining right-hand side of each row is small
    compared with the largest entry of b and d in this row.

    Args:
        scan: function that takes a right-hand side and returns an approximate solution.
        reverse: whether the equation for d[t] contains d[t + 1]. If false, it contains d[t - 1].
        matvec: linear function that takes d and returns the left-hand side.
        b: right-hand side (T, B, H, K).
    """
    tolerance = _ROUNDINGS * jnp.finfo(b.dtype).eps
    done = lax.broadcasted_iota(jnp.int32, b.shape, 0)  # number of steps that are computed before a step
    done = jnp.flip(done, 0) if reverse else done

    def by_row(array):
        return array.max((0, 2, 3), initial=0)

    def remaining(d, rest):
        """Return two arrays (B,) with the largest absolute values in each row of the batch.

        The first array is for `rest`, the remaining right-hand side. The second array is for the entries of `b` and `d` together.
        """
        off = jnp.where(jnp.isnan(rest), jnp.where(jnp.isnan(d), 0, jnp.inf), jnp.abs(rest))
        return by_row(off), by_row(jnp.nan_to_num(jnp.maximum(jnp.abs(b), jnp.abs(d)), posinf=jnp.inf))

    def goes_on(carry):
        d, rest, previous, count = carry
        size, scale = remaining(d, rest)
        stalls = (size <= _NEARLY * tolerance * scale) & (size >= previous)
        return ((size > tolerance * scale) & ~stalls).any() & (count < len(b))

    def repeat(carry):
        d, rest, previous, count = carry
        new, simple = d + scan(rest).reshape(b.shape), d + rest  # simple needs no products of Jacobians, which may overflow
        finite = jnp.where(jnp.isfinite(new), new, jnp.where(jnp.isfinite(simple), simple, b))
        new = jnp.where(jnp.isfinite(new) | (done > count), finite, simple)  # what follows from an exact d is exact, also NaN
        return new, b - matvec(new), jnp.minimum(previous, remaining(d, rest)[0]), count + 1

    first = (jnp.zeros_like(b), b, jnp.full_like(b[0, :, 0, 0], jnp.inf), jnp.int32(0))
    return lax.while_loop(goes_on, repeat, first)[0]
