"""Tests of products in int8: exact if nothing is rounded, as close to float64 in `compiled` as in `reference`, and not differentiable."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiled_cases import NAMES, SIZES, cases_of, distances, make_operands, multiplies, run
from tables import assert_close

from lstm_jax import CELLS, InputError, native, unroll
from lstm_jax.cells.products import int8_matmul

pytestmark = pytest.mark.usefixtures("quick_compiles")
built = pytest.mark.skipif(bool(native.why_not_products("int8")), reason=f"no products in int8: {native.why_not_products('int8')}")
SERVED = [name for name in NAMES if name != "lstm_full_gate_recurrence"]
BACKENDS = ["reference", pytest.param("compiled", marks=built)]


def _on_grid(array: np.ndarray) -> np.ndarray:
    """Return an array of numbers n / 128 with whole n from -127 to 127. Most n depend on the given array, and some are set to 127.

    Each row, and each column of a matrix, contains 127 / 128. All scales are therefore 1 / 128, and int8 represents all numbers exactly.
    """
    whole = np.clip(np.rint(array * 50), -127, 127)
    whole.reshape(-1, whole.shape[-1])[:, :: 2 if whole.shape[-1] > 1 else 1] = 127
    if whole.ndim == 2:
        whole[:1] = 127
    return (whole / 128).astype(np.float32)


def test_a_product_of_exact_numbers() -> None:
    rng = np.random.default_rng(0)
    a, b = _on_grid(rng.standard_normal((7, 33))), _on_grid(rng.standard_normal((33, 12)))
    np.testing.assert_array_equal(int8_matmul(jnp.asarray(a), jnp.asarray(b)), a.astype(np.float64) @ b)
    rounded = np.asarray(int8_matmul(jnp.asarray(a + 0.001), jnp.asarray(b)))
    assert 0 < np.abs(rounded - (a.astype(np.float64) + 0.001) @ b).max() < 33 * 0.005


@pytest.mark.parametrize("scale", [1e-3, 1.0, 50.0])  # the scales of small numbers and the sums of all lie outside the range of float16
def test_products_of_float16(scale: float) -> None:
    """The product of float16 matrices by `int8_matmul` equals that of the same numbers in float32, rounded to float16."""
    rng = np.random.default_rng(0)
    a = jnp.asarray(scale * rng.standard_normal((7, 300)), jnp.float16)
    b = jnp.asarray(scale**0.25 * rng.standard_normal((300, 12)), jnp.float16)
    half, wide = int8_matmul(a, b), np.asarray(int8_matmul(a.astype(jnp.float32), b.astype(jnp.float32)))
    assert half.dtype == jnp.float16
    np.testing.assert_array_equal(half, wide.astype(np.float16))
    exact = np.asarray(a, np.float64) @ np.asarray(b, np.float64)
    assert 0 < np.abs(np.asarray(half, np.float64) - exact).max() < 0.02 * np.abs(exact).max()


@pytest.mark.slow(keep=9)
@built
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("cell", [name for name in SERVED if name != "gru_reset_before"])  # it rounds r * h
def test_a_step_of_exact_numbers(cell: str, size: tuple[int, int, int, int]) -> None:
    """A step with products in int8 equals one with products in float32 if int8 represents x, h and the kernels exactly.

    The results are compared up to the rounding of float32.
    """
    batch, _, units, features = size
    params, x, state = make_operands(cell, (batch, 1, units, features))
    kernels = {name: _on_grid(np.asarray(getattr(params, name))) for name in params._fields if "kernel" in name}
    params, x, state = params._replace(**kernels), _on_grid(x), state._replace(h=_on_grid(state.h))
    step = jax.jit(lambda dtype: unroll(CELLS[cell], params, x, state, backend="compiled", compute_dtype=dtype), static_argnums=0)
    assert_close(step("int8"), step("float32"), 3e-6)


@built
@pytest.mark.parametrize("batch", [1, 2, 5])  # one row and two rows that share the units, and a tile of rows
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_an_inner_dimension_in_pieces(cell: str, batch: int) -> None:
    test_a_step_of_exact_numbers(cell, (batch, 1, 1030, 1029))


@pytest.mark.slow(keep=1)
@built
@pytest.mark.parametrize("cell", SERVED)
def test_as_exact_as_the_reference(cell: str) -> None:
    for name, operands, options in cases_of(cell):
        exact = run(cell, operands, options, "reference", "float64", by=False)
        found = distances(run(cell, operands, options, "compiled", "float32", "int8", by=False), exact)
        of_reference = distances(run(cell, operands, options, "reference", "float32", "int8", by=False), exact)
        for ours, theirs in zip(found, of_reference, strict=True):
            assert ours <= 1.5 * theirs + 5e-3, (name, ours, theirs)
        assert (max(found) > 1e-5) == multiplies(cell, operands), name


@pytest.mark.parametrize("registered", [False, True])
def test_a_cell_of_ones_own(registered: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Products in int8 are refused for a user's cell, registered or not: its step may cast h to int8, which would truncate it."""
    cell = dataclasses.replace(CELLS["lstm"], name="own")
    params, x, state = make_operands("lstm", (2, 3, 4, 5))
    if registered:
        monkeypatch.setitem(CELLS, "own", cell)
    with pytest.raises(InputError, match=r"^backend reference: no products in int8 for a cell of one's own, with "):
        unroll(cell, params, x, state, compute_dtype="int8", backend="reference")


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_gradients(backend: str) -> None:
    params, x, state = make_operands("lstm", (2, 3, 4, 5))

    def loss(x):
        return unroll(CELLS["lstm"], params, x, state, backend=backend, compute_dtype="int8")[0].sum()

    with pytest.raises(InputError, match=r"^products in int8: differentiated; give a float dtype"):
        jax.grad(loss)(x)
    with pytest.raises(InputError, match=r"^products in int8: differentiated; give a float dtype"):
        jax.jvp(loss, (x,), (x,))


@pytest.mark.parametrize("batch", [3, 5])
@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_of_nan_and_of_zeros(backend: str, odd: float, batch: int) -> None:
    """A number that is not finite makes only its own row NaN. Zero rows and kernel columns, whose scale is 0, cause no division by 0."""
    params, x, _ = make_operands("lstm", (batch, 4, 20, 7))
    x = jnp.asarray(x).at[0, 1, 2].set(odd).at[1].set(0)
    params = params._replace(kernel=jnp.asarray(params.kernel).at[:, :9].set(0))
    outputs, _ = unroll(CELLS["lstm"], params, x, backend=backend, compute_dtype="int8")
    assert np.isnan(outputs[0, 1:]).all()
    assert np.isfinite(outputs[1:]).all()
    assert np.isfinite(outputs[0, 0]).all()
