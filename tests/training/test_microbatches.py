"""Gradient accumulation: training with microbatches gives the results of training with whole batches, and needs less memory."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tables import BACKENDS
from test_feeding import assert_close
from test_loop import CONFIG
from test_step import TABLE, quiet_objective, tall, tiny

import lstm_jax
from lstm_jax.config import SentimentConfig, SentimentModelConfig, TrainConfig
from lstm_jax.errors import InputError
from lstm_jax.models import EMBEDDING, functional
from lstm_jax.runtime import sharding
from lstm_jax.tasks import sentiment
from lstm_jax.training.examples import Examples, epoch_order
from lstm_jax.training.lookups import LEAST
from lstm_jax.training.loop import fit
from lstm_jax.training.optimizers import make_optimizer
from lstm_jax.training.state import create_state
from lstm_jax.training.step import _divided, make_run_steps, no_rows_behind, steps_program

pytestmark = pytest.mark.usefixtures("quick_compiles")
BATCH = 12


def train(microbatches: int, made, devices: int, optimizer: str = "adam", table: str = ""):
    config = dataclasses.replace(CONFIG, batch_size=BATCH, microbatches=microbatches, optimizer=optimizer, clip_norm=0.5)
    examples = Examples.of_rows(made.data)
    return fit(made.params, quiet_objective, make_optimizer(config, 100), examples, config, sharding.make_mesh(devices), table=table)


@pytest.mark.slow(keep=2)
@pytest.mark.parametrize(("microbatches", "devices"), [(3, 1), (12, 1), (3, 2)])
@pytest.mark.parametrize("kind", ["dense", "row-sparse"])
def test_parts_train_as_the_whole(kind: str, microbatches: int, devices: int) -> None:
    """Training with microbatches gives the metrics and parameters of training with whole batches, up to rounding.

    Gradients are clipped. The last batch of an epoch is not full, so that of twelve microbatches some have no example.
    """
    if kind == "row-sparse" and "compiled" not in BACKENDS:
        pytest.skip("the row-sparse update needs the compiled code")
    made, *options = (tall(), devices, "adam", TABLE) if kind == "row-sparse" else (tiny(), devices, "sgd")
    whole = train(1, made, *options)
    assert_close(train(microbatches, made, *options), whole)
    assert any(np.abs(whole.params[name] - param).max() > 0.01 for name, param in made.params.items())


def halved(params, batch, weight, key, carry):
    """Return the loss, the metrics and the new carry, which is half of the old carry of each row plus the row's value.

    The loss is w times the mean of the new carry. This mean is therefore the gradient with respect to w.
    """
    del key
    carry = carry / 2 + batch
    mean = (carry * weight).sum()
    return params["w"] * mean, ({"loss": mean}, carry)


@pytest.mark.parametrize("devices", [1, 2])
def test_each_row_keeps_its_carry(devices: int) -> None:
    mesh, steps, size = sharding.make_mesh(devices), 3, 8
    carry, values = np.arange(size, dtype=np.float32) ** 2, np.arange(steps * size, dtype=np.float32)
    order = epoch_order(jax.random.key(3), steps * size, size)
    states = []
    for microbatches in (1, 4):
        state, places = create_state({"w": jnp.zeros(())}, lstm_jax.adam(0.1), ("loss", "examples"), mesh, carry)
        run = make_run_steps(halved, lstm_jax.adam(0.1), places, mesh, microbatches=microbatches)
        everywhere = sharding.replicated(mesh)
        rows, key = jax.device_put((values, order), everywhere), jax.device_put(jax.random.key(0), everywhere)
        for start, stop in ((0, 1), (1, steps), (steps, steps)):  # the carry outlives a chunk of steps
            state = run(state, *rows, start, stop, key)
        states.append(state)
    expected = carry
    for rows in np.asarray(order.rows):
        expected = expected / 2 + values[rows]
    for state in states:
        assert state.carry.tolist() == expected.tolist()
    assert float(states[1].totals["loss"]) == pytest.approx(float(states[0].totals["loss"]), rel=1e-6)
    assert float(states[1].params["w"]) == pytest.approx(float(states[0].params["w"]), rel=1e-6)


@pytest.mark.slow
def test_a_module_and_its_random_streams() -> None:
    """`lstm_jax.fit` gives the same losses with and without microbatches, up to rounding, for a module with an embedding table.

    With dropout, microbatches change the losses, because each microbatch draws its own masks. A second run gives the same losses.
    """

    class Tagger(nnx.Module):
        def __init__(self, rate: float):
            rngs = nnx.Rngs(0, dropout=1)
            self.embed, self.lstm = nnx.Embed(LEAST // 6 + 1, 6, rngs=rngs), lstm_jax.LSTM(6, 5, dropout=rate, rngs=rngs)
            self.head = nnx.Linear(5, 1, rngs=rngs)

        def __call__(self, ids):
            return self.head(self.lstm(self.embed(ids), return_sequences=False))[:, 0]

    rng = np.random.default_rng(0)
    ids, target = rng.integers(0, 50, (20, 4)).astype(np.int32), rng.standard_normal(20).astype(np.float32)

    def losses(microbatches: int, rate: float = 0.0) -> list[float]:
        found = lstm_jax.fit(
            Tagger(rate),
            lambda model, ids, target: (model(ids) - target) ** 2,
            lstm_jax.adam(0.01),
            (ids, target),
            epochs=3,
            batch_size=8,
            microbatches=microbatches,
        )
        return [row["train_loss"] for row in found.rows]

    assert losses(4) == pytest.approx(losses(1), rel=1e-5)
    dropped = losses(4, 0.5)
    assert dropped == losses(4, 0.5)
    assert max(abs(a - b) for a, b in zip(dropped, losses(1, 0.5), strict=True)) > 1e-4


def test_each_device_keeps_its_rows() -> None:
    mesh = sharding.make_mesh(2)
    with sharding.on(mesh):
        rows = jax.device_put(np.arange(12.0), sharding.rows(mesh))
        divide = jax.jit(lambda x: _divided(3, x, (), jax.random.key(0), ())[0])
        text, parts = divide.lower(rows).compile().as_text(), divide(rows)
    assert parts.sharding.spec[1] == "data"
    np.testing.assert_array_equal(parts, np.arange(12.0).reshape(4, 3).T)
    assert not any(word in text for word in ("all-gather", "all-to-all", "collective-permute", "all-reduce"))


def needed_memory(microbatches: int) -> int:
    """Return the temporary memory, in bytes, of a compiled training step of the sentiment model."""
    config = SentimentConfig(model=SentimentModelConfig(embed=8, units=16))
    params, rebuild = functional(sentiment.make_model(config, 100))
    objective, optimizer, mesh = sentiment.objective(rebuild), make_optimizer(TrainConfig(), 1), sharding.make_mesh(1)
    behind = no_rows_behind(EMBEDDING, optimizer, params)
    state, _ = create_state(params, optimizer, ("loss", "accuracy", "examples"), mesh, behind=behind)
    arguments: Any = (np.zeros((64, 100), np.int32), np.zeros(64, np.int32)), epoch_order(jax.random.key(0), 64, 64), 0, 1
    program = jax.jit(steps_program(objective, optimizer, steps=1, microbatches=microbatches, table=EMBEDDING))
    return program.lower(state, *arguments, jax.random.key(0)).compile().memory_analysis().temp_size_in_bytes


def test_parts_need_less_memory() -> None:
    assert needed_memory(8) < needed_memory(1) / 3


def test_a_batch_that_cannot_be_divided() -> None:
    with pytest.raises(InputError, match=r"^microbatches: 12 rows on 2 devices in 4 parts; give a number that divides them"):
        train(4, tiny(), 2)
    with pytest.raises(InputError, match=r"^microbatches: 0; "):
        TrainConfig(microbatches=0)
