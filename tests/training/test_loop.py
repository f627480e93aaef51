"""Training loop: rows of metrics, early stopping, checkpoints, interrupts. A resumed
run equals an uninterrupted one bit by bit.
"""

import dataclasses
import io
import json
import os
import signal
import threading
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec
from rich.console import Console
from test_step import BATCH, COUNT, Tiny, assert_bits, logits, quiet_objective, tiny

from lstm_jax.base import sharding
from lstm_jax.base.errors import Interrupted
from lstm_jax.lab.optimizers import make_optimizer
from lstm_jax.lab.runs.reports import progress
from lstm_jax.training import checkpoint
from lstm_jax.training import fit as loop
from lstm_jax.training.config import TrainConfig
from lstm_jax.training.examples import Examples, Order, in_parts
from lstm_jax.training.fit import FitResult, run_epochs

CONFIG = TrainConfig(epochs=3, batch_size=BATCH, learning_rate=0.05)
PER_EPOCH = 6
METRICS = ("loss", "accuracy", "seen")
TRAINED = {
    "epoch",
    "step",
    "train_loss",
    "train_accuracy",
    "train_seen",
    "seconds",
    "examples_per_second",
}
CARRY = {
    "logits": np.linspace(-2, 2, BATCH, dtype=np.float32),
    "seen": np.full(BATCH, 100, np.int32),
}


def objective(params, batch, weight, key, carry, noise: float = 0.1):
    """Return the loss, and a pair of the metrics and the new carry.

    The logits are the sum of the model's logits, noise, and half of the logits in the
    given carry. The carry also has a counter of steps for each row of the batch,
    "seen". The metric "seen" is the weighted mean of these counters before they are
    increased.
    """
    ids, labels = batch
    z = (
        logits(params, ids)
        + noise * jax.random.normal(key, labels.shape)
        + carry["logits"] / 2
    )
    loss = (
        optax.sigmoid_binary_cross_entropy(z, labels.astype(z.dtype)) * weight
    ).sum()
    accuracy = (((z > 0) == (labels == 1)).astype(z.dtype) * weight).sum()
    metrics = {
        "loss": loss,
        "accuracy": accuracy,
        "seen": (carry["seen"].astype(z.dtype) * weight).sum(),
    }
    return loss, (metrics, {"logits": z, "seen": carry["seen"] + 1})


def train(
    config: TrainConfig = CONFIG,
    made: Tiny | None = None,
    loss=objective,
    carry: Any = CARRY,
    **options: Any,
) -> FitResult:
    made, mesh = made or tiny(), sharding.make_mesh(config.devices)
    optimizer, examples = make_optimizer(config, 100), Examples.of_rows(made.data)
    with progress(options.pop("console", Console(quiet=True))) as watch:
        return run_epochs(
            made.params,
            loss,
            optimizer,
            examples,
            config,
            mesh,
            carry=carry,
            metrics=METRICS,
            watch=watch,
            **options,
        )


def evaluate(params, row) -> dict[str, float]:
    """Return the metric "test_loss", the mean loss over all examples without the noise
    that `objective` adds to the logits.
    """
    ids, labels = tiny().data
    z = logits(params, jnp.asarray(ids))
    return {
        "test_loss": float(
            optax.sigmoid_binary_cross_entropy(
                z, jnp.asarray(labels, jnp.float32)
            ).mean()
        )
    }


def leaf_sums(folder: Path) -> dict[str, Any]:
    """Return the SHA-256 of each array in the newest checkpoint: parameters, moments,
    step, totals, best parameters.
    """
    newest = checkpoint.steps(folder / "latest")[-1]
    return json.loads(
        (folder / "latest" / f"{newest}.manifest.json").read_text().partition("\n")[2]
    )["leaves"]


def timeless(rows) -> list[dict]:
    return [
        {
            name: value
            for name, value in row.items()
            if name not in ("seconds", "examples_per_second")
        }
        for row in rows
    ]


def stop_after(epoch: int, times: int = 1, number: int = signal.SIGTERM):
    def callback(record):
        if record.epoch == epoch:
            for _ in range(times):
                os.kill(os.getpid(), number)

    return callback


