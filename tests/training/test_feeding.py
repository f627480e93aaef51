"""Training with batches fed from the host against training with examples on the
devices, and orders of examples that need little memory.
"""

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from test_loop import CONFIG, leaf_sums, stop_after, timeless
from test_step import TABLE, assert_bits, assert_reads_once, objective, tall, tiny

from lstm_jax.base import sharding
from lstm_jax.base.errors import Interrupted
from lstm_jax.lab.files import shuffled as orders
from lstm_jax.lab.generation import data
from lstm_jax.lab.generation.task import streams
from lstm_jax.lab.optimizers import make_optimizer
from lstm_jax.lab.runs.progress import progress
from lstm_jax.training import examples
from lstm_jax.training.examples import Examples, steps_per_epoch
from lstm_jax.training.fit import run_epochs


def train(stream: bool, made=None, loss=objective, config=CONFIG, **options: Any):
    made = made or tiny()
    rows = Examples(made.data, len(made.data[1]), stream=stream)
    with progress(Console(quiet=True)) as watch:
        return run_epochs(
            made.params,
            loss,
            make_optimizer(config, 100),
            rows,
            config,
            sharding.make_mesh(0),
            watch=watch,
            **options,
        )


def untimed(rows) -> list[dict]:
    return [
        {name: value for name, value in row.items() if name != "input_seconds"}
        for row in timeless(rows)
    ]


def assert_close(fed, resident):
    """Assert that the parameters and metrics of two results of `run_epochs` agree up to
    rounding.

    The last bits may differ, because XLA may sum a loss in another order in a program
    that gets its batches in another way.
    """
    for name, param in resident.params.items():
        np.testing.assert_allclose(fed.params[name], param, rtol=1e-5, atol=1e-6)
    for left, right in zip(untimed(fed.rows), untimed(resident.rows), strict=True):
        assert left == pytest.approx(right, rel=1e-6)


@pytest.mark.slow(keep=["tiny-4", "tall-4"])
@pytest.mark.parametrize(
    ("made", "steps"), [("tiny", 1), ("tiny", 4), ("tiny", 100), ("tall", 4)]
)
def test_fed_batches_train_as_resident_ones(made, steps, monkeypatch):
    """Training with batches fed from the host agrees with training on examples that are
    all on the devices, up to rounding.

    The 6 steps of an epoch are fed in groups of 1 step, in groups of 4 steps, the last
    of which is not full, and in a single group.
    """
    monkeypatch.setattr(examples, "FED_STEPS", steps)
    options = {"made": tall(), "table": TABLE} if made == "tall" else {}
    fed, resident = train(True, **options), train(False, **options)
    assert_close(fed, resident)
    assert all(row["input_seconds"] > 0 for row in fed.rows)
    assert not any("input_seconds" in row for row in resident.rows)


def test_a_run_with_fed_batches_resumes_within_a_group(tmp_path, monkeypatch):
    monkeypatch.setattr(examples, "FED_STEPS", 4)
    whole = train(True, checkpoints=tmp_path / "whole")
    config = dataclasses.replace(CONFIG, checkpoint_steps=3)
    with pytest.raises(Interrupted):
        train(
            True, config=config, checkpoints=tmp_path / "cut", callbacks=[stop_after(2)]
        )
    resumed = train(True, config=config, checkpoints=tmp_path / "cut", resume=True)
    assert_bits(resumed.params, whole.params)
    assert untimed(resumed.rows) == untimed(whole.rows)
    assert leaf_sums(tmp_path / "cut") == leaf_sums(tmp_path / "whole")


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 900), st.integers(1, 64), st.integers(0, 99))
def test_a_shuffled_order_reads_each_example_once(count, batch, seed):
    """A shuffled order reads each example once, and any part of it can be computed
    without the steps before it.

    The order shuffles blocks of consecutive examples, and permutes the examples of
    several shuffled blocks, called a window. In this test, a block has 8 examples and a
    window has 4 blocks. Most orders therefore have several blocks and windows, and end
    with incomplete ones.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(orders, "BLOCK", 8)
        patch.setattr(orders, "WINDOW", 4)
        key, steps = jax.random.key(seed), steps_per_epoch(count, batch)
        plan = orders.shuffled(key, count, batch)
        whole = plan(0, steps)
        assert_reads_once(whole, count, batch)
        middle = steps // 2
        # a plan can begin anywhere in the epoch
        again = orders.shuffled(key, count, batch)
        for parts in zip(again(middle, steps)[:3], whole[:3], strict=True):
            np.testing.assert_array_equal(parts[0], np.asarray(parts[1])[middle:])


def test_a_shuffled_order_mixes():
    """In a shuffled order, each batch has examples from all parts of the data, and two
    keys give different orders.
    """
    count, batch = 1_000_000, 256
    first, other = (
        np.asarray(orders.shuffled(jax.random.key(seed), count, batch)(0, 8).rows)
        for seed in (0, 1)
    )
    assert (first != other).mean() > 0.99
    for rows in first:
        share = np.histogram(rows, 4, (0, count))[0] / batch
        assert share.min() > 0.1


def test_streams_are_read_in_their_chunks():
    """`streams` reads the chunks in the order of `data.stream_chunks`, with all
    positions shifted by one random number of characters.
    """
    size, length, batch = 1000, 7, 4
    chunks = data.stream_chunks(size - length + 1, length, batch)
    shifts = set()
    for seed in range(8):
        plan = streams(jax.random.key(seed), chunks.size, batch, length=length)
        moved = plan(0, len(chunks)).rows - chunks * length
        shifts.add(int(moved[0, 0]))
        np.testing.assert_array_equal(moved, moved[0, 0])
        np.testing.assert_array_equal(
            plan(3, 5).rows, chunks[3:5] * length + moved[0, 0]
        )
    assert len(shifts) > 2
    assert shifts <= set(range(length))
