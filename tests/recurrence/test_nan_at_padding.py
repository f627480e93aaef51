"""Tests that x, ids and tokens at padded steps affect no result and no gradient, on every backend and, for x, in every cell."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import weigh
from tables import CELLS, EVERY_CASE, assert_close, serving
from test_operands import IDS, MASK, run, usual

pytestmark = pytest.mark.usefixtures("quick_compiles")

PADDED = [(cell, backend) for cell in CELLS for backend in serving(cell=cell, mask="mask")]


@pytest.mark.slow(keep=8)
@pytest.mark.parametrize(("cell", "backend"), PADDED)
def test_nan_at_padding_reaches_nothing(cell: str, backend: str) -> None:
    """NaN in x at padded steps changes no output, state or gradient; the gradient with respect to x is 0 there and nonzero elsewhere."""
    operands = usual(cell)
    valid = MASK.astype(bool)

    @jax.jit
    def run_and_pull(params, x, state):
        def loss(params, x, state):
            results = run(operands | {"params": params, "x": x, "initial_state": state, "mask": valid}, backend, cell)
            return weigh(results), results

        return jax.grad(loss, (0, 1, 2), has_aux=True)(params, x, state)

    x = np.where(valid[:, :, None], operands["x"], np.float32(np.nan))
    gradients, results = run_and_pull(operands["params"], x, operands["initial_state"])
    want = run_and_pull(operands["params"], operands["x"], operands["initial_state"])
    assert_close((gradients, results), want, 0.0)
    assert np.abs(gradients[1][~valid]).max() == 0
    assert np.abs(gradients[1][valid]).min() > 0


@pytest.mark.slow(keep=1)
@pytest.mark.parametrize("backend", EVERY_CASE)
@pytest.mark.parametrize("lowest", [0, -(2**31)])
def test_padding_shares_no_token(eager: None, backend: str, lowest: int) -> None:
    """Gradients with the argument `tokens` equal those without it, also if a padded step has the same token as a valid step.

    A backend may compute the input projection once for all steps of a row with equal tokens. The projection must then be that of a valid
    step. Some padded steps in the test come before a valid step with the same token, and others after it. `reference` computes the expected
    gradients.
    """
    operands = usual()
    table = np.array([[0.5, -1.0, 2.0], [1.0, 0.25, -0.5]], np.float32)
    tokens = np.array([[0, 0, 1, 0], [1, 1, 1, 0]])
    valid = np.array([[False, True, True, True], [True, False, True, True]])

    def loss(table, params):
        given = {"params": params, "x": table[tokens], "mask": valid}
        return weigh(run(operands | given | {"tokens": np.where(tokens == 0, lowest, tokens).astype(np.int32)}, backend))

    def plain(table, params):
        return weigh(run(operands | {"params": params, "x": table[tokens], "mask": valid}, "reference"))

    got, want = (jax.grad(function, (0, 1))(jnp.asarray(table), operands["params"]) for function in (loss, plain))
    assert_close(got, want, "float32")


@pytest.mark.parametrize("backend", EVERY_CASE)
def test_ids_at_padding_may_be_anything(eager: None, backend: str) -> None:
    operands = usual()
    valid = MASK.astype(bool)

    def gradient(ids):
        return jax.grad(lambda params: weigh(run(operands | {"params": params, "x": ids, "mask": valid}, backend)))(operands["params"])

    assert_close(gradient(np.where(valid, IDS, 99)), gradient(np.where(valid, IDS, 0)), 0.0)
