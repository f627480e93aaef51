"""Tests of compiled steps against a plain Python loop, on one and two devices.

The module also defines a tiny task that other test modules train.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tables import BACKENDS

from lstm_jax.base import sharding
from lstm_jax.lab.predict import make_predict
from lstm_jax.training.examples import Order, epoch_order, steps_per_epoch
from lstm_jax.training.optimizers import clipped, keras_adam
from lstm_jax.training.state import create_state
from lstm_jax.training.step import make_run_steps

TOTALS = ("loss", "accuracy", "examples")
ADAM = keras_adam(0.05)
TABLE = "embedding/embedding"
COUNT, BATCH = 22, 4  # the last of 6 steps has 2 rows


class Tiny(NamedTuple):
    """Tiny task: parameters, and rows of 3 ids and a label. The logit is the dot
    product of w and the mean embedding vector, plus b.
    """

    params: dict[str, jax.Array]
    data: tuple[np.ndarray, np.ndarray]


def tiny(count: int = COUNT, features: int = 4) -> Tiny:
    rng = np.random.default_rng(0)
    params = {
        "embedding/embedding": jnp.asarray(
            rng.standard_normal((8, features)), jnp.float32
        ),
        "head/w": jnp.asarray(rng.standard_normal(features), jnp.float32),
        "head/b": jnp.full(1, 0.1, jnp.float32),
    }
    return Tiny(
        params,
        (
            rng.integers(0, 8, (count, 3)).astype(np.int32),
            rng.integers(0, 2, count).astype(np.int32),
        ),
    )


def tall() -> Tiny:
    """Return a task with 80 rows of ids and a table of 64 rows, of which a batch of 4
    looks up at most 12.
    """
    made, rng = tiny(count=80, features=40), np.random.default_rng(1)
    table = jnp.asarray(rng.standard_normal((64, 40)), jnp.float32)
    return Tiny(
        made.params | {"embedding/embedding": table},
        (rng.integers(0, 64, (80, 3)).astype(np.int32), made.data[1]),
    )


def logits(params: Any, ids: jax.Array) -> jax.Array:
    vectors = jnp.take(params["embedding/embedding"], ids, axis=0).mean(1)
    return vectors @ params["head/w"] + params["head/b"]


def objective(params, batch, weight, key):
    """Return the loss and the metrics, with noise on the logits. As with dropout, a
    wrong random key changes the result.
    """
    return _objective(
        params, batch, weight, 0.1 * jax.random.normal(key, batch[1].shape)
    )


def quiet_objective(params, batch, weight, key):
    del key
    return _objective(params, batch, weight, jnp.zeros(batch[1].shape))


def _objective(params, batch, weight, noise):
    ids, labels = batch
    z = logits(params, ids) + noise
    mean = (
        optax.sigmoid_binary_cross_entropy(z, labels.astype(z.dtype)) * weight
    ).sum()
    return mean, {
        "loss": mean,
        "accuracy": (((z > 0) == (labels == 1)).astype(z.dtype) * weight).sum(),
    }


def run(
    parts: list[tuple[int, int]],
    devices: int = 2,
    loss=objective,
    made: Tiny | None = None,
    optimizer=ADAM,
    table: str = "",
):
    """Run the chunks of an epoch that `parts` lists as pairs (start, stop) of step
    numbers, and return the training state.
    """
    made, mesh = made or tiny(), sharding.make_mesh(devices)
    state, places = create_state(made.params, optimizer, TOTALS, mesh, table=table)
    run_steps, order = (
        make_run_steps(loss, optimizer, places),
        epoch_order(jax.random.key(5), len(made.data[1]), BATCH),
    )
    with sharding.on(mesh):
        for start, stop in parts:
            state = run_steps(state, made.data, order, start, stop, jax.random.key(6))
    return state


def plain_loop(loss, made: Tiny, cut: bool, optimizer=ADAM):
    """Train an epoch in a plain loop, and return parameters, optimiser state and
    totals. With `cut`, the last batch is not filled up.
    """
    order = epoch_order(jax.random.key(5), len(made.data[1]), BATCH)
    params, opt_state = made.params, optimizer.init(made.params)
    totals = dict.fromkeys(TOTALS, 0.0)
    for n in range(order.rows.shape[0]):
        kept = int(order.examples[n]) if cut else BATCH
        rows, weight = np.asarray(order.rows[n])[:kept], order.weight[n][:kept]
        batch = (jnp.asarray(made.data[0][rows]), jnp.asarray(made.data[1][rows]))
        key = jax.random.fold_in(jax.random.key(6), n)
        gradient, metrics = jax.grad(loss, has_aux=True)(params, batch, weight, key)
        updates, opt_state = optimizer.update(gradient, opt_state, params)
        params = optax.apply_updates(params, updates)
        for name in ("loss", "accuracy"):
            totals[name] += float(metrics[name]) * float(order.examples[n])
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


def assert_reads_once(order: Order, count: int, batch: int):
    """Check that an order reads each example once, in batches that are full but for the
    last one, and whose examples weigh the same.
    """
    steps, real = steps_per_epoch(count, batch), np.asarray(order.weight) > 0
    counts = real.sum(1)
    assert order.rows.shape == real.shape == (steps, batch)
    assert sorted(np.asarray(order.rows)[real].tolist()) == list(range(count))
    assert (
        np.asarray(order.examples).tolist()
        == counts.tolist()
        == [batch] * (steps - 1) + [count - (steps - 1) * batch]
    )
    np.testing.assert_allclose(order.weight, real / counts[:, None], rtol=1e-6)


@pytest.mark.parametrize(("count", "batch"), [(22, 4), (20, 4), (1, 4), (3, 1), (5, 8)])
def test_an_epoch_reads_each_row_once(count, batch):
    order, other = (epoch_order(jax.random.key(seed), count, batch) for seed in (0, 1))
    assert order.rows.dtype == jnp.int32
    assert_reads_once(order, count, batch)
    assert (
        count < 20
        or len(
            {
                tuple(rows.ravel().tolist())
                for rows in (order.rows, other.rows, np.arange(count))
            }
        )
        == 3
    )


def test_chunks_change_no_bit():
    whole = run([(0, 6)])
    for parts in ([(0, 2), (2, 6), (6, 6)], [(n, n + 1) for n in range(6)]):
        assert_bits(run(parts), whole)


@pytest.mark.parametrize(("batch", "before"), [(1, 2**24), (3, 2**24), (50, 2**25)])
def test_sums_of_many_examples(batch, before):
    """The total number of examples stays exact above 2**24, where float32 cannot hold
    every integer.
    """

    def ones(params, batch, weight, key):
        del batch, key
        return 0 * params["w"], {"loss": weight.sum()}

    steps, mesh = 100, sharding.make_mesh(1)
    state, places = create_state(
        {"w": jnp.zeros(())}, optax.sgd(0.1), ("loss", "examples"), mesh
    )
    state = state._replace(totals=state.totals | {"examples": jnp.int32(before)})
    order = Order(
        jnp.zeros((steps, batch), jnp.int32),
        jnp.full((steps, batch), 1 / batch, jnp.float32),
        jnp.full(steps, batch, jnp.float32),
    )
    state = make_run_steps(ones, optax.sgd(0.1), places)(
        state, jnp.zeros(1), order, 0, steps, jax.random.key(0)
    )
    assert int(state.totals["examples"]) == before + steps * batch
    assert float(state.totals["loss"]) == pytest.approx(steps * batch, rel=1e-6)


@pytest.mark.slow(keep=["dense-1", "filled up-2", "row-sparse-1", "clipped-2"])
@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("kind", ["dense", "filled up", "row-sparse", "clipped"])
def test_as_a_plain_loop(kind, devices):
    """Steps give the results of a plain loop with dense updates, up to rounding.

    Rows that fill up the last batch ("filled up") have no influence: the plain loop
    cuts them off.
    """
    optimizer = clipped(keras_adam(0.05), 0.1) if kind == "clipped" else ADAM
    loss, table = (
        quiet_objective if kind == "filled up" else objective,
        TABLE if kind in ("row-sparse", "clipped") else "",
    )
    state = run([(0, 2), (2, 6)], devices, loss, optimizer=optimizer, table=table)
    params, opt_state, totals = plain_loop(loss, tiny(), kind == "filled up", optimizer)
    assert int(state.step) == 6
    assert_close(state.params, params, 1e-5 if table else 1e-6)
    assert_close(state.opt_state, opt_state, 1e-5 if table else 2e-6)
    assert {
        name: float(value) for name, value in state.totals.items()
    } == pytest.approx(totals, rel=1e-5 if table else 1e-6)


@pytest.mark.slow(keep=["[2]"])
@pytest.mark.skipif(
    "compiled" not in BACKENDS, reason="no C++ compiler to build the compiled step with"
)
@pytest.mark.parametrize("devices", [1, 2])
def test_chunks_change_no_bit_of_rows_that_wait(devices, monkeypatch):
    """The division into chunks changes no bit, since all rows take their missed steps
    every 8 steps of the epoch, wherever chunks end.
    """
    monkeypatch.setattr("lstm_jax.training.step.CATCH_UP_INTERVAL", 8)
    made = tall()
    whole = run([(0, 20)], devices, made=made, table=TABLE)
    for parts in (
        [(0, 3), (3, 8), (8, 11), (11, 13), (13, 20)],
        [(n, n + 1) for n in range(20)],
    ):
        assert_bits(run(parts, devices, made=made, table=TABLE), whole)
    assert not np.asarray(whole.behind[TABLE]).any()
    partial = np.asarray(run([(0, 11)], devices, made=made, table=TABLE).behind[TABLE])
    assert (partial.min(), partial.max()) == (0, 3)


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("count", [0, 1, 7, 513])
def test_predict_in_batches_as_at_once(count, devices):
    """Predictions for trees of rows, with several numbers a row, are those of one call,
    also if batches do not divide the rows.
    """
    rng = np.random.default_rng(1)
    rows = {
        "a": rng.standard_normal((count, 2)).astype(np.float32),
        "b": rng.standard_normal(count).astype(np.float32),
    }
    mesh = sharding.make_mesh(devices)
    for options in ({}, {"batch_size": 5}):
        found = make_predict(
            lambda p, batch: p * batch["a"] + batch["b"][:, None], mesh, **options
        )(jnp.float32(3), rows)
        assert isinstance(found, np.ndarray)
        np.testing.assert_allclose(found, 3 * rows["a"] + rows["b"][:, None], rtol=1e-6)


@pytest.mark.parametrize(
    ("dtype", "wanted"),
    [(np.int64, [5, 2**31 - 1, -(2**31)]), (np.uint64, [5, 2**32 - 1, 2**32 - 1])],
)
def test_predict_clips_ints_of_64_bits(dtype, wanted):
    """`make_predict` clips integers of 64 bits to the range of 32 bits.

    Without `jax_enable_x64`, JAX would drop the upper bits, and 2**32 + 5 would become
    5.
    """
    rows = np.array([5, 2**32 + 5, -(2**40) + 5]).astype(dtype)
    assert (
        make_predict(lambda _, batch: batch, sharding.make_mesh(1))((), rows).tolist()
        == wanted
    )
