"""Tests of the studies: every toy preset runs, draws a figure and gives a verdict; the
data and metrics of single studies are right.
"""

import importlib
from contextlib import nullcontext
from dataclasses import replace
from itertools import permutations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments import claims, equal, memory, study, successors
from experiments.claim_list import CLAIMS
from lstm_jax.cells import CELLS
from lstm_jax.lab import sweep
from lstm_jax.lab.sweep.rows import read_rows

RESULTS = sorted(study.RESULTS.iterdir())
STUDIES = sorted(
    path.stem for path in study.HERE.glob("*.py") if "\nSTUDY = " in path.read_text()
)


@pytest.mark.slow(keep=["targets"])
@pytest.mark.parametrize("name", STUDIES)
def test_toy(name, tmp_path, capsys, peer_rules):
    module = importlib.import_module(f"experiments.{name}")
    if module.STUDY.needs:
        pytest.importorskip(module.STUDY.needs)
    # it runs Flax' cells and optax' Adam
    with peer_rules() if name == "policies" else nullcontext():
        assert (
            study.main(
                module.STUDY,
                ["--preset", "toy", "--where", "here", "--out", str(tmp_path)],
            )
            == 0
        )
    said = capsys.readouterr().out
    assert "failed" not in said
    rows = list(read_rows(module.STUDY.rows_path(tmp_path)))
    assert len(rows) == len(module.STUDY.presets["toy"])
    assert {
        (tmp_path / f"{name}.{ending}").stat().st_size > 5000
        for ending in ("png", "svg")
    } == {True}
    assert (
        study.main(
            module.STUDY, ["--preset", "toy", "--report", "--out", str(tmp_path)]
        )
        == 0
    )
    assert (
        capsys.readouterr().out
        == said[said.index(next(iter(module.STUDY.verdict(study.finished(rows))))) :]
    )


OLD_RECIPE = {"1ff9f7c355775b73", "56eb5b40bf0cac15"}
"""Ids of two rows of the study `best` whose recipe is no longer in the code."""


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.name)
def test_the_rows_are_those_of_the_configs(path):
    """Each committed row has the id of a config of its study.

    If a field without the metadata `ADDED` were added to a config, the ids would
    change, and hours of runs would have to be repeated.
    """
    own = importlib.import_module(f"experiments.{path.name.split('.')[0]}").STUDY
    configs = [
        *own.presets["full"],
        *(
            c
            for claim in CLAIMS
            if claim.study == own.name
            for c in claims.configs(claim, new=True)
        ),
    ]
    assert {row["id"] for row in read_rows(path)} - OLD_RECIPE <= {
        sweep.run_id(own.run, config) for config in configs
    }


def test_exit_code_after_failed_runs(tmp_path):
    def run(config: memory.Config) -> dict[str, float]:
        if config.seed:
            raise ValueError(f"seed {config.seed}")
        return {"loss": 1.0}

    configs = [replace(memory.STUDY.presets["toy"][0], seed=seed) for seed in (0, 1)]
    broken = study.Study(
        "broken",
        run,
        {"toy": configs, "full": []},
        lambda rows, figure: None,
        (2.0, 2.0),
        lambda rows: [f"{len(rows)} rows"],
        data=False,
    )
    assert study.main(broken, ["--preset", "toy", "--out", str(tmp_path)]) == 1


