"""Tests of the carry, the arrays that each training step hands to the next.

Each epoch begins with the given carry, checkpoints store the carry, and training leaves the given arrays unchanged.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec
from test_loop import CONFIG, assert_same_as, evaluate, killed_after_step_9, leaf_sums, timeless
from test_step import BATCH, COUNT, assert_bits, logits, tiny

from lstm_jax.config import TrainConfig
from lstm_jax.runtime import sharding
from lstm_jax.training import checkpoint, loop
from lstm_jax.training.examples import Examples
from lstm_jax.training.loop import FitResult, Interrupted, fit
from lstm_jax.training.optimizers import make_optimizer

pytestmark = pytest.mark.usefixtures("quick_compiles")

METRICS = ("loss", "accuracy", "seen")


def objective(params, batch, weight, key, carry):
    """Return the loss, and a pair of the metrics and the new carry.

    The logits are the sum of the model's logits, noise, and half of the logits in the given carry. The carry also has a counter of steps
    for each row of the batch, "seen". The metric "seen" is the weighted mean of these counters before they are increased.
    """
    ids, labels = batch
    z = logits(params, ids) + 0.1 * jax.random.normal(key, labels.shape) + carry["logits"] / 2
    loss = (optax.sigmoid_binary_cross_entropy(z, labels.astype(z.dtype)) * weight).sum()
    accuracy = (((z > 0) == (labels == 1)).astype(z.dtype) * weight).sum()
    metrics = {"loss": loss, "accuracy": accuracy, "seen": (carry["seen"].astype(z.dtype) * weight).sum()}
    return loss, (metrics, {"logits": z, "seen": carry["seen"] + 1})


def made_carry() -> dict[str, np.ndarray]:
    return {"logits": np.linspace(-2, 2, BATCH, dtype=np.float32), "seen": np.full(BATCH, 100, np.int32)}


def train(config: TrainConfig = CONFIG, carry: Any = None, **options: Any) -> FitResult:
    made = tiny()
    carry = made_carry() if carry is None else carry
    options = {"carry": carry, "metrics": METRICS, "evaluate": evaluate, "monitor": "test_loss"} | options
    return fit(made.params, objective, make_optimizer(config, 100), Examples.of_rows(made.data), config, sharding.make_mesh(0), **options)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> tuple[FitResult, dict]:
    folder = tmp_path_factory.mktemp("whole")
    result = train(checkpoints=folder)
    return result, leaf_sums(folder)


def test_each_epoch_begins_with_the_given_carry(uninterrupted):
    """The counters in the carry begin each epoch at the given value 100, and the last of the six steps finds 105.

    The test compares the metric "seen", the mean of the counters over the examples of an epoch. The last step has 2 examples, the others 4.
    """
    seen = (4 * (100 + 101 + 102 + 103 + 104) + 2 * 105) / COUNT
    assert [row["train_seen"] for row in uninterrupted[0].rows] == pytest.approx([seen] * 3, rel=1e-6)
    assert sum("carry" in name for name in uninterrupted[1]) == 2


def test_a_signal_in_the_middle_of_an_epoch(uninterrupted, tmp_path, monkeypatch):
    """A run that is interrupted after step 9 of 18, within epoch 2, resumes with the saved carry and equals an uninterrupted run."""
    with monkeypatch.context() as patch:
        patch.setattr(loop, "_chunks", killed_after_step_9(tmp_path))
        with pytest.raises(Interrupted, match="after step 9"):
            train(checkpoints=tmp_path)
    assert checkpoint.steps(tmp_path / "latest") == [6, 9]
    restore, kept = checkpoint.restore, []

    def noting(folder, like, **options):
        found = restore(folder, like, **options)
        seen = found.state["state"].carry["seen"]
        kept.append((seen.tolist(), seen.sharding.spec))
        return found

    monkeypatch.setattr(checkpoint, "restore", noting)
    assert_same_as(uninterrupted, train(checkpoints=tmp_path, resume=True), tmp_path)
    assert kept == [([103] * BATCH, PartitionSpec("data"))]


@pytest.mark.slow(keep=1)
@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("kind", [np.asarray, jnp.asarray])
def test_the_caller_s_carry_is_left_as_it_was(kind, devices):
    """Training leaves the caller's carry unchanged, even if its arrays fill whole pages of memory, which JAX may share with NumPy."""

    def wide(params, batch, weight, key, carry):
        loss, (metrics, after) = objective(params, batch, weight, key, {name: array[:, 0] for name, array in carry.items()})
        return loss, (metrics, {name: jnp.broadcast_to(array[:, None], carry[name].shape) for name, array in after.items()})

    carry = {name: kind(np.repeat(array[:, None], 1 << 13, axis=1)) for name, array in made_carry().items()}
    before = jax.tree.map(np.array, carry)
    made, mesh, optimizer = tiny(), sharding.make_mesh(devices), make_optimizer(CONFIG, 100)
    rows = []
    for _ in range(2):
        result = fit(made.params, wide, optimizer, Examples.of_rows(made.data), CONFIG, mesh, carry=carry, metrics=METRICS)
        rows.append(timeless(result.rows))
        assert_bits(carry, before)
    assert rows[0] == rows[1]
    assert [row["train_seen"] for row in rows[0]] == [rows[0][0]["train_seen"]] * 3
