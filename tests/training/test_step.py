"""Compiled steps against a plain Python loop, on one and two devices; and a tiny task that `test_state` and `test_loop` train too."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lstm_jax import sharding
from lstm_jax.training.optimizers import keras_adam
from lstm_jax.training.state import create_state
from lstm_jax.training.step import epoch_order, make_predict, make_run_steps, steps_per_epoch

TOTALS = ("loss", "accuracy", "examples")
COUNT, BATCH = 22, 4  # the last of 6 steps has 2 rows


class Tiny(NamedTuple):
    """Rows of 3 ids and a label; logit = mean vector . w + b."""

    params: dict[str, jax.Array]
    data: tuple[np.ndarray, np.ndarray]


def tiny(count: int = COUNT, features: int = 4) -> Tiny:
    rng = np.random.default_rng(0)
    params = {
        "embedding/embedding": jnp.asarray(rng.standard_normal((8, features)), jnp.float32),
        "head/w": jnp.asarray(rng.standard_normal(features), jnp.float32),
        "head/b": jnp.full(1, 0.1, jnp.float32),
    }
    return Tiny(params, (rng.integers(0, 8, (count, 3)).astype(np.int32), rng.integers(0, 2, count).astype(np.int32)))


def logits(params: Any, ids: jax.Array) -> jax.Array:
    vectors = jnp.take(params["embedding/embedding"], ids, axis=0).mean(1)
    return vectors @ params["head/w"] + params["head/b"]


def objective(params, batch, weight, key):
    """With noise on the logits, as dropout has it: a wrong key shows."""
    return _objective(params, batch, weight, 0.1 * jax.random.normal(key, batch[1].shape))


def quiet_objective(params, batch, weight, key):
    del key
    return _objective(params, batch, weight, jnp.zeros(batch[1].shape))


def _objective(params, batch, weight, noise):
    ids, labels = batch
    z = logits(params, ids) + noise
    mean = (optax.sigmoid_binary_cross_entropy(z, labels.astype(z.dtype)) * weight).sum()
    return mean, {"loss": mean, "accuracy": (((z > 0) == (labels == 1)).astype(z.dtype) * weight).sum()}


def run(parts: list[tuple[int, int]], devices: int = 2, loss=objective, made: Tiny | None = None):
    """The state after those stretches of an epoch."""
    made = made or tiny()
    mesh = sharding.make_mesh(devices)
    everywhere = sharding.replicated(mesh)
    optimizer = keras_adam(0.05)
    state, places = create_state(made.params, optimizer, TOTALS, mesh)
    run_steps = make_run_steps(loss, optimizer, places, mesh)
    order = jax.device_put(epoch_order(jax.random.key(5), len(made.data[1]), BATCH), everywhere)
    key = jax.device_put(jax.random.key(6), everywhere)
    data = jax.device_put(made.data, everywhere)
    for start, stop in parts:
        state = run_steps(state, data, order, start, stop, key)
    return state


def plain_loop(loss, made: Tiny, cut: bool):
    """Gradient and optimiser, step by step; with `cut` the last batch is short instead of filled up."""
    optimizer = keras_adam(0.05)
    order = epoch_order(jax.random.key(5), len(made.data[1]), BATCH)
    params, opt_state = made.params, optimizer.init(made.params)
    totals = dict.fromkeys(TOTALS, 0.0)
    for n in range(order.rows.shape[0]):
        kept = int(order.examples[n]) if cut else BATCH
        rows, weight = np.asarray(order.rows[n])[:kept], order.weight[n][:kept]
        batch = (jnp.asarray(made.data[0][rows]), jnp.asarray(made.data[1][rows]))
        key = jax.random.fold_in(jax.random.key(6), n)
        gradient, figures = jax.grad(loss, has_aux=True)(params, batch, weight, key)
        updates, opt_state = optimizer.update(gradient, opt_state, params)
        params = optax.apply_updates(params, updates)
        for name in ("loss", "accuracy"):
            totals[name] += float(figures[name]) * float(order.examples[n])
        totals["examples"] += float(order.examples[n])
    return params, opt_state, totals


def assert_close(got, want, tolerance: float):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for left, right in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        left, right = np.asarray(left), np.asarray(right)
        assert np.abs(left - right).max() <= tolerance * max(np.abs(right).max(), 1e-30)


def assert_bits(got, want):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for left, right in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert np.asarray(left).tobytes() == np.asarray(right).tobytes()


@pytest.mark.parametrize(("count", "batch"), [(22, 4), (20, 4), (1, 4), (3, 1), (5, 8)])
def test_an_epoch_reads_each_row_once(count, batch):
    order = epoch_order(jax.random.key(0), count, batch)
    steps = steps_per_epoch(count, batch)
    assert order.rows.shape == order.weight.shape == (steps, batch)
    assert order.rows.dtype == jnp.int32
    real = np.asarray(order.weight) > 0
    assert sorted(np.asarray(order.rows)[real].tolist()) == list(range(count))
    assert np.asarray(order.weight).sum(1) == pytest.approx(np.ones(steps))
    assert np.asarray(order.examples).tolist() == [batch] * (steps - 1) + [count - (steps - 1) * batch]
    last = count - (steps - 1) * batch
    assert np.asarray(order.weight[-1]).tolist() == pytest.approx([1 / last] * last + [0] * (batch - last))


def test_the_order_is_the_key_s():
    first, again, other = (epoch_order(jax.random.key(seed), 50, 8).rows for seed in (0, 0, 1))
    assert_bits(first, again)
    assert (first != other).any()
    assert np.asarray(first).ravel()[:50].tolist() != list(range(50))


@pytest.mark.parametrize("parts", [[(0, 2), (2, 6)], [(n, n + 1) for n in range(6)], [(0, 6), (6, 6)]])
def test_stretches_change_no_bit(parts):
    assert_bits(run(parts), run([(0, 6)]))


def test_as_a_plain_loop():
    state = run([(0, 6)])
    params, opt_state, totals = plain_loop(objective, tiny(), cut=False)
    assert int(state.step) == 6
    assert_close(state.params, params, 1e-6)
    assert_close(state.opt_state, opt_state, 2e-6)
    assert float(state.totals["examples"]) == COUNT
    assert {name: float(value) for name, value in state.totals.items()} == pytest.approx(totals, rel=1e-6)


def test_rows_that_fill_up_the_last_batch_have_no_influence():
    state = run([(0, 6)], loss=quiet_objective)
    params, opt_state, totals = plain_loop(quiet_objective, tiny(), cut=True)
    assert_close(state.params, params, 1e-6)
    assert_close(state.opt_state, opt_state, 2e-6)
    assert {name: float(value) for name, value in state.totals.items()} == pytest.approx(totals, rel=1e-6)


def test_one_device_as_two():
    one, two = run([(0, 6)], devices=1), run([(0, 6)], devices=2)
    assert_close(one.params, two.params, 1e-5)
    assert_close(one.opt_state, two.opt_state, 1e-5)
    assert_close(one.totals, two.totals, 1e-5)


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("count", [0, 1, 7, 513])
def test_predict_in_batches_as_at_once(count, devices):
    made = tiny(max(count, 1))
    ids = made.data[0][:count]
    predict = make_predict(logits, sharding.make_mesh(devices))
    found = predict(made.params, ids)
    assert isinstance(found, np.ndarray)
    assert found.shape == (count,)
    assert found == pytest.approx(np.asarray(logits(made.params, jnp.asarray(ids))), rel=1e-6, abs=1e-6)


def test_predict_takes_trees_gives_more_than_numbers_and_batches_that_do_not_divide():
    rng = np.random.default_rng(1)
    rows = {"a": rng.standard_normal((13, 2)).astype(np.float32), "b": rng.standard_normal(13).astype(np.float32)}
    predict = make_predict(lambda p, batch: p * batch["a"] + batch["b"][:, None], sharding.make_mesh(2), batch_size=5)
    assert predict(jnp.float32(3), rows) == pytest.approx(3 * rows["a"] + rows["b"][:, None], rel=1e-6)
