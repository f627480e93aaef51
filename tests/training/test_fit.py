"""Tests of `fit` on a user's own model: resuming, evaluation, early stopping, and the
same result on one and two devices.
"""

import json
import re
import shutil
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from test_make_train_step import (
    IDS,
    LABELS,
    LENGTH,
    Classifier,
    assert_near,
    losses,
    mean,
)

import lstm_jax
from lstm_jax.base import sharding
from lstm_jax.base.errors import InputError
from lstm_jax.lab.runs.reports import metrics_file
from lstm_jax.training import checkpoint
from lstm_jax.training import fit as loop
from lstm_jax.training.fit import Best, Checkpoints

SMALL = [IDS.reshape(-1, LENGTH)[:16], LABELS.reshape(-1)[:16]]
"""Ids and labels of 16 examples, for short trainings."""


def fit(**options: Any) -> loop.FitResult:
    """Train with the fields of `Best` and `Checkpoints` among the options."""
    if "monitor" in options:
        names = [own.name for own in fields(Best) if own.name in options]
        options["best"] = Best(**{name: options.pop(name) for name in names})
    if "folder" in options:
        names = [own.name for own in fields(Checkpoints) if own.name in options]
        saving = Checkpoints(**{name: options.pop(name) for name in names})
        options["checkpoints"] = saving
    given: Any = {
        "model": Classifier(),
        "loss_fn": losses,
        "optimizer": lstm_jax.adam(1e-2),
        "arrays": SMALL,
        "batch_size": 8,
    } | options
    return lstm_jax.fit(**given)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"loss_fn": mean},
            "losses: float32[]; return floats, one loss per example, (8,)",
        ),
        (
            {"arrays": [IDS[0], LABELS[0][:3]]},
            "arrays: [3, 4] rows; give arrays with the same number of rows",
        ),
        (
            {"model": nnx.Sequential(nnx.BatchNorm(3, rngs=nnx.Rngs(0)))},
            "variables: BatchStat; fit trains parameters alone",
        ),
        (
            {"arrays": [IDS[0][:0], LABELS[0][:0]]},
            "training examples: 0; give at least one",
        ),
        (
            {"monitor": "m", "mode": "highest"},
            "mode: highest; give min or max",
        ),
        (
            {"checkpoints": "folder"},
            "checkpoints: str; give Checkpoints(...), or None",
        ),
        (
            {"model": {"w": np.ones(3, np.float32)}},
            "model: dict; give an nnx.Module; make_train_step takes a pytree, too",
        ),
        (
            {"optimizer": optax.lbfgs()},
            "optimizer: scale_by_zoom_linesearch.<locals>.update_fn() missing "
            "3 required keyword-only",
        ),
        (
            {"evaluate": lambda model: {"train_loss": 7.0}},
            "metric: train_loss; the training itself has it: give another name",
        ),
        (
            {"optimizer": "adam"},
            "optimizer: 'adam'; give an optimiser of this project or of optax",
        ),
        (
            {"arrays": IDS[0]},
            "arrays: ndarray; give a sequence of arrays, such as (x, y)",
        ),
        (
            {"loss_fn": lambda model, ids, labels: labels > 0},
            "losses: bool[8]; return floats",
        ),
        (
            {
                "loss_fn": lambda model, ids, labels: losses(model, ids, labels) / 0,
                "batch_size": 16,
            },
            "training loss: inf in epoch 1, from step 1 on; give a lower",
        ),
        (
            {"callbacks": print},
            "callbacks: <built-in function print>; give a list of functions",
        ),
        (
            {"arrays": [np.array([["a"]] * 4), LABELS[0]]},
            "arrays: <U1; give arrays of numbers, with one row per example",
        ),
        (
            {"arrays": [[[1], [1, 2]], LABELS[0]]},
            "arrays: list; give arrays of numbers, with one row per example",
        ),
        (
            {"arrays": [IDS[0], 3.0]},
            "arrays: a scalar; give arrays of numbers, with one row per example",
        ),
        (
            {"evaluate": lambda model: {1: 2.0}},
            "name of a metric: 1; return a dict from names to numbers",
        ),
        (
            {"evaluate": lambda model: {"m": 1j}},
            "metric m: TypeError: float() argument must be a string or a real "
            "number, not 'complex'; return numbers, texts",
        ),
        (
            {"evaluate": lambda model: {"m": np.ones(2)}, "monitor": "m"},
            "metric m: list; monitor a metric that is a number",
        ),
        ({"monitor": "m"}, "monitor: m; the metrics are epoch, step, train_loss"),
        (
            {"mesh": sharding.make_mesh(2), "batch_size": 5},
            "batch_size: 5; give a multiple of the mesh's 2 devices, or set "
            "--devices 1",
        ),
        (
            {"mesh": sharding.make_mesh(2), "microbatches": 8},
            "microbatches: 8 rows on 2 devices in 8 parts; give a number that divides",
        ),
    ],
)
def test_wrong_arguments(changes, message, unchecked):
    with pytest.raises(InputError, match="^" + re.escape(message)):
        fit(**changes)


