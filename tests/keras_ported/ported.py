"""Helpers of the ported tests: layers with constant weights, the inputs 0, 1, 2, ...,
the two cells of Keras' tests, and comparisons.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from lstm_jax import Cell
from lstm_jax.training.parts import functional

CONSTANTS: dict[str, Any] = {
    "kernel_initializer": jax.nn.initializers.constant(0.01),
    "recurrent_initializer": jax.nn.initializers.constant(0.02),
    "bias_initializer": jax.nn.initializers.constant(0.03),
}


def constant(kind, features: int, units: int, **options):
    """Return a layer whose kernel is 0.01, whose recurrent kernel is 0.02 and whose
    biases are 0.03.

    The forget bias of an LSTM is 1, unless `unit_forget_bias=False` is given. `options`
    are options of the layer, and take precedence over these constants.
    """
    return kind(features, units, rngs=nnx.Rngs(0, dropout=1), **(CONSTANTS | options))


def counted(*shape: int) -> jax.Array:
    """Return the numbers 0, 1, 2, ... as an array of the given shape."""
    return jnp.arange(np.prod(shape), dtype=jnp.float32).reshape(shape)


def near(got: Any, want: Any) -> None:
    """Check that an array equals `want` within the tolerance of Keras' own tests, 1e-5
    absolute and relative.
    """
    want = np.asarray(want)
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def alike(rows: list[float], units: int) -> np.ndarray:
    """Return the expected outputs of a layer with constant weights: each number in
    `rows` is repeated for all units.
    """
    return np.repeat(np.asarray(rows)[..., None], units, axis=-1)


def check_basics(
    make: Any, shape: tuple[int, ...], wanted: tuple[int, ...], **training: Any
) -> None:
    """Check a layer as Keras' `run_layer_test` does: its output shapes, its gradients,
    a call with a mask, and a call in bfloat16.

    make(**options) returns the layer, which must map an input of the shape `shape` to
    an output of the shape `wanted`. `training` holds the options that set the dropout
    rates of the layer.
    """
    x, mask = (
        jax.random.normal(jax.random.key(0), shape),
        jnp.ones(shape[:2], bool).at[0, -1].set(False),
    )
    layer = make(**training)
    assert layer.compute_output_shape(shape) == wanted
    made, short = functional(layer), functional(make(dtype=jnp.bfloat16, **training))

    @jax.jit
    def run(params):
        def loss(params):
            return (made.rebuild(params)(x, rngs=jax.random.key(1)) ** 2).sum()

        masked = made.rebuild(params)(x, mask=mask, deterministic=True)
        return (
            masked,
            short.rebuild(params)(x, rngs=jax.random.key(1)),
            jax.grad(loss)(params),
        )

    masked, outputs, gradients = run(made.params)
    for array in (masked, outputs):
        assert (array.shape, array.dtype) == (wanted, jnp.float32)
    assert gradients.keys() == made.params.keys()
    for name, gradient in gradients.items():
        assert np.isfinite(gradient).all(), name
        assert gradient.any() or training, name


class OneStateParams(NamedTuple):
    kernel: jax.Array
    recurrent_kernel: jax.Array


class OneState(NamedTuple):
    h: jax.Array


def one_state_init(key, features: int, units: int, dtype=jnp.float32) -> OneStateParams:
    return OneStateParams(
        jnp.ones((features, units), dtype), jnp.ones((units, units), dtype)
    )


ONE_STATE = Cell(
    name="one_state",
    gates=1,
    params=OneStateParams,
    init=one_state_init,
    bias=None,
    initial_state=lambda batch, units, dtype=jnp.float32: OneState(
        jnp.zeros((batch, units), dtype)
    ),
    step=lambda params, state, z, mask=None, compute_dtype=None: OneState(
        z + state.h @ params.recurrent_kernel
    ),
)
"""Cell h' = x W + h U with all weights 1, which is OneStateRNNCell in Keras' tests."""


class TwoStatesParams(NamedTuple):
    kernel: jax.Array
    recurrent_kernel: jax.Array
    second_kernel: jax.Array


class TwoStates(NamedTuple):
    """State of the cell `TWO_STATES`. The field `h` is the output of the cell. In
    Keras, the output is not a part of the state.
    """

    h: jax.Array
    first: jax.Array
    second: jax.Array


def two_states_init(
    key, features: int, units: int, dtype=jnp.float32
) -> TwoStatesParams:
    square = jnp.ones((units, units), dtype)
    return TwoStatesParams(jnp.ones((features, units), dtype), square, square)


def two_states_step(
    params: TwoStatesParams, state: TwoStates, z, mask=None, compute_dtype=None
) -> TwoStates:
    first = z + state.first @ params.recurrent_kernel
    # Keras' cell reads its first state twice
    second = z + state.first @ params.second_kernel
    return TwoStates(first + second, first, second)


TWO_STATES = Cell(
    name="two_states",
    gates=1,
    params=TwoStatesParams,
    init=two_states_init,
    bias=None,
    initial_state=lambda batch, units, dtype=jnp.float32: TwoStates(
        *(jnp.zeros((batch, units), dtype) for _ in "123")
    ),
    step=two_states_step,
)
"""Cell with two states and all weights 1, which is TwoStatesRNNCell in Keras' tests."""
