"""Layers of one size, inputs for them, and gradients of models."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from lstm_jax import LSTM
from lstm_jax.training.parts import functional

B, T, E, H = 3, 6, 4, 5


def normal(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(
        np.random.default_rng([seed, *shape]).normal(size=shape), jnp.float32
    )


X = normal(B, T, E)
RESETS = jnp.asarray([[0, 0, 1, 0, 0, 0], [1, 0, 0, 0, 1, 0], [0, 0, 0, 0, 0, 0]], bool)


def made(kind: Any = LSTM, *sizes: Any, **options: Any) -> Any:
    """Return a layer of the given kind, sizes (by default E and H) and options, whose
    weights do not depend on the test.
    """
    return kind(*(sizes or (E, H)), **({"rngs": nnx.Rngs(0, dropout=1)} | options))


def value_and_gradients(
    model: Any, *args: Any, **options: Any
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Return the sum of the squares of a model's outputs, and its gradients by the
    parameters.
    """
    split = functional(model)
    return jax.jit(
        jax.value_and_grad(
            lambda params: (split.rebuild(params)(*args, **options) ** 2).sum()
        )
    )(split.params)