def test_the_first_step_without_a_finite_loss_is_named(unchecked):
    class Count(nnx.Module):
        def __init__(self):
            self.w = nnx.Param(np.zeros(()))

    def loss(model, x):
        # a step of `sgd(1.0)` adds 1 to w
        return jnp.where(model.w[...] > 5.5, jnp.inf, -model.w[...]) + 0 * x

    with pytest.raises(
        InputError, match=r"^training loss: inf in epoch 2, from step 7 on;"
    ):
        fit(
            model=Count(),
            loss_fn=loss,
            optimizer=optax.sgd(1.0),
            arrays=[np.zeros(4)],
            epochs=3,
            batch_size=1,
        )


CHANGES = [
    ("batch_size", 4, 8),
    ("seed", 1, 0),
    ("examples", 12, 16),
    ("monitor", "b", "a"),
    ("monitor", "", "a"),
    ("mode", "max", "min"),
]
"""Tuples (name, value, was): what differs when a training is resumed, its new value,
and the value that the training began with."""


def fit_with(values: list[float], folder: Path, **options) -> Any:
    """Train up to epoch 3, with two steps an epoch and with checkpoints in the
    subfolder c of `folder`.

    `values` are the values of the monitored metric "v" after the epochs that this call
    trains.
    """
    left = iter(values)
    return fit(
        epochs=3,
        monitor="v",
        evaluate=lambda model: {"v": next(left)},
        folder=folder / "c",
        **options,
    )


def test_best_checkpoint_of_an_epoch_that_was_not_saved(tmp_path, monkeypatch):
    """The folder `best/` holds the best epoch, even if a resumed training repeats an
    epoch that is already saved there.

    A process may end after it has saved epoch 3 in `best/`, but before it has saved the
    training state of epoch 3. The resumed training repeats epoch 3, which is not the
    best one this time. The checkpoint in `best/` is then that of epoch 2.
    """

    def save(folder, step, *rest):
        if (folder.name, step) == ("latest", 6):
            raise RuntimeError("no space")
        return checkpoint.save(folder, step, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "SAVE_SECONDS", 0)
        patch.setattr(
            loop, "checkpoint", SimpleNamespace(**vars(checkpoint) | {"save": save})
        )
        with pytest.raises(RuntimeError, match="no space"):
            fit_with([1.0, 0.5, 0.1], tmp_path)
    assert checkpoint.steps(tmp_path / "c" / "best")[-1] == 6
    result = fit_with([0.9], tmp_path, resume=True)
    assert (result.best_epoch, [row["v"] for row in result.rows]) == (
        2,
        [1.0, 0.5, 0.9],
    )
    for _ in range(2):
        found = checkpoint.restore(tmp_path / "c" / "best", result.params)
        assert found.step == 4
        jax.tree.map(np.testing.assert_array_equal, found.state, result.params)
        # a resumed training saves a damaged checkpoint again
        next((tmp_path / "c" / "best").glob("4*/manifest.ocdbt")).unlink()
        fit_with([], tmp_path, resume=True)


def test_the_best_epoch_alone_is_not_resumed(tmp_path):
    """A folder without a training state, but with a later best epoch, is an error.
    Without this either, a resumed training begins anew.
    """
    fit_with([1.0, 0.5, 0.9], tmp_path)
    shutil.rmtree(tmp_path / "c" / "latest")
    with pytest.raises(InputError, match=r"^checkpoints in .*latest: none; only"):
        fit_with([0.7], tmp_path, resume=True)
    shutil.rmtree(tmp_path / "c")
    assert fit_with([1.0, 0.5, 0.1], tmp_path, resume=True).best_epoch == 3


