"""Tests of dropout masks: their values, the share of zeros, their shapes and keys, and
their use by the layer.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from made_layers import B, X, made
from made_weights import assert_subject
from tables import BACKENDS, assert_close

from lstm_jax import LSTM, unroll
from lstm_jax.cells import CELLS
from lstm_jax.recurrence import dropout
from lstm_jax.recurrence.dropout import check_rate, draw_mask, draw_masks


@settings(max_examples=10)
@given(st.sampled_from([0.1, 0.2, 0.5, 0.9]), st.integers(0, 2**32 - 1))
def test_values_and_share(rate: float, seed: int) -> None:
    mask = np.asarray(draw_mask(jax.random.key(seed), rate, (100, 200)))
    kept = mask != 0
    np.testing.assert_allclose(mask[kept], 1 / (1 - rate), rtol=1e-6)
    deviation = np.sqrt(rate * (1 - rate) / mask.size)
    assert abs(kept.mean() - (1 - rate)) < 5 * deviation
    # the expectation of x * mask is x
    assert abs(mask.mean() - 1) < 5 * deviation / (1 - rate)
    # rows and columns are drawn independently of each other
    assert abs(kept.mean(0) - (1 - rate)).max() < 6 * np.sqrt(rate * (1 - rate) / 100)
    assert abs(kept.mean(1) - (1 - rate)).max() < 6 * np.sqrt(rate * (1 - rate) / 200)


@pytest.mark.skipif(
    "compiled" not in BACKENDS, reason="no C++ compiler to build the compiled draw with"
)
@pytest.mark.parametrize("shape", [(), (1,), (37,), (4, 3, 129), (5, 20_000)])
@pytest.mark.parametrize("rate", [1e-7, 0.2, 0.5, 0.9])
def test_compiled_draws_are_those_of_jax(shape, rate, monkeypatch) -> None:
    key = jax.random.fold_in(jax.random.key(3), 2**31)
    found = []
    for compiled in (True, False):
        if not compiled:
            monkeypatch.setattr(dropout, "_can_compile", lambda key, dtype: False)
        assert compiled == dropout._can_compile(key, jnp.float32)
        found.append(draw_mask(key, rate, shape))
    np.testing.assert_array_equal(*found)


SHAPES = [
    # kind, dropout, recurrent dropout, input mask, recurrent mask
    ("keras", 0.2, 0.0, (3, 5), None),
    ("keras", 0.0, 0.2, None, (4, 3, 7)),
    ("keras", 0.2, 0.2, (4, 3, 5), (4, 3, 7)),
    ("per_gate", 0.2, 0.0, (4, 3, 5), None),
    ("per_gate", 0.2, 0.2, (4, 3, 5), (4, 3, 7)),
    ("variational", 0.2, 0.2, (3, 5), (3, 7)),
    ("variational", 0.0, 0.2, None, (3, 7)),
    ("keras", 0.0, 0.0, None, None),
]


@pytest.mark.parametrize(
    ("kind", "dropout", "recurrent", "input_shape", "recurrent_shape"), SHAPES
)
def test_kinds(
    kind, dropout: float, recurrent: float, input_shape, recurrent_shape
) -> None:
    masks = draw_masks(jax.random.key(0), 3, 5, 7, dropout, recurrent, kind)
    assert tuple(None if mask is None else mask.shape for mask in masks[:2]) == (
        input_shape,
        recurrent_shape,
    )
    assert masks.zoneout is None


def test_masks_differ_between_gates_rows_and_keys() -> None:
    masks = draw_masks(jax.random.key(0), 8, 64, 64, 0.5, 0.5, "keras")
    assert masks.input is not None
    assert masks.recurrent is not None
    for mask in (masks.input, masks.recurrent):
        flat = np.asarray(mask).reshape(32, 64)
        assert len({row.tobytes() for row in flat}) == 32
    assert not np.array_equal(masks.input, masks.recurrent)
    again = draw_masks(jax.random.key(0), 8, 64, 64, 0.5, 0.5, "keras")
    other = draw_masks(jax.random.key(1), 8, 64, 64, 0.5, 0.5, "keras")
    np.testing.assert_array_equal(masks.input, again.input)
    np.testing.assert_array_equal(masks.recurrent, again.recurrent)
    assert not np.array_equal(masks.input, other.input)


def test_dtype() -> None:
    assert draw_mask(jax.random.key(0), 0.5, (4,), jnp.bfloat16).dtype == jnp.bfloat16
    with jax.enable_x64(True):
        mask = draw_mask(jax.random.key(0), 0.3, (100,), jnp.float64)
        assert set(np.unique(mask)) == {0.0, 1 / 0.7}


@pytest.mark.parametrize("rate", [-0.1, 1.0, 1.2, float("nan")])
def test_rates(rate: float) -> None:
    assert_subject(lambda: draw_mask(jax.random.key(0), rate, (2,)), "dropout")
    assert_subject(lambda: check_rate("recurrent_dropout", rate), "recurrent_dropout")


def make_layer(**options) -> LSTM:
    return made(
        return_sequences=True, **({"dropout": 0.4, "recurrent_dropout": 0.3} | options)
    )


@partial(nnx.jit, static_argnames="deterministic")
def call(layer, x: jax.Array, **options):
    """Call a layer in a compiled program, which is compiled only once for calls that
    differ only in values.
    """
    return layer(x, **options)


def test_the_layer_applies_the_same_mask_at_each_step() -> None:
    """The outputs for x with input dropout only equal the outputs without dropout for x
    multiplied by the mask.

    The mask has the shape (B, E). Each step is multiplied by the same values.
    """
    layer = make_layer(recurrent_dropout=0.0)
    key = jax.random.key(3)
    mask = layer.draw_masks(B, key).input
    assert mask is not None
    outputs = call(layer, X, rngs=key)
    assert_close(
        outputs,
        call(layer, X * jnp.broadcast_to(mask[:, None], X.shape), deterministic=True),
        "float32",
    )
    assert not np.allclose(outputs, call(layer, X, deterministic=True))


def test_the_layer_passes_its_masks_on() -> None:
    layer = make_layer()
    key = jax.random.key(3)
    masks = layer.draw_masks(B, key)
    drawn = call(layer, X, rngs=key)
    assert_close(drawn, call(layer, X, dropout=masks), "float32")
    assert_close(drawn, call(layer, X, dropout=masks, deterministic=True), "float32")
    assert_close(
        drawn,
        unroll(CELLS["lstm"], layer.cell_params(), X, dropout=masks)[0],
        "float32",
    )


def test_a_program_for_every_batch_size(unchecked: None) -> None:
    """A layer with dropout is exported with a symbolic batch size, and draws the same
    masks as a direct call.
    """
    graph, params = nnx.split(
        LSTM(3, 4, dropout=0.5, recurrent_dropout=0.5, rngs=nnx.Rngs(0))
    )

    def run(params, x, key):
        return nnx.merge(graph, params)(x, rngs=key)

    shape = jax.ShapeDtypeStruct(jax.export.symbolic_shape("b, 5, 3"), jnp.float32)
    exported = jax.export.export(jax.jit(run))(params, shape, jax.random.key(0))
    for batch in (1, 6):
        x = jax.random.normal(jax.random.key(batch), (batch, 5, 3))
        np.testing.assert_allclose(
            exported.call(params, x, jax.random.key(7)),
            run(params, x, jax.random.key(7)),
            rtol=2e-6,
            atol=2e-6,
        )


def test_deterministic() -> None:
    layer = make_layer()
    plain = unroll(CELLS["lstm"], layer.cell_params(), X)[0]
    assert_close(call(layer, X, deterministic=True), plain, "float32")
    assert not np.allclose(call(layer, X), plain)
    layer.eval()
    assert layer.deterministic is True
    assert_close(call(layer, X), plain, "float32")
    assert not np.allclose(call(layer, X, deterministic=False), plain)
    layer.train()
    assert layer.deterministic is False
    assert not np.allclose(call(layer, X), plain)


def test_sources_of_randomness() -> None:
    """Masks are drawn from a key, a stream, an `nnx.Rngs` or the layer's own stream.
    Equal keys or seeds give equal masks.
    """
    layer = make_layer()
    key = jax.random.key(7)
    np.testing.assert_array_equal(call(layer, X, rngs=key), call(layer, X, rngs=key))
    assert not np.allclose(
        call(layer, X, rngs=key), call(layer, X, rngs=jax.random.key(8))
    )
    by_rngs = call(layer, X, rngs=nnx.Rngs(dropout=7))
    np.testing.assert_array_equal(by_rngs, call(layer, X, rngs=nnx.Rngs(dropout=7)))
    np.testing.assert_array_equal(
        by_rngs, call(layer, X, rngs=nnx.Rngs(dropout=7).dropout)
    )
    rngs = nnx.Rngs(dropout=7)
    np.testing.assert_array_equal(by_rngs, call(layer, X, rngs=rngs))
    # the stream has moved on
    assert not np.allclose(by_rngs, call(layer, X, rngs=rngs))
    first, second = call(layer, X), call(layer, X)
    assert not np.allclose(first, second)
    np.testing.assert_array_equal(first, call(make_layer(), X))  # the same seed
