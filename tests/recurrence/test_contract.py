"""Tests that each backend has the values and derivatives of `reference`, whose values are compared with a loop in NumPy."""

from functools import cache, partial

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
    run_compiled,
    weigh,
)
from hypothesis import example, given, settings
from jax.sharding import NamedSharding, PartitionSpec
from jax.test_util import check_grads
from tables import (
    BACKENDS,
    CELLS,
    DROPOUTS,
    EVERY_BACKEND,
    EVERY_CASE,
    FAST,
    MASKS,
    SHAPES,
    TOLERANCE,
    Shape,
    assert_close,
    lengths,
    precision,
    serving,
)

from lstm_jax import CELLS as CELL_TABLE
from lstm_jax import DropoutMasks, InputError, unroll
from lstm_jax.recurrence import BACKENDS as BACKEND_TABLE
from lstm_jax.runtime.sharding import DATA, make_mesh, on

pytestmark = pytest.mark.usefixtures("quick_compiles")


def lstm_in_numpy(case: Case, arrays: Arrays) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Return outputs (B, T, H) or (B, H) and final (h, c) from the LSTM's equations, one row and one step at a time, in float64."""

    def sigmoid(z):
        return 1 / (1 + np.exp(-z))

    def gates(mask, row: int, width: int) -> np.ndarray:  # (4, width), a factor for each gate's input
        if mask is None:
            return np.ones((4, width))
        mask = np.asarray(mask, np.float64)
        return mask[:, row] if mask.ndim == 3 else np.stack([mask[row]] * 4)

    kernel, recurrent, bias = (np.asarray(a, np.float64) for a in arrays.params)
    batch, steps, features, units = case.shape
    outputs = np.zeros((batch, steps, units))
    h, c = (np.zeros((batch, units)) if arrays.state is None else np.array(a, np.float64) for a in arrays.state or (None, None))
    for row in range(batch):
        order = range(steps)[::-1] if case.backwards else range(steps)
        shown = np.zeros(units)
        for place, step in enumerate(order):
            valid = arrays.mask is None or bool(arrays.mask[row, step])
            if valid:
                of_x, of_h = gates(arrays.dropout.input, row, features), gates(arrays.dropout.recurrent, row, units)
                z = [
                    (np.asarray(arrays.x[row, step], np.float64) * of_x[n]) @ kernel[:, n * units : (n + 1) * units]
                    + (h[row] * of_h[n]) @ recurrent[:, n * units : (n + 1) * units]
                    + bias[n * units : (n + 1) * units]
                    for n in range(4)
                ]
                c[row] = sigmoid(z[1]) * c[row] + sigmoid(z[0]) * np.tanh(z[2])
                h[row] = shown = sigmoid(z[3]) * np.tanh(c[row])
            outputs[row, place] = 0 if case.zero_output and not valid else shown
    return (outputs if case.return_sequences else outputs[:, -1]), (h, c)


def test_reference_is_the_definition() -> None:
    @settings(max_examples=15)
    @given(cases)
    @example(Case(mask="an empty row", dropout="both, per gate", backwards=True))
    @example(Case(mask="gaps", dropout="both, shared", return_sequences=False, zero_output=True))
    def check(case: Case) -> None:
        with jax.enable_x64(True):
            arrays = make_arrays(case, "float64")
            outputs, state = run_compiled(case, arrays, "reference")
            assert_close((outputs, (state.h, state.c)), lstm_in_numpy(case, arrays), "float64", f"{case} ")

    check()


CELLS_IN = {"float32": tuple(cell for cell in CELLS if cell != "lstm_layernorm"), "float64": CELLS}
"""Cells compared in each dtype. In float32, the gradient of `lstm_layernorm` with two nearly equal units has no correct digits."""


@cache
def expected(cell: str, case: Case, dtype: str) -> list:
    """Return the results and gradients of `reference` for each set of `sets_of`. They are cached: all backends are compared with them."""
    with precision(dtype):
        return differentiate_all(case, sets_of(cell, case, dtype), "reference", cell)


