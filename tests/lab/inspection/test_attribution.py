"""Integrated gradients and gradient norms.

Integrated gradients equal the exact results for a linear and a cubic function. For an
LSTM, their sum is the output for the input minus the output for zeros. Gradient norms
equal those computed by finite differences in float64.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import lstm_jax
from lstm_jax.base.errors import InputError
from lstm_jax.lab.inspection.attribution import (
    gradient_norms,
    integrated_gradients,
    reach,
)

T, E = 5, 3
INPUTS = np.random.default_rng(0).standard_normal((T, E))


def linear(x, weights):
    return (x * weights).sum() + 7


def cubic(x):
    return (x**3).sum()


@pytest.mark.usefixtures("x64")
def test_exact_where_the_answer_is_known():
    weights = np.random.default_rng(1).standard_normal((T, E))
    found = integrated_gradients(linear, jnp.asarray(INPUTS), jnp.asarray(weights))
    np.testing.assert_allclose(found.values, (weights * INPUTS).sum(1), rtol=1e-12)
    assert found.error < 1e-12
    # in one dimension, the integral of 3 x^2 from b to x is x^3 - b^3
    base = np.random.default_rng(2).standard_normal((T, E))
    found = integrated_gradients(cubic, jnp.asarray(INPUTS), baseline=jnp.asarray(base))
    np.testing.assert_allclose(found.values, (INPUTS**3 - base**3).sum(1), rtol=1e-11)
    assert found.difference == pytest.approx((INPUTS**3).sum() - (base**3).sum())


def test_complete_for_an_lstm():
    layer = lstm_jax.LSTM(E, 16, rngs=nnx.Rngs(0))
    layer.kernel[...] *= 100.0  # large weights, for which the gates are far from linear

    def output(x):
        return layer(x[None])[0].sum()

    x = jnp.asarray(INPUTS, jnp.float32)
    found = integrated_gradients(output, x)
    assert (
        abs(found.values.sum() - (float(output(x)) - float(output(jnp.zeros_like(x)))))
        <= 1e-3
    )
    coarse = integrated_gradients(output, x, tolerance=1e9)
    assert coarse.points == 16 < found.points
    assert coarse.error > 1e-3


class Last(nnx.Module):
    """Module with an LSTM, and methods that return the sum of its units at each step,
    (T,), and at the last step.
    """

    def __init__(self):
        self.lstm = lstm_jax.LSTM(E, 4, return_sequences=True, rngs=nnx.Rngs(0))

    def outputs(self, x):
        return self.lstm(x[None])[0].sum(-1)

    def last(self, x):
        return self.outputs(x)[-1]


@pytest.mark.parametrize("plain", [True, False])
def test_a_module_that_is_changed_in_place(plain):
    """If the parameters of a module change between two calls with the same function,
    the second call uses the new parameters.
    """
    module, x = Last(), jnp.asarray(INPUTS, jnp.float32)
    outputs, last = (
        (lambda x: module.outputs(x), lambda x: module.last(x))
        if plain
        else (module.outputs, module.last)
    )
    for _ in range(2):
        assert integrated_gradients(last, x).difference == pytest.approx(
            float(last(x)), abs=1e-6
        )
        norm = jnp.linalg.norm(jax.grad(last)(x)[-1])
        assert float(gradient_norms(outputs, x)[-1, -1]) == pytest.approx(
            float(norm), rel=1e-5
        )
        module.lstm.kernel[...] *= 3


@pytest.mark.usefixtures("x64")
def test_gradient_norms_against_differences():
    layer = lstm_jax.LSTM(
        E, 4, param_dtype=jnp.float64, return_sequences=True, rngs=nnx.Rngs(0)
    )

    def outputs(x):
        return layer(x[None])[0].sum(-1)

    found, step = gradient_norms(outputs, jnp.asarray(INPUTS)), 1e-6
    assert found.shape == (T, T)
    moved = jax.jit(jax.vmap(outputs))(
        jnp.asarray(INPUTS + step * np.eye(T * E).reshape(T * E, T, E))
    )
    differences = (
        (np.asarray(moved) - np.asarray(outputs(jnp.asarray(INPUTS)))) / step
    ).reshape(T, E, T)
    np.testing.assert_allclose(found, np.linalg.norm(differences, axis=1).T, atol=1e-5)
    # an output does not depend on later steps
    assert not np.triu(np.asarray(found), 1).any()


def test_reach():
    norms = np.asarray([[1.0, 0, 0, 0], [1, 9, 0, 0], [5, 0, 5, 0], [1, 1, 1, 1]])
    assert reach(norms).tolist() == [0, 0, 2, 3]
    assert reach(norms, 0.5).tolist() == [0, 0, 0, 1]
    assert reach(norms[2:]).tolist() == [2, 3]  # outputs of the last two steps
    assert reach(
        np.array([[np.nan, 1, 2, 1], [np.inf, 1, 2, 1], [1, 1, 2, np.nan]])
    ).tolist() == [0, 0, 0]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("call", "subject"),
    [
        (lambda: integrated_gradients(cubic, jnp.ones(3)), "inputs: float32[3]"),
        (
            lambda: integrated_gradients(
                cubic, jnp.ones((3, 3)), baseline=jnp.ones((2, 3))
            ),
            "baseline: shape (2, 3)",
        ),
        (
            lambda: integrated_gradients(cubic, jnp.ones((3, 2), int)),
            "inputs: int32[3,2]",
        ),
        (
            lambda: integrated_gradients(lambda x: x.sum(-1), jnp.ones((3, 2))),
            "function: shape (3,)",
        ),
        (
            lambda: gradient_norms(lambda x: x, jnp.ones((3, 2))),
            "outputs: shape (3, 2)",
        ),
        (lambda: reach(np.ones((2, 5)), 1.5), "share: 1.5"),
        (lambda: reach(np.ones((5, 2))), "norms: shape (5, 2)"),
    ],
)
def test_arguments_and_functions_that_do_not_fit(call, subject):
    with pytest.raises(InputError, match=f"^{re.escape(subject)}"):
        call()
