"""Tests that the number of threads changes no bit of the results of calls with few rows, in which the threads divide the units."""

import jax
import numpy as np
import pytest
from calls import SHAPES, recurrence
from tables import BACKENDS

from lstm_jax import native
from lstm_jax.native.library import PRODUCT_NUMBERS

pytestmark = pytest.mark.skipif("compiled" not in BACKENDS, reason="no C++ compiler to build the backend with")
# T, B, E, H: the first has more steps than a chunk, the last has too few units for a second thread
SIZES = [(70, 1, 3, 200), (4, 3, 20, 140), (9, 2, 7, 260), (5, 2, 7, 16)]


@pytest.mark.slow(keep=4)
@pytest.mark.parametrize("cell", ["lstm", "gru", "simple_rnn"])
@pytest.mark.parametrize(("backward", "products"), [(False, None), (True, None), (False, "bfloat16"), (False, "int8")])
@pytest.mark.parametrize("ids", [False, True])
def test_threads_change_no_bit(cell: str, backward: bool, products: str | None, ids: bool) -> None:
    """Results with several threads have the bits of those with one thread, even if there are more threads than cores or units."""
    if products and native.why_not_products(products):
        pytest.skip(native.why_not_products(products))
    for sizes in SIZES:
        number, keep = PRODUCT_NUMBERS[products], products != "int8"
        call = recurrence(backward, sizes=sizes, ids=ids, kinds=(0, 1), cell=cell, keep=keep, products=number)
        alone = call.run(threads=1)
        for threads in (2, 3, 64, 2, 2, 2):
            for got, want in zip(call.run(threads=threads), alone, strict=True):
                np.testing.assert_array_equal(got, want)


def rows_of(name: str, array: np.ndarray, rows: int) -> np.ndarray:
    """Return an operand with only the first `rows` rows of its batch axis. Kernels and vectors are returned unchanged."""
    if "kernel" in name or array.ndim == 1:
        return array
    first = array.ndim == 2 and name not in ("ids", "valid", "resets")
    return array[:rows] if first else array[:, :rows]


@pytest.mark.skipif(bool(native.why_not_products("int8")), reason="no products in int8")
@pytest.mark.parametrize("cell", ["lstm", "gru", "simple_rnn"])
@pytest.mark.parametrize(("ids", "kinds"), [(True, 0), (False, 1), (False, None)])
def test_few_rows_in_int8(cell: str, ids: bool, kinds: int | None) -> None:
    """With products in int8, 1 to 3 rows have bit-identical results in a batch of their own and in a batch of 9 rows.

    The number of threads changes no bit, either. The state has `kinds` dropout masks, and so have the inputs, unless they are ids. If
    `kinds` is None, there is one mask for each gate.
    """
    kinds = SHAPES[cell].gates if kinds is None else kinds
    for steps, rows, features, units in SIZES:
        many = recurrence(
            False, sizes=(steps, 9, features, units), ids=ids, kinds=(0 if ids else kinds, kinds), cell=cell, keep=False, products=2
        )
        few = many._replace(
            operands={name: rows_of(name, np.asarray(array), rows) for name, array in many.operands.items()},
            results={name: jax.ShapeDtypeStruct((rows, units), np.float32) for name in many.results},
        )
        wanted = [result[:rows] for result in many.run()]
        for threads in (1, 2, 3, 64):
            for got, want in zip(few.run(threads=threads), wanted, strict=True):
                np.testing.assert_array_equal(got, want)