def sets_of(cell: str, case: Case, dtype: str) -> list[Arrays]:
    """Return the arrays of a case, one set for each kind of mask, or a single set without a mask if `case.mask` is "none".

    The seed of each set is computed from the seed of the case. The seeds are fixed for this reason: errors are compared relative to the
    largest entry of a result. If a result has a single entry, and this entry is the difference of two nearly equal numbers, then its
    relative rounding error may be of any size. With these seeds, no result is of this kind.
    """
    kinds = ["none"] if case.mask == "none" else [kind for kind in MASKS if kind != "none"]
    return [make_arrays(case._replace(mask=kind, seed=9 * case.seed + n), dtype, cell) for n, kind in enumerate(kinds)]


@pytest.mark.slow(
    keep=[
        "[lstm-float32-c",
        "[gru-float64-c",
        "simple_rnn-float32-c",
        "norm-float64-c",
        "recurrence-float64-c",
        "[lstm-float64-h",
        "min_lstm-float32-a",
        "[gru-float32-h",
    ]
)
@pytest.mark.parametrize("backend", [name for name in EVERY_BACKEND if name != "reference"])
@pytest.mark.parametrize(("cell", "dtype"), [(cell, dtype) for dtype in TOLERANCE for cell in CELLS_IN[dtype]])
def test_backends_agree(cell: str, backend: str, dtype: str) -> None:
    """Outputs, final state and gradients (by params, x, initial state, dropout masks) equal those of `reference` for every padding mask."""
    if cell not in BACKEND_TABLE[backend].cells:
        with pytest.raises(InputError, match=f"no cell {cell}"):
            run_case(Case(), make_arrays(Case(), cell=cell), backend, cell)
        return
    alone = cell not in CELLS_IN["float32"]
    chosen = [case for case, double in covering_cases(CELLS.index(cell)) if alone or double == (dtype == "float64")]
    for case in chosen:
        if refused(case, backend, dtype, cell=cell):
            continue
        want = expected(cell, case, dtype)
        with precision(dtype):
            got = differentiate_all(case, sets_of(cell, case, dtype), backend, cell)
        assert_close(got, want, dtype, f"{case} ")


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("kind", ["bfloat16", "float16"])
def test_inputs_of_another_type(backend: str, kind: str) -> None:
    """Gradients with respect to parameters of another float dtype than x have the dtypes and values that `reference` gives."""
    case = Case(Shape(2, 4, 3, 2), initial_state=False)
    arrays = make_arrays(case)
    arrays = arrays._replace(x=(3 * arrays.x).astype(kind))

    def gradients(name: str):
        def loss(params):
            return weigh(run_case(case, arrays._replace(params=params), name))

        return jax.grad(loss)(arrays.params)

    with jax.numpy_dtype_promotion("standard"):
        got, want = gradients(backend), gradients("reference")
    assert {leaf.dtype for leaf in got} == {leaf.dtype for leaf in want} == {np.dtype("float32")}
    assert_close(got, want, "float32")


@pytest.mark.slow(keep=4)
@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("dropout", DROPOUTS)
def test_each_kind_of_dropout(backend: str, dropout: str) -> None:
    case = Case(Shape(2, 3, 3, 5), dropout=dropout, mask="gaps" if backend in EVERY_CASE else "none")
    if refused(case, backend):
        return
    arrays = make_arrays(case)
    assert_close(differentiate_case(case, arrays, backend), differentiate_case(case, arrays, "reference"), "float32")


