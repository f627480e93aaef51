"""Tests that compare the largest Lyapunov exponent with a known value, products of
Jacobians, and the distance of two trajectories.
"""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from lstm_jax import CELLS, InputError
from lstm_jax.recurrence import largest_lyapunov_exponent


def drawn(
    cell: Any, gain: float, steps: int, rows: int = 2, units: int = 5
) -> tuple[Any, jax.Array]:
    params = cell.init(jax.random.key(0), 2, units, jnp.float64)
    params = params._replace(recurrent_kernel=gain * params.recurrent_kernel)
    return params, jax.random.normal(jax.random.key(1), (rows, steps, 2), jnp.float64)


def test_a_linear_network(x64: None) -> None:
    """The exponent of h' = x W + h U is log 0.5 if U = 0.5 Q for an orthogonal Q, since
    each step halves the difference of two states.
    """
    simple: Any = CELLS["simple_rnn"]
    cell = replace(simple, step=simple.make_step(lambda h: h, None))
    params, x = drawn(cell, 0.5, 30)
    np.testing.assert_allclose(
        largest_lyapunov_exponent(cell, params, x), [np.log(0.5)] * 2, rtol=1e-12
    )


@pytest.mark.slow(keep=1)
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_growth_of_the_product_of_jacobians(x64: None, cell: str) -> None:
    """After 400 steps, the exponent is the mean log growth of the norm of the product
    of the Jacobians, to within 0.01 nats per step.
    """
    row = CELLS[cell]
    params, x = drawn(row, 3.0, 400, rows=1)
    state = row.initial_state(1, 5, jnp.float64)
    flat, rebuild = ravel_pytree(state)
    z = row.project(params, jnp.swapaxes(x, 0, 1), None, None)

    @jax.jit
    def advance(flat: jax.Array, z_t: jax.Array) -> Any:
        step = partial(row.step, params, z=z_t)

        def of_flat(flat: jax.Array) -> jax.Array:
            return ravel_pytree(step(state=rebuild(flat)))[0]

        return of_flat(flat), jax.jacfwd(of_flat)(flat)

    product, growth = np.eye(len(flat)), 0.0
    for z_t in z:
        flat, jacobian = advance(flat, z_t)
        product = np.asarray(jacobian) @ product
        growth += np.log(np.linalg.norm(product, 2))
        product /= np.linalg.norm(product, 2)
    found = largest_lyapunov_exponent(row, params, x)
    assert found.shape == (1,)
    assert abs(float(found[0]) - growth / 400) < 0.01
    assert abs(growth / 400) > 0.05


def test_ids_and_vanished_differences(x64: None) -> None:
    row = CELLS["lstm"]
    params, _ = drawn(row, 1.0, 1)
    ids = jnp.arange(12).reshape(2, 6) % 2
    got = largest_lyapunov_exponent(row, params, ids, seed=3)
    np.testing.assert_allclose(
        got,
        largest_lyapunov_exponent(
            row, params, jax.nn.one_hot(ids, 2, dtype=jnp.float64), seed=3
        ),
    )
    gone = params._replace(
        recurrent_kernel=0 * params.recurrent_kernel, bias=params.bias - 1e4
    )
    assert (largest_lyapunov_exponent(row, gone, ids) < -100).all()


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("skip", [-1, 6, 2.0])
def test_skip(skip: int) -> None:
    row = CELLS["lstm"]
    params = row.init(jax.random.key(0), 2, 3)
    with pytest.raises(InputError, match=rf"^skip: {skip}; give 0 to 5$"):
        largest_lyapunov_exponent(row, params, jnp.zeros((1, 6, 2)), skip=skip)
    largest_lyapunov_exponent(row, params, jnp.zeros((1, 6, 2)), skip=np.int64(2))