def train_until_saved(last: int, *args, **options) -> list[tuple[int, Any]]:
    """Train until the state of step `last` is saved, as if the process were killed
    then, and return the saved steps and states.
    """
    save, saved = checkpoint.save, []

    def dying_save(folder, step, state, extra):
        path = save(folder, step, state, extra)
        if folder.name == "latest":
            saved.append((step, state["state"]))
            if step == last:
                raise RuntimeError("as if killed")
        return path

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "save", dying_save)
        with pytest.raises(RuntimeError, match="as if killed"):
            train(*args, **options)
    return saved


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> tuple[FitResult, dict]:
    folder = tmp_path_factory.mktemp("whole")
    # there is nothing to resume
    result = train(
        checkpoints=folder, evaluate=evaluate, monitor="test_loss", resume=True
    )
    return result, leaf_sums(folder)


@pytest.fixture
def options(tmp_path) -> dict[str, Any]:
    return {"checkpoints": tmp_path, "evaluate": evaluate, "monitor": "test_loss"}


def assert_same_as(
    uninterrupted: tuple[FitResult, dict], result: FitResult, folder: Path
):
    whole, sums = uninterrupted
    assert timeless(result.rows) == timeless(whole.rows)
    assert result.best_epoch == whole.best_epoch
    assert_bits(result.params, whole.params)
    assert leaf_sums(folder) == sums
    assert {word for name in sums for word in name.split(".")} >= {
        "mu",
        "carry",
        "best",
    }


def test_rows_have_the_documented_metrics(uninterrupted):
    result, _ = uninterrupted
    assert [(row["epoch"], row["step"]) for row in result.rows] == [
        (1, 6),
        (2, 12),
        (3, 18),
    ]
    for row in result.rows:
        assert set(row) == TRAINED | {"test_loss"}
        assert row["examples_per_second"] == pytest.approx(COUNT / row["seconds"])
        assert all(isinstance(value, (int, float)) for value in row.values())
        # the counters begin each epoch at 100, and the last of the six steps, which has
        # 2 examples, finds 105
        assert row["train_seen"] == pytest.approx(
            (4 * (100 + 101 + 102 + 103 + 104) + 2 * 105) / COUNT, rel=1e-6
        )
    assert result.rows[-1]["train_loss"] < result.rows[0]["train_loss"]
    assert result.seconds >= sum(row["seconds"] for row in result.rows)
    assert not result.stopped_early


@pytest.mark.parametrize(
    ("seconds", "latest", "best"), [(0, [18, 24, 30], [24, 30]), (60, [6, 30], [6, 30])]
)
def test_without_a_monitor_the_newest_epoch_is_the_best(
    tmp_path, monkeypatch, seconds, latest, best
):
    monkeypatch.setattr(loop, "SAVE_SECONDS", seconds)
    seen, records = [], []
    callbacks = [
        records.append,
        lambda record: seen.append(jax.tree.map(np.array, record.params)),
    ]
    result = train(
        dataclasses.replace(CONFIG, epochs=5), checkpoints=tmp_path, callbacks=callbacks
    )
    assert result.best_epoch == 5
    assert_bits(result.params, seen[-1])
    restored = checkpoint.restore(tmp_path / "best", tiny().params)
    assert restored.step == 30
    assert_bits(restored.state, seen[-1])
    assert checkpoint.steps(tmp_path / "latest") == latest
    assert checkpoint.steps(tmp_path / "best") == best
    assert [
        (record.epoch, record.step, record.seed, len(record.rows)) for record in records
    ] == [(n, 6 * n, 0, n) for n in range(1, 6)]
    assert [record.row for record in records] == list(result.rows)


def test_derived_metrics_join_the_row():
    def derive(params, row):
        assert row.keys() == TRAINED
        return {
            "train_bits": row["train_loss"] / float(np.log(2)),
            "left": 3.0 - row["epoch"],
        } | evaluate(params, row)

    result = train(evaluate=derive, monitor="left")
    assert [row["left"] for row in result.rows] == [2.0, 1.0, 0.0]
    for row in result.rows:
        assert row["train_bits"] == pytest.approx(
            row["train_loss"] * 1.4426950408889634
        )
        assert row.keys() == TRAINED | {"train_bits", "left", "test_loss"}
    assert result.best_epoch == 3


