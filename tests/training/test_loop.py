"""Training loop: rows of metrics, early stopping, checkpoints, interrupts. A resumed run equals an uninterrupted one bit by bit."""

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
from rich.console import Console
from test_step import COUNT, Tiny, assert_bits, logits, objective, quiet_objective, tiny

from lstm_jax.config import TrainConfig
from lstm_jax.errors import InputError
from lstm_jax.runtime import sharding
from lstm_jax.training import checkpoint, loop
from lstm_jax.training.examples import Examples, Order
from lstm_jax.training.loop import FitResult, Interrupted, fit
from lstm_jax.training.optimizers import make_optimizer

pytestmark = pytest.mark.usefixtures("quick_compiles")

CONFIG = TrainConfig(epochs=3, batch_size=4, learning_rate=0.05)
PER_EPOCH = 6


def train(config: TrainConfig = CONFIG, made: Tiny | None = None, loss=objective, **options: Any) -> FitResult:
    made = made or tiny()
    mesh = sharding.make_mesh(config.devices)
    return fit(made.params, loss, make_optimizer(config, 100), Examples.of_rows(made.data), config, mesh, **options)


def evaluate(params) -> dict[str, float]:
    """Return the metric "test_loss", the mean loss over all examples without the noise that `objective` adds to the logits."""
    ids, labels = tiny().data
    z = logits(params, jnp.asarray(ids))
    return {"test_loss": float(optax.sigmoid_binary_cross_entropy(z, jnp.asarray(labels, jnp.float32)).mean())}


def leaf_sums(folder: Path) -> dict[str, Any]:
    """Return the SHA-256 of each array in the newest checkpoint: parameters, moments, step, totals, best parameters."""
    newest = checkpoint.steps(folder / "latest")[-1]
    return json.loads((folder / "latest" / f"{newest}.manifest.json").read_text().partition("\n")[2])["leaves"]


def timeless(rows) -> list[dict]:
    return [{name: value for name, value in row.items() if name not in ("seconds", "examples_per_second")} for row in rows]


def stop_after(epoch: int, times: int = 1, number: int = signal.SIGTERM):
    def callback(record):
        if record.epoch == epoch:
            for _ in range(times):
                os.kill(os.getpid(), number)

    return callback


def killed_after_step_9(folder: Path):
    """Return a function in place of `loop._chunks` that runs one step at a time, and sends a SIGTERM in the third step of epoch 2."""

    def one_by_one(start, stop, every, most):
        for step in range(start, stop):
            if step == 2 and checkpoint.steps(folder / "latest") == [6]:
                os.kill(os.getpid(), signal.SIGTERM)
            yield step, step + 1

    return one_by_one


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> tuple[FitResult, dict]:
    folder = tmp_path_factory.mktemp("whole")
    result = train(checkpoints=folder, evaluate=evaluate, monitor="test_loss")
    return result, leaf_sums(folder)


def assert_same_as(uninterrupted: tuple[FitResult, dict], result: FitResult, folder: Path):
    whole, sums = uninterrupted
    assert timeless(result.rows) == timeless(whole.rows)
    assert result.best_epoch == whole.best_epoch
    assert_bits(result.params, whole.params)
    assert leaf_sums(folder) == sums
    assert any("mu" in name for name in sums)


def test_rows_have_the_documented_metrics(uninterrupted):
    result, _ = uninterrupted
    assert [row["epoch"] for row in result.rows] == [1, 2, 3]
    assert [row["step"] for row in result.rows] == [6, 12, 18]
    for row in result.rows:
        assert set(row) == {"epoch", "step", "train_loss", "train_accuracy", "seconds", "examples_per_second", "test_loss"}
        assert row["examples_per_second"] == pytest.approx(COUNT / row["seconds"])
        assert all(isinstance(value, (int, float)) for value in row.values())
    assert result.rows[-1]["train_loss"] < result.rows[0]["train_loss"]
    assert result.seconds >= sum(row["seconds"] for row in result.rows)
    assert not result.stopped_early


