"""Tests that running a sequence in segments (`remat`) changes no value and no gradient on any backend, and needs less memory."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import Arrays, Case, differentiate, differentiate_case, make_arrays, refused, run_case, weigh
from jax.sharding import NamedSharding, PartitionSpec
from jax.test_util import check_grads
from tables import BACKENDS, Shape, assert_close, lengths, precision, serving

from lstm_jax import CELLS, DropoutMasks, InputError, unroll
from lstm_jax.recurrence import BACKENDS as BACKEND_TABLE
from lstm_jax.recurrence.api import segment_length
from lstm_jax.runtime.sharding import DATA, make_mesh, on

pytestmark = pytest.mark.usefixtures("quick_compiles")

CELL = CELLS["lstm"]


@pytest.mark.parametrize(
    ("remat", "steps", "length"),
    [
        *[("sqrt", 1, 1), ("sqrt", 2, 1), ("sqrt", 9, 3), ("sqrt", 10, 3), ("sqrt", 10_000, 100), ("sqrt", 10_001, 100)],
        *[(1, 7, 7), (2, 8, 4), (2, 7, 3), (2, 1, 1), (3, 7, 3), (7, 7, 1), (100, 7, 1)],
    ],
)
def test_segments(remat, steps: int, length: int) -> None:
    assert segment_length(remat, steps) == length
    segments = -(-steps // length)
    assert segments <= (int(np.ceil(np.sqrt(steps))) if remat == "sqrt" else remat + (remat == 2))


@pytest.mark.parametrize("remat", ["sqrt", 4])
def test_a_program_for_every_length(remat, unchecked: None) -> None:
    """A program that is exported with a symbolic number of steps has no segments, although `remat` is given.

    Its outputs for sequences of 1 and 9 steps equal those of `unroll` with `remat` for sequences of the same length.
    """
    params = CELL.init(jax.random.key(0), 3, 4)

    def run(x):
        return unroll(CELL, params, x, remat=remat)[0]

    exported = jax.export.export(jax.jit(run))(jax.ShapeDtypeStruct(jax.export.symbolic_shape("2, t, 3"), jnp.float32))
    for steps in (1, 9):
        x = jax.random.normal(jax.random.key(steps), (2, steps, 3))
        np.testing.assert_allclose(exported.call(x), run(x), rtol=2e-6, atol=2e-6)


@pytest.mark.slow(keep=3)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("remat", "dtype", "case"),
    [
        ("sqrt", "float32", Case(mask="gaps", dropout="both, per gate", backwards=True, time_major=True)),
        (2, "float64", Case(mask="an empty row", dropout="both, shared", return_sequences=False, zero_output=True)),
        (1, "float32", Case(Shape(3, 6, 2, 5), initial_state=False)),
        (50, "float32", Case(Shape(3, 1, 2, 5), mask="nothing valid")),
    ],
)
def test_values_are_those_of_one_piece(backend: str, remat, dtype: str, case: Case) -> None:
    """Outputs, final state and gradients (by parameters, x, initial state and dropout masks) equal those without `remat`."""
    if refused(case, backend, dtype):
        return
    with precision(dtype):
        arrays = make_arrays(case, dtype)
        got, want = (differentiate_case(case, arrays, backend, remat=segments) for segments in (remat, None))
        assert_close(got, want, dtype)


@pytest.mark.slow(keep=1)
@pytest.mark.parametrize("backend", BACKENDS)
def test_ids_and_lengths(backend: str) -> None:
    case = Case(Shape(2, 7, 5, 3), dropout="both, shared")
    arrays, rng = make_arrays(case), np.random.default_rng(0)
    ids, counts = jnp.asarray(rng.integers(0, 5, (2, 7)), jnp.int32), jnp.asarray(lengths(rng, 2, 7))

    def function(remat, params, state):
        return unroll(CELL, params, ids, state, lengths=counts, dropout=arrays.dropout, backend=backend, remat=remat)

    got, want = (differentiate(partial(function, remat), arrays.params, arrays.state) for remat in (3, None))
    assert_close(got, want, "float32")


@pytest.mark.slow(keep=1)
@pytest.mark.parametrize("backend", [name for name in BACKENDS if "bfloat16" in BACKEND_TABLE[name].compute_dtypes])
def test_products_in_bfloat16(backend: str) -> None:
    case = Case(mask="gaps", dropout="both, shared")
    arrays = make_arrays(case)
    got, want = (differentiate_case(case, arrays, backend, compute_dtype=jnp.bfloat16, remat=remat) for remat in (3, None))
    assert_close(got[0], want[0], "float32")
    assert_close(got[1], want[1], 1e-2)  # sums of rounded products, in another order


@pytest.mark.slow(keep=1)
@pytest.mark.parametrize("backend", serving("float64"))
def test_derivatives_are_those_of_differences(x64: None, backend: str) -> None:
    """Reverse-mode derivatives with `remat` equal finite differences. So do forward-mode derivatives, on backends that support them.

    The test compares derivatives of order 1 and, on the first backend of `BACKENDS`, also reverse-mode derivatives of order 2.
    """
    case = Case(Shape(2, 5, 2, 2), dropout="both, shared")
    arrays = make_arrays(case, "float64")

    @jax.jit
    def function(params, x):
        return weigh(run_case(case, arrays._replace(params=params, x=x), backend, remat=2))

    check_grads(function, arrays[:2], order=2 if backend == BACKENDS[0] else 1, modes=["rev"], atol=1e-6, rtol=1e-6)
    if BACKEND_TABLE[backend].forward_mode:
        check_grads(function, arrays[:2], order=1, modes=["fwd"], atol=1e-6, rtol=1e-6)


@pytest.mark.slow(keep=1)
@pytest.mark.parametrize("backend", BACKENDS)
def test_batch_over_two_devices(backend: str) -> None:
    """With `remat` and rows split over two devices, results and gradients equal those without `remat` on one device.

    The rows stay split, and no device gathers the rows of the other one.
    """
    if jax.device_count() < 2:
        pytest.skip(f"needs two devices, JAX shows {jax.device_count()}")
    case = Case(Shape(4, 7, 3, 2), mask="trailing", dropout="both, per gate")
    arrays = make_arrays(case)
    mesh = make_mesh(2)
    by_rows, by_second, copied = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((DATA,), (None, DATA), ()))
    places = Arrays(
        jax.tree.map(lambda _: copied, arrays.params),
        by_rows,
        jax.tree.map(lambda _: by_rows, arrays.state),
        DropoutMasks(by_second, by_second),
        by_rows,
    )

    def function(remat, params, x, state, dropout, mask):
        def loss(params, x):
            results = run_case(case, Arrays(params, x, state, dropout, mask), backend, remat=remat)
            return weigh(results), results

        return jax.value_and_grad(loss, (0, 1), has_aux=True)(params, x)

    (_, want), want_gradients = jax.jit(partial(function, None))(*arrays)
    with on(mesh):
        placed = jax.device_put(tuple(arrays), tuple(places))
        compiled = jax.jit(partial(function, 3)).lower(*placed).compile()
        (_, (outputs, state)), gradients = compiled(*placed)
    assert_close((outputs, state), want, "float32")
    assert_close(gradients, want_gradients, "float32")
    for array in (outputs, state.h, state.c, gradients[1]):
        assert array.sharding.is_equivalent_to(by_rows, array.ndim), array.sharding
    assert "all-gather" not in compiled.as_text()
    assert "all-to-all" not in compiled.as_text()


@pytest.mark.slow(keep=1)
@pytest.mark.parametrize("backend", BACKENDS[: BACKENDS.index("reference") + 1])  # another may take minutes to compile so many steps
def test_less_is_kept(backend: str) -> None:
    """XLA needs less temporary memory with `remat`.

    With `remat="sqrt"`, no array (T, B, 4H) of all steps is kept. The number of steps T is odd and not a square.
    """
    steps, units = 907, 16
    params = CELL.init(jax.random.key(0), units, units)
    x = jax.ShapeDtypeStruct((steps, 8, units), jnp.float32)
    masks = DropoutMasks(jnp.ones((4, 8, units)), jnp.ones((4, 8, units)))

    def allotted(remat) -> int:
        def loss(params, x):
            last, _ = unroll(CELL, params, x, dropout=masks, time_major=True, return_sequences=False, backend=backend, remat=remat)
            return (last**2).sum()

        analysis = jax.jit(jax.grad(loss, (0, 1))).lower(params, x).compile().memory_analysis()
        assert analysis is not None
        return analysis.temp_size_in_bytes

    whole = steps * 8 * units * 4
    best, halves, all_kept = (allotted(remat) for remat in ("sqrt", 2, None))
    # without `remat` z, local derivatives, h and c are kept; the compiled code stores the gates in place of z and keeps no derivatives,
    # so that two segments save less
    kept, share = (6, 0.9) if backend == "compiled" else (8, 0.8)
    assert all_kept > kept * whole
    assert best < 2.5 * whole + 2**20 // 2
    assert best < halves < share * all_kept


@pytest.mark.parametrize("remat", [0, -1, "all", 2.0, True])
def test_wrong_remat_is_one_line(unchecked: None, remat) -> None:
    with pytest.raises(InputError) as caught:
        unroll(CELL, make_arrays(Case()).params, make_arrays(Case()).x, remat=remat)
    assert str(caught.value) == f"remat: {remat}; give None, 'sqrt', or 1 or more segments"
