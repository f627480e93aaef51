"""Tests that compare Newton's method over time with sequential steps, its scans with
dense linear equations, and the Lyapunov exponent with products of Jacobians.
"""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from tables import assert_close

from experiments.lyapunov import largest_lyapunov_exponent
from experiments.newton import Newton, damped_scan, linear_scan, solve_states
from experiments.parallel import states_by_steps
from lstm_jax.cells import CELLS

pytestmark = pytest.mark.usefixtures("x64")


def network(
    cell: Any, units: int, steps: int, gain: float = 1.0, rows: int = 1
) -> tuple[Any, Any, jax.Array, Any]:
    """Return (cell, params, x, initial state), with normal inputs x (T, B, 3) and a
    recurrent kernel that is multiplied by `gain`.
    """
    cell = CELLS[cell] if isinstance(cell, str) else cell
    of_params, of_x = jax.random.split(jax.random.key(0))
    params = cell.init(of_params, 3, units, "float64")
    params = params._replace(recurrent_kernel=gain * params.recurrent_kernel)
    x = jax.random.normal(of_x, (steps, rows, 3), "float64")
    return cell, params, x, cell.initial_state(rows, units, "float64")


def test_iterations() -> None:
    """For 400 steps, Newton's method needs at most 10 iterations with the full
    Jacobian; with diagonal blocks it needs more, at most 60.
    """
    problem = network("lstm", 8, 400)
    full, diagonal = (
        solve_states(*problem, Newton(jacobian, 0.0, 1e-14, 400))
        for jacobian in ("full", "diagonal")
    )
    assert 2 <= full.iterations <= 10
    assert full.iterations < diagonal.iterations <= 60
    for solution in (full, diagonal):
        assert solution.residual <= 1024 * np.finfo(np.float64).eps
        assert_close(solution.states, states_by_steps(*problem), "float64")


@pytest.mark.parametrize("jacobian", ["full", "diagonal"])
@pytest.mark.parametrize(
    ("cell", "steps", "limit"), [("lstm", 40, 7), ("gru", 250, 250)]
)
def test_k_iterations_make_k_states_exact(
    jacobian: Any, cell: str, steps: int, limit: int
) -> None:
    """As many iterations as steps make all states exact, even if rounding errors grow
    by many powers of ten.
    """
    # far from the solution, the later states are far off
    problem = network(cell, 6, steps, gain=8.0)
    solution = solve_states(*problem, Newton(jacobian, 0.0, 1e-15, limit))
    found, want = (
        jax.tree.map(lambda part: part[:limit], states)
        for states in (solution.states, states_by_steps(*problem))
    )
    assert_close(found, want, "float64")
    if limit < steps:
        assert solution.iterations == limit
        assert solution.residual > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("jacobian", ["full", "diagonal"])
def test_damping_finds_the_same_states(jacobian: Any) -> None:
    problem = network("gru", 6, 60, gain=2.0)
    plain, damped = (
        solve_states(*problem, Newton(jacobian, damping, 1e-14, 2000))
        for damping in (0.0, 0.3)
    )
    assert damped.iterations > plain.iterations
    assert_close(damped.states, plain.states, "float64")
    assert_close(plain.states, states_by_steps(*problem), "float64")


def dense(a: np.ndarray, row: int) -> np.ndarray:
    """Return the matrix M for which M v = b is the linear recurrence v[t] = a[t] v[t -
    1] + b[t] of one row of the batch.
    """
    steps, size = a.shape[0], a.shape[2]
    whole = np.eye(steps * size)
    for t in range(1, steps):
        whole[t * size : (t + 1) * size, (t - 1) * size : t * size] = -a[t, row]
    return whole


@pytest.mark.parametrize("size", [1, 2, 3, 6])
def test_scans(size: int) -> None:
    rng = np.random.default_rng(size)
    a, b = rng.normal(size=(5, 2, size, size)), rng.normal(size=(5, 2, size))
    for reverse in (False, True):
        turn = slice(None, None, -1 if reverse else 1)
        got = np.asarray(linear_scan(jnp.asarray(a), jnp.asarray(b), reverse))[turn]
        for row in range(2):
            want = np.linalg.solve(dense(a[turn], row), b[turn, row].ravel())
            np.testing.assert_allclose(got[:, row].ravel(), want, rtol=1e-9, atol=1e-9)

    for damping in (1e-3, 0.5, 20.0):
        got = np.asarray(damped_scan(jnp.asarray(a), jnp.asarray(b), damping))
        for row in range(2):
            m = dense(a, row)
            normal = m.T @ m + damping * np.eye(len(m))
            want = np.linalg.solve(normal, m.T @ b[:, row].ravel())
            np.testing.assert_allclose(got[:, row].ravel(), want, rtol=1e-7, atol=1e-7)


def test_the_exponent_of_a_linear_network() -> None:
    """The exponent of h' = x W + h U is log 0.5 if U = 0.5 Q for an orthogonal Q, since
    each step halves the difference of two states.
    """
    simple: Any = CELLS["simple_rnn"]
    linear = replace(simple, step=simple.make_step(lambda h: h, None))
    found = largest_lyapunov_exponent(*network(linear, 5, 30, gain=0.5, rows=2))
    np.testing.assert_allclose(found, [np.log(0.5)] * 2, rtol=1e-12)


@pytest.mark.slow(keep=1)
@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_the_exponent_is_the_growth_of_the_product_of_jacobians(name: str) -> None:
    """After 400 steps, the exponent is the mean log growth of the norm of the product
    of the Jacobians, to within 0.01 nats per step.
    """
    problem = cell, params, x, state = network(name, 5, 400, gain=2.0)
    flat, rebuild = ravel_pytree(state)

    @jax.jit
    def advance(flat: jax.Array, z_t: jax.Array) -> Any:
        step = partial(cell.step, params, z=z_t)

        def of_flat(flat: jax.Array) -> jax.Array:
            return ravel_pytree(step(state=rebuild(flat)))[0]

        return of_flat(flat), jax.jacfwd(of_flat)(flat)

    product, growth = np.eye(len(flat)), 0.0
    for z_t in cell.project(params, x, None, None):
        flat, jacobian = advance(flat, z_t)
        product = np.asarray(jacobian) @ product
        growth += np.log(np.linalg.norm(product, 2))
        product /= np.linalg.norm(product, 2)
    found = largest_lyapunov_exponent(*problem)
    assert found.shape == (1,)
    assert abs(float(found[0]) - growth / 400) < 0.01
    assert abs(growth / 400) > 0.05


def test_the_exponent_where_differences_vanish() -> None:
    cell, params, x, state = network("lstm", 5, 6)
    gone = params._replace(
        recurrent_kernel=0 * params.recurrent_kernel, bias=params.bias - 1e4
    )
    assert (largest_lyapunov_exponent(cell, gone, x, state) < -100).all()