def test_without_a_monitor_the_newest_epoch_is_the_best(tmp_path):
    seen, records = [], []
    callbacks = [records.append, lambda record: seen.append(jax.tree.map(np.array, record.params))]
    result = train(dataclasses.replace(CONFIG, epochs=5), checkpoints=tmp_path, callbacks=callbacks)
    assert result.best_epoch == 5
    assert_bits(result.params, seen[-1])
    best = checkpoint.restore(tmp_path / "best", tiny().params)
    assert best.step == 30
    assert_bits(best.state, seen[-1])
    assert checkpoint.steps(tmp_path / "latest") == [18, 24, 30]
    assert checkpoint.steps(tmp_path / "best") == [24, 30]
    assert [(record.epoch, record.step, record.seed, len(record.rows)) for record in records] == [(n, 6 * n, 0, n) for n in range(1, 6)]
    assert [record.row for record in records] == list(result.rows)


def test_derived_metrics_join_the_row():
    seen = []

    def derive(row):
        seen.append(dict(row))
        return {"train_bits": row["train_loss"] / float(np.log(2)), "left": 3.0 - row["epoch"]}

    result = train(derive=derive, evaluate=evaluate, monitor="left")
    assert len(seen) == 3
    for row, given in zip(result.rows, seen, strict=True):
        assert given.keys() == {"epoch", "step", "train_loss", "train_accuracy", "seconds", "examples_per_second"}
        assert row["train_bits"] == pytest.approx(row["train_loss"] * 1.4426950408889634)
        assert row == given | {"train_bits": row["train_bits"], "left": 3.0 - row["epoch"], "test_loss": row["test_loss"]}
    assert result.best_epoch == 3


def test_an_order_of_their_own():
    """Examples may have their own function `order`, which returns the rows that an epoch reads.

    The function gets a different key in each epoch.
    """
    keys = []

    def order(key, count, batch_size):
        assert (count, batch_size) == (8, 4)
        keys.append(jax.random.key_data(key).tolist())
        return Order(jnp.array([[0, 0, 0, 0], [1, 1, 2, 2]]) + len(keys), jnp.full((2, 4), 0.25), jnp.full(2, 4.0))

    made = tiny()
    examples = Examples(made.data, 8, order=order)
    config = dataclasses.replace(CONFIG, optimizer="sgd", learning_rate=1e-12)
    result = fit(made.params, quiet_objective, make_optimizer(config, 100), examples, config, sharding.make_mesh(2))
    assert len({tuple(key) for key in keys}) == 3
    z = np.asarray(logits(made.params, jnp.asarray(made.data[0])), np.float64)
    losses = np.log1p(np.exp(-z)) + (1 - made.data[1]) * z
    for epoch, row in enumerate(result.rows, start=1):
        assert row["train_loss"] == pytest.approx((4 * losses[epoch] + 2 * losses[epoch + 1] + 2 * losses[epoch + 2]) / 8, rel=1e-6)


@pytest.mark.slow(keep=2)
@pytest.mark.parametrize(
    ("values", "best", "epochs"),
    [
        ([3.0, 2.0, 2.5, 2.2, 1.0, 0.5], 2, 4),
        ([3.0, 2.0, 2.5, 1.9, 1.95, 1.9], 4, 6),
        ([float("nan"), float("nan"), float("nan")], 1, 3),
        ([float("nan"), 2.0, float("nan"), 2.5], 2, 4),
        ([float("nan"), float("nan"), 1.0, float("nan"), 2.0], 3, 5),
    ],
)
def test_early_stopping(values, best, epochs, tmp_path):
    script = iter(values)
    seen = []
    result = train(
        dataclasses.replace(CONFIG, epochs=9, patience=2),
        evaluate=lambda params: {"held_loss": next(script)},
        monitor="held_loss",
        checkpoints=tmp_path,
        callbacks=[lambda record: seen.append(jax.tree.map(np.array, record.params))],
    )
    assert (result.best_epoch, len(result.rows), result.stopped_early) == (best, epochs, True)
    assert_bits(result.params, seen[best - 1])
    found = checkpoint.restore(tmp_path / "best", tiny().params)
    assert found.step == best * PER_EPOCH
    assert_bits(found.state, seen[best - 1])


