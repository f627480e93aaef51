"""Tests of products in bfloat16 in the backend `compiled`: exact if no operand is rounded, else as close to float64 as JAX's products."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import differentiate
from narrow import NAMES, SIZES, as_floats, cases_of, distances, make_operands, multiplies
from tables import assert_close, precision

from lstm_jax import CELLS, DropoutMasks, native, unroll

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
    run = jax.jit(lambda dtype: unroll(CELLS[cell], params, x, state, backend="compiled", compute_dtype=dtype), static_argnums=0)
    got, want = run("bfloat16"), run("float32")
    assert_close(got, want, 3e-6)


def _run(cell: str, operands: tuple, options: dict[str, Any], backend: str, dtype: str, compute_dtype: str | None) -> Any:
    """Run `unroll`. Return (outputs, state), and gradients of their weighted sum with respect to parameters, x and initial state.

    If there are tokens, x is the table in which they are looked up. If x contains ids, there is no gradient with respect to x.
    """
    with precision(dtype):
        params, x, state = as_floats(operands, dtype)
        options = options | {"dropout": as_floats(options["dropout"], dtype)}

        def function(params, x, state):
            x = x[options["tokens"]] if "tokens" in options else x
            return unroll(CELLS[cell], params, x, state, backend=backend, compute_dtype=compute_dtype, **options)

        if x.dtype == np.int32:
            return jax.tree.map(np.asarray, differentiate(lambda params, state: function(params, x, state), params, state))
        return jax.tree.map(np.asarray, differentiate(function, params, x, state))


@pytest.mark.slow(keep=1)
@pytest.mark.parametrize("cell", NAMES)
def test_as_exact_as_products_of_jax(cell: str) -> None:
    """The errors of `compiled` with products in bfloat16 are at most twice those of `reference`, plus 5e-3.

    An error is the relative distance of an output, state or gradient from the result of `reference` in float64.
    """
    for name, operands, options in cases_of(cell):
        exact = _run(cell, operands, options, "reference", "float64", None)
        got = _run(cell, operands, options, "compiled", "float32", "bfloat16")
        assert {leaf.dtype for leaf in jax.tree.leaves(got)} == {np.dtype(np.float32)}
        found, of_jax = distances(got, exact), distances(_run(cell, operands, options, "reference", "float32", "bfloat16"), exact)
        for ours, theirs, path in zip(found, of_jax, jax.tree.leaves_with_path(got), strict=True):
            assert ours <= 2 * theirs + 5e-3, (name, jax.tree_util.keystr(path[0]), ours, theirs)
        assert (max(found) > 1e-5) == multiplies(cell, operands), name


@pytest.mark.slow(keep=1)
@pytest.mark.parametrize("cell", ["lstm", "gru", "lstm_layernorm"])
def test_second_derivatives_and_tangents(cell: str) -> None:
    """Second derivatives, which are computed by the JAX twin of the C++ code, also use products in bfloat16."""
    params, x, state = make_operands(cell, (3, 4, 8, 5))

    def loss(params, backend, dtype):
        outputs, _ = unroll(CELLS[cell], params, x, state, backend=backend, compute_dtype=dtype)
        return (outputs**2).sum()

    def second(backend, dtype):
        return jax.jit(jax.jacfwd(lambda bias: jax.grad(loss)(params._replace(bias=bias), backend, dtype).bias))(params.bias)

    exact, got = second("reference", None), second("compiled", "bfloat16")
    distance = np.linalg.norm(got - exact) / np.linalg.norm(exact)
    assert 1e-5 < distance < 0.1


def _layer(batch: int = 6):
    """Return (run, params, x, state), where run(x, state) runs an LSTM with products in bfloat16."""
    params, x, state = make_operands("lstm", (batch, 6, 20, 12))

    def run(x, state, params=params, **options):
        return unroll(CELLS["lstm"], params, x, state, backend="compiled", compute_dtype="bfloat16", **options)

    return run, params, x, state


def test_a_row_does_not_depend_on_the_rows_beside_it() -> None:
    run, _, x, state = _layer(40)
    whole = jax.jit(run)(x, state)[0]
    part = jax.jit(run)(x[:7], jax.tree.map(lambda leaf: leaf[:7], state))[0]
    np.testing.assert_array_equal(whole[:7], part)


def test_the_last_output_alone() -> None:
    run, _, x, state = _layer()
    np.testing.assert_array_equal(run(x, state, return_sequences=False)[0], run(x, state)[0][:, -1])


def test_transformations() -> None:
    """The outputs under `vmap` over x have the same bits as those of separate calls.

    Gradients with `remat` equal those without it up to rounding, and gradients with respect to dropout masks equal those of `reference` up
    to the rounding to bfloat16.
    """
    run, params, x, state = _layer()
    sets = jnp.stack([jnp.asarray(x), jnp.asarray(x) + 1])
    several = jax.jit(jax.vmap(lambda x: run(x, state)[0]))(sets)
    for number in range(2):
        np.testing.assert_array_equal(several[number], run(sets[number], state)[0])

    def gradients(**options):
        return jax.jit(jax.grad(lambda params: (run(x, state, params, **options)[0] ** 2).sum()))(params)

    assert_close(gradients(remat=3), gradients(), 1e-2)

    def by_masks(backend: str, dtype: str | None, masks):
        def loss(masks):
            return (unroll(CELLS["lstm"], params, x, state, dropout=masks, backend=backend, compute_dtype=dtype)[0] ** 2).sum()

        return jax.jit(jax.grad(loss))(masks)

    rng = np.random.default_rng(0)
    masks = DropoutMasks(*(jnp.asarray(rng.random((4, 6, width)) < 0.7, jnp.float32) / 0.7 for width in (12, 20)))
    exact, got = by_masks("reference", None, masks), by_masks("compiled", "bfloat16", masks)
    assert all(1e-5 < distance < 0.02 for distance in distances(got, exact))


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
