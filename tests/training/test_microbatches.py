"""Gradient accumulation: training with microbatches gives the results of training with
whole batches, and needs less memory.
"""

import dataclasses
from functools import partial

import jax
import numpy as np
import pytest
from tables import BACKENDS
from test_export import sentiment_program
from test_feeding import assert_close
from test_loop import CARRY, CONFIG, objective
from test_loop import train as train_with
from test_step import TABLE, tall, tiny

from lstm_jax.base import sharding
from lstm_jax.training.step import _divided

BATCH = 12


def train(
    microbatches: int, made, devices: int, optimizer: str = "adam", table: str = ""
):
    config = dataclasses.replace(
        CONFIG,
        batch_size=BATCH,
        devices=devices,
        microbatches=microbatches,
        optimizer=optimizer,
        clip_norm=0.5,
    )
    carry = {name: np.resize(array, BATCH) for name, array in CARRY.items()}
    return train_with(config, made, partial(objective, noise=0.0), carry, table=table)


@pytest.mark.slow(keep=2)
@pytest.mark.parametrize(("microbatches", "devices"), [(3, 1), (12, 1), (3, 2)])
@pytest.mark.parametrize("kind", ["dense", "row-sparse"])
def test_parts_train_as_the_whole(kind, microbatches, devices):
    """Training with microbatches gives the metrics and parameters of training with
    whole batches, up to rounding.

    Gradients are clipped, and each row of a batch keeps its carry. The last batch of an
    epoch is not full, so that of twelve microbatches some have no example.
    """
    if kind == "row-sparse" and "compiled" not in BACKENDS:
        pytest.skip("the row-sparse update needs the compiled code")
    made, *options = (
        (tall(), devices, "adam", TABLE)
        if kind == "row-sparse"
        else (tiny(), devices, "sgd")
    )
    whole = train(1, made, *options)
    assert_close(train(microbatches, made, *options), whole)
    assert any(
        np.abs(whole.params[name] - param).max() > 0.01
        for name, param in made.params.items()
    )


def test_each_device_keeps_its_rows():
    mesh = sharding.make_mesh(2)
    with sharding.on(mesh):
        rows = jax.device_put(np.arange(12.0), sharding.rows(mesh))
        divide = jax.jit(lambda x: _divided(3, x, (), jax.random.key(0), ())[0])
        text, parts = divide.lower(rows).compile().as_text(), divide(rows)
    assert parts.sharding.spec[1] == "data"
    np.testing.assert_array_equal(parts, np.arange(12.0).reshape(4, 3).T)
    assert not any(
        word in text
        for word in ("all-gather", "all-to-all", "collective-permute", "all-reduce")
    )


def test_parts_need_less_memory():
    needed = []
    for microbatches in (8, 1):
        program, arguments = sentiment_program(0.0, 64, 100, microbatches)
        needed.append(
            program.lower(*arguments).compile().memory_analysis().temp_size_in_bytes
        )
    assert needed[0] < needed[1] / 3
