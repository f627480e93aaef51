"""Adam as Keras and as optax compute it, and gradient clipping."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.core import Tracer

from lstm_jax.base.checks import RateOrNone, check_number
from lstm_jax.base.errors import require
from lstm_jax.training.row_sparse import (
    Number,
    Optimizer,
    Rates,
    RowOptimizer,
    adam_step,
)


def keras_adam(
    learning_rate, b1: Number = 0.9, b2: Number = 0.999, eps: Number = 1e-7
) -> Any:
    """Return the optimiser Adam (Kingma & Ba 2015) as Keras computes it, in the form at
    the end of section 2 of the paper.

        m' = b1 m + (1 - b1) g
        v' = b2 v + (1 - b2) g^2
        p' = p - lr sqrt(1 - b2^t) / (1 - b1^t) m' / (sqrt(v') + eps)

    Here p is the parameter, g its gradient, m and v its moments, lr the learning rate
    and t the number of the step, counted from 1. In this formula eps is added before
    the bias correction of v. The optimiser `adam` adds eps after the bias correction.
    The difference matters if gradients are as small as eps.

    Args:
        learning_rate: a number, or a function from the number of past steps to a
            number.
        b1: decay rate of the first moment.
        b2: decay rate of the second moment.
        eps: small number in the denominator.

    Raises:
        InputError: if the learning rate is no number of 0 or more, if a decay rate is
            below 0 or not below 1, or if `eps` is negative.
    """
    return _adam(learning_rate, b1, b2, eps, False)


def adam(
    learning_rate, b1: Number = 0.9, b2: Number = 0.999, eps: Number = 1e-8
) -> Any:
    """Return the optimiser Adam (Kingma & Ba 2015, algorithm 1) as `optax.adam`
    computes it, with the same results apart from rounding.

    There is one exception. If the square of a gradient overflows (in float32, if the
    magnitude of the gradient exceeds 1.8e19), the parameter becomes NaN, whereas optax
    leaves the parameter unchanged.

        m' = b1 m + (1 - b1) g
        v' = b2 v + (1 - b2) g^2
        p' = p - lr m' / (1 - b1^t) / (sqrt(v' / (1 - b2^t)) + eps)

    This optimiser can be used in place of `optax.adam`, for example in `nnx.Optimizer`.
    In `make_train_step`, it updates only those rows of the largest embedding table that
    a batch looks up. If `b1`, `b2` or `eps` is traced, as in
    `optax.inject_hyperparams`, it updates all rows. `keras_adam` explains the symbols,
    the arguments and the errors.
    """
    return _adam(learning_rate, b1, b2, eps, True)


def _adam(learning_rate, b1, b2, eps, corrects_first: bool):
    """Return `adam` if `corrects_first` is true, otherwise `keras_adam`. If `b1`, `b2`
    or `eps` is traced, the result updates all rows.
    """
    check_rate(learning_rate)
    traced = any(isinstance(number, Tracer) for number in (b1, b2, eps))
    if not traced:
        for name, rate in (("b1", b1), ("b2", b2)):
            require(0 <= rate < 1, name, rate, "give 0 or more, below 1")
        require(eps >= 0, "eps", eps, "give 0 or more")
        # compiled code takes no other types of numbers
        b1, b2, eps = float(b1), float(b2), float(eps)
    rates = Rates(b1, b2)

    def advance(state):
        count = optax.safe_increment(state.count)
        rate = jnp.asarray(
            learning_rate(state.count) if callable(learning_rate) else learning_rate
        )
        if rate.dtype not in (jnp.float32, jnp.float64):
            rate = rate.astype(jnp.float32)  # in bfloat16, 1 - 0.999^t would be 0
        time = jnp.asarray(count).astype(rate.dtype)
        correction = jnp.sqrt(1 - b2**time)
        small = eps * correction if corrects_first else jnp.full_like(correction, eps)
        return count, rate * correction / (1 - b1**time), small

    def update(updates, state, params=None):
        del params
        count, *numbers = advance(state)

        def step(m, v, g):
            dtype = m.dtype
            # in float16 eps becomes 0 once it is multiplied by the bias correction, and
            # in bfloat16 a traced rate of 0.999 becomes 1
            if dtype == jnp.float16 or (traced and dtype == jnp.bfloat16):
                m, v, g = (array.astype(jnp.float32) for array in (m, v, g))
            constants = (
                Rates(*(jnp.asarray(rate, m.dtype) for rate in rates))
                if traced
                else rates
            )
            found = adam_step(
                constants, m, v, g, *(number.astype(m.dtype) for number in numbers)
            )
            return tuple(array.astype(dtype) for array in found)

        found = jax.tree.map(step, state.mu, state.nu, updates)
        steps, m, v = jax.tree.transpose(jax.tree.structure(state.mu), None, found)
        return steps, optax.ScaleByAdamState(count, m, v)

    dense = optax.GradientTransformation(optax.scale_by_adam().init, update)
    return dense if traced else RowOptimizer(dense, rates, advance)


def check_rate(learning_rate) -> None:
    """Raise `InputError` if a learning rate is neither a function nor a number."""
    if not (callable(learning_rate) or isinstance(learning_rate, Tracer)):
        check_number("learning_rate", learning_rate, RateOrNone)


def clipped(optimizer: Optimizer, most: float) -> Optimizer:
    """Return the optimiser with gradient clipping: a gradient whose global norm exceeds
    `most` is scaled to the norm `most`.

    If `optimizer` is a `RowOptimizer` without clipping, the result is a `RowOptimizer`,
    too. Apart from rounding, both of its updates compute the same norm. The state of
    the result has the structure of `optax.chain(optax.clip_by_global_norm(most),
    optimizer)`.

    Raises:
        InputError: if `most` is not above 0.
    """
    if not isinstance(most, Tracer):  # a traced number has no value yet
        require(
            most > 0,
            "most",
            most,
            "give the largest norm of the gradient, a number above 0",
        )
    if isinstance(optimizer, RowOptimizer) and optimizer.most is None:
        return replace(optimizer, most=most)
    given: Any = optimizer
    return optax.chain(optax.clip_by_global_norm(most), given)


def try_update(optimizer) -> None:
    """Trace one update of a small parameter, and pass on any error that the optimiser
    raises.
    """
    parameter = {"w": jax.ShapeDtypeStruct((2, 2), jnp.float32)}
    jax.eval_shape(lambda w: optimizer.update(w, optimizer.init(w), w), parameter)
