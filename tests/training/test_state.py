"""Tests of the training state: how its arrays are sharded, and that the given arrays
are copied.

Moments are sharded like their parameters.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec
from test_step import BATCH, COUNT, TOTALS, objective, tiny

from lstm_jax.base import sharding
from lstm_jax.lab.optimizers import make_optimizer
from lstm_jax.training.config import TrainConfig
from lstm_jax.training.examples import epoch_order
from lstm_jax.training.state import create_state
from lstm_jax.training.step import make_run_steps

COLUMNS = PartitionSpec(None, "data")


def one_step(params, optimizer):
    """Return the state before a step on two devices, whose memory the step has reused,
    and the state after it.
    """
    mesh = sharding.make_mesh(2)
    state, places = create_state(params, optimizer, TOTALS, mesh)
    assert jax.tree.map(lambda leaf: leaf.sharding, state) == places
    run_steps, order = (
        make_run_steps(objective, optimizer, places),
        epoch_order(jax.random.key(0), COUNT, BATCH),
    )
    with sharding.on(mesh):
        new = run_steps(state, tiny().data, order, 0, 1, jax.random.key(1))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))
    return new


@pytest.mark.parametrize("clip", [0.0, 1.0])
def test_an_embedding_and_its_moments_are_sharded_by_columns(clip):
    """All other arrays are replicated. The given parameters are left as they are."""
    params = tiny().params
    before = {name: np.asarray(array).copy() for name, array in params.items()}
    state = one_step(
        params, make_optimizer(TrainConfig(clip_norm=clip, learning_rate=0.1), 10)
    )
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        divided = path[-1] == jax.tree_util.DictKey("embedding/embedding")
        assert leaf.sharding.spec == (COLUMNS if divided else PartitionSpec()), path
        assert {shard.data.shape for shard in leaf.addressable_shards} == {
            (8, 2) if divided else leaf.shape
        }
    for name, array in params.items():
        assert np.asarray(array).tobytes() == before[name].tobytes()
        assert np.abs(np.asarray(state.params[name]) - before[name]).max() > 0.01


@pytest.mark.slow(keep=["adafactor", "sm3"])
@pytest.mark.parametrize(
    "name", ["sgd", "lion", "adamw", "adafactor", "novograd", "sm3"]
)
def test_optimisers_whose_moments_are_shaped_otherwise(name, peer_rules):
    """A step on two devices equals a plain update by the optimiser, even if the
    optimiser's state has other shapes than the parameters.

    For each matrix, adafactor keeps a vector for the rows and one for the columns,
    novograd a number, and sm3 a list of vectors.
    """
    # adafactor factors from 128 on
    params = tiny(features=128).params | {
        "embedding/embedding": jnp.full((256, 128), 0.5, jnp.float32)
    }
    with peer_rules():
        optimizer = make_optimizer(TrainConfig(optimizer=name, learning_rate=0.1), 10)
        state = one_step(params, optimizer)
        gradient = jax.grad(
            lambda p: objective(
                p, *_first_batch(), jax.random.fold_in(jax.random.key(1), 0)
            )[0]
        )(params)
        updates, _ = optimizer.update(gradient, optimizer.init(params), params)
    assert state.params["embedding/embedding"].sharding.spec == COLUMNS
    wanted = optax.apply_updates(params, updates)
    for key, array in wanted.items():
        assert np.asarray(state.params[key]) == pytest.approx(
            np.asarray(array), rel=1e-5, abs=1e-5
        )


def _first_batch():
    order = epoch_order(jax.random.key(0), COUNT, BATCH)
    return tuple(
        jnp.asarray(rows)[order.rows[0]] for rows in tiny().data
    ), order.weight[0]
