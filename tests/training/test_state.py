"""Tests of the training state: how its arrays are sharded, and that the given arrays are copied.

Moments are sharded like their parameters, and the carry is sharded by rows.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec
from test_step import BATCH, COUNT, TOTALS, objective, tiny

from lstm_jax.cells import LSTMState
from lstm_jax.config import TrainConfig
from lstm_jax.runtime import sharding
from lstm_jax.training.examples import epoch_order
from lstm_jax.training.optimizers import keras_adam, make_optimizer
from lstm_jax.training.state import create_state, state_sharding
from lstm_jax.training.step import make_run_steps

pytestmark = pytest.mark.usefixtures("quick_compiles")

COLUMNS = PartitionSpec(None, "data")
ROWS = PartitionSpec("data")


def one_step(params, optimizer, loss=objective, carry=()):
    mesh = sharding.make_mesh(2)
    everywhere = sharding.replicated(mesh)
    state, places = create_state(params, optimizer, TOTALS, mesh, carry)
    order = jax.device_put(epoch_order(jax.random.key(0), COUNT, BATCH), everywhere)
    run_steps = make_run_steps(loss, optimizer, places, mesh)
    return state, run_steps(state, jax.device_put(tiny().data, everywhere), order, 0, 1, jax.device_put(jax.random.key(1), everywhere))


def test_an_embedding_and_its_moments_live_by_columns_before_and_after_a_step():
    for state in one_step(tiny().params, keras_adam(0.1)):
        if state.step.is_deleted():
            continue
        for tree in (state.params, state.opt_state.mu, state.opt_state.nu):
            table = tree["embedding/embedding"]
            assert table.sharding.spec == COLUMNS
            assert {shard.data.shape for shard in table.addressable_shards} == {(8, 2)}
            assert tree["head/w"].sharding.is_fully_replicated
        assert state.opt_state.count.sharding.is_fully_replicated


@pytest.mark.parametrize("clip", [0.0, 1.0])
def test_moments_behind_a_clip_too(clip):
    optimizer = make_optimizer(TrainConfig(clip_norm=clip), 10)
    places = state_sharding(tiny().params, optimizer, TOTALS, sharding.make_mesh(2))
    specs = [place.spec for place in jax.tree.leaves(places.opt_state)]
    assert specs.count(COLUMNS) == 2


def test_a_step_takes_the_state_and_leaves_the_given_parameters():
    params = tiny().params
    before = {name: np.asarray(array).copy() for name, array in params.items()}
    old, new = one_step(params, keras_adam(0.1))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(old))
    for name, array in params.items():
        assert not array.is_deleted()
        assert np.asarray(array).tobytes() == before[name].tobytes()
        assert np.abs(np.asarray(new.params[name]) - before[name]).max() > 0.01


def plus_one(params, batch, weight, key, carry):
    loss, metrics = objective(params, batch, weight, key)
    return loss, (metrics, jax.tree.map(lambda array: array + jnp.ones((), array.dtype), carry))


def test_a_carry_lives_by_rows_before_and_after_a_step_and_the_given_one_is_left():
    carry = [LSTMState(jnp.arange(12.0).reshape(BATCH, 3), jnp.zeros((BATCH, 3))), {"seen": jnp.full(BATCH, 7)}]
    before = jax.tree.map(np.array, carry)
    mesh = sharding.make_mesh(2)
    new, places = create_state(tiny().params, keras_adam(0.1), TOTALS, mesh, carry)
    assert jax.tree.structure(new) == jax.tree.structure(places)
    old, after = one_step(tiny().params, keras_adam(0.1), plus_one, carry)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(old))
    for state, added in ((new, 0), (after, 1)):
        assert jax.tree.structure(state.carry) == jax.tree.structure(carry)
        for array, given, first in zip(*map(jax.tree.leaves, (state.carry, carry, before)), strict=True):
            assert array.sharding.spec == ROWS
            assert [shard.data.shape for shard in array.addressable_shards] == [(BATCH // 2, *first.shape[1:])] * 2
            assert array.dtype == given.dtype
            assert array.tolist() == (first + added).tolist()
            assert given.tolist() == first.tolist()
    assert create_state(tiny().params, keras_adam(0.1), TOTALS, mesh)[0].carry == ()


@pytest.mark.slow(keep=["adafactor", "sm3"])
@pytest.mark.parametrize("name", ["sgd", "lion", "adamw", "adafactor", "novograd", "sm3"])
def test_optimisers_whose_moments_are_shaped_otherwise(name, peer_rules):
    """A step on two devices equals a plain update by the optimiser, even if the optimiser's state has other shapes than the parameters.

    For each matrix, adafactor keeps a vector for the rows and one for the columns, novograd a number, and sm3 a list of vectors.
    """
    params = tiny(features=128).params | {"embedding/embedding": jnp.full((256, 128), 0.5, jnp.float32)}  # adafactor factors from 128 on
    with peer_rules():
        optimizer = make_optimizer(TrainConfig(optimizer=name, learning_rate=0.1), 10)
        _, state = one_step(params, optimizer)
        gradient = jax.grad(lambda p: objective(p, *_first_batch(), jax.random.fold_in(jax.random.key(1), 0))[0])(params)
        updates, _ = optimizer.update(gradient, optimizer.init(params), params)
    assert state.params["embedding/embedding"].sharding.spec == COLUMNS
    wanted = optax.apply_updates(params, updates)
    for key, array in wanted.items():
        assert np.asarray(state.params[key]) == pytest.approx(np.asarray(array), rel=1e-5, abs=1e-5)


def _first_batch():
    order = epoch_order(jax.random.key(0), COUNT, BATCH)
    return tuple(jnp.asarray(rows)[order.rows[0]] for rows in tiny().data), order.weight[0]