@pytest.mark.slow(keep=3)
@pytest.mark.parametrize("backend", serving("float64"))
@pytest.mark.parametrize(("mask", "dropout"), [("none", "none"), ("gaps", "both, per gate"), ("trailing", "both, shared")])
def test_derivatives_are_those_of_differences(x64: None, backend: str, mask: str, dropout: str) -> None:
    """Reverse-mode derivatives equal finite differences: of order 1 for all cases, and also of order 2 for the case without a mask."""
    case = Case(Shape(2, 3, 2, 2), mask=mask, dropout=dropout)
    arrays = make_arrays(case, "float64")

    @jax.jit
    def function(params, x, state, dropout):
        return weigh(run_case(case, Arrays(params, x, state, dropout, arrays.mask), backend))

    check_grads(function, arrays[:4], order=2 if mask == "none" else 1, modes=["rev"], atol=1e-6, rtol=1e-6)


@pytest.mark.slow(keep=1)
@pytest.mark.parametrize("backend", [name for name in serving("float64") if BACKEND_TABLE[name].forward_mode])
@pytest.mark.parametrize("mask", ["none", "gaps"])
def test_forward_mode(x64: None, backend: str, mask: str) -> None:
    case = Case(Shape(2, 3, 2, 2), mask=mask, dropout="both, per gate")
    arrays = make_arrays(case, "float64")

    @jax.jit
    def function(params, x, state):
        return weigh(run_case(case, arrays._replace(params=params, x=x, state=state), backend))

    check_grads(function, arrays[:3], order=2 if mask == "none" else 1, modes=["fwd", "rev"], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("wanted", ["outputs", "h", "c"])
def test_gradient_of_one_result(backend: str, wanted: str) -> None:
    """A loss that depends only on the outputs, only on the final h or only on the final c has the right gradient.

    The gradient equals that of a sum of three losses, one for each of these results, in which the other two losses have the weight 0.
    """
    case = Case(Shape(2, 4, 3, 2), mask="gaps" if backend in EVERY_CASE else "none")
    arrays = make_arrays(case)

    def loss(scales, params):
        outputs, state = run_case(case, arrays._replace(params=params), backend)
        return scales[0] * weigh(outputs) + scales[1] * weigh(state.h) + scales[2] * weigh(state.c)

    def only(params):
        outputs, state = run_case(case, arrays._replace(params=params), backend)
        return weigh({"outputs": outputs, "h": state.h, "c": state.c}[wanted])

    scales = jnp.asarray([name == wanted for name in ("outputs", "h", "c")], jnp.float32)
    assert_close(jax.grad(only)(arrays.params), jax.grad(loss, 1)(scales, arrays.params), "float32")


@pytest.mark.parametrize("backend", BACKENDS)
def test_length_zero_gives_the_initial_state(backend: str) -> None:
    case = Case(SHAPES[3])
    arrays = make_arrays(case)
    assert arrays.state is not None
    counts = jnp.asarray([0, 7, 3, 0, 1])
    outputs, state = unroll(CELL_TABLE["lstm"], arrays.params, arrays.x, arrays.state, lengths=counts, backend=backend)
    for row in (0, 3):
        np.testing.assert_array_equal(state.h[row], arrays.state.h[row])
        np.testing.assert_array_equal(state.c[row], arrays.state.c[row])
        np.testing.assert_array_equal(outputs[row], 0)
    alone = jax.tree.map(lambda a: a[2:3], arrays.state)
    short_outputs, short_state = unroll(CELL_TABLE["lstm"], arrays.params, arrays.x[2:3, :3], alone, backend=backend)
    assert_close(jax.tree.map(lambda a: a[2:3], state), short_state, "float32")
    assert_close(outputs[2:3, :3], short_outputs, "float32")
    np.testing.assert_array_equal(outputs[2, 3:], jnp.broadcast_to(outputs[2, 2], (4, 5)))  # the last valid output, repeated


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("backwards", [False, True])
def test_lengths_are_a_mask(backend: str, backwards: bool) -> None:
    case = Case(SHAPES[3])
    arrays = make_arrays(case)
    counts = lengths(np.random.default_rng(0), 5, 7)
    assert {0, 7} <= set(counts.tolist())
    run = partial(unroll, CELL_TABLE["lstm"], arrays.params, arrays.x, arrays.state, backwards=backwards, backend=backend)
    if backend not in EVERY_CASE:
        if backwards:
            with pytest.raises(InputError, match=f"^backend {backend}: no lengths read backwards"):
                run(lengths=jnp.asarray(counts))
        else:
            assert_close(run(lengths=jnp.asarray(counts)), run(lengths=jnp.asarray(counts), backend="reference"), "float32")
        return
    by_lengths = run(lengths=jnp.asarray(counts))
    by_mask = run(mask=jnp.asarray(np.arange(7)[None] < counts[:, None]))
    by_small_lengths = run(lengths=jnp.asarray(counts, jnp.int8))
    jax.tree.map(np.testing.assert_array_equal, by_lengths, by_mask)
    jax.tree.map(np.testing.assert_array_equal, by_lengths, by_small_lengths)


@pytest.mark.parametrize("backend", BACKENDS)
def test_zeros_are_the_default_state(backend: str) -> None:
    arrays = make_arrays(Case())
    zeros = jax.tree.map(jnp.zeros_like, arrays.state)
    jax.tree.map(
        np.testing.assert_array_equal,
        run_case(Case(), arrays._replace(state=None), backend),
        run_case(Case(), arrays._replace(state=zeros), backend),
    )


@pytest.mark.parametrize(("backend", "cell"), [*((backend, "lstm") for backend in BACKENDS), (None, "lstm_full_gate_recurrence")])
def test_vmap_over_parameter_sets(backend: str | None, cell: str) -> None:
    case = Case(Shape(2, 4, 3, 5), mask="gaps", dropout="both, per gate") if backend in (None, *EVERY_CASE) else Case(Shape(2, 4, 3, 5))
    arrays = make_arrays(case, cell=cell)
    sets = [make_arrays(case._replace(seed=seed), cell=cell).params for seed in (5, 6, 7)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *sets)

    def value_and_gradient(params):
        def loss(params):
            results = run_case(case, arrays._replace(params=params), backend, cell)
            return weigh(results), results

        return jax.value_and_grad(loss, has_aux=True)(params)

    together = jax.jit(jax.vmap(value_and_gradient))(stacked)
    one_at_a_time = jax.jit(value_and_gradient)
    for n, params in enumerate(sets):
        assert_close(jax.tree.map(lambda leaf, n=n: leaf[n], together), one_at_a_time(params), "float32", f"set {n} ")


@pytest.mark.parametrize("backend", BACKENDS)
def test_jit_equals_eager(backend: str) -> None:
    case = Case(mask="gaps", dropout="both, shared") if backend in EVERY_CASE else Case(dropout="input, shared")
    arrays = make_arrays(case)

    def gradients(params, x):
        return jax.grad(lambda p, x: weigh(run_case(case, arrays._replace(params=p, x=x), backend)), (0, 1))(params, x)

    assert_close(jax.jit(gradients)(arrays.params, arrays.x), gradients(arrays.params, arrays.x), "float32")
    eager = run_case(case, arrays, backend)
    assert_close(jax.jit(lambda a: run_case(case, a, backend))(arrays), eager, "float32")


@pytest.mark.parametrize("backend", BACKENDS)
def test_batch_over_two_devices(backend: str) -> None:
    """Splitting the batch over two devices changes no result and no gradient, apart from rounding.

    The rows stay split, and no device gathers the rows of the other one.
    """
    if jax.device_count() < 2:
        pytest.skip(f"needs two devices, JAX shows {jax.device_count()}")
    shape = Shape(4, 5, 3, 2)
    case = Case(shape, mask="trailing", dropout="both, per gate") if backend in EVERY_CASE else Case(shape, dropout="input, shared")
    arrays = make_arrays(case)
    mesh = make_mesh(2)
    by_rows, by_second = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((DATA,), (None, DATA)))
    copied = NamedSharding(mesh, PartitionSpec())
    places = Arrays(
        jax.tree.map(lambda _: copied, arrays.params),
        by_rows,
        jax.tree.map(lambda _: by_rows, arrays.state),
        DropoutMasks(*(None if part is None else by_second if part.ndim == 3 else by_rows for part in arrays.dropout)),
        None if arrays.mask is None else by_rows,
    )

    def function(params, x, state, dropout, mask):
        def loss(params, x):
            results = run_case(case, Arrays(params, x, state, dropout, mask), backend)
            return weigh(results), results

        return jax.value_and_grad(loss, (0, 1), has_aux=True)(params, x)

    (_, want), want_gradients = jax.jit(function)(*arrays)
    with on(mesh):
        compiled = jax.jit(function).lower(*jax.device_put(tuple(arrays), tuple(places))).compile()
        (_, (outputs, state)), gradients = compiled(*jax.device_put(tuple(arrays), tuple(places)))
    assert_close((outputs, state), want, "float32")
    assert_close(gradients, want_gradients, "float32")
    for array in (outputs, state.h, state.c, gradients[1]):
        assert array.sharding.is_equivalent_to(by_rows, array.ndim), array.sharding
        assert {shard.data.shape[0] for shard in array.addressable_shards} == {2}
    assert "all-gather" not in compiled.as_text()
    assert "all-to-all" not in compiled.as_text()
    assert "all-reduce" in compiled.as_text()  # the weights' gradients are sums over all rows