def test_resuming_a_run_that_stopped_early_does_not_go_on(tmp_path):
    options: dict[str, Any] = {"monitor": "held_loss", "checkpoints": tmp_path}
    config = dataclasses.replace(CONFIG, epochs=9, patience=1)
    script = iter([1.0, 2.0])
    first = train(config, evaluate=lambda params: {"held_loss": next(script)}, **options)
    again = train(config, evaluate=lambda params: {"held_loss": 0.0}, resume=True, **options)
    assert (again.rows, again.best_epoch, again.stopped_early) == (first.rows, 1, True)
    assert_bits(again.params, first.params)


@pytest.mark.parametrize("patience", [3, 2, 0])  # a patience of 2 runs out only at the end of the last of the 3 epochs
def test_all_epochs_run_when_patience_lasts(patience):
    result = train(dataclasses.replace(CONFIG, patience=patience), evaluate=lambda params: {"held_loss": 1.0}, monitor="held_loss")
    assert (len(result.rows), result.best_epoch, result.stopped_early) == (3, 1, False)


@pytest.mark.slow(keep=1)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_after_an_epoch(number, uninterrupted, tmp_path):
    handlers = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
    options: dict[str, Any] = {"checkpoints": tmp_path, "evaluate": evaluate, "monitor": "test_loss"}
    with pytest.raises(Interrupted, match="interrupted after step 6") as stopped:
        train(callbacks=[stop_after(1, number=number)], **options)
    assert stopped.value.step == 6
    assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert_same_as(uninterrupted, train(resume=True, **options), tmp_path)


def test_a_signal_in_the_last_epoch_lets_the_run_finish(tmp_path):
    result = train(callbacks=[stop_after(3)], checkpoints=tmp_path)
    assert len(result.rows) == 3


def test_a_second_sigint_stops_at_once():
    with pytest.raises(KeyboardInterrupt):
        train(callbacks=[stop_after(1, times=2, number=signal.SIGINT)])


def test_a_signal_in_the_middle_of_an_epoch(uninterrupted, tmp_path, monkeypatch):
    """A run that a signal interrupts within an epoch saves its state after the current step, and gives the same bits when resumed."""
    options: dict[str, Any] = {"checkpoints": tmp_path, "evaluate": evaluate, "monitor": "test_loss"}
    with monkeypatch.context() as patch:
        patch.setattr(loop, "_chunks", killed_after_step_9(tmp_path))
        with pytest.raises(Interrupted, match="after step 9"):
            train(**options)
    assert checkpoint.steps(tmp_path / "latest") == [6, 9]
    result = train(resume=True, **options)
    assert_same_as(uninterrupted, result, tmp_path)
    row = result.rows[1]  # three of the six steps of this epoch were done before the resumption
    assert row["examples_per_second"] == pytest.approx((COUNT - 3 * 4) / row["seconds"])


@pytest.mark.slow(keep=1)
@pytest.mark.parametrize("damaged", [False, True])
def test_checkpoints_within_an_epoch_resume_too(damaged, uninterrupted, tmp_path, monkeypatch):
    config = dataclasses.replace(CONFIG, checkpoint_steps=2)
    options: dict[str, Any] = {"checkpoints": tmp_path, "evaluate": evaluate, "monitor": "test_loss"}
    saved = []

    def dying_save(folder, step, state, extra):
        path = save(folder, step, state, extra)
        if folder.name == "latest":
            saved.append(step)
            if step == 10:
                raise RuntimeError("as if killed")
        return path

    save = checkpoint.save
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", dying_save)
        with pytest.raises(RuntimeError, match="as if killed"):
            train(config, **options)
    assert saved == [2, 4, 6, 8, 10]
    if damaged:
        manifest = json.loads((tmp_path / "latest" / "10.manifest.json").read_text().partition("\n")[2])
        largest = max(manifest["files"], key=lambda name: manifest["files"][name]["bytes"])
        path = tmp_path / "latest" / "10" / largest
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    said = io.StringIO()
    result = train(config, resume=True, console=Console(file=said, width=500), **options)
    assert f"resumed after step {8 if damaged else 10} of 18" in said.getvalue()
    assert ("checkpoint of step 10 is damaged" in said.getvalue()) == damaged
    assert_same_as(uninterrupted, result, tmp_path)


