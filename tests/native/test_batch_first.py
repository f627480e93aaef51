"""Tests that the C++ code of the recurrence gives the same results for arrays (B, T, ...) as for arrays (T, B, ...)."""

import re
from collections.abc import Callable
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
    pytest.mark.skipif("compiled" not in BACKENDS, reason="no C++ compiler to build the backend with"),
    pytest.mark.usefixtures("quick_compiles"),
]
# T, B, E, H, and options of the call. Some have more steps than a chunk, one has a single step. masks -1: one input mask for each gate
CALLS: list[tuple[tuple[int, int, int, int], dict[str, Any]]] = [
    ((9, 5, 7, 20), {}),
    ((9, 5, 7, 20), {"ids": True}),
    ((70, 6, 3, 16), {"masks": 1}),
    ((1, 4, 5, 3), {"masks": -1}),
    ((5, 37, 33, 40), {"masks": -1, "tokens": True}),
]


@pytest.mark.slow(keep=6)
@pytest.mark.parametrize("products", [name for name in PRODUCT_NUMBERS if name is None or not native.why_not_products(name)])
@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("cell", SHAPES)
def test_the_same_bits(cell: str, backward: bool, products: str | None) -> None:
    if products == "int8" and (backward or SHAPES[cell].parts > 1):
        pytest.skip("no such products")
    for sizes, given in CALLS:
        masks = given.get("masks", 0)
        options = {"kinds": (SHAPES[cell].gates if masks < 0 else masks, 0), "ids": "ids" in given, "tokens": "tokens" in given}
        units, number = sizes[3], PRODUCT_NUMBERS[products]
        for keep in {products != "int8", backward}:
            call = recurrence(backward, sizes=sizes, cell=cell, keep=keep, products=number, sequences=True, **options)
            swapped = call.batch_first()
            for threads in (1, 3):
                found = dict(zip(swapped.results, swapped.run(threads), strict=True))
                if "d of x" in found:
                    found["d of x"] = np.swapaxes(found["d of x"], 0, 1)
                for name, want in zip(call.results, call.run(threads), strict=True):
                    if name == "h of all steps":
                        np.testing.assert_array_equal(np.swapaxes(found["outputs"], 0, 1), want[1:, :, :units], err_msg="outputs")
                    if name in found:
                        np.testing.assert_array_equal(found[name], want, err_msg=name)


def _gradients(run: Callable, params: Any, x: jax.Array) -> Any:
    return jax.value_and_grad(lambda params, x: (run(params, x) ** 2).sum(), argnums=(0, 1))(params, x)


@pytest.mark.parametrize("cell", ["lstm", "gru", "min_gru"])
@pytest.mark.parametrize("batch", [3, 4])  # a batch of 3 rows or fewer is always (T, B, ...) in a call
def test_a_users_arrays(cell: str, batch: int) -> None:
    """Loss and gradients for x (B, T, E) equal those for x (T, B, E), up to rounding.

    This is tested without `vmap`, and under `vmap` over x, over the parameters, and over both.
    """
    steps, features, units = 6, 5, 20
    gates = CELLS[cell].gates
    rng = np.random.default_rng(0)
    shape = SHAPES[cell]
    weights = {"kernel": (features, gates * units), "recurrent_kernel": (units, gates * units), "bias": (gates * units,)}
    fields = {name: jnp.asarray(rng.normal(0, 0.3, (2, *size)), jnp.float32) for name, size in weights.items()}
    if not shape.recurrent:
        del fields["recurrent_kernel"]
    if shape.extras:
        fields["recurrent_bias"] = jnp.asarray(rng.normal(0, 0.3, (2, shape.extras[1] * units)), jnp.float32)
    params = CELLS[cell].params(**fields)
    x = jnp.asarray(rng.normal(size=(2, batch, steps, features)), jnp.float32)

    def by_batch(params: Any, x: jax.Array) -> jax.Array:
        return unroll(CELLS[cell], params, x, backend="compiled")[0]

    def by_time(params: Any, x: jax.Array) -> jax.Array:
        return jnp.swapaxes(unroll(CELLS[cell], params, jnp.swapaxes(x, 0, 1), backend="compiled", time_major=True)[0], 0, 1)

    one = jax.tree.map(lambda array: array[0], params)
    for axes, args in (((0, 0), (params, x)), ((None, 0), (one, x)), ((0, None), (params, x[0])), (None, (one, x[0]))):
        runs = []
        for run in (by_batch, by_time):
            call = jax.jit(lambda params, x, run=run: _gradients(run, params, x))
            runs.append((jax.vmap(call, in_axes=axes) if axes else call)(*args))
        for got, want in zip(jax.tree.leaves(runs[0]), jax.tree.leaves(runs[1]), strict=True):
            np.testing.assert_allclose(got, want, rtol=2e-6, atol=2e-6)


def test_no_array_is_moved() -> None:
    """If x and the outputs are arrays (B, T, ...), XLA transposes neither these arrays nor their gradients.

    The compiled program passes x and the gradient of the outputs to the C++ code unchanged. It returns the outputs and the gradient of x
    unchanged.
    """
    x, weights = jnp.zeros((8, 5, 16)), jnp.zeros((16, 32))
    params = CELLS["min_gru"].params(kernel=weights, bias=jnp.zeros(32))

    def run(params: Any, x: jax.Array, d_h: jax.Array) -> Any:
        h, pull = jax.vjp(lambda params, x: unroll(CELLS["min_gru"], params, x, backend="compiled")[0], params, x)
        return h, pull(d_h)

    text = jax.jit(run).lower(params, x, jnp.zeros((8, 5, 16))).compile().as_text()
    made = dict(re.findall(r"(%[\w.-]+) = (.*)", text[text.index("ENTRY") :]))
    calls = [line for line in made.values() if "custom-call(" in line]
    read = [[made[name] for name in re.findall(r"%[\w.-]+", re.findall(r"custom-call\((.*?)\), ", line)[0])] for line in calls]
    whole = [[operand for operand in operands if operand.startswith("f32[8,5,16]")] for operands in read]
    assert [len(operands) for operands in whole] == [1, 2]
    assert all(" parameter(" in operand for operands in whole for operand in operands)
    results = re.findall(r"%[\w.-]+", text[text.index("ROOT %tuple") :].split("tuple(")[1].split("\n")[0].split(")")[0])
    for result in (results[0], results[-1]):
        assert "get-tuple-element(" in made[result]
        assert made[result].startswith("f32[8,5,16]")


def test_a_symbolic_batch_size(unchecked: None) -> None:
    """A program that is exported with a symbolic batch size gives the outputs of direct calls with 2 and 7 rows.

    The choice between arrays (B, T, ...) and (T, B, ...) for the C++ code depends on the batch size, which is unknown during the export.
    """
    params = CELLS["simple_rnn"].params(kernel=jnp.ones((3, 4)) / 9, recurrent_kernel=jnp.ones((4, 4)) / 9, bias=jnp.zeros(4))
    shape = jax.ShapeDtypeStruct(jax.export.symbolic_shape("b, 5, 3"), jnp.float32)
    exported = jax.export.export(jax.jit(lambda x: unroll(CELLS["simple_rnn"], params, x)[0]))(shape)
    for rows in (2, 7):
        x = jnp.asarray(np.random.default_rng(rows).normal(size=(rows, 5, 3)), jnp.float32)
        np.testing.assert_allclose(exported.call(x), unroll(CELLS["simple_rnn"], params, x)[0], rtol=2e-6, atol=2e-6)