def test_an_order_of_their_own():
    """Examples may have their own function `plan`, which returns the rows that an epoch
    reads, and gets another key in each epoch.
    """
    keys, made = [], tiny()

    def plan(key, count, batch_size):
        keys.append(jax.random.key_data(key).tolist())
        assert (count, batch_size) == (8, 4)
        return in_parts(
            Order(jnp.full((2, 4), 5), jnp.full((2, 4), 0.25), jnp.full(2, 4.0))
        )

    config = dataclasses.replace(CONFIG, optimizer="sgd", learning_rate=1e-12)
    examples, mesh = Examples(made.data, 8, plan=plan), sharding.make_mesh(2)
    result = run_epochs(
        made.params,
        quiet_objective,
        make_optimizer(config, 100),
        examples,
        config,
        mesh,
    )
    assert len({tuple(key) for key in keys}) == 3
    z, label = float(logits(made.params, jnp.asarray(made.data[0]))[5]), made.data[1][5]
    assert [row["train_loss"] for row in result.rows] == pytest.approx(
        [np.log1p(np.exp(-z)) + (1 - label) * z] * 3, rel=1e-6
    )


NAN = float("nan")


@pytest.mark.slow(keep=4)
@pytest.mark.parametrize(
    ("values", "patience", "best", "epochs"),
    [
        ([3.0, 2.0, 2.5, 2.2, 1.0, 0.5], 2, 2, 4),
        ([1.0, 1.0, 1.0], 2, 1, 3),
        ([NAN, 2.0, NAN, 2.5], 2, 2, 4),
        ([1.0, 2.0, 1.0, 1.0, 1.0, 1.0], 0, 1, 6),
        ([3.0, 2.0, 2.5, 1.9, 1.95, 1.9], 3, 4, 6),  # patience lasts
        ([NAN, NAN, NAN], 2, 1, 3),
        ([NAN, NAN, 1.0, NAN, 2.0], 2, 3, 5),
    ],
)
def test_early_stopping(values, patience, best, epochs, tmp_path):
    """Training stops early after `epochs` epochs, and its result is that of epoch
    `best`. A resumption does not go on.
    """
    script, seen, config = (
        iter(values),
        [],
        dataclasses.replace(CONFIG, epochs=6, patience=patience),
    )
    options: dict[str, Any] = {
        "evaluate": lambda params, row: {"held_loss": next(script)},
        "monitor": "held_loss",
        "checkpoints": tmp_path,
    }
    result = train(
        config,
        callbacks=[lambda record: seen.append(jax.tree.map(np.array, record.params))],
        **options,
    )
    assert (result.best_epoch, len(result.rows), result.stopped_early) == (
        best,
        epochs,
        epochs < 6,
    )
    assert_bits(result.params, seen[best - 1])
    found = checkpoint.restore(tmp_path / "best", tiny().params)
    assert found.step == best * PER_EPOCH
    assert_bits(found.state, seen[best - 1])
    again = train(config, callbacks=[pytest.fail], resume=True, **options)
    assert repr(again.rows) == repr(result.rows)
    assert (again.best_epoch, again.stopped_early) == (best, epochs < 6)
    assert_bits(again.params, result.params)


@pytest.mark.slow(keep=1)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_after_an_epoch(number, uninterrupted, options, tmp_path):
    handlers = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(Interrupted, match="interrupted after step 6") as stopped:
        train(callbacks=[stop_after(1, number=number)], **options)
    assert stopped.value.step == 6
    assert [
        signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)
    ] == handlers
    assert_same_as(uninterrupted, train(resume=True, **options), tmp_path)


def test_a_signal_in_the_last_epoch_lets_the_run_finish():
    assert len(train(callbacks=[stop_after(3)]).rows) == 3


def test_a_second_sigint_stops_at_once():
    with pytest.raises(KeyboardInterrupt):
        train(callbacks=[stop_after(1, times=2, number=signal.SIGINT)])


