"""The LSTM layer: its arguments, its carried state, training and evaluation, and its
use with nnx transforms, plain JAX and Linen.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from made_layers import B, E, H, T, X, made, normal
from tables import assert_close

from lstm_jax import (
    CELLS,
    LSTM,
    Bidirectional,
    DropoutMasks,
    LSTMParams,
    LSTMState,
    RecurrentStack,
    unroll,
)

MASK = normal(B, T) < 0.5
STATE = LSTMState(*normal(2, B, H))


def plain(layer: LSTM, **options):
    return unroll(CELLS["lstm"], layer.cell_params(), X, **options)


def test_outputs_and_state() -> None:
    layer = made(return_sequences=True, return_state=True)
    outputs, state = layer(X)
    assert outputs.shape == (B, T, H)
    assert isinstance(state, LSTMState)
    np.testing.assert_array_equal(outputs[:, -1], state.h)
    # the default: the last output alone
    np.testing.assert_array_equal(made()(X), state.h)
    last, same = made(return_state=True)(X)
    np.testing.assert_array_equal(last, state.h)
    np.testing.assert_array_equal(same.c, state.c)
    np.testing.assert_array_equal(outputs, plain(layer)[0])


def test_arguments_of_the_call() -> None:
    layer = made(return_sequences=True, return_state=True)
    masked = layer(X, mask=MASK, initial_state=STATE)
    jax.tree.map(
        np.testing.assert_array_equal,
        masked,
        plain(layer, mask=MASK, initial_state=STATE),
    )
    lengths = jnp.asarray([0, 6, 2])
    jax.tree.map(
        np.testing.assert_array_equal,
        layer(X, lengths=lengths),
        plain(layer, lengths=lengths),
    )
    steps_first = layer(
        jnp.swapaxes(X, 0, 1), mask=MASK.T, initial_state=STATE, time_major=True
    )
    assert_close(
        (jnp.swapaxes(steps_first[0], 0, 1), steps_first[1]), masked, "float32"
    )
    masks = DropoutMasks(jnp.full((B, E), 0.5), jnp.full((4, B, H), 2.0))
    jax.tree.map(
        np.testing.assert_array_equal,
        layer(X, dropout=masks),
        plain(layer, dropout=masks),
    )


def test_go_backwards() -> None:
    ahead, back = (
        made(return_sequences=True),
        made(return_sequences=True, go_backwards=True),
    )
    assert_close(back(X), ahead(jnp.flip(X, 1)), "float32")
    assert_close(
        back(X, mask=MASK), ahead(jnp.flip(X, 1), mask=jnp.flip(MASK, 1)), "float32"
    )
    in_order = made(return_sequences=True, go_backwards=True, keep_order=True)
    np.testing.assert_array_equal(
        in_order(X, mask=MASK), jnp.flip(back(X, mask=MASK), 1)
    )
    np.testing.assert_array_equal(
        in_order(X, return_sequences=False), back(X, return_sequences=False)
    )
    np.testing.assert_array_equal(in_order(X[0], time_major=True), in_order(X[:1])[0])


def test_zero_output_for_mask() -> None:
    zeros, repeats = (
        made(return_sequences=True, zero_output_for_mask=True),
        made(return_sequences=True),
    )
    outputs = repeats(X, mask=MASK)
    np.testing.assert_array_equal(
        zeros(X, mask=MASK), jnp.where(MASK[:, :, None], outputs, 0)
    )
    np.testing.assert_array_equal(
        zeros(X, mask=MASK, zero_output_for_mask=False), outputs
    )
    np.testing.assert_array_equal(
        repeats(X[0], mask=MASK[0], zero_output_for_mask=True), zeros(X, mask=MASK)[0]
    )
    assert not np.array_equal(outputs, zeros(X, mask=MASK))


def test_dtype_is_that_of_the_products() -> None:
    layer = made(dtype=jnp.bfloat16, return_sequences=True)
    outputs = layer(X)
    assert outputs.dtype == jnp.float32
    assert layer.kernel[...].dtype == jnp.float32
    np.testing.assert_array_equal(outputs, plain(layer, compute_dtype=jnp.bfloat16)[0])
    assert_close(outputs, made(return_sequences=True)(X), 3e-2)
    assert not np.array_equal(outputs, made(return_sequences=True)(X))


def test_bias() -> None:
    np.testing.assert_array_equal(made().bias[...].reshape(4, H).sum(1), [0, H, 0, 0])
    assert not made(unit_forget_bias=False).bias[...].any()
    ones = made(bias_initializer=jax.nn.initializers.constant(3.0))
    np.testing.assert_array_equal(ones.bias[...].reshape(4, H)[:, 0], [3, 1, 3, 3])
    without = made(use_bias=False)
    assert without.bias is None
    assert set(nnx.to_flat_state(nnx.state(without, nnx.Param)).paths) == {
        ("kernel",),
        ("recurrent_kernel",),
    }
    zeros = LSTMParams(
        without.kernel[...], without.recurrent_kernel[...], jnp.zeros(4 * H)
    )
    np.testing.assert_array_equal(
        without(X), unroll(CELLS["lstm"], zeros, X, return_sequences=False)[0]
    )


def test_stateful() -> None:
    """Two calls on consecutive parts of a sequence give the outputs and the final state
    of one call on the whole sequence.
    """
    whole, whole_state = made(return_sequences=True, return_state=True)(X)
    layer = made(stateful=True, return_sequences=True, return_state=True)
    layer.reset_state(B)
    first, _ = layer(X[:, :2])
    second, state = layer(X[:, 2:])
    assert_close(
        (jnp.concatenate([first, second], 1), state), (whole, whole_state), "float32"
    )
    layer.reset_state(B)
    assert_close(layer(X)[0], whole, "float32")
    # a given initial state replaces the carried one
    given, _ = layer(X, initial_state=STATE)
    assert_close(given, plain(layer, initial_state=STATE)[0], "float32")


def test_stateful_within_jit() -> None:
    whole = made(return_sequences=True)(X)
    layer = made(stateful=True, return_sequences=True)
    layer.reset_state(B)
    step = nnx.jit(lambda layer, x: layer(x))
    parts = [step(layer, X[:, n : n + 2]) for n in (0, 2, 4)]
    assert_close(jnp.concatenate(parts, 1), whole, "float32")


def test_exported_with_its_state() -> None:
    layer = made(return_state=True)
    stored = jax.export.export(jax.jit(lambda x, start: layer(x, initial_state=start)))(
        X, STATE
    ).serialize()
    outputs, state = jax.export.deserialize(stored).call(X, STATE)
    assert isinstance(state, LSTMState)
    assert_close((outputs, state), layer(X, initial_state=STATE), "float32")


@pytest.mark.parametrize(
    "layer",
    [made(), made(Bidirectional, return_sequences=True), RecurrentStack([made()])],
)
def test_x_is_a_list_of_tracers(layer, unchecked: None) -> None:
    assert_close(
        jax.jit(lambda a: layer([a, 2 * a]))(X[0]),
        layer(jnp.stack([X[0], 2 * X[0]])),
        "float32",
    )


def loss(outputs: jax.Array) -> jax.Array:
    return (outputs * outputs).sum()


def test_in_nnx_transforms_and_an_optimizer() -> None:
    layer = made(dropout=0.2, recurrent_dropout=0.2)
    optimizer = nnx.Optimizer(layer, optax.sgd(0.1), wrt=nnx.Param)
    reference = made(dropout=0.2, recurrent_dropout=0.2)

    @nnx.jit
    def step(layer: LSTM, optimizer: nnx.Optimizer):
        value, gradients = nnx.value_and_grad(lambda layer: loss(layer(X)))(layer)
        optimizer.update(layer, gradients)
        return value

    first, second = step(layer, optimizer), step(layer, optimizer)
    assert float(second) != float(first)  # weights and masks have moved on
    masks = reference.draw_masks(B)  # the same stream, hence the same masks

    def value(params):
        return loss(
            unroll(CELLS["lstm"], params, X, dropout=masks, return_sequences=False)[0]
        )

    wanted, gradients = jax.value_and_grad(value)(reference.cell_params())
    assert_close(first, wanted, "float32")
    one = jax.tree.map(lambda p, g: p - 0.1 * g, reference.cell_params(), gradients)
    masks = reference.draw_masks(B)
    assert_close(
        second,
        loss(unroll(CELLS["lstm"], one, X, dropout=masks, return_sequences=False)[0]),
        "float32",
    )


def test_as_a_linen_module() -> None:
    module = nnx.bridge.to_linen(
        LSTM, E, H, dropout=0.3, recurrent_dropout=0.3, return_sequences=True
    )
    variables = module.init(
        {"params": jax.random.key(0), "dropout": jax.random.key(1)}, X
    )
    wanted = unroll(CELLS["lstm"], LSTMParams(**variables["params"]), X)[0]
    np.testing.assert_array_equal(
        module.apply(variables, X, deterministic=True), wanted
    )
    dropped = [
        module.apply(variables, X, rngs={"dropout": jax.random.key(n)})
        for n in (2, 2, 3)
    ]
    np.testing.assert_array_equal(dropped[0], dropped[1])
    assert not np.allclose(dropped[0], dropped[2])
    assert not np.allclose(dropped[0], wanted)
