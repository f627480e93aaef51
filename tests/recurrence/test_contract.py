"""Tests that each cell has the values of its equations in float64, and that each
backend has the values and derivatives of `reference`.
"""

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import (
    Arrays,
    Case,
    cases,
    covering_cases,
    differentiate_all,
    differentiate_case,
    make_arrays,
    refused,
    run_case,
    usable,
    weigh,
)
from float64_steps import by_hand
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from jax.sharding import NamedSharding, PartitionSpec
from jax.test_util import check_grads
from tables import (
    BACKENDS,
    CELLS,
    EVERY_BACKEND,
    EVERY_CASE,
    MASKS,
    TOLERANCE,
    Shape,
    assert_close,
    precision,
    serving,
)

from lstm_jax import CELLS as CELL_TABLE
from lstm_jax.base.sharding import DATA, make_mesh, on
from lstm_jax.lab.config import cell_traits
from lstm_jax.recurrence import BACKENDS as BACKEND_TABLE


def test_traits_of_cells() -> None:
    """The properties that `cell_traits` returns for configs are those of the cells."""
    traits = {name: cell_traits(name) for name in CELLS}
    found = {
        name: (one.has_recurrent_kernel, one.has_cell_state)
        for name, one in traits.items()
    }
    assert found == {
        name: (row.has_recurrent_kernel, row.has_cell_state)
        for name, row in CELL_TABLE.items()
    }


@pytest.mark.slow(keep=4)
@pytest.mark.parametrize("cell", CELLS)
def test_reference_is_the_definition(cell: str) -> None:
    @settings(max_examples=6 if cell == "lstm" else 4)
    @given(cases, st.booleans(), st.booleans())
    @example(
        Case(mask="an empty row", dropout="both, per gate", backwards=True), True, False
    )
    @example(Case(mask="gaps", return_sequences=False, zero_output=True), True, True)
    def check(case: Case, resets: bool, ids: bool) -> None:
        with jax.enable_x64(True):
            case = case._replace(resets=resets, ids=ids)
            arrays = make_arrays(case, "float64", cell)
            assume(
                arrays.dropout.recurrent is None
                or CELL_TABLE[cell].has_recurrent_kernel
            )
            outputs, state = jax.jit(
                lambda arrays: run_case(case, arrays, "reference", cell)
            )(arrays)
            assert_close(
                (outputs, state._asdict()),
                by_hand(cell, case, arrays),
                "float64",
                f"{case} ",
            )

    check()


CELLS_IN = {
    "float32": tuple(cell for cell in CELLS if cell != "lstm_layernorm"),
    "float64": CELLS,
}
"""Cells compared in each dtype. In float32, the gradient of `lstm_layernorm` with two
nearly equal units has no correct digits."""


@cache
def expected(cell: str, case: Case, dtype: str) -> list:
    """Return the results and gradients of `reference` for each set of `sets_of`. They
    are cached: all backends are compared with them.
    """
    with precision(dtype):
        return differentiate_all(case, sets_of(cell, case, dtype), "reference", cell)


def sets_of(cell: str, case: Case, dtype: str) -> list[Arrays]:
    """Return the arrays of a case, one set for each kind of mask, or a single set
    without a mask if `case.mask` is "none".

    The seed of each set is computed from the seed of the case. The seeds are fixed for
    this reason: errors are compared relative to the largest entry of a result. If a
    result has a single entry, and this entry is the difference of two nearly equal
    numbers, then its relative rounding error may be of any size. With these seeds, no
    result is of this kind.
    """
    kinds = (
        ["none"] if case.mask == "none" else [kind for kind in MASKS if kind != "none"]
    )
    return [
        make_arrays(case._replace(mask=kind, seed=9 * case.seed + n), dtype, cell)
        for n, kind in enumerate(kinds)
    ]


SERVED = [
    (cell, backend, dtype)
    for dtype in TOLERANCE
    for backend in EVERY_BACKEND
    for cell in CELLS_IN[dtype]
    if backend != "reference" and cell in BACKEND_TABLE[backend].cells
]