def test_a_state_that_no_checkpoint_can_hold(tmp_path):
    """A parameter without elements, which no checkpoint can hold, is an error before
    the first epoch.
    """

    class Empty(Classifier):
        def __init__(self):
            super().__init__()
            self.none = nnx.Param(jnp.zeros((0, 3)))

    with pytest.raises(
        InputError,
        match=r"^checkpoint leaf state.params.none: shape \(0, 3\); leave arrays "
        r"without elements out",
    ):
        fit(
            model=Empty(),
            folder=tmp_path,
            evaluate=lambda model: pytest.fail("an epoch"),
        )


def test_another_training_is_not_resumed(tmp_path):
    """Resuming with another batch size, seed or number of examples is an error, because
    each step would have other examples.

    Resuming with another monitored metric or another mode is an error, too. Otherwise
    epochs before and after the interruption would be compared by different metrics or
    modes.
    """
    options: dict[str, Any] = {
        "folder": str(tmp_path / "c"),
        "evaluate": lambda model: {"a": 1.0, "b": 2.0},
        "monitor": "a",
    }
    fit(**options)
    for name, value, was in CHANGES:
        change = (
            {"arrays": [array[: int(value)] for array in SMALL]}
            if name == "examples"
            else {name: value}
        )
        message = (
            rf"^{name}: {value or repr(value)}; the checkpoints in .* are of a "
            rf"training with {was}: give that"
        )
        with pytest.raises(InputError, match=message):
            fit(resume=True, epochs=2, **options | change)


def test_fewer_epochs_than_the_checkpoint(tmp_path):
    """Resuming with 1 epoch is an error if the newest checkpoint lies within epoch 2."""
    options: dict[str, Any] = {
        "batch_size": 4,
        "folder": tmp_path / "c",
        "steps": 3,
    }

    def stop(record):
        if record.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(epochs=2, callbacks=[stop], **options)
    with pytest.raises(
        InputError,
        match=r"^epochs: 1; the newest checkpoint in .* is of step 7, and these "
        r"epochs have 4 steps: give more",
    ):
        fit(epochs=1, resume=True, **options)


@pytest.mark.parametrize(
    ("dtype", "wrong"),
    [(np.int64, 2**31), (np.int64, -(2**31) - 1), (np.uint64, 2**32)],
)
def test_ids_beyond_32_bits(dtype, wrong):
    """An id that does not fit into 32 bits is an error, because JAX would cut it, and
    another row of the table would be trained.

    A training with smaller ids of a 64-bit dtype gives the loss of a training with ids
    of 32 bits.
    """
    ids = IDS[0].astype(dtype)
    same = [
        fit(arrays=[rows, LABELS[0]]).rows[0]["train_loss"] for rows in (ids, IDS[0])
    ]
    assert same[0] == same[1]
    ids[0, 0] = wrong
    step, remedy = (
        lstm_jax.make_train_step(Classifier(), mean, lstm_jax.adam(1e-2)),
        "JAX would cut it to 32 bits: reduce it, or enable",
    )
    with pytest.raises(InputError, match=f"^arrays: {wrong}; {remedy}"):
        fit(arrays=[ids, LABELS[0]])
    with pytest.raises(InputError, match=f"^batch: {wrong}; {remedy}"):
        step(step.init(), ids, LABELS[0])


def test_kinds_of_metrics(tmp_path):
    """A metric may be a scalar or an array of JAX or NumPy, a text or None, also with
    checkpoints. A monitored one may be such a scalar.

    In the result, scalars are Python numbers, and arrays are lists. The file of metrics
    has the same values.
    """
    values = iter([np.float32(3.0), jnp.float32(2.0), np.asarray(1.0)])
    more = {
        "per_class": jnp.arange(2.0),
        "counts": np.ones((2, 2), int),
        "note": "a",
        "nothing": None,
    }
    result = fit(
        epochs=3,
        folder=tmp_path / "c",
        monitor="m",
        evaluate=lambda model: more | {"m": next(values)},
        callbacks=[metrics_file(tmp_path / "metrics.jsonl")],
    )
    assert [row["m"] for row in result.rows] == [3.0, 2.0, 1.0]
    assert all(type(row["m"]) is float for row in result.rows)
    assert result.best_epoch == 3
    for row in (
        result.rows[0],
        json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0]),
    ):
        assert {name: row[name] for name in more} == {
            "per_class": [0.0, 1.0],
            "counts": [[1, 1], [1, 1]],
            "note": "a",
            "nothing": None,
        }


