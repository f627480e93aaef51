"""Tests that the C++ code of the recurrence gives the same results for arrays (B, T,
...) as for arrays (T, B, ...).
"""

import re
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from calls import SHAPES, recurrence
from tables import BACKENDS

from lstm_jax import CELLS, native, unroll
from lstm_jax.native.library import PRODUCT_NUMBERS

pytestmark = [
    pytest.mark.skipif(
        "compiled" not in BACKENDS, reason="no C++ compiler to build the backend with"
    ),
]
# T, B, E, H, and options of the call. Some have more steps than a chunk, one has a
# single step. masks -1: one input mask for each gate
CALLS: list[tuple[tuple[int, int, int, int], dict[str, Any]]] = [
    ((9, 5, 7, 20), {}),
    ((9, 5, 7, 20), {"ids": True}),
    ((70, 6, 3, 16), {"masks": 1}),
    ((1, 4, 5, 3), {"masks": -1}),
    ((5, 37, 33, 40), {"masks": -1, "tokens": True}),
]


@pytest.mark.slow(keep=6)
@pytest.mark.parametrize(
    "products",
    [
        name
        for name in PRODUCT_NUMBERS
        if name is None or not native.why_not_products(name)
    ],
)
@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("cell", SHAPES)
def test_the_same_bits(cell: str, backward: bool, products: str | None) -> None:
    if products == "int8" and (backward or SHAPES[cell].parts > 1):
        pytest.skip("no such products")
    for sizes, given in CALLS:
        masks = given.get("masks", 0)
        options = {
            "kinds": (SHAPES[cell].gates if masks < 0 else masks, 0),
            "ids": "ids" in given,
            "tokens": "tokens" in given,
        }
        units, number = sizes[3], PRODUCT_NUMBERS[products]
        for keep in {products != "int8", backward}:
            call = recurrence(
                backward,
                sizes=sizes,
                cell=cell,
                keep=keep,
                products=number,
                sequences=True,
                **options,
            )
            swapped = call.batch_first()
            for threads in (1, 3):
                found = dict(zip(swapped.results, swapped.run(threads), strict=True))
                if "d of x" in found:
                    found["d of x"] = np.swapaxes(found["d of x"], 0, 1)
                for name, want in zip(call.results, call.run(threads), strict=True):
                    if name == "h of all steps":
                        np.testing.assert_array_equal(
                            np.swapaxes(found["outputs"], 0, 1),
                            want[1:, :, :units],
                            err_msg="outputs",
                        )
                    if name in found:
                        np.testing.assert_array_equal(found[name], want, err_msg=name)


def test_no_array_is_moved() -> None:
    """If x and the outputs are arrays (B, T, ...), XLA transposes neither these arrays
    nor their gradients.

    The compiled program passes x and the gradient of the outputs to the C++ code
    unchanged. It returns the outputs and the gradient of x unchanged.
    """
    x, weights = jnp.zeros((8, 5, 16)), jnp.zeros((16, 32))
    params = CELLS["min_gru"].params(kernel=weights, bias=jnp.zeros(32))

    def run(params: Any, x: jax.Array, d_h: jax.Array) -> Any:
        h, pull = jax.vjp(
            lambda params, x: unroll(CELLS["min_gru"], params, x, backend="compiled")[
                0
            ],
            params,
            x,
        )
        return h, pull(d_h)

    text = jax.jit(run).lower(params, x, jnp.zeros((8, 5, 16))).compile().as_text()
    assert text.count("custom-call(") == 2
    assert "f32[5,8,16]" not in text
    assert set(re.findall(r"= f32\[8,5,16\]\S* ([\w-]+)\(", text)) == {
        "parameter",
        "get-tuple-element",
    }


def test_a_symbolic_batch_size(unchecked: None) -> None:
    """A program that is exported with a symbolic batch size gives the outputs of direct
    calls with 2 and 7 rows.

    The choice between arrays (B, T, ...) and (T, B, ...) for the C++ code depends on
    the batch size, which is unknown during the export.
    """
    params = CELLS["simple_rnn"].params(
        kernel=jnp.ones((3, 4)) / 9,
        recurrent_kernel=jnp.ones((4, 4)) / 9,
        bias=jnp.zeros(4),
    )
    shape = jax.ShapeDtypeStruct(jax.export.symbolic_shape("b, 5, 3"), jnp.float32)
    exported = jax.export.export(
        jax.jit(lambda x: unroll(CELLS["simple_rnn"], params, x)[0])
    )(shape)
    for rows in (2, 7):
        x = jnp.asarray(
            np.random.default_rng(rows).normal(size=(rows, 5, 3)), jnp.float32
        )
        np.testing.assert_allclose(
            exported.call(x),
            unroll(CELLS["simple_rnn"], params, x)[0],
            rtol=2e-6,
            atol=2e-6,
        )