@pytest.mark.slow(keep=5)
@pytest.mark.parametrize(("cell", "backend", "dtype"), SERVED)
def test_backends_agree(cell: str, backend: str, dtype: str) -> None:
    """Outputs, final state and gradients with respect to every float array equal those
    of `reference` for every padding mask.
    """
    alone = cell not in CELLS_IN["float32"]
    chosen = [
        case
        for case, double in covering_cases(CELLS.index(cell))
        if alone or double == (dtype == "float64")
    ]
    for case in chosen:
        if refused(case, backend, dtype, cell=cell):
            continue
        want = expected(cell, case._replace(remat=None), dtype)
        # computes all gradients if those by masks are asked for
        twin = backend == "compiled" and case.dropout != "none"
        for by_masks in (True, False) if twin else (True,):
            with precision(dtype):
                got = differentiate_all(
                    case, sets_of(cell, case, dtype), backend, cell, by_masks
                )
            wanted = (
                want
                if by_masks
                else [
                    (results, {name: by[name] for name in by if name != "dropout"})
                    for results, by in want
                ]
            )
            assert_close(got, wanted, dtype, f"{case} ")


OF_EACH_KIND = (
    "gru_reset_before",
    "lstm_layernorm",
    "lstm_coupled",
    "lstm_full_gate_recurrence",
    "min_lstm",
    "lru",
    "slstm",
    "mlstm",
)
"""Cells that represent all kinds of steps, states and projections."""
BY_BACKEND = [
    *(("lstm", backend) for backend in serving("float64")),
    *((cell, None) for cell in OF_EACH_KIND),
]


@pytest.mark.slow(keep=5)
@pytest.mark.parametrize("remat", [None, 2])
@pytest.mark.parametrize(
    ("mask", "dropout"),
    [("none", "none"), ("gaps", "both, per gate"), ("trailing", "both, shared")],
)
@pytest.mark.parametrize(("cell", "backend"), BY_BACKEND)
def test_derivatives_are_those_of_differences(
    x64: None,
    cell: str,
    backend: str | None,
    mask: str,
    dropout: str,
    remat: int | None,
) -> None:
    """Derivatives in forward and reverse mode equal finite differences, those of the
    LSTM also of order 2 and by dropout masks.
    """
    case = usable(
        Case(
            Shape(2, 3, 2, 2),
            mask=mask,
            dropout=dropout,
            resets=mask == "gaps",
            remat=remat,
        ),
        cell,
    )
    arrays = make_arrays(case, "float64", cell)

    @jax.jit
    def function(params, x, state, reset_state):
        return weigh(
            run_case(
                case,
                arrays._replace(
                    params=params, x=x, state=state, reset_state=reset_state
                ),
                backend,
                cell,
            )
        )

    args = (*arrays[:3], arrays.reset_state)
    check_grads(
        function,
        args,
        order=2 if (cell, mask) == ("lstm", "none") else 1,
        modes=["fwd", "rev"],
        atol=1e-6,
        rtol=1e-6,
    )
    if cell == "lstm" and remat is None and dropout != "none":
        by_masks = jax.jit(
            lambda dropout: weigh(
                run_case(case, arrays._replace(dropout=dropout), backend, cell)
            )
        )
        check_grads(
            by_masks, (arrays.dropout,), order=1, modes=["rev"], atol=1e-6, rtol=1e-6
        )


@pytest.mark.parametrize("backend", [name for name in BACKENDS if name != "reference"])
@pytest.mark.parametrize("wanted", ["outputs", "h", "c"])
def test_gradient_of_one_result(backend: str, wanted: str) -> None:
    case = Case(Shape(2, 4, 3, 2), mask="gaps" if backend in EVERY_CASE else "none")
    arrays = make_arrays(case)

    def loss(params, backend: str) -> jax.Array:
        outputs, state = run_case(case, arrays._replace(params=params), backend)
        return weigh({"outputs": outputs, "h": state.h, "c": state.c}[wanted])

    assert_close(
        *(jax.grad(loss)(arrays.params, name) for name in (backend, "reference")),
        "float32",
    )


