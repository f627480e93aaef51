"""Tests of runs that are run together under `jax.vmap`: their rows, their results next
to those of runs alone, and what is refused.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from made_sweep import ENVIRONMENT, Config, Draws, draw

import lstm_jax
from lstm_jax.base.errors import InputError
from lstm_jax.lab import sweep
from lstm_jax.lab.optimizers import keras_rmsprop
from lstm_jax.lab.sweep.rows import read_rows


def lasting(rows):
    """Return rows without their results, times and surroundings, and without the number
    of runs in their groups.
    """
    return [
        {
            name: value
            for name, value in row.items()
            if name not in ("result", "seconds", "about", "together")
        }
        for row in rows
    ]


@pytest.mark.parametrize(
    "where", ["here", "processes", pytest.param("slurm", marks=pytest.mark.slow)]
)
def test_rows_of_groups(where, tmp_path, monkeypatch):
    """Runs of a group have the rows that they have alone. Only the missing configs are
    run, and a group of one as ever.
    """
    if where == "slurm":
        pytest.importorskip("submitit")
        monkeypatch.setenv("PYTHONPATH", ENVIRONMENT["PYTHONPATH"])
    path = tmp_path / "rows.jsonl"
    wanted = [
        *sweep.grid(Draws(), seed=[0, 2**32 - 1, -7], **{"inner.scale": [1.0, 0.1]}),
        Draws(size=3),
    ]
    alone = sweep.run(draw, wanted, tmp_path / "alone.jsonl")
    first = sweep.run(draw, wanted[:1], path)
    rows = sweep.run(
        draw,
        wanted,
        path,
        where,
        options={"cluster": "local"},
        together=["seed", "inner.scale"],
    )
    for row, one in zip(rows, alone, strict=True):
        assert list(row["result"]) == list(one["result"])
        for name, result in row["result"].items():
            np.testing.assert_allclose(
                result, one["result"][name], rtol=3e-7
            )  # one program rounds otherwise than one operation after another
    assert lasting(rows) == lasting(alone)
    assert rows[:1] == first
    assert [row.get("together") for row in rows] == [None, 5, 5, 5, 5, 5, None]
    assert len(list(read_rows(path))) == len(wanted)


@dataclass(frozen=True)
class Training:
    seed: int = 0
    rate: float = 1e-2
    cell: str = "lstm"
    dropout: float = 0.0
    words: int = 0

    def __post_init__(self):
        assert self.rate > 0  # a traced rate would fail here


def train(config):
    """Train a small model, of ids of words if `config.words` is above 0."""
    rngs, dtype = nnx.Rngs(config.seed), jnp.zeros(()).dtype
    options = {
        "dropout": config.dropout,
        "recurrent_dropout": config.dropout,
        "param_dtype": dtype,
    }
    layer = lstm_jax.Recurrent(8, 6, cell=config.cell, **options, rngs=rngs)
    embedding = (
        lstm_jax.Embedding(config.words, 8, rngs=rngs) if config.words else lambda x: x
    )
    ids = jax.random.randint(rngs(), (3, 2, 5), 0, config.words or 9)
    x = ids if config.words else jax.random.normal(rngs(), (*ids.shape, 8), dtype)
    optimizer = (
        keras_rmsprop(config.rate)
        if config.cell == "gru"
        else lstm_jax.adam(config.rate)
    )
    step = lstm_jax.make_train_step(
        nnx.Sequential(embedding, layer),
        lambda model, x: jnp.square(model(x) - 1).mean(),
        optimizer,
    )
    state, losses = step.many(step.init(), x)
    return {"losses": losses, "after": step.model(state).layers[1].kernel[...]}


@pytest.mark.parametrize(
    ("dtype", "config"),
    [
        ("float64", Training(cell="min_gru")),
        *(
            pytest.param(dtype, config, marks=pytest.mark.slow)
            for dtype, config in (
                ("float64", Training()),
                ("float32", Training(dropout=0.3)),
                ("float32", Training(words=4000)),
                ("float64", Training(cell="gru")),
                ("float64", Training(cell="lstm_layernorm")),
            )
        ),
    ],
)
def test_members_train_as_alone(dtype, config, tmp_path):
    with jax.enable_x64(dtype == "float64"):
        wanted = sweep.variants(config, [{"seed": 1}, {"seed": 2, "rate": 0.1}])
        alone = sweep.run(train, wanted, tmp_path / "alone.jsonl")
        rows = sweep.run(
            train, wanted, tmp_path / "rows.jsonl", together=["seed", "rate"]
        )
    for name in alone[0]["result"]:
        found, expected = (
            np.array([row["result"][name] for row in every]) for every in (rows, alone)
        )
        tolerance = 1e-12 if dtype == "float64" else 1e-5
        np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


USES = {
    "float": float,
    "int": int,
    "array": np.asarray,
    "if": lambda number: number if number > 0 else -number,
    "range": lambda number: len(range(number)),
    "numpy": lambda number: np.random.default_rng(number).random(),
    "key": lambda number: {number: 1}[number],
    "text": str,
}


def use(config):
    """Use the number of the config in one of the ways of `USES`, or raise an error."""
    if config.wrong not in USES:
        raise ValueError(config.wrong)
    return {"found": USES[config.wrong](config.number)}


@pytest.mark.parametrize("name", USES)
def test_a_function_that_needs_values(name, tmp_path):
    """It runs alone, and is refused together, without a row."""
    wanted, path = [Config(1, name), Config(2, name)], tmp_path / "rows.jsonl"
    with pytest.raises(
        InputError, match=r"^function test_together:use: needs the value of number; "
    ):
        sweep.run(use, wanted, path, together="number")
    assert not list(read_rows(path))
    assert [row["status"] for row in sweep.run(use, wanted, path)] == ["done", "done"]


def test_a_group_that_raises_an_error(tmp_path):
    rows = sweep.run(
        use,
        [Config(1, "other"), Config(2, "other"), Config(3, "more")],
        tmp_path / "rows.jsonl",
        together="number",
    )
    assert [(row["config"]["number"], row["error"]) for row in rows] == [
        (1, "ValueError: other"),
        (2, "ValueError: other"),
        (3, "ValueError: more"),
    ]


@pytest.mark.parametrize(
    ("together", "subject"),
    [
        ("colour", "together colour"),
        ("inner.width", "together inner.width"),
        ("wrong", "together wrong"),
        (["number", "inner"], "together inner"),
    ],
)
def test_fields_that_are_refused(together, subject, tmp_path):
    with pytest.raises(InputError, match=f"^{subject}"):
        sweep.run(use, [Config(1)], tmp_path / "rows.jsonl", together=together)
    assert not (tmp_path / "rows.jsonl").exists()