def test_a_signal_in_the_middle_of_an_epoch(
    uninterrupted, options, tmp_path, monkeypatch
):
    """A run that a signal interrupts within an epoch saves its state after the current
    step, and gives the same bits when resumed.
    """

    def one_by_one(start, groups, every):
        ((stop, *given),) = groups
        for step in range(start, stop):
            if step == 2 and checkpoint.steps(tmp_path / "latest") == [6]:
                os.kill(os.getpid(), signal.SIGTERM)
            yield step, step + 1, *given

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_chunks", one_by_one)
        with pytest.raises(Interrupted, match="after step 9"):
            train(**options)
    assert checkpoint.steps(tmp_path / "latest") == [6, 9]
    restore, kept = checkpoint.restore, []

    def noting(folder, like, **options):
        found = restore(folder, like, **options)
        seen = found.state["state"].carry["seen"]
        kept.append((seen.tolist(), seen.sharding.spec))
        return found

    monkeypatch.setattr(checkpoint, "restore", noting)
    result = train(resume=True, **options)
    assert_same_as(uninterrupted, result, tmp_path)
    assert kept == [([103] * BATCH, PartitionSpec("data"))]
    # three of the six steps of this epoch were done before the resumption
    row = result.rows[1]
    assert row["examples_per_second"] == pytest.approx((COUNT - 3 * 4) / row["seconds"])


@pytest.mark.slow(keep=1)
@pytest.mark.parametrize("damaged", [True, False])
def test_checkpoints_within_an_epoch_resume_too(
    damaged, uninterrupted, options, tmp_path
):
    config = dataclasses.replace(CONFIG, checkpoint_steps=2)
    assert [step for step, _ in train_until_saved(10, config, **options)] == [
        2,
        4,
        6,
        8,
        10,
    ]
    if damaged:
        (tmp_path / "latest" / "10.manifest.json").write_text("{}")
    said = io.StringIO()
    result = train(
        config, resume=True, console=Console(file=said, width=500), **options
    )
    assert f"resumed after step {8 if damaged else 10} of 18" in said.getvalue()
    assert ("checkpoint of step 10 is damaged" in said.getvalue()) == damaged
    assert_same_as(uninterrupted, result, tmp_path)


@pytest.mark.slow(keep=2)
@pytest.mark.parametrize(
    "name", ["[x]", "a*b?", "back\\slash", "line\nbreak", "not utf-8 \udcff"]
)
def test_folders_of_any_name(name, tmp_path):
    """A run is saved and resumed in a folder of any name, although Orbax takes a name
    such as "[x]" for a glob pattern.
    """
    (tmp_path / "axb!").mkdir()
    config = dataclasses.replace(CONFIG, epochs=1)
    first = train(config, checkpoints=tmp_path / name)
    again = train(config, checkpoints=tmp_path / name, resume=True)
    assert_bits(again.params, first.params)
    assert again.rows == first.rows
    assert [
        path.name for path in (tmp_path / name / "latest").iterdir() if path.is_dir()
    ] == ["6"]


def test_the_seed_decides_also_in_a_thread(uninterrupted):
    """A training in a thread, which gets no signals, gives the rows of one in the main
    thread. Another seed gives others.
    """
    results = []
    for seed in (0, 1):
        config = dataclasses.replace(CONFIG, seed=seed)
        thread = threading.Thread(
            target=lambda config=config: results.append(
                train(config, evaluate=evaluate)
            )
        )
        thread.start()
        thread.join()
    same, other = (
        timeless(result.rows) == timeless(uninterrupted[0].rows) for result in results
    )
    assert same
    assert not other


@pytest.mark.slow(keep=1)
@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("kind", [np.asarray, jnp.asarray])
def test_the_caller_s_carry_is_left_as_it_was(kind, devices):
    """Training leaves the caller's carry unchanged, even if its arrays fill whole pages
    of memory, which JAX may share with NumPy.
    """

    def wide(params, batch, weight, key, carry):
        loss, (metrics, after) = objective(
            params,
            batch,
            weight,
            key,
            {name: array[:, 0] for name, array in carry.items()},
        )
        return loss, (
            metrics,
            {
                name: jnp.broadcast_to(array[:, None], carry[name].shape)
                for name, array in after.items()
            },
        )

    carry = {
        name: kind(np.repeat(array[:, None], 1 << 13, axis=1))
        for name, array in CARRY.items()
    }
    before = jax.tree.map(np.array, carry)
    rows = [
        timeless(
            train(
                dataclasses.replace(CONFIG, devices=devices), loss=wide, carry=carry
            ).rows
        )
        for _ in range(2)
    ]
    assert_bits(carry, before)
    assert rows[0] == rows[1]
    assert [row["train_seen"] for row in rows[0]] == [rows[0][0]["train_seen"]] * 3
