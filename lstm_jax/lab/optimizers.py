"""Optimisers by name, with learning-rate schedules and gradient clipping.

The names "adam" and "rmsprop" stand for Keras' forms of Adam and RMSprop. Any other
name stands for the optimiser of optax with this name.
"""

import difflib

import jax.numpy as jnp
import optax

from lstm_jax.base.checks import MOST
from lstm_jax.base.errors import InputError, require
from lstm_jax.base.types import Values
from lstm_jax.training.config import TrainConfig
from lstm_jax.training.optimizers import check_rate, clipped, keras_adam, try_update
from lstm_jax.training.row_sparse import Optimizer


def keras_rmsprop(
    learning_rate, rho: float = 0.9, eps: float = 1e-7
) -> optax.GradientTransformation:
    """Return the optimiser RMSprop (Tieleman & Hinton 2012) with the defaults of Keras.

        v' = rho v + (1 - rho) g^2;  p' = p - lr g / sqrt(v' + eps)

    Here p is the parameter, g its gradient, v the moving average of its squared
    gradient, and lr the learning rate; see `keras_adam`.
    """
    check_rate(learning_rate)
    return optax.rmsprop(learning_rate, decay=rho, eps=eps, eps_in_sqrt=True)


def make_schedule(config: TrainConfig, total_steps: int) -> optax.Schedule | float:
    """Return the learning rate: a number if it is constant, otherwise a function of the
    number of past steps.

    `total_steps` is the number of steps of the run, including the warm-up.

    Raises:
        InputError: if the run has more than `MOST` steps, or if it has no step after
            the warm-up.
    """
    peak = config.learning_rate
    end = config.final_learning_rate
    warmup = config.warmup_steps
    require(
        total_steps <= MOST,
        "epochs",
        config.epochs,
        f"the run would have {total_steps:,} steps: give fewer, {MOST} steps at most",
    )
    require(
        warmup < total_steps,
        "warmup_steps",
        warmup,
        f"the run has {total_steps} steps in all",
    )
    decay_steps = total_steps - warmup
    match config.schedule:
        case "cosine":
            decay = optax.cosine_decay_schedule(peak, decay_steps, alpha=end / peak)
        case "linear":
            decay = optax.linear_schedule(peak, end, decay_steps)
        case "exponential":
            decay = optax.exponential_decay(peak, decay_steps, end / peak)
        case "epochs":
            ends = range(config.constant_epochs, config.epochs)
            decay = optax.piecewise_constant_schedule(
                peak,
                {
                    total_steps // config.epochs * n - warmup: 1 / config.decay
                    for n in ends
                },
            )
        case _:
            if not warmup:
                return peak
            decay = optax.constant_schedule(peak)
    schedule = (
        optax.join_schedules(
            [optax.linear_schedule(0.0, peak, warmup), decay], [warmup]
        )
        if warmup
        else decay
    )
    # optax mixes dtypes, which JAX' strict promotion forbids
    return lambda step: schedule(jnp.asarray(step, float))


def make_optimizer(config: TrainConfig, total_steps: int) -> Optimizer:
    """Return the optimiser of a run of `total_steps` steps, with the learning-rate
    schedule and the gradient clipping of `config`.

    The names "adam" and "rmsprop" of `config.optimizer` stand for `keras_adam` and
    `keras_rmsprop`. Any other name stands for the function of optax with this name.

    Raises:
        InputError: if the name is not that of an optimiser that needs only a learning
            rate and allows the schedule, or if `make_schedule` raises this error.
    """
    schedule = make_schedule(config, total_steps)
    ours: Values = {"adam": keras_adam, "rmsprop": keras_rmsprop}
    try:
        optimizer = (ours.get(config.optimizer) or getattr(optax, config.optimizer))(
            learning_rate=schedule
        )
        if not isinstance(optimizer, Optimizer) or config.optimizer.startswith(
            "scale_by_"
        ):
            raise TypeError("no optimiser")
        try_update(optimizer)
    except Exception as error:  # optax' functions raise many kinds of errors
        other = ", or no schedule and no warm-up" if callable(schedule) else ""
        near = " or ".join(
            difflib.get_close_matches(config.optimizer, vars(optax), 3, 0)
        )
        why = (
            f"{type(error).__name__}: {error}"
            if hasattr(optax, config.optimizer)
            else f"did you mean {near}?"
        )
        remedy = (
            f"give adam, rmsprop, sgd, lion, adamw or another of optax{other} ({why})"
        )
        raise InputError("optimizer", config.optimizer, remedy) from error
    return clipped(optimizer, config.clip_norm) if config.clip_norm else optimizer
