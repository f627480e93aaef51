"""Tests of `fit` on a user's own model: resuming, evaluation, early stopping, and the same result on one and two devices."""

from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from flax import nnx
from test_make_train_step import IDS, LABELS, LENGTH, Classifier, assert_near, losses, mean

import lstm_jax
from lstm_jax.errors import InputError
from lstm_jax.runtime import sharding

pytestmark = pytest.mark.usefixtures("quick_compiles")


def test_bad_input() -> None:
    with pytest.raises(InputError, match=r"^losses: shape \(\); return one loss per example, \(4,\)"):
        lstm_jax.fit(Classifier(), mean, lstm_jax.adam(1e-3), [IDS[0], LABELS[0]], batch_size=4)
    with pytest.raises(InputError, match=r"^arrays: \[3, 4\] rows; give arrays with the same number of rows"):
        lstm_jax.fit(Classifier(), losses, lstm_jax.adam(1e-3), [IDS[0], LABELS[0][:3]], batch_size=4)
    normed = nnx.Sequential(nnx.BatchNorm(3, rngs=nnx.Rngs(0)))
    with pytest.raises(InputError, match=r"^variables: BatchStat; fit trains parameters alone: use make_train_step"):
        lstm_jax.fit(normed, losses, lstm_jax.adam(1e-3), [IDS[0], LABELS[0]], batch_size=4)


def test_fit(tmp_path: Path) -> None:
    """The loss falls, and a training that is resumed after 2 of 4 epochs has exactly the parameters of an uninterrupted one.

    Row-sparse and dense updates, and one and two devices, give the same parameters up to rounding.
    """
    ids = IDS.reshape(-1, LENGTH)[:50]
    labels = (ids.sum(1) % 2).astype(np.float32)

    def run(epochs: int, optimizer, folder: Path | None = None, **more):
        model = Classifier(0.1)
        result = lstm_jax.fit(model, losses, optimizer, [ids, labels.tolist()], epochs=epochs, batch_size=8, checkpoints=folder, **more)
        return model, result

    whole, result = run(4, lstm_jax.adam(1e-2))
    run(2, lstm_jax.adam(1e-2), tmp_path / "c")
    resumed, _ = run(4, lstm_jax.adam(1e-2), tmp_path / "c", resume=True)
    assert [row["epoch"] for row in result.rows] == [1, 2, 3, 4]
    assert result.rows[-1]["train_loss"] < 0.9 * result.rows[0]["train_loss"]
    assert_near(resumed, whole, 0)
    with jax.numpy_dtype_promotion("standard"):
        dense, _ = run(4, optax.adam(1e-2))
    assert_near(dense, whole, 2e-4)
    on_two, _ = run(1, lstm_jax.adam(1e-2), mesh=sharding.make_mesh(2))
    on_one, _ = run(1, lstm_jax.adam(1e-2))
    assert_near(on_two, on_one, 2e-5)


def test_fit_evaluates_and_stops() -> None:
    """`evaluate` gets a module with the parameters of the epoch. When training stops early, the model has those of the best epoch."""
    seen: list[float] = []
    model = Classifier()

    def evaluate(current: Classifier) -> dict[str, float]:
        seen.append(float(current.head.bias[...][0]))
        return {"validation_loss": [3.0, 1.0, 2.0, 2.5][len(seen) - 1]}

    arrays = [IDS.reshape(-1, LENGTH)[:16], LABELS.reshape(-1)[:16]]
    result = lstm_jax.fit(
        model, losses, lstm_jax.adam(1e-2), arrays, epochs=10, batch_size=8, patience=2, evaluate=evaluate, monitor="validation_loss"
    )
    assert (result.best_epoch, len(result.rows), result.stopped_early) == (2, 4, True)
    assert float(model.head.bias[...][0]) == seen[1] != seen[3]


def test_fit_monitors_a_metric_that_should_be_large(tmp_path: Path) -> None:
    values = iter([0.5, 0.7, 0.6, 0.6, 0.6, 0.6])
    arrays = [IDS.reshape(-1, LENGTH)[:16], LABELS.reshape(-1)[:16]]
    options = {"epochs": 6, "batch_size": 8, "patience": 2, "monitor": "score", "checkpoints": tmp_path}
    options["evaluate"] = lambda model: {"score": next(values)}
    result = lstm_jax.fit(Classifier(), losses, lstm_jax.adam(1e-2), arrays, mode="max", keep_epochs=True, **options)
    assert (result.best_epoch, len(result.rows), result.stopped_early) == (2, 4, True)
    assert len(list((tmp_path / "epochs").glob("*.manifest.json"))) == 4
    resumed = lstm_jax.fit(Classifier(), losses, lstm_jax.adam(1e-2), arrays, mode="max", resume=True, **options)
    assert (resumed.best_epoch, len(resumed.rows)) == (2, 4)
    with pytest.raises(InputError, match=r"^keep_epochs: True; give the folder checkpoints"):
        lstm_jax.fit(Classifier(), losses, lstm_jax.adam(1e-2), arrays, keep_epochs=True)
    with pytest.raises(InputError, match=r"^mode: highest; give min or max"):
        lstm_jax.fit(Classifier(), losses, lstm_jax.adam(1e-2), arrays, mode="highest", **options)
