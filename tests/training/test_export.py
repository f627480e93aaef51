"""Tests of training steps of the tasks, exported with `jax.export` or lowered for
several platforms on a CPU.

An exported step is plain JAX. A step lowered for the CPU calls the compiled code of the
project. A step lowered for another platform does not call it.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tables import BACKENDS

from lstm_jax import native
from lstm_jax.base import sharding
from lstm_jax.lab.optimizers import make_optimizer
from lstm_jax.lab.sentiment import task as sentiment
from lstm_jax.lab.sentiment.config import SentimentConfig, SentimentModelConfig
from lstm_jax.lab.sentiment.model import EMBEDDING
from lstm_jax.training.config import TrainConfig
from lstm_jax.training.examples import epoch_order
from lstm_jax.training.parts import functional
from lstm_jax.training.state import create_state
from lstm_jax.training.step import make_run_steps

BATCH, STEPS, WORDS = 4, 2, 1100
"""Batch size, number of steps, and number of words, which is large enough for a
row-sparse update of the embedding by compiled code."""


def sentiment_program(
    dropout: float, batch: int = BATCH, length: int = 5, microbatches: int = 1
) -> tuple[Any, tuple]:
    """Return the jitted program of two training steps of the sentiment task, and the
    arguments of the program.
    """
    rng, count = np.random.default_rng(0), STEPS * batch
    optimizer = make_optimizer(TrainConfig(), STEPS)
    config = SentimentModelConfig(
        embed=16, units=32, dropout=dropout, recurrent_dropout=dropout
    )
    params, rebuild = functional(
        sentiment.make_model(SentimentConfig(model=config), WORDS)
    )
    arrays = (
        rng.integers(0, WORDS, (count, length)).astype(np.int32),
        rng.integers(0, 2, count).astype(np.int32),
    )
    state, _ = create_state(
        params,
        optimizer,
        ("loss", "accuracy", "examples"),
        sharding.make_mesh(1),
        table=EMBEDDING,
    )
    assert bool(state.behind) == (not native.why_not())
    order = epoch_order(jax.random.key(1), count, batch)
    arguments = (
        state,
        jax.tree.map(jnp.asarray, arrays),
        order,
        jnp.int32(0),
        jnp.int32(STEPS),
        jax.random.key(0),
    )
    return make_run_steps(
        sentiment.objective(rebuild), optimizer, microbatches=microbatches
    ), arguments


@pytest.mark.slow(keep=["0.2"])
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_training_step(dropout):
    program, arguments = sentiment_program(dropout)
    for platforms in (["tpu"], ["cuda"], ["cpu"], ["cpu", "cuda", "tpu"]):
        exported = jax.export.export(program, platforms=platforms)(*arguments)
        assert "@lstm_jax" not in exported.mlir_module()
        assert exported.platforms == tuple(platforms)
    traced = program.trace(*arguments)
    for platform in ("tpu", "cuda"):
        assert "@lstm_jax" not in traced.lower(lowering_platforms=(platform,)).as_text()
    if "compiled" in BACKENDS:
        here = traced.lower(lowering_platforms=("cpu",)).as_text()
        calls = [
            "forward",
            "backward",
            "adam_rows",
            "adam_catch_up",
            *(["mask"] if dropout else []),
        ]
        assert all(f"@lstm_jax_{name}" in here for name in calls)


@pytest.mark.slow
def test_both_paths_give_the_same():
    """The exported program, which is plain JAX, gives the same training state as the
    program with compiled code, up to rounding.
    """
    program, arguments = sentiment_program(0.2)
    exported = jax.export.export(program, platforms=["cpu"])(*arguments)
    got, want = exported.call(*arguments), program(*arguments)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(
            np.asarray(a, np.float64), np.asarray(b, np.float64), rtol=1e-4, atol=1e-6
        )
