"""How large the gradient of a loss by the state is so many steps back: of any cell, and of the sentiment task after training."""

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
"""Steps back at which the gradient is told."""
READ = 256
"""Reviews that it is taken of."""


def gradient_sizes(
    cell: Cell, params: Any, units: int, x: jax.Array, loss: Callable[[jax.Array], jax.Array], answered: int = 1
) -> dict[int, float]:
    """Steps back -> the norm of the gradient by h there, the root of its mean square over rows.

    Args:
        units: H.
        x: what is read (B, T, E).
        loss: of the outputs h (T, B, H), summed over rows.
        answered: steps at the end that the loss is of; told from the first of them.
    """
    z = cell.project(params, jnp.swapaxes(x, 0, 1), None, None)
    state = cell.initial_state(len(x), units)

    @jax.jit
    def by_state(nothing: jax.Array) -> jax.Array:
        def step(state, inputs):
            z_t, zero = inputs
            new = cell.step(params, state, z_t, None, None)
            new = new._replace(h=new.h + zero)
            return new, new.h

        return loss(lax.scan(step, state, (z, nothing))[1])

    sizes = jnp.sqrt((jax.grad(by_state)(jnp.zeros((len(z), *state.h.shape))) ** 2).sum(-1).mean(-1))
    last = len(z) - answered
    return {back: float(sizes[last - back]) for back in BACK if back <= last}


def on_reviews(config: SentimentConfig) -> dict[str, Any]:
    """Train; accuracy on the test reviews, and the gradient over those of them that fill all `maxlen` words, before and after."""
    from lstm_jax.models import functional
    from lstm_jax.tasks import sentiment as task

    reviews, result = runs.train_sentiment(config)
    test = reviews.test
    assert test is not None
    long = np.flatnonzero(test.lengths >= config.data.maxlen)
    chosen = test.select(np.random.default_rng(config.train.seed).permutation(long)[:READ])
    ids, labels = jnp.asarray(chosen.padded(config.data.maxlen)), jnp.asarray(chosen.labels, jnp.float32)
    first, rebuild = functional(task.make_model(config, reviews.vocabulary.size))

    def sizes(params: Any) -> list[tuple[int, float]]:
        model: Any = rebuild(params)
        layer = model.recurrent.layers[0]

        def loss(h: jax.Array) -> jax.Array:
            return optax.sigmoid_binary_cross_entropy(model.head(h[-1])[:, 0], labels).sum()

        return list(gradient_sizes(CELLS[config.model.cell], layer.cell_params(), layer.units, model.embedding(ids), loss).items())

    return {
        "score": result.rows[-1]["test_accuracy"],
        "losses": [row["train_loss"] for row in result.rows],
        "parameters": cell_parameters(config.model.cell, config.model.embed, config.model.units),
        "gradient_before": sizes(first),
        "gradient_after": sizes(result.params),
    }
