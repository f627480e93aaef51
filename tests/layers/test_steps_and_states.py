"""Single steps, learned initial states, resets, and inputs without a batch axis,
compared with calls of layers on batches of sequences.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from made_layers import RESETS, B, E, H, T, X, made, normal
from tables import CELLS, assert_close

from lstm_jax import (
    GRU,
    LSTM,
    Bidirectional,
    InputError,
    Recurrent,
    RecurrentStack,
    SimpleRNN,
    make_stepper,
)


def _learn(layer: Any) -> Any:
    """Set the learned initial states of a layer, if it has any, to random values, and
    return the layer.
    """
    for name in ("initial_h", "initial_c"):
        if hasattr(layer, name):
            param = getattr(layer, name)
            param[...] = normal(*param.shape, seed=ord(name[-1]))
    return layer


def _steps(
    layer: Any, x: jax.Array, resets: jax.Array | None = None, **options: Any
) -> tuple[jax.Array, Any]:
    state, outputs = layer.initial_state(x.shape[0]), []
    for t in range(x.shape[1]):
        output, state = layer.step(
            x[:, t], state, reset=None if resets is None else resets[:, t], **options
        )
        outputs.append(output)
    return jnp.stack(outputs, 1), state


def _first(tree: Any) -> Any:
    """Return the first row of each array of a tree."""
    return jax.tree.map(lambda part: part[0], tree)


@pytest.mark.slow(
    keep=["[lstm]", "[gru]", "layernorm", "full_gate", "min_lstm", "projected"]
)
@pytest.mark.parametrize("cell", [*CELLS, "projected"])
def test_steps_are_the_sequence(cell: str):
    kind = {"projection": 2} if cell == "projected" else {"cell": cell}
    layer = _learn(
        made(
            Recurrent,
            learned_state=True,
            return_sequences=True,
            return_state=True,
            **kind,
        )
    )
    assert_close(_steps(layer, X, RESETS), layer(X, resets=RESETS), 2e-6)


@pytest.mark.parametrize(
    "options",
    [
        {"zoneout": 0.3},
        {"dtype": jnp.bfloat16},
        {"dropout": 0.4, "recurrent_dropout": 0.2},
    ],
    ids=str,
)
def test_steps_have_the_options_of_the_layer(options: dict[str, Any]):
    layer = made(return_sequences=True, return_state=True, **options)
    layer.eval()
    assert_close(_steps(layer, X), layer(X), 1e-2 if "dtype" in options else 2e-6)
    if "dropout" in options:
        masks = layer.draw_masks(B)
        assert_close(_steps(layer, X, dropout=masks), layer(X, dropout=masks), 2e-6)


def test_a_step_of_ids_and_of_one_row():
    layer = made(GRU)
    ids, start = jnp.asarray([2, 0, 3]), layer.initial_state(3)
    one_hot = jax.nn.one_hot(ids, E)
    wanted = layer.step(one_hot, start)
    assert_close(layer.step(ids, start), wanted, 1e-6)
    row = layer.initial_state(None)
    assert_close(layer.step(one_hot[0], row), _first(wanted), 1e-6)
    assert_close(
        layer.step(one_hot[0], jax.tree.map(jnp.ones_like, row), reset=True),
        _first(wanted),
        1e-6,
    )
    wanted = layer.step(X[0, 0], (normal(H),))
    assert_close(
        layer.step(X[0, 0].tolist(), (normal(H).tolist(),), reset=False), wanted, 1e-6
    )


def test_a_step_of_ids_of_64_bits(unchecked: None):
    """An id that int32 cannot hold is not taken for another one."""
    layer = made()
    wide, state = np.array([2**32 + 1, 1]), layer.initial_state(2)
    calls = (
        lambda: layer.step(wide, state),
        lambda: layer.step(wide.tolist(), state),
        lambda: layer(wide[:, None]),
    )
    for call in (*calls, lambda: layer.step(wide[0], layer.initial_state(None))):
        with pytest.raises(InputError, match=r"^x: id"):
            call()


@pytest.mark.parametrize("kind", ["keras", "per_gate", "variational"])
def test_masks_of_a_single_sequence(kind: Any):
    """If the input of a call or of `step` has no batch axis, dropout masks for a batch
    of one have the same effect as in a batch of one.
    """
    options: dict[str, Any] = {
        "dropout": 0.4,
        "recurrent_dropout": 0.3,
        "dropout_masks": kind,
        "zoneout": 0.3,
    }
    for layer in (made(zoneout_cell=0.2, **options), made(SimpleRNN, **options)):
        whole, one = layer.draw_masks(1, steps=T), layer.draw_masks(1, steps=1)
        assert_close(layer(X[0], dropout=whole), layer(X[:1], dropout=whole)[0], 1e-6)
        wanted = layer.step(X[:1, 0], layer.initial_state(1), dropout=one)
        assert_close(
            layer.step(X[0, 0], layer.initial_state(None), dropout=one),
            _first(wanted),
            1e-6,
        )


def _layers(
    count: int = 3, kind: Any = LSTM, units: int = H, **options: Any
) -> list[Any]:
    return [
        made(kind, units if n else E, units, return_sequences=True, **options)
        for n in range(count)
    ]


def test_residual_connections_add_the_inputs():
    layers = _layers(learned_state=True, return_state=True)
    layers[1] = made(SimpleRNN, H, H, return_sequences=True, return_state=True)
    first, second, third = (_learn(layer) for layer in layers)
    y = first(X, resets=RESETS)[0]
    y = y + second(y, resets=RESETS)[0]
    y = y + third(y, resets=RESETS)[0]
    stack = RecurrentStack(layers, residual=True)
    outputs, states = stack(X, resets=RESETS)
    assert_close(outputs, y, 1e-6)
    assert_close(_steps(stack, X, RESETS), (outputs, states), 2e-6)


def test_residual_connections_add_what_dropout_has_not_touched():
    layers = _layers(2)
    # the second layer reads nothing, and so adds the same to all rows
    layers[1].kernel[...] = jnp.zeros_like(layers[1].kernel[...])
    first, stack = (
        layers[0](X),
        RecurrentStack(layers, dropout=0.5, residual=True, rngs=nnx.Rngs(0, dropout=1)),
    )
    assert_close(stack(X), first + layers[1](first), 1e-6)


def test_dropout_between_layers_is_that_of_torch():
    """As in `torch.nn.LSTM`, dropout between layers acts on the outputs of each layer
    but the last, and is off in evaluation.

    Each number of each step is dropped independently, and the kept numbers are divided
    by 1 minus the rate.
    """
    seen: list[jax.Array] = []

    class Spy(LSTM):
        def __call__(self, x, **options):
            seen.append(x)
            return super().__call__(x, **options)

    layers = _layers(2, Spy, 64)
    stack = RecurrentStack(layers, dropout=0.25, rngs=nnx.Rngs(0, dropout=1))
    plain = layers[0](X)
    seen.clear()
    stack(X)
    given = np.asarray(seen[1])
    dropped = given == 0
    assert_close(given[~dropped], np.asarray(plain)[~dropped] / 0.75, 1e-6)
    assert abs(dropped.mean() - 0.25) < 0.05
    # each unit is dropped at some steps, but not everywhere
    assert (dropped.any((0, 1)) & ~dropped.all((0, 1))).all()
    assert_close(seen[0], X, 0.0)
    stack(X)
    assert (np.asarray(seen[3]) != given).any()
    stack.eval()
    seen.clear()
    stack(X)
    assert_close(seen[1], plain, 0.0)
    key = jax.random.key(5)
    assert_close(
        stack(X, deterministic=False, rngs=key),
        stack(X, deterministic=False, rngs=key),
        0.0,
    )


def test_a_learned_state_is_trained_and_starts_every_sequence():
    layer = _learn(made(learned_state=True, return_sequences=True))
    gradient = nnx.grad(lambda layer: layer(X, resets=RESETS).sum())(layer)
    assert all(
        np.abs(gradient[name][...]).min() > 0 for name in ("initial_h", "initial_c")
    )
    assert_close(layer(X, resets=RESETS)[:1, 2:], layer(X[:1, 2:]), 1e-6)
    assert layer.count_params() == 4 * H * (E + H + 1) + 2 * H


def test_a_stateful_layer_returns_to_its_learned_state():
    layer = _learn(made(GRU, learned_state=True, stateful=True))
    first = layer(X)
    assert np.abs(layer(X) - first).max() > 1e-3
    layer.reset_state()
    assert_close(layer(X), first, 0.0)
    layer.reset_state()
    assert (
        np.abs(nnx.grad(lambda layer: layer(X).sum())(layer)["initial_h"][...]).min()
        > 0
    )


def test_states_without_a_batch():
    """`initial_state(None)` returns states without a batch axis, which `step` accepts
    under `jax.vmap`.

    `from lstm_jax import *` imports the layers.
    """
    layer = _learn(made(learned_state=True))
    for each in (layer, RecurrentStack(_layers(2)), made(Bidirectional)):
        one, rows = each.initial_state(None), each.initial_state(4)
        jax.tree.map(
            lambda part, whole: np.testing.assert_array_equal(
                np.broadcast_to(part, whole.shape), whole
            ),
            one,
            rows,
        )
    states = jax.tree.map(
        lambda part: jnp.stack([part] * len(X)), layer.initial_state(None)
    )
    assert_close(
        jax.vmap(layer.step)(X[:, 0], states),
        layer.step(X[:, 0], layer.initial_state(len(X))),
        1e-6,
    )
    names: dict[str, Any] = {}
    exec("from lstm_jax import *", names)
    assert names["LSTM"] is LSTM


@pytest.mark.parametrize("time_major", [False, True])
@pytest.mark.parametrize("sequences", [False, True])
def test_a_single_sequence_needs_no_batch(sequences: bool, time_major: bool):
    mask, resets = jnp.asarray([1, 1, 0, 1, 1, 1], bool), RESETS[0]
    for kind in (LSTM, Bidirectional):
        layer = made(kind, return_sequences=sequences, return_state=True)
        got = layer(X[0], mask=mask, resets=resets, time_major=time_major)
        assert_close(
            got, _first(layer(X[:1], mask=mask[None], resets=resets[None])), 1e-6
        )
    layer = made(SimpleRNN)
    assert_close(layer(jnp.asarray([1, 3])), layer(jnp.asarray([[1, 3]]))[0], 1e-6)
    state = jax.tree.map(jnp.ones_like, layer.initial_state(1))
    got = layer(X[0], lengths=jnp.int32(2), initial_state=_first(state))
    assert_close(
        got, layer(X[:1], lengths=jnp.asarray([2]), initial_state=state)[0], 1e-6
    )


def test_both_directions_are_cut_at_the_same_places():
    layer = made(Bidirectional, learned_state=True, return_sequences=True)
    _learn(layer.forward)
    _learn(layer.backward)
    got = layer(X, resets=RESETS)
    assert_close(got[0, :2], layer(X[:1, :2])[0], 1e-6)
    assert_close(got[0, 2:], layer(X[:1, 2:])[0], 1e-6)


def test_the_states_of_both_directions_start_a_decoder():
    """A decoder with 2 H units can start from the joined final states of a
    bidirectional encoder with H units in each direction.
    """
    encoder = made(Bidirectional, return_state=True)
    output, (ahead, back) = encoder(X)
    joined = encoder.join_states((ahead, back))
    assert_close(joined.h, output, 0.0)
    np.testing.assert_array_equal(joined.c, np.concatenate([ahead.c, back.c], 1))
    assert made(LSTM, E, 2 * H)(X, initial_state=joined).shape == (B, 2 * H)


@pytest.mark.parametrize("step", [lambda layer: layer.step, make_stepper])
def test_a_donated_state(step: Callable) -> None:
    layer = made()
    state = layer.initial_state(B)
    state.c.delete()
    with pytest.raises(InputError, match=r"state(\.c)?: a deleted array; "):
        step(layer)(X[:, 0], state)
