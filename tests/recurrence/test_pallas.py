"""The Triton kernels of the backend `pallas`, mostly run by the interpreter of Pallas.

The loops over time in these kernels are compared with their twins, which are loops in JAX that compute the same results. Many of the tested
sizes are not multiples of the block sizes. The results and gradients of `unroll` are compared with those of the backend `reference`.
Another test checks that the kernels can be lowered for a GPU. It needs no GPU.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import Case, differentiate_case, make_arrays
from tables import Shape, assert_close

from lstm_jax.cells import CELLS, LSTMParams, LSTMState
from lstm_jax.dropout import DropoutMasks
from lstm_jax.errors import InputError
from lstm_jax.primitives.operation import apply
from lstm_jax.recurrence import BACKENDS, backends, hoisted, unroll
from lstm_jax.recurrence.hoisted import TWIN
from lstm_jax.recurrence.call import Call, Options
from lstm_jax.recurrence import pallas as kernels, pallas as loops

pytestmark = pytest.mark.usefixtures("quick_compiles")

# kind of recurrent dropout, whether the gates are four separate arrays, whether there is a padding mask
PLAIN, SHARED, EACH, ALONE, APART = (
    ("none", False, False),
    ("shared", False, True),
    ("per gate", True, True),
    ("per gate", False, False),
    ("none", True, True),
)
PRODUCTS = {None: 1e-5, "bfloat16": 3e-3}
STEPS = 3


@pytest.fixture
def read_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the size limit for recurrent kernels that stay on the chip to 0, so that every kernel is read again at each step."""
    monkeypatch.setattr(kernels, "RESIDENT", 0)


def _arrays(batch: int, units: int, kind: tuple[str, bool, bool]):
    recurrent, split, masked = kind
    rng = np.random.default_rng(batch * 100 + units)

    def normal(*shape: int) -> jax.Array:
        return jnp.asarray(rng.standard_normal(shape), "float32")

    z = normal(STEPS, batch, 4 * units)
    shape = {"shared": (batch, units), "per gate": (4, batch, units)}.get(recurrent)
    mask = None if shape is None else jnp.asarray(rng.integers(0, 2, shape) * 2.0, "float32")
    valid = jnp.asarray(rng.integers(0, 2, (STEPS, batch)).astype(bool)) if masked else None
    kernel = normal(units, 4 * units) / units**0.5
    state, d_final = (LSTMState(normal(batch, units), normal(batch, units)) for _ in range(2))
    dropout = DropoutMasks(jnp.ones((4, batch, 1)) if split else None, mask)
    call = Call(LSTMParams(None, kernel, None), None, state, valid, dropout, None)
    return tuple(jnp.split(z, 4, axis=-1)) if split else z, call, normal(STEPS, batch, units), d_final


def _compare(batch: int, units: int, kind: tuple[str, bool, bool], products: str | None) -> None:
    z, call, d_h, d_final = _arrays(batch, units, kind)
    options, tolerance, ours = Options(CELLS["lstm"], products), PRODUCTS[products], loops.INTERPRETED
    want = jax.jit(TWIN.forward, static_argnums=(0, 1))(options, True, z, call)
    forward = jax.jit(ours.forward, static_argnums=(0, 1))
    assert_close(forward(options, True, z, call), want, tolerance, kind[0])
    part = forward(replace(options, sequences=kind[1]), False, z, call)
    assert_close(part[:2], (want[0] if kind[1] else None, want[1]), tolerance, kind[0])
    args = (options, want[2], None if kind == APART else d_h, d_final, call)
    ours, twins = (jax.jit(loop.backward, static_argnums=0)(*args) for loop in (ours, TWIN))
    assert_close(ours, twins, tolerance, kind[0])


# numbers of rows around the 16 of a program, and of units around the block sizes 16 and 64
@pytest.mark.slow(keep=["(17, 33)", "(5, 65)"])
@pytest.mark.parametrize(
    ("size", "kind", "products"),
    [
        ((1, 1), PLAIN, None),
        ((17, 33), EACH, None),
        ((16, 16), ALONE, None),
        ((3, 5), APART, "bfloat16"),
        ((5, 65), SHARED, "bfloat16"),
    ],
    ids=str,
)
def test_loops_equal_their_twins(size: tuple[int, int], kind: tuple[str, bool, bool], products: str | None) -> None:
    assert kernels.Tiling.of(*size, products or "float32").resident
    _compare(*size, kind, products)


