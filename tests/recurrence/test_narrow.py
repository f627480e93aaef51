"""Tests of products in bfloat16 and int8: exact if nothing is rounded, else as close to
float64 in `compiled` as in `reference`.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import Arrays, Case, differentiate_case, make_arrays, run_case, weigh
from compiled_cases import KINDS, NAMES, SIZES, distances, make_case
from tables import Shape, assert_close, precision

from lstm_jax import CELLS, InputError, native, unroll
from lstm_jax.cells.products import int8_matmul

built = {
    dtype: pytest.mark.skipif(
        bool(native.why_not_products(dtype)),
        reason=f"no products in {dtype}: {native.why_not_products(dtype)}",
    )
    for dtype in ("bfloat16", "int8")
}
PRODUCTS = [pytest.param(dtype, marks=mark) for dtype, mark in built.items()]
BACKENDS = ["reference", pytest.param("compiled", marks=built["int8"])]
SMALL = Case(Shape(2, 3, 5, 4))
ROUNDS_H = {"gru_reset_before"}
"""Cells that round a factor other than h, such as r * h, for the product with the
recurrent kernel."""


def _skip_unserved(cell: str, products: str) -> None:
    if (cell, products) == ("lstm_full_gate_recurrence", "int8"):
        pytest.skip("no such products")


def _on_grid(array: np.ndarray) -> np.ndarray:
    """Return an array of numbers n / 128 with whole n from -127 to 127. Most n depend
    on the given array, and some are set to 127.

    Each row, and each column of a matrix, contains 127 / 128. All scales are therefore
    1 / 128, and int8 represents all numbers exactly.
    """
    whole = np.clip(np.rint(array * 50), -127, 127)
    whole.reshape(-1, whole.shape[-1])[:, :: 2 if whole.shape[-1] > 1 else 1] = 127
    if whole.ndim == 2:
        whole[:1] = 127
    return (whole / 128).astype(np.float32)


def _exact(tree: Any, products: str) -> Any:
    """Return a tree of arrays that `products` represents exactly."""
    if products == "bfloat16":
        return jax.tree.map(
            lambda leaf: leaf.astype(jnp.bfloat16).astype(jnp.float32), tree
        )
    return jax.tree.map(lambda leaf: jnp.asarray(_on_grid(np.array(leaf))), tree)


@pytest.mark.slow(keep=9)
@pytest.mark.parametrize("products", PRODUCTS)
@pytest.mark.parametrize("shape", SIZES, ids=str)
@pytest.mark.parametrize("cell", [name for name in NAMES if name not in ROUNDS_H])
def test_a_step_of_exact_numbers(cell: str, shape: Shape, products: str) -> None:
    """If x, h and the kernels are exact, a step equals one with products in float32:
    sums and states are not rounded.
    """
    _skip_unserved(cell, products)
    case = Case(shape._replace(steps=1))
    params, x, state, *rest = make_arrays(case, cell=cell)
    kernels = {
        name: _exact(getattr(params, name), products)
        for name in params._fields
        if "kernel" in name
    }
    arrays = Arrays(
        params._replace(**kernels), _exact(x, products), _exact(state, products), *rest
    )
    step = jax.jit(
        lambda dtype: run_case(case, arrays, "compiled", cell, compute_dtype=dtype),
        static_argnums=0,
    )
    assert_close(step(products), step("float32"), 3e-6)


@pytest.mark.slow(keep=3)
@built["int8"]
# one row and two rows that share the units, and a tile of rows
@pytest.mark.parametrize("batch", [1, 2, 5])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_an_inner_dimension_in_pieces(cell: str, batch: int) -> None:
    test_a_step_of_exact_numbers(cell, Shape(batch, 1, 1029, 1030), "int8")


@pytest.mark.slow(keep=1)
@pytest.mark.parametrize(
    ("products", "factor"),
    [
        pytest.param("bfloat16", 2, marks=built["bfloat16"]),
        pytest.param("int8", 1.5, marks=built["int8"]),
    ],
)
@pytest.mark.parametrize("cell", NAMES)
def test_as_exact_as_the_reference(cell: str, products: str, factor: float) -> None:
    """The errors of `compiled` are at most `factor` times those of `reference`, plus
    5e-3.

    An error is the relative distance of an output, a state or, in bfloat16, a gradient
    from the result of `reference` in float64.
    """
    _skip_unserved(cell, products)
    for kind in range(len(KINDS)):
        case, arrays = make_case(
            cell,
            SIZES[1:][(NAMES.index(cell) + kind) % (len(SIZES) - 1)],
            kind,
            "float32",
        )

        def results(
            backend: str, arrays: Arrays, dtype: str | None, case: Case = case
        ) -> Any:
            if products == "int8":
                return run_case(case, arrays, backend, cell, compute_dtype=dtype)
            return differentiate_case(
                case, arrays, backend, cell, by_masks=False, compute_dtype=dtype
            )

        with precision("float64"):
            wide = jax.tree.map(
                lambda leaf: (
                    leaf.astype("float64") if leaf.dtype == "float32" else leaf
                ),
                arrays,
            )
            exact = results("reference", wide, None)
        got = results("compiled", arrays, products)
        assert {leaf.dtype for leaf in jax.tree.leaves(got)} == {np.dtype(np.float32)}
        found, of_reference = (
            distances(got, exact),
            distances(results("reference", arrays, products), exact),
        )
        for ours, theirs, path in zip(
            found, of_reference, jax.tree.leaves_with_path(got), strict=True
        ):
            assert ours <= factor * theirs + 5e-3, (
                case,
                jax.tree_util.keystr(path[0]),
                ours,
                theirs,
            )
        assert (max(found) > 1e-5) == (
            not case.ids or CELLS[cell].has_recurrent_kernel
        ), case


@built["bfloat16"]
@pytest.mark.slow(keep=1)
@pytest.mark.parametrize("cell", ["lstm", "gru", "lstm_layernorm"])
def test_second_derivatives(cell: str) -> None:
    """Second derivatives, which are computed by the JAX twin of the C++ code, also use
    products in bfloat16.
    """
    arrays = make_arrays(SMALL, cell=cell)

    def second(backend: str, dtype: str | None) -> jax.Array:
        def loss(bias):
            params = arrays.params._replace(bias=bias)
            return (
                run_case(
                    SMALL,
                    arrays._replace(params=params),
                    backend,
                    cell,
                    compute_dtype=dtype,
                )[0]
                ** 2
            ).sum()

        return jax.jit(jax.hessian(loss))(arrays.params.bias)

    (distance,) = distances(second("compiled", "bfloat16"), second("reference", None))
    assert 1e-5 < distance < 0.1


@pytest.mark.parametrize("backend", [None, "reference"])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_rows_that_ids_look_up_are_not_rounded(cell: str, backend: str | None) -> None:
    """With products in bfloat16, rows of the kernel that ids look up keep their float32
    values; the product of a one-hot vector does not.

    Only the input matters here, because the single step starts from a state of zeros.
    """
    params, ids = (
        CELLS[cell].init(jax.random.key(0), 6, 32),
        jnp.arange(6, dtype=jnp.int32)[:, None],
    )
    exact = unroll(CELLS[cell], params, ids, backend=backend)[0]
    rounded = [
        unroll(CELLS[cell], params, x, compute_dtype="bfloat16", backend=backend)[0]
        for x in (ids, jax.nn.one_hot(ids, 6))
    ]
    np.testing.assert_allclose(rounded[0], exact, rtol=0, atol=1e-7)
    assert 1e-5 < float(jnp.abs(rounded[1] - exact).max()) < 1e-2


def test_a_product_of_exact_numbers() -> None:
    rng = np.random.default_rng(0)
    a, b = (
        _on_grid(rng.standard_normal((7, 33))),
        _on_grid(rng.standard_normal((33, 12))),
    )
    np.testing.assert_array_equal(
        int8_matmul(jnp.asarray(a), jnp.asarray(b)), a.astype(np.float64) @ b
    )
    rounded = np.asarray(int8_matmul(jnp.asarray(a + 0.001), jnp.asarray(b)))
    assert 0 < np.abs(rounded - (a.astype(np.float64) + 0.001) @ b).max() < 33 * 0.005


# the scales of small numbers and the sums of all lie outside the range of float16
@pytest.mark.parametrize("scale", [1e-3, 1.0, 50.0])
def test_products_of_float16(scale: float) -> None:
    """The product of float16 matrices by `int8_matmul` equals that of the same numbers
    in float32, rounded to float16.
    """
    rng = np.random.default_rng(0)
    a = jnp.asarray(scale * rng.standard_normal((7, 300)), jnp.float16)
    b = jnp.asarray(scale**0.25 * rng.standard_normal((300, 12)), jnp.float16)
    half, wide = (
        int8_matmul(a, b),
        np.asarray(int8_matmul(a.astype(jnp.float32), b.astype(jnp.float32))),
    )
    assert half.dtype == jnp.float16
    np.testing.assert_array_equal(half, wide.astype(np.float16))


@pytest.mark.parametrize("registered", [False, True])
def test_a_cell_of_ones_own(registered: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Products in int8 are refused for a user's cell, registered or not: its step may
    cast h to int8, which would truncate it.
    """
    cell = dataclasses.replace(CELLS["lstm"], name="own")
    params, x, state, *_ = make_arrays(SMALL)
    if registered:
        monkeypatch.setitem(CELLS, "own", cell)
    with pytest.raises(
        InputError,
        match=r"^backend reference: no products in int8 for a cell of one's own, with ",
    ):
        unroll(cell, params, x, state, compute_dtype="int8", backend="reference")


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_gradients(backend: str) -> None:
    arrays = make_arrays(SMALL)

    def loss(x):
        return weigh(
            run_case(SMALL, arrays._replace(x=x), backend, compute_dtype="int8")
        )

    for differentiate in (jax.grad(loss), lambda x: jax.jvp(loss, (x,), (x,))):
        with pytest.raises(
            InputError, match=r"^products in int8: differentiated; give a float dtype"
        ):
            differentiate(arrays.x)


@pytest.mark.parametrize("batch", [3, 5])
@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_of_nan_and_of_zeros(backend: str, odd: float, batch: int) -> None:
    """A number that is not finite makes only its own row NaN. Zero rows and kernel
    columns, whose scale is 0, cause no division by 0.
    """
    params, x, *_ = make_arrays(Case(Shape(batch, 4, 7, 20)))
    x = x.at[0, 1, 2].set(odd).at[1].set(0)
    params = params._replace(kernel=params.kernel.at[:, :9].set(0))
    outputs, _ = unroll(CELLS["lstm"], params, x, backend=backend, compute_dtype="int8")
    assert np.isnan(outputs[0, 1:]).all()
    assert np.isfinite(outputs[1:]).all()
    assert np.isfinite(outputs[0, 0]).all()
