"""Tests of training steps of the tasks, exported with `jax.export` or lowered for several platforms on a CPU.

An exported step is plain JAX. A step lowered for the CPU calls the compiled code of the project. A step lowered for another platform does
not call it.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tables import BACKENDS

from lstm_jax import native
from lstm_jax.config import GenerationConfig, GenerationModelConfig, SentimentConfig, SentimentModelConfig, TrainConfig
from lstm_jax.models import EMBEDDING, functional
from lstm_jax.runtime import sharding
from lstm_jax.tasks import generation, sentiment
from lstm_jax.tasks.text_examples import window_objective
from lstm_jax.training.examples import Order
from lstm_jax.training.optimizers import make_optimizer
from lstm_jax.training.state import create_state
from lstm_jax.training.step import steps_program

BATCH, STEPS, WORDS = 4, 2, 1100
"""Batch size, number of steps, and number of words, which is large enough for a row-sparse update of the embedding by compiled code."""


def _order() -> Order:
    rows = jnp.arange(STEPS * BATCH, dtype=jnp.int32).reshape(STEPS, BATCH)
    return Order(rows, jnp.full((STEPS, BATCH), 1 / BATCH), jnp.full(STEPS, float(BATCH)))


def _program(task: str, dropout: float) -> tuple[Any, tuple[Any, ...]]:
    """Return the jitted program of two training steps of a task, and the arguments of the program."""
    rng = np.random.default_rng(0)
    optimizer = make_optimizer(TrainConfig(batch_size=BATCH), STEPS)
    options: dict[str, Any] = {"units": 8, "dropout": dropout, "recurrent_dropout": dropout}
    if task == "sentiment":
        model = sentiment.make_model(SentimentConfig(model=SentimentModelConfig(embed=16, **options)), WORDS)
        params, rebuild = functional(model)
        objective, table = sentiment.objective(rebuild), EMBEDDING
        arrays = (rng.integers(0, WORDS, (STEPS * BATCH, 5)).astype(np.int32), rng.integers(0, 2, STEPS * BATCH).astype(np.int32))
    else:
        params, rebuild = functional(generation.make_model(GenerationConfig(model=GenerationModelConfig(**options)), 33))
        objective, table = window_objective(rebuild), ""
        arrays = rng.integers(0, 33, (STEPS * BATCH, 6)).astype(np.int32)
    state, _ = create_state(params, optimizer, ("loss", "accuracy", "examples"), sharding.make_mesh(1), table=table)
    assert bool(state.behind) == (task == "sentiment" and not native.why_not())
    arguments = (state, jax.tree.map(jnp.asarray, arrays), _order(), jnp.int32(0), jnp.int32(STEPS), jax.random.key(0))
    return jax.jit(steps_program(objective, optimizer)), arguments


@pytest.mark.slow(keep=1)
@pytest.mark.parametrize("dropout", [0.0, 0.2])
@pytest.mark.parametrize("task", ["sentiment", "generation"])
def test_training_step(task: str, dropout: float) -> None:
    program, arguments = _program(task, dropout)
    for platforms in (["tpu"], ["cuda"], ["cpu"], ["cpu", "cuda", "tpu"]):
        exported = jax.export.export(program, platforms=platforms)(*arguments)
        assert "@lstm_jax" not in exported.mlir_module()
        assert exported.platforms == tuple(platforms)
    traced = program.trace(*arguments)
    for platform in ("tpu", "cuda"):
        assert "@lstm_jax" not in traced.lower(lowering_platforms=(platform,)).as_text()
    if "compiled" in BACKENDS:
        here = traced.lower(lowering_platforms=("cpu",)).as_text()
        calls = ["forward", "backward", *(["adam_rows", "adam_catch_up"] if task == "sentiment" else []), *(["mask"] if dropout else [])]
        assert all(f"@lstm_jax_{name}" in here for name in calls)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["sentiment", "generation"])
def test_both_paths_give_the_same(task: str) -> None:
    """The exported program, which is plain JAX, gives the same training state as the program with compiled code, up to rounding."""
    program, arguments = _program(task, 0.2)
    exported = jax.export.export(program, platforms=["cpu"])(*arguments)
    got, want = exported.call(*arguments), program(*arguments)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(np.asarray(a, np.float64), np.asarray(b, np.float64), rtol=1e-4, atol=1e-6)