@pytest.mark.slow(keep=["(5, 65)"])
@pytest.mark.parametrize(
    ("size", "kind", "products"), [((16, 16), PLAIN, None), ((5, 65), EACH, None), ((33, 20), SHARED, "bfloat16")], ids=str
)
def test_a_kernel_read_anew_each_step(read_anew: None, size: tuple[int, int], kind: tuple[str, bool, bool], products: str | None) -> None:
    _compare(*size, kind, products)


def _interpreted(options, call):
    return apply(hoisted.HoistedLSTM(loops.INTERPRETED, options), *call)


CASES = [
    (Case(Shape(17, 3, 2, 5), mask="gaps", dropout="both, per gate", backwards=True, time_major=True), None),
    (Case(Shape(1, 3, 3, 18), mask="trailing", dropout="both, shared", return_sequences=False), None),
    (Case(Shape(3, 3, 2, 4), dropout="input, per gate"), "bfloat16"),
]


@pytest.mark.slow(keep=1)
@pytest.mark.parametrize(("case", "products"), CASES, ids=str)
def test_gradients_are_the_references(monkeypatch: pytest.MonkeyPatch, case: Case, products: str | None) -> None:
    monkeypatch.setitem(backends.BACKENDS, "pallas", replace(BACKENDS["pallas"], run=_interpreted, platforms=("cpu", "gpu")))
    arrays = make_arrays(case)
    got = differentiate_case(case, arrays, "pallas", compute_dtype=products)
    assert_close(got, differentiate_case(case, arrays, "reference"), 1e-5 if products is None else 3e-2)


def _triton_calls(function, *args) -> int:
    lowered = jax.jit(function).trace(*args).lower(lowering_platforms=("cuda",))
    return lowered.as_text().count("__gpu$xla.gpu.triton") or lowered.as_text().count("triton_kernel_call")


@pytest.mark.slow(keep=["(17, 33)-None", "(17, 33)-bfloat16"])
@pytest.mark.parametrize("products", PRODUCTS, ids=str)
@pytest.mark.parametrize("size", [(1, 1), (17, 33), (32, 128), (3, 256)], ids=str)
def test_lowers_for_a_gpu(size: tuple[int, int], products: str | None) -> None:
    """The forward and the backward pass each lower to one Triton call, with every kind of recurrent dropout and without dropout.

    Two of the four cases have a padding mask. The lowering would fail if the size of a block were not a power of two, or if Triton did not
    support a primitive.
    """
    for kind in (PLAIN, SHARED, EACH, ALONE):
        options = Options(CELLS["lstm"], products)

        def both(z, call, d_h, d_final, options=options):
            h, final, kept = loops.LOOPS.forward(options, True, z, call)
            return h, final, loops.LOOPS.backward(options, kept, d_h, d_final, call)

        assert _triton_calls(both, *_arrays(*size, kind)) == 2


def test_what_it_refuses() -> None:
    case = Case(Shape(2, 3, 3, 5))
    arrays = make_arrays(case)
    here = jax.default_backend()
    if here != "gpu":
        with pytest.raises(InputError, match=f"^backend pallas: does not run on {here}; "):
            unroll(backends.CELLS["lstm"], arrays.params, arrays.x, backend="pallas")
    lacks = [
        (backends.Request(dtype="bfloat16", compute_dtype="bfloat16"), "no parameters in bfloat16"),
        (backends.Request(dtype="float64", compute_dtype="float64"), "no products in float64"),
        (backends.Request(units=257), "no 257 units, 256 at most"),
        (backends.Request(compute_dtype="bfloat16", dropout=backends.DROPOUTS, mask="mask", units=256), ""),
    ]
    for request, why in lacks:
        assert backends.lacks(BACKENDS["pallas"], request, "gpu") == why


@pytest.mark.gpu
@pytest.mark.parametrize("products", PRODUCTS, ids=str)
@pytest.mark.parametrize("size", [(3, 5), (33, 128), (17, 200)], ids=str)
def test_kernels_on_a_gpu(size: tuple[int, int], products: str | None) -> None:
    """The compiled kernels have the results and gradients of `reference` on a GPU, with matrix products in float32 and in bfloat16.

    The matrix of recurrent weights stays on the chip for 5 units, for 128 units only in bfloat16, and for 200 units in neither dtype.
    """
    batch, units = size
    case = Case(Shape(batch, 40, 7, units), mask="gaps", dropout="both, per gate")
    arrays = make_arrays(case)
    arrays = arrays._replace(params=jax.tree.map(lambda p: p / units**0.5, arrays.params))
    got, want = (differentiate_case(case, arrays, name, compute_dtype=products) for name in ("pallas", "reference"))
    assert_close(got, want, 2e-5 if products is None else 3e-2)
