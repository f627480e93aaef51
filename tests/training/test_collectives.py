"""Collectives of a training step: none grows with the vocabulary, and the gradients are summed in one call."""

import math
import re

import jax
import numpy as np
import pytest
from tables import BACKENDS

from lstm_jax.config import SentimentConfig, SentimentModelConfig, TrainConfig
from lstm_jax.models import functional
from lstm_jax.runtime import sharding
from lstm_jax.tasks import sentiment
from lstm_jax.training.examples import Order
from lstm_jax.training.feeding import take_batch
from lstm_jax.training.optimizers import make_optimizer
from lstm_jax.training.state import create_state
from lstm_jax.training.step import no_rows_behind, row_sparse, steps_program

BATCH, STEPS, LENGTH, EMBED, UNITS, WORDS = 4, 3, 7, 16, 8, 1103


@pytest.mark.skipif("compiled" not in BACKENDS, reason="the row-sparse update needs the compiled code")
def test_collectives_of_a_step() -> None:
    config = SentimentConfig(model=SentimentModelConfig(embed=EMBED, units=UNITS))
    params, rebuild = functional(sentiment.make_model(config, WORDS))
    objective, optimizer, mesh = sentiment.objective(rebuild), make_optimizer(TrainConfig(), STEPS), sharding.make_mesh(2)
    assert row_sparse(objective, optimizer, params)
    state, shardings = create_state(
        params, optimizer, ("loss", "accuracy", "examples"), mesh, behind=no_rows_behind(objective, optimizer, params)
    )
    ids, labels = np.zeros((STEPS, BATCH, LENGTH), np.int32), np.zeros((STEPS, BATCH), np.int32)
    order = Order(np.arange(STEPS), np.full((STEPS, BATCH), 1 / BATCH, np.float32), np.full(STEPS, BATCH, np.float32))
    everywhere = sharding.replicated(mesh)
    with sharding.on(mesh):
        program = jax.jit(steps_program(objective, optimizer, take_batch, steps=STEPS), out_shardings=shardings)
        arguments = (sharding.from_own_rows((ids, labels), mesh, 1), sharding.put(order, everywhere), 0, STEPS)
        text = program.lower(state, *arguments, sharding.put(jax.random.key(0), everywhere)).compile().as_text()
    found = [
        (kind, sum(4 * math.prod(map(int, filter(None, shape.split(",")))) for shape in re.findall(r"[fs]32\[([\d,]*)\]", shapes)))
        for shapes, kind in re.findall(r"= (\S+|\([^)]*\)) (all-\w+(?:-\w+)*|reduce-scatter|collective-permute)\(", text)
    ]
    vectors = 4 * (BATCH // 2) * LENGTH * EMBED  # a device's part of the word vectors
    others = sum(param.size for name, param in params.items() if name != "embedding/embedding")
    assert sorted(found) == sorted(
        [
            ("all-gather", 4 * BATCH * LENGTH),
            ("all-to-all", vectors),
            ("all-to-all", vectors),
            ("all-reduce", 4 * (others + 2)),
        ]
    )
