"""Layers with every cell, options for weight drop and zoneout, and the sentiment model
with several cells.
"""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from made_layers import B, E, H, T, X, made
from tables import CELLS, assert_close

from lstm_jax import CELLS as CELL_TABLE
from lstm_jax import GRU, LSTM, Bidirectional, Recurrent, SimpleRNN, unroll
from lstm_jax.training.parts import functional


@pytest.mark.parametrize("cell", CELLS)
def test_a_layer_is_unroll_with_its_cell(cell: str) -> None:
    layer = made(Recurrent, cell=cell, return_sequences=True, return_state=True)
    params = layer.cell_params()
    fresh = CELL_TABLE[cell].init(jax.random.key(3), E, H)
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, fresh)
    np.testing.assert_array_equal(
        *(getattr(found, "bias", None) for found in (params, fresh))
    )
    jax.tree.map(
        np.testing.assert_array_equal, layer(X), unroll(CELL_TABLE[cell], params, X)
    )


@pytest.mark.parametrize("cell", CELLS)
def test_split_and_donated(cell: str) -> None:
    """If `nnx.split` divides a new layer, `jax.jit` accepts the graph as a static
    argument, and the parameters can be donated.

    Two layers that differ only in their seeds have graphs with the same hash.
    """
    layer = made(Recurrent, cell=cell)
    graph, params, rest = nnx.split(layer, nnx.Param, ...)
    assert hash(graph) == hash(
        nnx.split(Recurrent(E, H, cell=cell, rngs=nnx.Rngs(1)), nnx.Param, ...)[0]
    )
    wanted = layer(X)

    def call(graph, params, rest, x):
        return nnx.merge(graph, params, rest)(x)

    compiled = jax.jit(call, static_argnums=0, donate_argnums=1)
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message="Some donated buffers were not usable"
        )
        assert_close(compiled(graph, params, rest, X), wanted, "float32")


def test_named_layers() -> None:
    assert isinstance(made(GRU).cell_params(), CELL_TABLE["gru"].params)
    assert isinstance(
        made(GRU, reset_after=False).cell_params(),
        CELL_TABLE["gru_reset_before"].params,
    )
    assert isinstance(made(SimpleRNN).cell_params(), CELL_TABLE["simple_rnn"].params)
    assert isinstance(made(Bidirectional).forward, LSTM)
    both = made(Bidirectional, cell="gru", return_state=True)
    outputs, (ahead, back) = both(X)
    assert_close(outputs, jnp.concatenate([ahead.h, back.h], -1), "float32")


def test_masks_have_as_many_gates_as_the_cell() -> None:
    assert made(Recurrent, cell="gru", dropout=0.5, recurrent_dropout=0.5).draw_masks(
        B
    ).recurrent.shape == (3, B, H)
    assert made(
        Recurrent, cell="simple_rnn", dropout=0.5, recurrent_dropout=0.5
    ).draw_masks(B).input.shape == (B, E)
    assert made(
        Recurrent, cell="min_gru", dropout=0.5, dropout_masks="per_gate"
    ).draw_masks(B).input.shape == (2, B, E)


def test_weight_drop() -> None:
    """In training, a random part of the recurrent kernel does not affect the outputs.
    In evaluation, weight drop changes nothing.
    """
    layer = made(weight_drop=0.5, return_sequences=True)
    key = jax.random.key(7)
    outputs = layer(X, rngs=key)
    np.testing.assert_array_equal(outputs, layer(X, rngs=key))
    assert not np.allclose(outputs, layer(X, rngs=jax.random.key(8)))
    np.testing.assert_array_equal(
        layer(X, deterministic=True), made(return_sequences=True)(X)
    )

    split = functional(layer)

    def by_kernel(kernel):
        return (
            split.rebuild(split.params | {"recurrent_kernel": kernel})(X, rngs=key) ** 2
        ).sum()

    kernel = split.params["recurrent_kernel"]
    gradient = jax.grad(by_kernel)(kernel)
    dropped = float((gradient == 0).mean())
    assert 0.3 < dropped < 0.7  # dropped entries do not affect the outputs
    shifted = jnp.where(gradient == 0, kernel + 10, kernel)
    assert_close(by_kernel(shifted), by_kernel(kernel), "float32")


@pytest.mark.parametrize(
    ("cell", "rates"),
    [
        ("lstm", {"zoneout": 0.4, "zoneout_cell": 0.3}),
        ("gru", {"zoneout": 0.5}),
        ("min_gru", {"zoneout": 0.5}),
    ],
)
def test_zoneout(cell: str, rates: dict[str, float]) -> None:
    """In training, a unit keeps its old state where its mask is True.

    In evaluation, the state is rate * old state + (1 - rate) * new state.
    """
    layer = made(Recurrent, cell=cell, return_sequences=True, **rates)
    key = jax.random.key(7)
    masks = layer.draw_masks(B, key, T)
    assert {name: kept.shape for name, kept in masks.zoneout.items()} == {
        part: (T, B, H) for part, rate in layer.zoneout.items() if rate
    }
    for part, kept in layer.draw_masks(40, key, 50).zoneout.items():
        assert abs(kept.mean() - layer.zoneout[part]) < 0.02
    row, params = CELL_TABLE[cell], layer.cell_params()
    for outputs, share in (
        (
            layer(X, rngs=key),
            lambda part, t: np.asarray(masks.zoneout[part][t], np.float64),
        ),
        (layer(X, deterministic=True), lambda part, t: layer.zoneout[part]),
    ):
        state = row.initial_state(B, H)
        for t in range(T):
            new = row.step(
                params,
                state,
                row.project(params, X[:, t : t + 1].swapaxes(0, 1), None, None)[0],
                None,
                None,
            )
            mixed = {
                part: share(part, t) * getattr(state, part)
                + (1 - share(part, t)) * getattr(new, part)
                for part in masks.zoneout
            }
            state = new._replace(
                **{
                    part: jnp.asarray(value, jnp.float32)
                    for part, value in mixed.items()
                }
            )
            assert_close(outputs[:, t], state.h, "float32")
