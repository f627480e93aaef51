"""The Triton kernels of the backend `pallas`, mostly run by the interpreter of Pallas,
and lowered for a GPU without having one.
"""

from dataclasses import replace

import jax
import pytest
from cases import Case, compare_with_reference, make_arrays, run_case, weigh
from tables import Shape, assert_close

from lstm_jax.base import sharding
from lstm_jax.native.operation import apply
from lstm_jax.recurrence import BACKENDS, backends, pallas
from lstm_jax.recurrence.pallas import PallasLSTM

PRODUCTS = (None, "bfloat16")


@pytest.fixture
def interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the backend `pallas` run on every platform, by the interpreter of Pallas."""

    def run(options, call):
        return apply(PallasLSTM(options, interpret=True), *call)

    monkeypatch.setitem(
        backends.BACKENDS,
        "pallas",
        replace(BACKENDS["pallas"], run=run, platforms=("cpu", "gpu")),
    )


# numbers of rows around the 16 of a program, and of units around the block sizes 16 and
# 64
CASES = [
    (
        Case(
            Shape(17, 3, 2, 5),
            mask="gaps",
            dropout="both, per gate",
            backwards=True,
            time_major=True,
            resets=True,
        ),
        None,
    ),
    (
        Case(
            Shape(1, 3, 3, 18),
            mask="trailing",
            dropout="both, shared",
            return_sequences=False,
        ),
        None,
    ),
    (Case(Shape(3, 3, 2, 4), dropout="input, per gate"), "bfloat16"),
    (Case(Shape(2, 6, 3, 4), dropout="recurrent, per gate", resets=True), None),
    (Case(Shape(17, 3, 2, 33), mask="gaps", dropout="both, per gate"), None),
    (Case(Shape(16, 3, 2, 16), resets=True), None),
    (Case(Shape(5, 3, 2, 65), mask="gaps", dropout="recurrent, shared"), "bfloat16"),
    (Case(Shape(1, 2, 1, 1), mask="nothing valid"), None),
]


@pytest.mark.slow(keep=1)
@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize(("case", "products"), CASES, ids=str)
def test_gradients_are_the_references(
    interpreted: None,
    monkeypatch: pytest.MonkeyPatch,
    case: Case,
    products: str | None,
    resident: bool,
) -> None:
    """Results and gradients equal those of `reference`, also if the recurrent kernel is
    read anew at each step.
    """
    monkeypatch.setattr(pallas, "RESIDENT", pallas.RESIDENT * resident)
    assert (
        pallas.Tiling(
            case.shape.batch, case.shape.units, products or "float32"
        ).resident
        == resident
    )
    compare_with_reference(
        "pallas",
        case,
        tolerance=1e-5 if products is None else 3e-2,
        compute_dtype=products,
    )


@pytest.mark.parametrize("resets", [False, True])
def test_on_a_mesh(interpreted: None, resets: bool) -> None:
    case = Case(Shape(2, 6, 3, 4), resets=resets)
    arrays = make_arrays(case)
    with sharding.on(sharding.make_mesh(2)):
        got, want = (
            jax.jit(lambda arrays, b=b: run_case(case, arrays, b))(arrays)
            for b in ("pallas", "reference")
        )
    assert_close(got, want, "float32")


@pytest.mark.slow(keep=1)
@pytest.mark.parametrize("products", PRODUCTS, ids=str)
@pytest.mark.parametrize("size", [(1, 1), (17, 33), (32, 128), (3, 256)], ids=str)
def test_lowers_for_a_gpu(
    monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], products: str | None
) -> None:
    """The forward and the backward pass each lower to one Triton call.

    The lowering would fail if the size of a block were not a power of two, or if Triton
    did not support a primitive.
    """
    monkeypatch.setitem(
        backends.BACKENDS,
        "pallas",
        replace(BACKENDS["pallas"], platforms=("cpu", "gpu")),
    )
    for dropout, mask in (
        ("none", "none"),
        ("recurrent, shared", "gaps"),
        ("both, per gate", "gaps"),
        ("recurrent, per gate", "none"),
    ):
        case = Case(
            Shape(size[0], 3, 2, size[1]),
            mask=mask,
            dropout=dropout,
            resets=mask == "gaps",
        )
        arrays = make_arrays(case)

        def loss(params, case=case, arrays=arrays):
            return weigh(
                run_case(
                    case,
                    arrays._replace(params=params),
                    "pallas",
                    compute_dtype=products,
                )
            )

        text = (
            jax.jit(jax.grad(loss))
            .trace(arrays.params)
            .lower(lowering_platforms=("cuda",))
            .as_text()
        )
        assert (
            text.count("__gpu$xla.gpu.triton") or text.count("triton_kernel_call")
        ) == 2


@pytest.mark.gpu
@pytest.mark.parametrize("products", PRODUCTS, ids=str)
@pytest.mark.parametrize("size", [(3, 5), (33, 128), (17, 200)], ids=str)
def test_kernels_on_a_gpu(size: tuple[int, int], products: str | None) -> None:
    """The compiled kernels have the results and gradients of `reference` on a GPU, with
    matrix products in float32 and in bfloat16.

    The matrix of recurrent weights stays on the chip for 5 units, for 128 units only in
    bfloat16, and for 200 units in neither dtype.
    """
    batch, units = size
    case = Case(Shape(batch, 40, 7, units), mask="gaps", dropout="both, per gate")
    arrays = make_arrays(case)
    arrays = arrays._replace(
        params=jax.tree.map(lambda p: p / units**0.5, arrays.params)
    )
    compare_with_reference(
        "pallas",
        case,
        tolerance=2e-5 if products is None else 3e-2,
        arrays=arrays,
        compute_dtype=products,
    )
