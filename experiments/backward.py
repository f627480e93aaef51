"""Measurement of how the gradient of a loss with respect to the recurrent state h grows or vanishes over the steps.

`gradient_sizes` makes the measurement for any recurrent cell and loss, and `on_reviews` makes it for the model of the sentiment task.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax

from experiments import runs
from experiments.equal import cell_parameters
from experiments.study import Metrics
from lstm_jax.cells import CELLS, Cell
from lstm_jax.config import SentimentConfig

BACK = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
"""Distances at which the gradient is reported: numbers of steps before the first step whose output enters the loss."""
REVIEWS = 256
"""Largest number of test reviews on which the gradient is measured."""


def gradient_sizes(cell: Cell, params: Any, units: int, x: Array, loss: Callable[[Array], Array]) -> Array:
    """Return the size of the gradient of a loss with respect to the state h at each step."""
    z = cell.project(params, jnp.swapaxes(x, 0, 1), None, None)
    initial = cell.initial_state(len(x), units)

    def loss_of_shifts(shifts):
        def step(state, inputs):
            z_t, shift = inputs
            new = cell.step(params, state, z_t, None, None)
            new = new._replace(h=new.h + shift)
            return new, new.h

        return loss(lax.scan(step, initial, (z, shifts))[1])

    gradient = jax.grad(loss_of_shifts)(jnp.zeros((len(z), *initial.h.shape)))
    return jnp.sqrt((gradient**2).sum(-1).mean(-1))


def by_steps_back(sizes: Array, answered: int = 1) -> dict[int, float]:
    """Return the gradient sizes at several distances before the answered steps, as a dict from distance to size."""
    last = len(sizes) - answered
    return {back: float(sizes[last - back]) for back in BACK if back <= last}


def on_reviews(config: SentimentConfig) -> Metrics:
    """Train the sentiment model and, before and after training, measure the gradient of the loss with respect to the state h."""
    from lstm_jax.models import functional
    from lstm_jax.tasks import sentiment as task

    reviews, result = runs.train_sentiment(config)
    test = reviews.test
    assert test is not None
    long = np.flatnonzero(test.lengths >= config.data.maxlen)
    chosen = test.select(np.random.default_rng(config.train.seed).permutation(long)[:REVIEWS])
    ids, labels = jnp.asarray(chosen.padded(config.data.maxlen)), jnp.asarray(chosen.labels, jnp.float32)
    untrained, rebuild = functional(task.make_model(config, reviews.vocabulary.size))

    @jax.jit
    def sizes(params):
        model: Any = rebuild(params)
        layer = model.recurrent.layers[0]

        def loss(h):
            return optax.sigmoid_binary_cross_entropy(model.head(h[-1])[:, 0], labels).sum()

        return gradient_sizes(CELLS[config.model.cell], layer.cell_params(), layer.units, model.embedding(ids), loss)

    return {
        "score": result.rows[-1]["test_accuracy"],
        "losses": [row["train_loss"] for row in result.rows],
        "parameters": cell_parameters(config.model.cell, config.model.embed, config.model.units),
        "gradient_before": list(by_steps_back(sizes(untrained)).items()),
        "gradient_after": list(by_steps_back(sizes(result.params)).items()),
    }
