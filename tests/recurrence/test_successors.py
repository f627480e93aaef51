"""Tests of the cells sLSTM, RG-LRU and LRU beyond those that all cells have: heads,
initial values, and the equations of other packages.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import weigh
from flax import nnx
from tables import assert_close

from lstm_jax import CELLS, DropoutMasks, InputError, Recurrent, unroll
from lstm_jax.cells import lru, slstm
from lstm_jax.cells.slstm import whole_kernel

BATCH, STEPS, FEATURES, UNITS = 3, 7, 5, 12


def normal(key: int, *shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(key), shape)


@pytest.mark.slow(keep=4)
@pytest.mark.parametrize("backend", ["reference", None])
@pytest.mark.parametrize("per_gate", [False, True])
@pytest.mark.parametrize("heads", [2, 3, 12])
def test_heads_are_blocks(heads: int, per_gate: bool, backend: str | None) -> None:
    """An sLSTM with heads has the results and gradients of one head whose recurrent
    kernel has zeros outside of the blocks.
    """
    params = slstm(heads).init(jax.random.key(0), FEATURES, UNITS)
    params = params._replace(recurrent_kernel=normal(1, UNITS // heads, 4 * UNITS))
    x, mask = (
        normal(2, BATCH, STEPS, FEATURES),
        jnp.abs(normal(3, *([4] * per_gate), BATCH, UNITS)),
    )
    inside = np.zeros((UNITS, 4, UNITS), bool)
    for row, column in np.ndindex(UNITS, UNITS):
        inside[row, :, column] = row // (UNITS // heads) == column // (UNITS // heads)
    kernel = np.asarray(whole_kernel(params.recurrent_kernel))
    assert not kernel[~inside.reshape(UNITS, -1)].any()
    np.testing.assert_array_equal(
        np.sort(kernel[inside.reshape(UNITS, -1)]),
        np.sort(np.ravel(params.recurrent_kernel)),
    )

    def results(cell, backend: str | None, join):
        def loss(params, x):
            found = unroll(
                cell,
                join(params),
                x,
                dropout=DropoutMasks(recurrent=mask),
                backend=backend,
            )
            return weigh(found), found

        return jax.value_and_grad(loss, (0, 1), has_aux=True)(params, x)

    def whole(params):
        return params._replace(recurrent_kernel=whole_kernel(params.recurrent_kernel))

    assert_close(
        results(slstm(heads), backend, lambda params: params),
        results(slstm(1), "reference", whole),
        "float32",
    )


def test_refusals() -> None:
    for make, text in (
        (lambda: slstm(0), "heads: 0; give 1 or more"),
        (
            lambda: Recurrent(3, 6, cell=slstm(4), rngs=nnx.Rngs(0)),
            "heads: 4; give a divisor of the 6 units",
        ),
        (
            lambda: lru(0.9, 0.5),
            "ring of the LRU: 0.9 to 0.5; give 0 <= least < most <= 1",
        ),
        (lambda: lru(phase=0.0), "phase: 0.0; give a number above 0"),
    ):
        with pytest.raises(InputError, match=f"^{text}$"):
            make()


def test_initial_values() -> None:
    """The published distributions: the ring of the LRU and its normalisation, the decay
    of the RG-LRU, the forget bias of the sLSTM.
    """
    params = lru(0.5, 0.9, 1.0).init(jax.random.key(0), 4, 4000)
    size, angle = (
        np.exp(-np.exp(np.asarray(params.nu, np.float64))),
        np.exp(np.asarray(params.theta, np.float64)),
    )
    assert 0.5 <= size.min() < 0.51
    assert 0.89 < size.max() <= 0.9 + 1e-6
    # uniform in the area of the ring
    np.testing.assert_allclose((size**2).mean(), (0.5**2 + 0.9**2) / 2, atol=0.01)
    np.testing.assert_allclose((angle.mean(), angle.max()), (0.5, 1), atol=0.02)
    np.testing.assert_allclose(np.exp(params.gamma), np.sqrt(1 - size**2), rtol=1e-4)
    decay = jax.nn.sigmoid(CELLS["rg_lru"].init(jax.random.key(0), 4, 4000).decay) ** 8
    np.testing.assert_allclose(
        (decay.min(), decay.mean(), decay.max()), (0.9, 0.9495, 0.999), atol=2e-3
    )
    params = slstm(2).init(jax.random.key(0), 1000, 10)
    place = np.arange(5) / 4
    np.testing.assert_allclose(
        params.bias,
        np.concatenate([np.zeros(10), *[5 - 12 * place**0.3] * 2, np.zeros(20)]),
        rtol=1e-6,
    )
    np.testing.assert_allclose(params.kernel.std(), np.sqrt(2 / 5000), rtol=0.02)
    assert not params.recurrent_kernel.any()


@pytest.mark.parametrize("gate", [-60.0, 0.0, 60.0])
def test_the_normaliser_does_not_overflow(gate: float) -> None:
    """The sLSTM in float32 has the values of float64 for input gates from exp(-60) to
    exp(60) over 200 steps, and finite gradients.
    """
    x = jnp.full((2, 200, 1), 1.0).at[1].set(jnp.sin(jnp.arange(200.0))[:, None])
    cell = CELLS["slstm"]
    params = cell.init(jax.random.key(0), 1, 3)
    params = params._replace(
        kernel=params.kernel.at[0, :3].set(gate), recurrent_kernel=normal(1, 3, 12)
    )

    def run(params, x, backend):
        return jax.value_and_grad(
            lambda params: weigh(unroll(cell, params, x, backend=backend)[0])
        )(params)

    got = run(params, x, None)
    with jax.enable_x64(True):
        params, x = jax.tree.map(
            lambda leaf: jnp.asarray(np.asarray(leaf), "float64"), (params, x)
        )
        want = run(params, x, "reference")
    assert_close(got, want, 2e-4)


@pytest.mark.parametrize("cell", ["slstm", "rg_lru", "lru"])
def test_a_layer_draws_as_the_cell(cell: str) -> None:
    """A layer has the initial parameters of the function `init` of these cells, by
    their names and as objects.
    """
    by_name, by_cell = (
        Recurrent(FEATURES, UNITS, cell=given, rngs=nnx.Rngs(3))
        for given in (cell, CELLS[cell])
    )
    key = nnx.Rngs(3).params()
    for name, drawn in CELLS[cell].init(key, FEATURES, UNITS)._asdict().items():
        np.testing.assert_array_equal(getattr(by_name, name)[...], drawn)
        np.testing.assert_array_equal(getattr(by_cell, name)[...], drawn)
