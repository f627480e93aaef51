"""Tests of products in bfloat16 in the backend `compiled`: exact if no operand is rounded, else as close to float64 as JAX's products."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiled_cases import NAMES, SIZES, cases_of, distances, make_operands, multiplies, run
from tables import assert_close

from lstm_jax import CELLS, native, unroll

pytestmark = [
    pytest.mark.usefixtures("quick_compiles"),
    pytest.mark.skipif(bool(native.why_not_products("bfloat16")), reason=f"no products in bfloat16: {native.why_not_products('bfloat16')}"),
]


def _rounded(array) -> np.ndarray:
    return np.asarray(jnp.asarray(array, jnp.bfloat16).astype(jnp.float32))


@pytest.mark.slow(keep=9)
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("cell", [name for name in NAMES if name != "gru_reset_before"])  # it rounds r * h
def test_a_step_of_exact_numbers(cell: str, size: tuple[int, int, int, int]) -> None:
    """If bfloat16 represents x, h and the kernels exactly, a step with products in bfloat16 equals one with products in float32.

    Sums and states are thus not rounded to bfloat16.
    """
    batch, _, units, features = size
    params, x, state = make_operands(cell, (batch, 1, units, features), _rounded)
    step = jax.jit(lambda dtype: unroll(CELLS[cell], params, x, state, backend="compiled", compute_dtype=dtype), static_argnums=0)
    assert_close(step("bfloat16"), step("float32"), 3e-6)


@pytest.mark.slow(keep=1)
@pytest.mark.parametrize("cell", NAMES)
def test_as_exact_as_products_of_jax(cell: str) -> None:
    """The errors of `compiled` with products in bfloat16 are at most twice those of `reference`, plus 5e-3.

    An error is the relative distance of an output, state or gradient from the result of `reference` in float64.
    """
    for name, operands, options in cases_of(cell):
        exact = run(cell, operands, options, "reference", "float64")
        got = run(cell, operands, options, "compiled", "float32", "bfloat16")
        assert {leaf.dtype for leaf in jax.tree.leaves(got)} == {np.dtype(np.float32)}
        found, of_jax = distances(got, exact), distances(run(cell, operands, options, "reference", "float32", "bfloat16"), exact)
        for ours, theirs, path in zip(found, of_jax, jax.tree.leaves_with_path(got), strict=True):
            assert ours <= 2 * theirs + 5e-3, (name, jax.tree_util.keystr(path[0]), ours, theirs)
        assert (max(found) > 1e-5) == multiplies(cell, operands), name


@pytest.mark.slow(keep=1)
@pytest.mark.parametrize("cell", ["lstm", "gru", "lstm_layernorm"])
def test_second_derivatives(cell: str) -> None:
    """Second derivatives, which are computed by the JAX twin of the C++ code, also use products in bfloat16."""
    params, x, state = make_operands(cell, (3, 4, 8, 5))

    def second(backend, dtype):
        def loss(bias):
            return (unroll(CELLS[cell], params._replace(bias=bias), x, state, backend=backend, compute_dtype=dtype)[0] ** 2).sum()

        return jax.jit(jax.hessian(loss))(params.bias)

    (distance,) = distances(second("compiled", "bfloat16"), second("reference", None))
    assert 1e-5 < distance < 0.1


def test_rows_do_not_depend_on_each_other() -> None:
    """Outputs have the same bits for a part of the rows, under `vmap` over x, and if only the last output is returned."""
    params, x, state = jax.tree.map(jnp.asarray, make_operands("lstm", (40, 6, 20, 12)))

    def outputs(x, state, **options):
        return unroll(CELLS["lstm"], params, x, state, backend="compiled", compute_dtype="bfloat16", **options)[0]

    whole = outputs(x, state)
    np.testing.assert_array_equal(outputs(x[:7], jax.tree.map(lambda leaf: leaf[:7], state)), whole[:7])
    np.testing.assert_array_equal(outputs(x, state, return_sequences=False), whole[:, -1])
    np.testing.assert_array_equal(jax.vmap(lambda x: outputs(x, state))(jnp.stack([x, x + 1]))[0], whole)


@pytest.mark.parametrize("backend", [None, "reference"])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_rows_that_ids_look_up_are_not_rounded(cell: str, backend: str | None) -> None:
    """With products in bfloat16, rows of the kernel that ids look up keep their float32 values.

    Only the input matters here, because the single step starts from a state of zeros. One-hot vectors of the same ids are multiplied by the
    kernel, so that their results are rounded.
    """
    params, ids = CELLS[cell].init(jax.random.key(0), 6, 32), jnp.arange(6, dtype=jnp.int32)[:, None]
    exact = unroll(CELLS[cell], params, ids, backend=backend)[0]
    rounded = [unroll(CELLS[cell], params, x, compute_dtype="bfloat16", backend=backend)[0] for x in (ids, jax.nn.one_hot(ids, 6))]
    np.testing.assert_allclose(rounded[0], exact, rtol=0, atol=1e-7)
    assert 1e-5 < float(jnp.abs(rounded[1] - exact).max()) < 1e-2
