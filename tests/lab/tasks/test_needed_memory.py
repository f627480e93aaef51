"""Memory check of training runs: the needed sizes follow from array shapes, and a run
that does not fit is refused at once.
"""

import jax
import numpy as np
import pytest
from command_line import assert_error

from lstm_jax.base import machine, sharding
from lstm_jax.base.errors import InputError
from lstm_jax.lab import task as base
from lstm_jax.lab.forecast import task as forecast
from lstm_jax.lab.forecast.config import ForecastConfig, ForecastModelConfig
from lstm_jax.lab.machine import resources
from lstm_jax.training.config import TrainConfig
from lstm_jax.training.parts import functional


class Made(forecast.Forecasting):
    """Forecasting task with flags of one letter, whose training data have `rows` bytes."""

    flags = {"parameters": "P", "residuals": "R", "data": "D"}  # noqa: RUF012
    rows = 0

    def data_bytes(self):
        return self.rows


def needed(
    monkeypatch, units=8, batch=4, rows=0, free=1, microbatches=1, devices=1, **model
):
    """Return the message of the error that a forecast run raises if `free` bytes of
    memory are free.
    """
    config = ForecastConfig(
        model=ForecastModelConfig(units=units, **model),
        train=TrainConfig(batch_size=batch, microbatches=microbatches),
    )
    monkeypatch.setattr(resources, "free_memory", lambda: free)
    task = Made(config, None, sharding.make_mesh(devices))
    task.rows = rows
    with pytest.raises(InputError) as error:
        task.check_memory()
    return str(error.value)


def parts(told):
    """Return the parts of the needed memory that an error message lists, as a dict from
    name to number of bytes.
    """
    found = [
        part.rsplit(" ", 2)
        for part in told.split("free; ")[1].split(": lower")[0].split(", ")
    ]
    return {name: int(size) for name, size, _ in found}


def test_what_a_run_takes(monkeypatch):
    monkeypatch.setattr(base, "_shown", lambda count: f"{count} B")
    config = ForecastConfig(model=ForecastModelConfig(units=8))
    params, _ = functional(forecast.make_model(config))
    size = sum(array.nbytes for array in params.values())
    told = needed(monkeypatch, rows=10_000)
    assert (
        f"parameters {3 * size} B, moments of the optimiser {2 * size + 4} B, "
        "residuals of a batch "
    ) in told
    assert "training data 20000 B: lower " in told
    residuals = parts(told)["residuals of a batch"]
    # bytes of a float32 array (T, B, H) with T = 48, B = 4 and H = 8
    kept = 48 * 4 * 8 * 4
    assert 4 * kept < residuals < 20 * kept
    halved = needed(monkeypatch, remat="sqrt")
    assert parts(halved)["residuals of a batch"] < residuals / 2
    quarter = needed(monkeypatch, microbatches=4)
    assert parts(quarter)["residuals of a batch"] < residuals / 3
    total = sum(parts(told).values())
    assert told.startswith(f"memory: {total} B needed, 1 B free; ")


def test_devices_with_memory_of_their_own(monkeypatch):
    """The memory check counts the arrays of one GPU, or those of the host and all CPU
    devices together.

    One of two GPUs holds half of the residuals and one copy of the training data. Two
    CPU devices hold all residuals and a copy of the data each. The host holds a third
    copy.
    """
    monkeypatch.setattr(base, "_shown", lambda count: f"{count} B")
    shared = parts(needed(monkeypatch, rows=10_000, devices=2))
    assert shared["training data"] == 30_000
    monkeypatch.setattr(base, "_is_cpu", lambda mesh: False)
    monkeypatch.setattr(base, "_free", lambda mesh: 1)
    own = parts(needed(monkeypatch, rows=10_000, devices=2))
    assert own == shared | {
        "residuals of a batch": shared["residuals of a batch"] // 2,
        "training data": 10_000,
    }
    # they place a few batches at a time
    monkeypatch.setattr(base.processes, "several", lambda: True)
    assert parts(needed(monkeypatch, rows=10_000))["training data"] == 0
    monkeypatch.setattr(base, "_is_cpu", lambda mesh: True)
    assert parts(needed(monkeypatch, rows=10_000))["training data"] == 10_000


def test_a_table_is_divided_by_columns():
    params = {
        "embedding/embedding": jax.ShapeDtypeStruct((10, 6), np.float32),
        "head/kernel": jax.ShapeDtypeStruct((6, 2), np.float32),
    }
    assert base._bytes(params) == 240 + 48
    assert base._bytes(params, 3) == 80 + 48
    assert base._bytes(params, 4) == 240 + 48  # 6 columns cannot be divided among 4


def test_the_flags_of_the_largest_part(monkeypatch):
    assert needed(monkeypatch, units=100_000).endswith("lower P")
    assert needed(monkeypatch, batch=10**9).endswith("lower R")
    assert needed(monkeypatch, rows=10**12).endswith("lower D")
    with pytest.raises(pytest.fail.Exception):
        needed(monkeypatch, free=10**9)


def test_a_model_too_large_is_refused_at_once(ask, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("the cat sat on the mat. " * 40)
    answer = ask(
        "train",
        "generation",
        "--data",
        text,
        "--run",
        tmp_path / "run",
        "--units",
        100_000,
    )
    assert_error(
        answer,
        "memory: ",
        "parameters 447.10 GiB, moments of the optimiser 298.07 GiB, residuals",
        "lower --units",
    )
    assert not (tmp_path / "run").exists()


def test_free_memory_of_the_machine_and_of_groups(tmp_path):
    free = resources.free_memory()
    assert free is None or free > 2**20
    assert machine.total_memory() > 2**20
    own = tmp_path / "cgroup"
    own.write_text("5:cpu:/a\n4:memory:/one/two\n0::/slice/unit\n")
    groups = {
        "memory/one/two": ("limit_in_bytes", "usage_in_bytes", 1000, 400),
        "slice": ("max", "current", 700, 600),
    }
    for path, (limit, usage, most, used) in groups.items():
        folder = tmp_path / "fs" / path
        folder.mkdir(parents=True)
        (folder / f"memory.{limit}").write_text(f"{most}\n")
        (folder / f"memory.{usage}").write_text(f"{used}\n")
        (folder / "memory.stat").write_text("cache 5\ninactive_file 50\n")
    unit = tmp_path / "fs" / "slice" / "unit"
    unit.mkdir()
    (unit / "memory.max").write_text("max\n")
    assert machine.control_groups(tmp_path / "fs", own) == [(1000, 650), (700, 150)]
    assert machine.control_groups(tmp_path / "fs", tmp_path / "none") == []