def test_fit(tmp_path):
    """The loss falls, and a training that is resumed after 2 of 4 epochs has exactly
    the parameters of an uninterrupted one.

    One and two devices give the same parameters up to rounding.
    """
    ids = IDS.reshape(-1, LENGTH)[:50]
    labels = (ids.sum(1) % 2).astype(np.float32)

    def run(epochs, optimizer, **more):
        model = Classifier(0.1)
        arrays = [ids, labels.tolist()]
        result = fit(
            model=model, optimizer=optimizer, arrays=arrays, epochs=epochs, **more
        )
        return model, result

    whole, result = run(4, lstm_jax.adam(1e-2))
    run(2, lstm_jax.adam(1e-2), folder=tmp_path / "c")
    resumed, _ = run(4, lstm_jax.adam(1e-2), folder=tmp_path / "c", resume=True)
    assert [row["epoch"] for row in result.rows] == [1, 2, 3, 4]
    assert result.rows[-1]["train_loss"] < 0.9 * result.rows[0]["train_loss"]
    assert_near(resumed, whole, 0)
    on_two, _ = run(1, lstm_jax.adam(1e-2), mesh=sharding.make_mesh(2))
    on_one, _ = run(1, lstm_jax.adam(1e-2))
    assert_near(on_two, on_one, 2e-5)


@pytest.mark.slow
def test_microbatches_have_masks_of_their_own():
    """With dropout, the losses with and without microbatches differ. A second run gives
    the same losses.
    """

    def train_losses(microbatches):
        return [
            row["train_loss"]
            for row in fit(
                model=Classifier(0.5), epochs=3, microbatches=microbatches
            ).rows
        ]

    dropped = train_losses(4)
    assert dropped == train_losses(4)
    assert max(abs(a - b) for a, b in zip(dropped, train_losses(1), strict=True)) > 1e-4


def test_fit_evaluates_and_stops(tmp_path, unchecked):
    """`evaluate` gets a module with the parameters of the epoch.

    After training has stopped early, the given model has the parameters of the best
    epoch, also when it is resumed.
    """
    seen: list[float] = []
    model, records = Classifier(), []

    def evaluate(current):
        seen.append(float(current.head.bias[...][0]))
        return {"score": [0.5, 0.7, 0.6, 0.6][len(seen) - 1]}

    options: dict[str, Any] = {
        "epochs": 10,
        "patience": 2,
        "monitor": "score",
        "mode": "max",
        "folder": tmp_path,
        "evaluate": evaluate,
    }
    result = fit(
        model=model, keep_epochs=True, callbacks=iter([records.append]), **options
    )
    assert (result.best_epoch, len(result.rows), result.stopped_early) == (2, 4, True)
    assert float(model.head.bias[...][0]) == seen[1] != seen[3]
    assert len(list((tmp_path / "epochs").glob("*.manifest.json"))) == len(records) == 4
    resumed = fit(model=(again := Classifier()), resume=True, **options)
    assert (resumed.best_epoch, len(resumed.rows)) == (2, 4)
    assert float(again.head.bias[...][0]) == seen[1]


@pytest.mark.filterwarnings("ignore:Specifying a key:UserWarning")
def test_fit_resumes_an_optimiser_that_draws_random_numbers(tmp_path):
    """The random key in the optimiser's state is saved and restored, so that a resumed
    training ends with the same bits.
    """

    def train(epochs, **more):
        noisy = optax.chain(optax.adam(1e-2), optax.add_noise(0.1, 0.5, key=0))
        with jax.numpy_dtype_promotion("standard"):  # optax's noise needs it
            return fit(optimizer=noisy, epochs=epochs, **more).params

    whole, first = train(2), train(1, folder=tmp_path / "run")
    resumed = train(2, folder=tmp_path / "run", resume=True)
    for name, array in whole.items():
        assert array.tolist() == resumed[name].tolist()
    assert any(array.tolist() != first[name].tolist() for name, array in whole.items())
