"""Tests of operations with custom passes: which pass runs on which platform, and how
often the passes are traced.
"""

from collections import Counter
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import pytest

from lstm_jax.cells import CELLS, LSTMParams
from lstm_jax.native.operation import Operation, apply
from lstm_jax.recurrence import unroll
from lstm_jax.recurrence.dropout import draw_mask

TRACED: Counter[str] = Counter()


@dataclass(frozen=True)
class Doubled(Operation):
    """Operation whose custom passes compute 2 x, and whose twins compute x + x.

    The custom passes count in `TRACED` how often they are traced.
    """

    platforms: tuple[str, ...]

    def forward(self, own, keep, *args):
        TRACED["forward"] += own
        return 2 * args[0] if own else args[0] + args[0], ()

    def backward(self, own, wanted, args, residuals, cotangents):
        TRACED["backward"] += own
        return (2 * cotangents,) if own else (cotangents + cotangents,)

    def arg_axes(self, args):
        return [0]

    def result_axes(self, outputs):
        return [0]


def test_gradients_outside_of_jit_are_traced_once() -> None:
    x = jnp.arange(3.0)

    def loss(x):
        return (apply(Doubled(("cpu",)), x) ** 2).sum()

    gradients = [jax.grad(loss)(x)]
    TRACED.clear()
    gradients += [jax.grad(loss)(x) for _ in range(3)]
    assert not TRACED
    assert all((gradient == 8 * x).all() for gradient in gradients)


def test_each_platform_has_its_own_program() -> None:
    x = jnp.arange(3.0)
    for own, here in ((("cpu",), "multiply"), ((), "add"), (("tpu",), "add")):
        traced = jax.jit(lambda x, own=own: apply(Doubled(own), x)).trace(x)
        assert (
            f"stablehlo.{here}" in traced.lower(lowering_platforms=("cpu",)).as_text()
        )
        tpu = "multiply" if own == ("tpu",) else "add"
        assert f"stablehlo.{tpu}" in traced.lower(lowering_platforms=("tpu",)).as_text()


def test_rows_are_folded_into_one_call() -> None:
    x = jnp.arange(12.0).reshape(4, 3)
    mapped = jax.vmap(lambda x: apply(Doubled(("cpu",)), x))
    assert (mapped(x) == 2 * x).all()
    assert "tensor<12xf32>" in jax.jit(mapped).lower(x).as_text()


@pytest.mark.parametrize("operand", ["x", "parameters", "key"])
def test_no_calls_under_vmap(operand: str) -> None:
    """`jax.vmap` over an axis of size 0 gives empty results and gradients of the right
    shapes, as for other functions of JAX.
    """
    cell = CELLS["lstm"]
    params = LSTMParams(jnp.ones((5, 28)), jnp.ones((7, 28)), jnp.ones(28))
    if operand == "key":
        assert jax.vmap(lambda key: draw_mask(key, 0.3, (5,)))(
            jax.random.split(jax.random.key(0), 2)[:0]
        ).shape == (0, 5)
        return
    given = {"x": jnp.ones((2, 6, 5)), "params": params}
    name = "x" if operand == "x" else "params"

    def outputs(value):
        return unroll(cell, **(given | {name: value}))[0]

    none = jax.tree.map(lambda leaf: jnp.zeros((0, *leaf.shape)), given[name])
    assert jax.vmap(outputs)(none).shape == (0, 2, 6, 7)
    gradients = jax.vmap(jax.grad(lambda value: outputs(value).sum()))(none)
    assert jax.tree.map(jnp.shape, gradients) == jax.tree.map(jnp.shape, none)
