"""Tests that the number of threads changes no bit of the results of calls with few
rows, in which the threads divide the units.
"""

import re
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from calls import SHAPES, recurrence
from flax import nnx
from tables import BACKENDS

from lstm_jax import LSTM, InputError, make_stepper, native
from lstm_jax.native import library
from lstm_jax.native.library import PRODUCT_NUMBERS

pytestmark = pytest.mark.skipif(
    "compiled" not in BACKENDS, reason="no C++ compiler to build the backend with"
)
# T, B, E, H: the first has more steps than a chunk, the last has too few units for a
# second thread
SIZES = [(70, 1, 3, 200), (4, 3, 20, 140), (9, 2, 7, 260), (5, 2, 7, 16)]


@pytest.mark.slow(keep=4)
@pytest.mark.parametrize("cell", ["lstm", "gru", "simple_rnn"])
@pytest.mark.parametrize(
    ("backward", "products"),
    [(False, None), (True, None), (False, "bfloat16"), (False, "int8")],
)
@pytest.mark.parametrize("ids", [False, True])
def test_threads_change_no_bit(
    cell: str, backward: bool, products: str | None, ids: bool
) -> None:
    """Results with several threads have the bits of those with one thread, even if
    there are more threads than cores or units.
    """
    if products and native.why_not_products(products):
        pytest.skip(native.why_not_products(products))
    for sizes in SIZES:
        number, keep = PRODUCT_NUMBERS[products], products != "int8"
        call = recurrence(
            backward,
            sizes=sizes,
            ids=ids,
            kinds=(0, 1),
            cell=cell,
            keep=keep,
            products=number,
        )
        alone = call.run(threads=1)
        for threads in (2, 3, 64, 2, 2, 2):
            for got, want in zip(call.run(threads=threads), alone, strict=True):
                np.testing.assert_array_equal(got, want)


def rows_of(name: str, array: np.ndarray, rows: int) -> np.ndarray:
    """Return an operand with only the first `rows` rows of its batch axis. Kernels and
    vectors are returned unchanged.
    """
    if "kernel" in name or array.ndim == 1:
        return array
    first = array.ndim == 2 and name not in ("ids", "valid", "resets")
    return array[:rows] if first else array[:, :rows]


@pytest.mark.slow(keep=4)
@pytest.mark.skipif(bool(native.why_not_products("int8")), reason="no products in int8")
@pytest.mark.parametrize("cell", ["lstm", "gru", "simple_rnn"])
@pytest.mark.parametrize(("ids", "kinds"), [(True, 0), (False, 1), (False, None)])
def test_few_rows_in_int8(cell: str, ids: bool, kinds: int | None) -> None:
    """With products in int8, 1 to 3 rows have bit-identical results in a batch of their
    own and in a batch of 9 rows.

    The number of threads changes no bit, either. The state has `kinds` dropout masks,
    and so have the inputs, unless they are ids. If `kinds` is None, there is one mask
    for each gate.
    """
    kinds = SHAPES[cell].gates if kinds is None else kinds
    for steps, rows, features, units in SIZES:
        many = recurrence(
            False,
            sizes=(steps, 9, features, units),
            ids=ids,
            kinds=(0 if ids else kinds, kinds),
            cell=cell,
            keep=False,
            products=2,
        )
        few = many._replace(
            operands={
                name: rows_of(name, np.asarray(array), rows)
                for name, array in many.operands.items()
            },
            results={
                name: jax.ShapeDtypeStruct((rows, units), np.float32)
                for name in many.results
            },
        )
        wanted = [result[:rows] for result in many.run()]
        for threads in (1, 2, 3, 64):
            for got, want in zip(few.run(threads=threads), wanted, strict=True):
                np.testing.assert_array_equal(got, want)


def test_users_in_threads_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps that several Python threads call at once, with one to three cores each,
    have the bits of steps called in turn.
    """
    monkeypatch.setattr(library, "cores", lambda: [0, 1, 2])
    layer = LSTM(8, 140, rngs=nnx.Rngs(0))
    step = make_stepper(layer)

    def user(n: int) -> list[np.ndarray]:
        found, state = [], layer.initial_state(1 + n % 2 * 8)
        with native.threads(1 + n % 3):
            for x in np.random.default_rng(n).standard_normal(
                (20, len(state.h), 8), np.float32
            ):
                output, state = step(x, state)
                found.append(np.asarray(output))
        return found

    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(user, range(6)))
    for n, found in enumerate(together):
        np.testing.assert_array_equal(found, user(n))


@pytest.mark.usefixtures("unchecked")
def test_the_limit_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "cores", lambda: [0, 1, 2])
    # sizes of no other test: a traced program keeps its number of threads
    layer = LSTM(3, 29, rngs=nnx.Rngs(0))
    call = jax.jit(lambda x: layer(x))

    def compiled() -> list[str]:
        return re.findall(
            r"threads = (\d+)", call.lower(jnp.zeros((7, 11, 3))).as_text()
        )

    assert compiled() == ["3"]
    for most, used in ((1, "1"), (2, "2"), (64, "3")):
        with native.threads(most):
            assert compiled() == [used]
    assert compiled() == ["3"]
    for wrong in (0, -1, True, 1.5, None):
        with pytest.raises(InputError, match=r"^most: "):
            native.threads(wrong)  # pyright: ignore[reportArgumentType]