def test_data_that_are_not_given(tmp_path, monkeypatch, capsys):
    """Without a folder of data, a study runs nothing and writes no row."""
    monkeypatch.delenv("LSTM_JAX_DATA", raising=False)
    assert study.main(memory.STUDY, ["--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err == (
        "memory: LSTM_JAX_DATA: not set; name the folder that holds imdb/, "
        "articles/ and charlm/\n"
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("cell", CELLS)
def test_equal_units(cell):
    units = equal.equal_units(cell, 7, 20)
    assert (
        equal.cell_parameters(cell, 7, units)
        <= equal.cell_parameters("lstm", 7, 20)
        < equal.cell_parameters(cell, 7, units + 1)
    )


def test_adding_and_order():
    x, target = memory.adding(jax.random.key(0), 50, 30)
    np.testing.assert_array_equal(x[..., 1].sum(1), 2)
    np.testing.assert_array_equal(x[:, :15, 1].sum(1), 1)
    np.testing.assert_allclose(target, (x[..., 0] * x[..., 1]).sum(1), rtol=1e-6)
    x, target = memory.order(jax.random.key(0), 50, 30)
    ids = np.asarray(x.argmax(-1))
    found = [[symbol - 4 for symbol in row if symbol >= 4] for row in ids]
    np.testing.assert_array_equal([2 * a + b for a, b in found], target)
    assert {int(np.flatnonzero(row >= 4)[0]) for row in ids} <= {0, 1, 2}
    assert set(np.asarray(target).tolist()) == {0, 1, 2, 3}


def test_copy():
    x, target = memory.copy(jax.random.key(0), 5, 7)
    ids = np.asarray(x.argmax(-1))
    assert ids.shape == (5, 10 + 7 + 10)
    np.testing.assert_array_equal(ids[:, :10], target)
    np.testing.assert_array_equal(ids[:, 10:], [[8] * 6 + [9] + [8] * 10] * 5)


def test_gradient_sizes_by_hand():
    """The gradient of a minimal GRU whose update gate u is 1/2 shrinks by the factor 1
    - u in each step.
    """
    config = memory.Config("adding", "min_gru", lag=6, units=2, batch=3)
    params = memory.untrained_params(config)
    # u is 1/2
    still = params.cell._replace(
        kernel=jnp.zeros_like(params.cell.kernel), bias=jnp.zeros_like(params.cell.bias)
    )
    sizes = dict(
        memory.gradient_sizes(config, params._replace(cell=still), jax.random.key(1))
    )
    assert sizes[2] / sizes[1] == pytest.approx(0.5, rel=1e-5)
    assert sizes[5] / sizes[1] == pytest.approx(0.5**4, rel=1e-5)


def test_group_words():
    x, target = successors.task_of(successors.Config("s5")).draw(
        jax.random.key(0), 3, 30, ()
    )
    elements, moves = [*permutations(range(5))], ((1, 0, 2, 3, 4), (1, 2, 3, 4, 0))
    for inputs, states in zip(np.asarray(x), np.asarray(target), strict=True):
        product = np.arange(5)
        for now, state in zip(inputs, states, strict=True):
            product = product[list(moves[now])]
            assert elements[state] == tuple(product)
    for name, order in (("parity", 2), ("cycle", 5)):
        x, target = successors.task_of(successors.Config(name)).draw(
            jax.random.key(0), 3, 30, ()
        )
        np.testing.assert_array_equal(target, np.cumsum(x, 1) % order)


@pytest.mark.slow(keep=2)
@pytest.mark.parametrize("cell", successors.COMPARED)
def test_equal_parameters_of_successors(cell):
    config = successors.Config("cycle", cell)
    found = successors.parameters(cell, successors.units_of(cell, config.units))
    assert found == pytest.approx(successors.parameters("lstm", config.units), rel=0.05)
    arrays = nnx.state(
        successors.make_model(config, successors.task_of(config)), nnx.Param
    )
    # embedding, bias, last layer
    others = 5 * successors.EMBED + successors.READOUT + 5 * (successors.READOUT + 1)
    assert sum(leaf.size for leaf in jax.tree.leaves(arrays)) == found + others


def test_equal_time():
    """At equal time a cell of twice the time has made half of its updates."""
    curve = [0.1 * part for part in range(1, successors.PARTS + 1)]
    rows = [
        study.flat(
            {"task": "imdb", "cell": cell, "seed": 0, "updates": 100},
            {"score": 0.8, "seconds": seconds, "curve": curve},
        )
        for cell, seconds in (("lstm", 0.02), ("lru", 0.01))
    ]
    slow, fast = successors.timed(rows)
    assert (slow["timely"], fast["timely"]) == pytest.approx((0.4, 0.8))
    assert (fast["gain"], fast["timely_gain"]) == pytest.approx((0, 0.4))
