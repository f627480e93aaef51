"""Tests of bidirectional_test.py of Keras, applied to our `Bidirectional`."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from ported import alike, check_basics, constant, counted, near

from lstm_jax import Bidirectional


def simple(**options) -> Bidirectional:
    return Bidirectional(
        4, 4, cell="simple_rnn", rngs=nnx.Rngs(0, dropout=1), **options
    )


def test_basics():
    check_basics(simple, (3, 2, 4), (3, 8))
    check_basics(
        lambda **options: simple(merge_mode="sum", **options), (3, 2, 4), (3, 4)
    )
    assert len(jax.tree.leaves(nnx.state(simple(), nnx.Param))) == 6


def test_correctness():
    sequence = counted(2, 3, 4)
    ahead, back = alike([0.39687276, 0.7237238], 2), alike([0.10004295, 0.53391594], 2)

    def outputs(**options):
        return constant(Bidirectional, 4, 2, **({"cell": "simple_rnn"} | options))(
            sequence
        )

    near(outputs(), jnp.concatenate([ahead, back], -1))
    near(outputs(merge_mode="ave"), alike([0.24845785, 0.6288199], 2))
    both = outputs(merge_mode=None)
    near(both[0], ahead)
    near(both[1], back)
    other = {
        "kernel_initializer": jax.nn.initializers.constant(0.03),
        "bias_initializer": jax.nn.initializers.constant(0.01),
    }
    near(outputs(merge_mode="mul", backward=other), alike([0.08374989, 0.6740834], 2))
    summed = outputs(cell="gru", merge_mode="sum", return_sequences=True)
    near(
        summed,
        alike(
            [[0.20937867, 0.34462988, 0.40290534], [0.59829646, 0.6734641, 0.6479671]],
            2,
        ),
    )


def test_statefulness():
    layer, sequence = constant(Bidirectional, 3, 2, stateful=True), counted(2, 4, 3)
    wanted = [
        [0.26234663, 0.26234663, 0.16959146, 0.16959146],
        [0.6137073, 0.6137073, 0.5381646, 0.5381646],
    ]
    for _ in range(2):
        layer(sequence)
        near(layer(sequence), wanted)
        layer.reset_state()


def test_pass_initial_state():
    flat = [counted(2, 2) * n for n in (1, 2, 3, 4)]
    wanted = [
        [0.20794602, 0.4577124, 0.14046375, 0.48191673],
        [0.6682636, 0.6711909, 0.60943645, 0.60950446],
    ]
    layer = constant(Bidirectional, 3, 2)
    for start in (flat, (tuple(flat[:2]), flat[2:])):
        near(layer(counted(2, 4, 3), initial_state=start), wanted)


def test_masking():
    mask = jnp.array([[True, True, False, True], [True, False, False, True]])
    wanted = [
        [0.19393763, 0.19393763, 0.11669192, 0.11669192],
        [0.30818558, 0.30818558, 0.28380975, 0.28380975],
    ]
    near(constant(Bidirectional, 3, 2, cell="gru")(counted(2, 4, 3), mask=mask), wanted)


def test_return_state():
    output, (ahead, back) = constant(Bidirectional, 3, 2, return_state=True)(
        counted(2, 4, 3)
    )
    near(
        output,
        [
            [0.1990008, 0.1990008, 0.12659755, 0.12659755],
            [0.52335435, 0.52335435, 0.44717982, 0.44717982],
        ],
    )
    near(ahead.h, alike([0.1990008, 0.52335435], 2))
    near(ahead.c, alike([0.35567185, 1.0492687], 2))
    near(back.h, alike([0.12659755, 0.44717982], 2))
    near(back.c, alike([0.2501858, 0.941473], 2))


@pytest.mark.parametrize("merge_mode", ["ave", "concat", "mul", "sum", None])
@pytest.mark.parametrize("return_state", [False, True])
def test_output_shape(merge_mode, return_state):
    x = jnp.array([[[101.0, 202.0], [303.0, 404.0]]])
    layer = Bidirectional(
        2, 2, merge_mode=merge_mode, return_state=return_state, rngs=nnx.Rngs(0)
    )  # pyright: ignore[reportArgumentType]
    assert layer.compute_output_shape(x.shape) == jax.tree.map(jnp.shape, layer(x))


def test_keeps_its_backend():
    """Both directions get `backend`, which takes the place of `use_cudnn` in Keras."""
    for cell in ("gru", "lstm"):
        for backend in (None, "reference"):
            layer = Bidirectional(2, 1, cell=cell, backend=backend, rngs=nnx.Rngs(0))
            assert (layer.forward.backend, layer.backward.backend) == (backend, backend)
