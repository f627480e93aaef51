"""Measurement of how the gradient of a loss with respect to the recurrent state h grows or vanishes over the steps.

`gradient_sizes` makes the measurement for any recurrent cell and loss, and `on_reviews` makes it for the model of the sentiment task.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from experiments import runs
from experiments.equal import cell_parameters
from lstm_jax.cells import CELLS, Cell
from lstm_jax.config import SentimentConfig

BACK = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
"""Distances at which the gradient is reported: numbers of steps before the first step whose output enters the loss."""
REVIEWS = 256
"""Largest number of test reviews on which the gradient is measured."""


def gradient_sizes(cell: Cell, params: Any, units: int, x: jax.Array, loss: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """Return the size of the gradient of a loss with respect to the state h at each step.

    At step t, each of the B examples has a gradient: the gradient of its own loss with respect to its state h at this step. The size at
    step t is the root mean square of the norms of these B gradients.

    Args:
        cell: recurrent cell.
        params: parameters of the cell.
        units: hidden size H.
        x: inputs (B, T, E) of B examples with T steps and E features.
        loss: function loss(h) of the outputs h (T, B, H). It returns the sum of the losses of the examples.

    Returns:
        Gradient sizes (T,).
    """
    z = cell.project(params, jnp.swapaxes(x, 0, 1), None, None)
    initial = cell.initial_state(len(x), units)

    def loss_of_shifts(shifts: jax.Array) -> jax.Array:
        def step(state, inputs):
            z_t, shift = inputs
            new = cell.step(params, state, z_t, None, None)
            new = new._replace(h=new.h + shift)
            return new, new.h

        return loss(lax.scan(step, initial, (z, shifts))[1])

    gradient = jax.grad(loss_of_shifts)(jnp.zeros((len(z), *initial.h.shape)))
    return jnp.sqrt((gradient**2).sum(-1).mean(-1))


def by_steps_back(sizes: jax.Array, answered: int = 1) -> dict[int, float]:
    """Return the gradient sizes at several distances before the answered steps, as a dict from distance to size.

    The answered steps are those whose outputs enter the loss. The distance of a step is the number of steps from it to the first answered
    step. The dict has those distances of the constant `BACK` (1, 2, 5, 10, ..., 1000) that lie within the sequence.

    Args:
        sizes: size of the gradient of the loss with respect to the state h at each of T steps (T,), as `gradient_sizes` returns it.
        answered: number of answered steps, which are the last ones of the sequence.
    """
    last = len(sizes) - answered
    return {back: float(sizes[last - back]) for back in BACK if back <= last}


def on_reviews(config: SentimentConfig) -> dict[str, Any]:
    """Train the model of the sentiment task and, before and after training, measure the gradient of the loss with respect to the state h.

    The gradient is measured on test reviews with at least `config.data.maxlen` words, so that no review is padded.

    Returns:
        A dict with these keys:

        - "score": test accuracy after the last epoch.
        - "losses": training loss of each epoch.
        - "parameters": number of parameters of the recurrent cell.
        - "gradient_before": list of pairs (distance from the last step, gradient size; see `gradient_sizes`), measured before training.
        - "gradient_after": list of such pairs for the same distances, measured after training.
    """
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
    def sizes(params: Any) -> jax.Array:
        model: Any = rebuild(params)
        layer = model.recurrent.layers[0]

        def loss(h: jax.Array) -> jax.Array:
            return optax.sigmoid_binary_cross_entropy(model.head(h[-1])[:, 0], labels).sum()

        return gradient_sizes(CELLS[config.model.cell], layer.cell_params(), layer.units, model.embedding(ids), loss)

    return {
        "score": result.rows[-1]["test_accuracy"],
        "losses": [row["train_loss"] for row in result.rows],
        "parameters": cell_parameters(config.model.cell, config.model.embed, config.model.units),
        "gradient_before": list(by_steps_back(sizes(untrained)).items()),
        "gradient_after": list(by_steps_back(sizes(result.params)).items()),
    }