IN_BFLOAT16 = [name for name in EVERY_CASE if "bfloat16" in BACKEND_TABLE[name].compute_dtypes]


@pytest.mark.slow(keep=3)
@pytest.mark.parametrize("backend", IN_BFLOAT16)
@pytest.mark.parametrize("dropout", ["none", "both, shared", "both, per gate"])
def test_products_in_bfloat16(backend: str, dropout: str) -> None:
    case = Case(mask="gaps", dropout=dropout)
    if refused(case, backend, compute_dtype="bfloat16"):
        return
    arrays = make_arrays(case)
    (outputs, state), gradients = differentiate_case(case, arrays, backend, compute_dtype=jnp.bfloat16)
    want, want_gradients = differentiate_case(case, arrays, backend)
    assert {leaf.dtype for leaf in jax.tree.leaves((outputs, state, gradients))} == {np.dtype("float32")}
    assert_close((outputs, state), want, 3e-2)
    assert_close(gradients, want_gradients, 3e-2)
    assert not np.allclose(outputs, want[0], rtol=1e-5, atol=1e-5)
    with pytest.raises(AssertionError):
        assert_close(gradients, want_gradients, "float32")


def test_backends_agree_in_bfloat16() -> None:
    case = Case(mask="gaps")
    arrays = make_arrays(case)
    want = run_case(case, arrays, "reference", compute_dtype=jnp.bfloat16)
    for backend in set(IN_BFLOAT16) - {"reference"}:
        # a difference in the last place of float32 can tip a rounding to bfloat16
        assert_close(run_case(case, arrays, backend, compute_dtype=jnp.bfloat16), want, 3e-3)


@pytest.mark.parametrize("backend", [name for name in EVERY_CASE if "float16" in BACKEND_TABLE[name].compute_dtypes])
def test_float16(backend: str) -> None:
    """With all arrays or only the products in float16, results and gradients equal those in float32 up to rounding."""
    case = Case(Shape(2, 4, 3, 5), mask="gaps")
    half = jax.tree.map(lambda leaf: leaf if leaf.dtype == jnp.bool_ else leaf.astype(jnp.float16), make_arrays(case))
    whole = jax.tree.map(lambda leaf: leaf if leaf.dtype == jnp.bool_ else leaf.astype(jnp.float32), half)
    got, want = differentiate_case(case, half, backend), differentiate_case(case, whole, "reference")
    assert {leaf.dtype for leaf in jax.tree.leaves(got)} == {np.dtype("float16")}
    assert_close(jax.tree.map(lambda leaf: leaf.astype(jnp.float32), got), want, 1e-2)
    assert_close(differentiate_case(case, whole, backend, compute_dtype=jnp.float16), want, 5e-3)