def test_resuming_a_finished_run_trains_no_more(uninterrupted, tmp_path):
    options: dict[str, Any] = {"checkpoints": tmp_path, "evaluate": evaluate, "monitor": "test_loss"}
    train(**options)
    called = []
    result = train(resume=True, callbacks=[called.append], **options)
    assert not called
    assert_same_as(uninterrupted, result, tmp_path)


def test_resume_without_a_checkpoint_starts_anew(uninterrupted, tmp_path):
    assert_same_as(uninterrupted, train(resume=True, checkpoints=tmp_path, evaluate=evaluate, monitor="test_loss"), tmp_path)


@pytest.mark.slow(keep=2)
@pytest.mark.parametrize("name", ["[x]", "a*b?", "back\\slash", "line\nbreak", "not utf-8 \udcff"])
def test_folders_of_any_name(name, tmp_path):
    """A run is saved and resumed in a folder of any name, although Orbax takes a name such as "[x]" for a glob pattern."""
    (tmp_path / "axb!").mkdir()
    config = dataclasses.replace(CONFIG, epochs=1)
    first = train(config, checkpoints=tmp_path / name)
    again = train(config, checkpoints=tmp_path / name, resume=True)
    assert_bits(again.params, first.params)
    assert again.rows == first.rows
    assert [path.name for path in (tmp_path / name / "latest").iterdir() if path.is_dir()] == ["6"]


def test_all_damaged_is_an_error(tmp_path):
    train(dataclasses.replace(CONFIG, epochs=1), checkpoints=tmp_path)
    (tmp_path / "latest" / "6.manifest.json").write_text("{}")
    with pytest.raises(InputError, match="all are damaged"):
        train(resume=True, checkpoints=tmp_path)


def test_the_seed_decides(uninterrupted):
    whole = timeless(uninterrupted[0].rows)
    other = timeless(train(dataclasses.replace(CONFIG, seed=1), evaluate=evaluate).rows)
    assert other != whole
    assert timeless(train(evaluate=evaluate).rows) == whole


def test_a_thread_trains_without_signals(uninterrupted):
    results = []
    thread = threading.Thread(target=lambda: results.append(train(evaluate=evaluate)))
    thread.start()
    thread.join()
    assert timeless(results[0].rows) == timeless(uninterrupted[0].rows)


def test_input_errors():
    with pytest.raises(InputError, match="batch_size: 5; give a multiple of the mesh's 2 devices, or set --devices 1"):
        train(dataclasses.replace(CONFIG, batch_size=5))
    with pytest.raises(InputError, match=r"monitor: held_loss; the metrics are .*test_loss"):
        train(evaluate=evaluate, monitor="held_loss")


@pytest.mark.parametrize(("start", "stop", "every"), [(0, 100, 0), (3, 100, 7), (0, 5, 5), (99, 100, 10), (5, 5, 0)])
def test_chunks_cover_every_step_once_and_end_at_checkpoints(start, stop, every):
    parts = list(loop._chunks(start, stop, every, lambda step: stop))
    assert [step for first, last in parts for step in range(first, last)] == list(range(start, stop))
    ends = {last for _, last in parts}
    assert not every or all(step in ends for step in range(start + 1, stop) if step % every == 0)


def test_chunks_end_where_the_examples_do():
    """`_chunks` divides the steps of an epoch into chunks, and ends each chunk at the latest where its argument `most` says.

    In this test, `most` returns the end of the group of 4 steps in which the chunk begins.
    """
    parts = list(loop._chunks(1, 10, 0, lambda step: (step // 4 + 1) * 4))
    assert parts == [(1, 4), (4, 8), (8, 10)]
