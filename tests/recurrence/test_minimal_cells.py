"""Tests of minLSTM and minGRU with gates near 0 and 1, where differences of close numbers lose digits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tables import BACKENDS

from lstm_jax import unroll
from lstm_jax.cells import CELLS, HiddenState, MinParams

pytestmark = pytest.mark.usefixtures("quick_compiles")


@pytest.mark.skipif("compiled" not in BACKENDS, reason="no C++ compiler to build the backend with")
@pytest.mark.parametrize("cell", ["min_lstm", "min_gru"])
def test_gates_near_0_and_1(cell: str) -> None:
    """The loss and its gradients of `compiled` in float32 equal those of `reference` in float64, for inputs x from -200 to 200."""
    rng, row = np.random.default_rng(0), CELLS[cell]
    x, weights = rng.uniform(-1, 1, (5, 6, 4)) * [[[200.0]], [[90.0]], [[30.0]], [[3.0]], [[0.0]]], rng.standard_normal((5, 6, 7))
    params = jax.tree.map(np.asarray, row.init(jax.random.key(1), 4, 7))

    def results(backend: str, dtype: str):
        given = jax.tree.map(lambda array: jnp.asarray(array, dtype), (params, x))
        return jax.value_and_grad(lambda params, x: (unroll(row, params, x, backend=backend)[0] * weights).sum(), (0, 1))(*given)

    got = results("compiled", "float32")
    with jax.enable_x64(True):
        want = results("reference", "float64")
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=3e-5 * np.abs(b).max())


@pytest.mark.parametrize(
    ("backend", "batch"), [*((name, 2) for name in BACKENDS if name in ("compiled", "reference", "associative")), (None, 1)]
)
@pytest.mark.parametrize("z", [(-15.0, 15.0), (15.0, -15.0), (-20.0, 20.0), (1.0, -2.0), (-25.0, 0.0), (0.0, -18.0)], ids=str)
def test_a_share_near_0_has_all_its_digits(z: tuple[float, float], backend: str | None, batch: int) -> None:
    """Gradients of minLSTM in float32 have relative errors of at most 2e-6, also if f / (f + i) is near 0 or 1.

    The gates are i = sigmoid(z_i) and f = sigmoid(z_f). With h = 1 before the step and z_g = 0.3, the output is a + 0.3 (1 - a), where
    a = f / (f + i). The expected gradients with respect to z_i, z_f and z_g follow from da / dz_i = -a (1 - a) (1 - i) and
    da / dz_f = a (1 - a) (1 - f).
    """
    row, x, state = CELLS["min_lstm"], jnp.zeros((batch, 1, 1)), HiddenState(jnp.ones((batch, 1)))
    kernel = jnp.zeros((1, 3))

    def loss(bias: jax.Array) -> jax.Array:
        return unroll(row, MinParams(kernel, bias), x, state, backend=backend)[0].sum()

    i, f, rest_i, rest_f = (1 / (1 + np.exp(-np.float64(value))) for value in (*z, -z[0], -z[1]))
    a, rest = f / (f + i), i / (f + i)
    wanted = batch * np.asarray([-0.7 * a * rest * rest_i, 0.7 * a * rest * rest_f, rest])
    np.testing.assert_allclose(jax.grad(loss)(jnp.asarray([*z, 0.3])), wanted, rtol=2e-6)
