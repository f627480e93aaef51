"""Tests which results and gradients are NaN: those of the row of a NaN, and none at
padded steps and beyond resets.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import weigh
from tables import CELLS, EVERY_CASE, serving
from test_operands import run, usual

from lstm_jax import CELLS as CELL_TABLE
from lstm_jax import unroll


@pytest.mark.slow(keep=5)
@pytest.mark.parametrize(
    ("cell", "backend"),
    [(cell, backend) for cell in CELLS for backend in serving(cell=cell, mask="mask")],
)
@pytest.mark.parametrize("batch", [3, 5])
def test_nan_reaches_its_row_and_all_parameters(
    eager: None, cell: str, backend: str, batch: int
) -> None:
    """A NaN in x is in the gradients of x in its row and of all parameters, also if h
    is 0; one at a padded step is in no gradient.
    """
    params, valid = usual(cell)["params"], np.arange(batch)[:, None] != 1
    for row in (0, 1):
        x = np.ones((batch, 1, 3), np.float32)
        x[row, 0, 1] = np.nan

        def loss(params, x, valid=valid):
            found = run({"params": params, "x": x, "mask": valid}, backend, cell)
            # not linear, so that the gradients of a linear cell depend on x
            return weigh(jax.tree.map(lambda part: part + part * part, found))

        by_params, by_x = jax.grad(loss, (0, 1))(params, x)
        assert all((np.isnan(leaf) == valid[row]).all() for leaf in by_params)
        np.testing.assert_array_equal(
            np.isnan(by_x).any((1, 2)), (np.arange(batch) == row) & valid[row]
        )


@pytest.mark.parametrize("backend", EVERY_CASE)
def test_ids_at_padding_get_no_gradient(eager: None, backend: str) -> None:
    """The gradient of the kernel is NaN in the rows of the ids that are read after an
    id out of range, but not in those of padded ids.
    """
    ids, valid = np.array([[99, 0, 1, 0]]), np.array([[True, False, True, False]])
    params = usual()["params"]
    with jax.disable_jit(False):  # outside of `jit` the id is refused
        found = jax.jit(
            jax.grad(
                lambda params, ids: weigh(
                    run({"params": params, "x": ids, "mask": valid}, backend)
                )
            )
        )(params, ids)
    np.testing.assert_array_equal(np.isnan(found.kernel).any(1), [False, True, False])


@pytest.mark.slow(keep=2)
@pytest.mark.parametrize("cell", CELLS)
def test_nan_does_not_cross_a_reset(x64: None, cell: str) -> None:
    """A NaN in x before a reset reaches no output and no gradient after the reset or in
    another row.
    """
    params = CELL_TABLE[cell].init(jax.random.key(0), 4, 5, jnp.float64)
    x = jax.random.normal(jax.random.key(1), (3, 6, 4)).at[0, 1].set(jnp.nan)
    resets = jnp.zeros((3, 6), bool).at[0, 3].set(True)
    reached = np.zeros((3, 6), bool)
    reached[0, 1:3] = True

    @partial(jax.jit, static_argnums=1)
    def outputs_and_gradient(x, backend):
        outputs, pull = jax.vjp(
            lambda x: unroll(
                CELL_TABLE[cell], params, x, resets=resets, backend=backend
            )[0],
            x,
        )
        return outputs, *pull(outputs.at[:, :3].set(0))

    for backend in serving("float64", cell=cell, resets=True):
        outputs, d_x = outputs_and_gradient(x, backend)
        np.testing.assert_array_equal(np.isnan(outputs).any(-1), reached)
        assert np.isfinite(d_x[0, 3:]).all()
        assert np.isfinite(d_x[1:]).all()