@pytest.mark.slow(keep=2)
@pytest.mark.parametrize("remat", [None, 3])
@pytest.mark.parametrize(
    ("cell", "backend"),
    [
        *(("lstm", backend) for backend in BACKENDS),
        *((cell, None) for cell in OF_EACH_KIND),
    ],
)
def test_batch_over_two_devices(
    cell: str, backend: str | None, remat: int | None
) -> None:
    """Splitting the batch over two devices changes no result and no gradient, apart
    from rounding.

    The rows stay split, and no device gathers the rows of the other one.
    """
    if jax.device_count() < 2:
        pytest.skip(f"needs two devices, JAX shows {jax.device_count()}")
    case = Case(Shape(4, 5, 3, 2))
    if backend in (None, *EVERY_CASE):
        case = usable(
            case._replace(mask="trailing", dropout="both, per gate", resets=True), cell
        )
    arrays = make_arrays(case, cell=cell)
    mesh = make_mesh(2)
    by_rows, by_second, copied = (
        NamedSharding(mesh, PartitionSpec(*axes))
        for axes in ((DATA,), (None, DATA), ())
    )

    def sharding(path, leaf) -> NamedSharding:
        return (
            copied
            if path[0].name == "params"
            else by_second
            if path[0].name == "dropout" and leaf.ndim == 3
            else by_rows
        )

    def function(arrays):
        def loss(params, x):
            results = run_case(
                case, arrays._replace(params=params, x=x), backend, cell, remat=remat
            )
            return weigh(results), results

        return jax.value_and_grad(loss, (0, 1), has_aux=True)(arrays.params, arrays.x)

    want = jax.jit(function)(arrays)
    with on(mesh):
        placed = jax.device_put(
            arrays, jax.tree_util.tree_map_with_path(sharding, arrays)
        )
        compiled = jax.jit(function).lower(placed).compile()
        got = compiled(placed)
    assert_close(got, want, "float32")
    (_, (outputs, state)), (_, d_x) = got
    for array in (outputs, *state, d_x):
        assert array.sharding.is_equivalent_to(by_rows, array.ndim), array.sharding
    assert "all-gather" not in compiled.as_text()
    assert "all-to-all" not in compiled.as_text()
    # the weights' gradients are sums over all rows
    assert "all-reduce" in compiled.as_text()


@pytest.mark.slow(keep=3)
@pytest.mark.parametrize(
    "backend",
    [name for name in EVERY_CASE if "bfloat16" in BACKEND_TABLE[name].compute_dtypes],
)
@pytest.mark.parametrize(
    ("dropout", "remat"),
    [("none", None), ("both, shared", 3), ("both, per gate", None)],
)
def test_products_in_bfloat16(backend: str, dropout: str, remat: int | None) -> None:
    """The errors of products in bfloat16 are those of rounding, and nearly the same on
    all backends.
    """
    case = Case(mask="gaps", dropout=dropout)
    if refused(case, backend, compute_dtype="bfloat16"):
        return
    arrays = make_arrays(case)
    got = differentiate_case(
        case, arrays, backend, compute_dtype=jnp.bfloat16, remat=remat
    )
    want = differentiate_case(case, arrays, backend)
    assert {leaf.dtype for leaf in jax.tree.leaves(got)} == {np.dtype("float32")}
    assert_close(got, want, 3e-2)
    for part, exact in zip(got, want, strict=True):
        with pytest.raises(AssertionError):
            assert_close(part, exact, "float32")
    # a difference in the last place of float32 can tip a rounding to bfloat16
    assert_close(
        got[0], run_case(case, arrays, "reference", compute_dtype=jnp.bfloat16), 3e-3
    )


@pytest.mark.parametrize(
    "backend",
    [name for name in EVERY_CASE if "float16" in BACKEND_TABLE[name].compute_dtypes],
)
def test_float16(backend: str) -> None:
    """With all arrays or only the products in float16, results and gradients equal
    those in float32 up to rounding.
    """
    case = Case(Shape(2, 4, 3, 5), mask="gaps")

    def cast(tree: Any, dtype) -> Any:
        return jax.tree.map(
            lambda leaf: leaf if leaf.dtype == jnp.bool_ else leaf.astype(dtype), tree
        )

    half = cast(make_arrays(case), jnp.float16)
    whole = cast(half, jnp.float32)
    got, want = (
        differentiate_case(case, half, backend),
        differentiate_case(case, whole, "reference"),
    )
    assert {leaf.dtype for leaf in jax.tree.leaves(got)} == {np.dtype("float16")}
    assert_close(cast(got, jnp.float32), want, 1e-2)
    assert_close(
        differentiate_case(case, whole, backend, compute_dtype=jnp.float16), want, 5e-3
    )
