"""`Bidirectional`, `RecurrentStack` and `ClassifierHead`, compared with direct
computations from their parts.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from made_layers import B, E, H, T, X, made, normal
from tables import assert_close

from lstm_jax import (
    CELLS,
    LSTM,
    Bidirectional,
    DropoutMasks,
    InputError,
    LSTMState,
    RecurrentStack,
    unroll,
)

LENGTHS = jnp.asarray([6, 0, 3])


@partial(nnx.jit, static_argnames="deterministic")
def call(layer, x: jax.Array, **options):
    """Call a layer in a compiled program, which is reused if only the values of arrays
    differ.
    """
    return layer(x, **options)


def states(units: int = H) -> tuple[LSTMState, LSTMState]:
    return LSTMState(*normal(2, B, units)), LSTMState(*normal(2, B, units, seed=1))


MERGES = {
    "concat": lambda ahead, back: jnp.concatenate([ahead, back], -1),
    "sum": lambda ahead, back: ahead + back,
    "ave": lambda ahead, back: 0.5 * (ahead + back),
    "mul": lambda ahead, back: ahead * back,
    None: lambda ahead, back: (ahead, back),
}


@pytest.mark.parametrize("sequences", [True, False])
@pytest.mark.parametrize("merge_mode", MERGES)
def test_merges(merge_mode: Any, sequences: bool) -> None:
    """`Bidirectional` gives the forward outputs merged with the backward outputs.

    The backward outputs are those for the reversed sequence. They are merged after they
    have been put back into the order of time.
    """
    layer = made(
        Bidirectional,
        merge_mode=merge_mode,
        return_sequences=sequences,
        return_state=True,
    )
    assert not np.allclose(layer.forward.kernel[...], layer.backward.kernel[...])

    @nnx.jit
    def both(layer: Bidirectional, start: tuple[LSTMState, LSTMState]):
        ahead, ahead_state = unroll(
            CELLS["lstm"],
            layer.forward.cell_params(),
            X,
            start[0],
            return_sequences=sequences,
        )
        back, back_state = unroll(
            CELLS["lstm"],
            layer.backward.cell_params(),
            jnp.flip(X, 1),
            start[1],
            return_sequences=sequences,
        )
        back = jnp.flip(back, 1) if sequences else back
        return layer(X, initial_state=start), (
            MERGES[merge_mode](ahead, back),
            (ahead_state, back_state),
        )

    assert_close(*both(layer, states()), "float32")
    assert layer.output_features == (2 * H if merge_mode == "concat" else H)


def alone(layer: Bidirectional, x: jax.Array) -> tuple:
    outputs, (ahead, back) = layer(x)
    return outputs, (ahead.h, back.c)


def test_bidirectional_with_lengths() -> None:
    layer = made(Bidirectional, return_sequences=True, return_state=True)
    outputs, (ahead, back) = layer(X, lengths=LENGTHS)
    for row, length in enumerate(LENGTHS.tolist()):
        np.testing.assert_array_equal(outputs[row, length:], 0)
        if length:
            assert_close(
                (outputs[row, :length], (ahead.h[row], back.c[row])),
                alone(layer, X[row, :length]),
                "float32",
            )
        else:
            np.testing.assert_array_equal((ahead.h[row], back.c[row]), 0)
    by_mask, _ = layer(X, mask=jnp.arange(T)[None] < LENGTHS[:, None])
    np.testing.assert_array_equal(outputs, by_mask)
    steps_first, _ = layer(jnp.swapaxes(X, 0, 1), lengths=LENGTHS, time_major=True)
    assert_close(jnp.swapaxes(steps_first, 0, 1), outputs, "float32")


def test_bidirectional_sequences_of_a_call() -> None:
    """The argument `return_sequences` has the same effect in a call as in the
    constructor, also if rows are padded.
    """
    all_steps, last = (
        made(Bidirectional, return_sequences=sequences) for sequences in (True, False)
    )
    for asked, own, other in ((False, last, all_steps), (True, all_steps, last)):
        np.testing.assert_array_equal(
            other(X, lengths=LENGTHS, return_sequences=asked), own(X, lengths=LENGTHS)
        )
        one = other(X[2], lengths=jnp.asarray(3), return_sequences=asked)
        np.testing.assert_array_equal(one, own(X[2], lengths=jnp.asarray(3)))
    repeated = all_steps(X, lengths=LENGTHS, zero_output_for_mask=False)[2]
    np.testing.assert_array_equal(
        repeated[3:, :H], jnp.broadcast_to(repeated[2, :H], (3, H))
    )


def test_bidirectional_dropout() -> None:
    layer = made(
        Bidirectional, dropout=0.4, recurrent_dropout=0.4, return_sequences=True
    )
    masks = (
        layer.forward.draw_masks(B, jax.random.key(2)),
        layer.backward.draw_masks(B, jax.random.key(3)),
    )
    given = call(layer, X, dropout=masks)
    ahead = unroll(CELLS["lstm"], layer.forward.cell_params(), X, dropout=masks[0])[0]
    back = unroll(
        CELLS["lstm"], layer.backward.cell_params(), X, dropout=masks[1], backwards=True
    )[0]
    assert_close(given, jnp.concatenate([ahead, jnp.flip(back, 1)], -1), "float32")
    key = jax.random.key(9)
    drawn = [
        direction.draw_masks(B, one)
        for direction, one in zip(layer.directions, jax.random.split(key), strict=True)
    ]
    assert_close(
        call(layer, X, rngs=key), call(layer, X, dropout=tuple(drawn)), "float32"
    )
    assert not np.array_equal(drawn[0].input, drawn[1].input)
    layer.eval()
    assert_close(
        call(layer, X),
        call(layer, X, dropout=(DropoutMasks(), DropoutMasks())),
        "float32",
    )


def make_stack(**options) -> RecurrentStack:
    rngs = nnx.Rngs(0, dropout=1)
    first = Bidirectional(E, H, return_sequences=True, rngs=rngs, **options)
    second = LSTM(first.output_features, 7, return_sequences=True, rngs=rngs, **options)
    return RecurrentStack(
        [first, second, LSTM(7, 2, return_state=True, rngs=rngs, **options)]
    )


def test_stack_is_its_layers_in_turn() -> None:
    @nnx.jit
    def both(stack: RecurrentStack, starts: list):
        y = X
        for layer, start in zip(stack.layers, starts, strict=True):
            y = layer(y, initial_state=start, lengths=LENGTHS)
        return stack(X, initial_state=starts, lengths=LENGTHS), y

    got, want = both(make_stack(), [states(), states(7)[0], states(2)[0]])
    assert got[0].shape == (B, 2)
    assert_close(got, want, "float32")


def test_stack_dropout() -> None:
    stack = make_stack(dropout=0.3, recurrent_dropout=0.3)
    key = jax.random.key(5)
    outputs, _ = call(stack, X, rngs=key)
    np.testing.assert_array_equal(outputs, call(stack, X, rngs=key)[0])
    assert not np.allclose(outputs, call(stack, X, rngs=jax.random.key(6))[0])
    both, second, third = stack.layers
    keys = jax.random.split(jax.random.fold_in(key, 0))
    pair = both.forward.draw_masks(B, keys[0]), both.backward.draw_masks(B, keys[1])
    masks = [
        pair,
        *(
            layer.draw_masks(B, jax.random.fold_in(key, n))
            for n, layer in ((1, second), (2, third))
        ),
    ]
    plain, _ = call(stack, X, deterministic=True)
    assert_close(outputs, call(stack, X, dropout=masks)[0], "float32")
    by_rngs = call(stack, X, rngs=nnx.Rngs(dropout=3))[0]
    np.testing.assert_array_equal(by_rngs, call(stack, X, rngs=nnx.Rngs(dropout=3))[0])
    assert not np.allclose(outputs, plain)
    stack.eval()
    assert_close(call(stack, X)[0], plain, "float32")


def test_views() -> None:
    """`flax.nnx.view` switches the dropout within layers and the dropout between layers
    off and on.
    """
    rngs = nnx.Rngs(0)
    inner = Bidirectional(E, H, dropout=0.4, return_sequences=True, rngs=rngs)
    stack = RecurrentStack(
        [inner, LSTM(2 * H, 2, recurrent_dropout=0.4, rngs=rngs)],
        dropout=0.4,
        rngs=rngs,
    )
    key = jax.random.key(1)
    silent = nnx.view(stack, deterministic=True)
    np.testing.assert_array_equal(
        call(silent, X, rngs=key), call(stack, X, rngs=key, deterministic=True)
    )
    np.testing.assert_array_equal(
        call(nnx.view(silent, deterministic=False), X, rngs=key),
        call(stack, X, rngs=key),
    )
    assert not np.allclose(call(silent, X, rngs=key), call(stack, X, rngs=key))


def test_tabulate() -> None:
    """The table of `nnx.tabulate` has one row for each layer of a model, and no rows
    for the methods that a call of a layer uses.
    """
    rngs = nnx.Rngs(0)
    first = LSTM(
        E, H, dropout=0.2, return_sequences=True, learned_state=True, rngs=rngs
    )
    model = nnx.Sequential(first, LSTM(H, 2, rngs=rngs), nnx.Linear(2, 1, rngs=rngs))
    table = nnx.tabulate(
        model, X, console_kwargs={"force_terminal": False, "width": 200}
    )
    paths = [
        line.split("│")[1].strip()
        for line in table.splitlines()
        if line.startswith("│")
    ]
    assert [path for path in paths if path] == ["layers/0", "layers/1", "layers/2"]
    # the last 2 belong to a random stream
    assert (
        f"Total Parameters: {first.count_params() + 4 * 2 * (H + 2 + 1) + 3 + 2:,}"
        in table
    )


def test_stack_with_a_reversed_layer() -> None:
    """If a layer before the last returns its outputs in reverse order, the stack
    refuses arguments such as `mask` and `lengths`.

    With `keep_order`, the outputs are in the order of time, and the arguments are
    accepted.
    """
    rngs = nnx.Rngs(0)
    first, second = (
        LSTM(E, H, return_sequences=True, go_backwards=True, rngs=rngs),
        LSTM(H, 2, rngs=rngs),
    )
    stack = RecurrentStack([first, second])
    np.testing.assert_array_equal(stack(X), second(first(X)))
    steps = {
        "mask": jnp.ones((B, T)),
        "lengths": LENGTHS,
        "resets": jnp.zeros((B, T), bool),
        "segment_ids": jnp.ones((B, T), int),
    }
    for name, given in steps.items():
        with pytest.raises(
            InputError, match=rf"^{name}: given after a layer with go_backwards; "
        ):
            stack(X, **{name: given})
    first.keep_order = True
    assert_close(stack(X, lengths=LENGTHS)[2], stack(X[2:, :3])[0], "float32")
