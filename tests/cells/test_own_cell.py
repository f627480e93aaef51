"""Tests of cells that users define, as docs/contributing/own_cell.md describes.

The cells work in layers, models, the command line and bench. A cell that breaks the
contract of the class `Cell` is refused.
"""

import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from made_layers import B, E, H, T, X, made, normal
from made_weights import assert_subject
from tables import assert_close

from bench.peers.ours import write_reference
from bench.workloads import make_arrays, workload
from lstm_jax import (
    CELLS,
    Bidirectional,
    Cell,
    HiddenState,
    InputError,
    Recurrent,
    register_cell,
    unroll,
)
from lstm_jax.cells import BUILT_IN, lstm, projected_lstm
from lstm_jax.cells.own import _import, import_cells
from lstm_jax.lab.forecast.config import ForecastModelConfig
from lstm_jax.lab.forecast.model import Forecaster
from lstm_jax.lab.generation import task as generation
from lstm_jax.lab.generation.config import GenerationModelConfig
from lstm_jax.lab.generation.model import CharGenerator
from lstm_jax.lab.inspection.trace import trace
from lstm_jax.lab.sentiment.config import SentimentModelConfig
from lstm_jax.lab.sentiment.model import SentimentClassifier

PAGE = (Path(__file__).parents[2] / "docs" / "contributing" / "own_cell.md").read_text()
BLOCKS = re.findall(r"^```\{code-cell\}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


@pytest.fixture(autouse=True)
def only_ours() -> Iterator[None]:
    """After each test, remove from `CELLS` the cells that the test has registered."""
    yield
    for name in set(CELLS) - {cell.name for cell in BUILT_IN}:
        del CELLS[name]
    _import.cache_clear()


@pytest.fixture(scope="module")
def diagonal() -> Cell:
    """Return the cell `diagonal` that the first code block of
    docs/contributing/own_cell.md defines.
    """
    found: dict[str, Any] = {}
    exec(BLOCKS[0], found)
    return found["diagonal"]


def by_hand(params, x: jax.Array, mask: np.ndarray | None = None) -> jax.Array:
    """Return the outputs (B, T, H) of the cell `diagonal`, computed from its equation
    in a Python loop over the steps.
    """
    h, outputs = jnp.zeros((x.shape[0], H), x.dtype), []
    for t in range(x.shape[1]):
        f, n = jnp.split(x[:, t] @ params.kernel + params.bias[None], 2, axis=-1)
        f = jax.nn.sigmoid(f)
        new = f * params.decay[None] * h + (1 - f) * jnp.tanh(n)
        h = new if mask is None else jnp.where(mask[:, t, None], new, h)
        outputs.append(h)
    return jnp.stack(outputs, 1)


def test_a_diagonal_cell_is_its_equation(diagonal: Cell) -> None:
    layer = made(
        Recurrent, cell=diagonal, return_sequences=True, bias_initializer="ones"
    )
    params = layer.cell_params()
    np.testing.assert_array_equal(params.bias, np.ones(2 * H))
    assert layer.count_params() == 2 * H * (E + 1) + H
    mask = np.arange(T)[None] < np.array([6, 3, 0])[:, None]
    assert_close(layer(X, mask=jnp.asarray(mask)), by_hand(params, X, mask), "float32")

    def total(run):
        return lambda params, x: (run(params, x) ** 2).sum()

    ours = jax.grad(total(lambda params, x: unroll(diagonal, params, x)[0]), (0, 1))(
        params, X
    )
    assert_close(ours, jax.grad(total(by_hand), (0, 1))(params, X), "float32")


def test_a_cell_named_lstm_is_not_run_as_ours() -> None:
    """A user's cell that is named lstm, but whose step adds 1 to h, runs with its own
    step, and backends for our LSTM refuse it.
    """

    def step(params, state, z, mask=None, compute_dtype=None):
        new = lstm.step(params, state, z, mask, compute_dtype)
        return new._replace(h=new.h + 1)

    mine = dataclasses.replace(CELLS["lstm"], step=step)
    assert mine.name == "lstm"
    params = mine.init(jax.random.key(1), E, H)
    state = mine.initial_state(B, H)
    for t in range(T):
        state = step(params, state, X[:, t] @ params.kernel + params.bias[None])
    outputs, final = unroll(mine, params, X)
    assert_close(outputs[:, -1], state.h, "float32")
    assert_close(final, state, "float32")
    layer = made()
    own = made(Recurrent, cell=mine, kernel_initializer=lambda *_: layer.kernel[...])
    assert not np.allclose(layer(X), own(X))
    for backend in ("hoisted", "compiled"):
        with pytest.raises(
            InputError, match=rf"^backend {backend}: no cell lstm of one's own"
        ):
            unroll(mine, params, X, backend=backend)
    with pytest.raises(
        InputError, match=r"^cell: lstm; another cell has this name: give a new one$"
    ):
        register_cell(mine)


class Summed(NamedTuple):
    h: jax.Array
    total: jax.Array


def test_a_linear_cell_with_a_second_field() -> None:
    """A cell whose function `linear` does not compute its whole state is run by its
    function `step`.

    The state of this cell has two fields: h, which `linear` computes, and the sum of
    all h so far. The backends "associative" and "compiled", which would use `linear`,
    refuse the cell.
    """
    base = CELLS["min_gru"]

    def step(params, state, z, mask=None, compute_dtype=None):
        h = base.step(params, HiddenState(state.h), z, mask, compute_dtype).h
        return Summed(h, state.total + h)

    def start(batch, units, dtype=jnp.float32):
        return Summed(
            jnp.zeros((batch, units), dtype), jnp.zeros((batch, units), dtype)
        )

    summing = dataclasses.replace(base, name="summing", step=step, initial_state=start)
    params, lengths = base.init(jax.random.key(1), E, H), jnp.asarray([6, 0, 3])
    first = Summed(*normal(2, B, H))
    outputs, final = unroll(summing, params, X, first, lengths=lengths)
    wanted, state = unroll(base, params, X, HiddenState(first.h), lengths=lengths)
    assert_close((outputs, final.h), (wanted, state.h), "float32")
    valid = np.arange(T)[None, :, None] < np.asarray(lengths)[:, None, None]
    assert_close(
        final.total, first.total + jnp.where(valid, wanted, 0).sum(1), "float32"
    )
    for backend in ("associative", "compiled"):
        with pytest.raises(
            InputError,
            match=rf"^backend {backend}: no cell summing of one's own; leave the "
            r"backend out",
        ):
            unroll(summing, params, X, backend=backend)


@pytest.mark.parametrize("linear", [False, True])
def test_a_cell_whose_dtypes_have_no_defaults(linear: bool) -> None:
    """A cell whose functions `init` and `initial_state` have no default for `dtype`
    works in `Recurrent` and in `Bidirectional`.
    """
    base = CELLS["min_gru"]
    own = dataclasses.replace(
        base,
        name="own",
        init=lambda key, features, units, dtype: base.init(key, features, units, dtype),
        initial_state=lambda batch, units, dtype: base.initial_state(
            batch, units, dtype
        ),
        linear=base.linear if linear else None,
    )
    assert not own.has_cell_state
    for options in ({}, {"zoneout": 0.1}, {"learned_state": True}, {"stateful": True}):
        layer = made(Recurrent, cell=own, **options)
        layer(X)
        assert layer(X).shape == layer.compute_output_shape(X.shape) == (B, H)
    both = made(Bidirectional, cell=own)
    assert both(X, initial_state=((jnp.ones((B, H)),),) * 2).shape == (B, 2 * H)


def test_ids_of_an_own_projection() -> None:
    """A user's own function `project` gets one-hot vectors in place of ids, unless the
    field `takes_ids` of the cell is true.
    """

    def project(params, x, mask=None, compute_dtype=None):
        del mask, compute_dtype
        return jnp.einsum("tbe,ez->tbz", x, params.kernel)

    own = dataclasses.replace(CELLS["simple_rnn"], name="own", project=project)
    params = own.init(jax.random.key(0), E, H)
    # as many rows as features
    ids = jnp.asarray([[0, 1, 2], [2, 1, 0], [1, 1, 1], [3, 0, 1]])
    vectors = jax.nn.one_hot(ids, E)
    assert_close(
        unroll(own, params, ids)[0], unroll(own, params, vectors)[0], "float32"
    )
    layer = made(Recurrent, cell=own, return_sequences=True)
    found, want = (trace(layer, x)[1][0].state["h"] for x in (ids, vectors))
    assert_close(found, want, "float32")
    seen = []

    def look(params, x, mask=None, compute_dtype=None):
        seen.append(x.shape)
        return CELLS["simple_rnn"].project(params, x, mask, compute_dtype)

    for takes_ids, shape in ((True, (3, E)), (None, (3, E, E))):
        unroll(dataclasses.replace(own, project=look, takes_ids=takes_ids), params, ids)
        assert seen.pop() == shape


@pytest.mark.parametrize("name", sorted(cell.name for cell in BUILT_IN))
def test_cells_of_the_library_take_ids(name: str) -> None:
    ids, cell = jnp.asarray([[0, 1, 2]]), CELLS[name]
    assert cell.projectable(cell.init(jax.random.key(0), E, H), ids) is ids


def test_models_of_a_cell_with_fewer_outputs_than_units() -> None:
    register_cell(dataclasses.replace(projected_lstm(2), name="narrow"))
    ids = jnp.ones((2, 6), jnp.int32)
    for layers in (1, 2):
        config = SentimentModelConfig(
            cell="narrow", recurrent_dropout=0.0, units=H, embed=E, layers=layers
        )
        assert SentimentClassifier(config, 7, rngs=nnx.Rngs(0))(ids).shape == (2,)
        config = GenerationModelConfig(cell="narrow", units=H, layers=layers)
        assert CharGenerator(config, 7, rngs=nnx.Rngs(0))(ids)[0].shape == (2, 6, 7)
        config = GenerationModelConfig(
            cell="narrow", units=H, layers=layers, embed=H, tied=True
        )
        assert_subject(
            lambda config=config: CharGenerator(config, 7, rngs=nnx.Rngs(0)), "tied"
        )
        config = ForecastModelConfig(cell="narrow", units=H, layers=layers)
        assert Forecaster(config, E, 2, rngs=nnx.Rngs(0))(
            X, jnp.ones((B, 2))
        ).shape == (B, 2, 2)


def test_registered_it_is_known_by_name(diagonal: Cell) -> None:
    with pytest.raises(InputError, match=r"^cell: diagonal; give one of lstm, gru"):
        SentimentModelConfig(cell="diagonal")
    assert register_cell(diagonal) is diagonal
    assert register_cell(diagonal) is CELLS["diagonal"]
    assert made(Recurrent, cell="diagonal").definition is diagonal
    with pytest.raises(
        InputError,
        match=r"^recurrent_dropout: 0.2; the cell diagonal multiplies no state by a "
        r"kernel: give 0$",
    ):
        SentimentModelConfig(cell="diagonal")
    config = SentimentModelConfig(
        cell="diagonal",
        recurrent_dropout=0.0,
        units=H,
        embed=E,
        bidirectional=True,
        layers=2,
    )
    model = SentimentClassifier(config, 9, rngs=nnx.Rngs(0, dropout=1))
    ids = jnp.arange(10).reshape(2, 5) % 9
    plain = model(ids, deterministic=True)
    assert plain.shape == (2,)
    assert_close(model.fold()(ids, deterministic=True), plain, "float32")


def test_in_the_bench(diagonal: Cell, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"give one of lstm, gru"):
        workload("recurrence:H=4,cell=diagonal")
    register_cell(diagonal)
    work = workload(f"recurrence:B=4,T={T},H={H},cell=diagonal")
    assert (work.gates, work.sees_state) == (2, False)
    arrays = make_arrays(work)
    assert sorted(arrays.cell()) == ["bias", "decay", "kernel"]
    write_reference(tmp_path / "reference.npz", work, arrays)
    with np.load(tmp_path / "reference.npz") as found:
        wanted = by_hand(
            diagonal.params(**{n: jnp.asarray(a) for n, a in arrays.cell().items()}),
            jnp.asarray(arrays.inputs),
        )
        assert_close(found["outputs"], wanted, "float32")


def test_the_command_line_imports_the_module(ask, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "my_own_cells.py").write_text(
        BLOCKS[0] + "\nfrom lstm_jax import register_cell\n\nregister_cell(diagonal)\n"
    )
    (tmp_path / "text.txt").write_text(
        "the quick brown fox jumps over the lazy dog. " * 20
    )
    monkeypatch.syspath_prepend(tmp_path)
    options = (
        f"--data {tmp_path / 'text.txt'} --cell diagonal --units 4 --length 4 "
        "--epochs 1 --sample-chars 0 --no-figures"
    )
    run = tmp_path / "run"
    code, _, err = ask("train", "generation", *options.split(), "--run", run)
    assert code == 2
    assert err.startswith("error: --cell: diagonal; give one of lstm, gru")
    monkeypatch.setenv("LSTM_JAX_CELLS", "my_own_cells")
    code, _, err = ask("train", "generation", *options.split(), "--run", run)
    assert (code, err) == (0, "")
    assert json.loads((run / "config.json").read_text())["model"]["cell"] == "diagonal"
    assert generation.load(run).config.model.cell == "diagonal"
    monkeypatch.delenv("LSTM_JAX_CELLS")
    del CELLS["diagonal"]
    with pytest.raises(
        InputError, match=r"config.json: cell: diagonal; give one of lstm, gru"
    ):
        generation.load(run)


def test_a_module_that_cannot_be_imported(monkeypatch) -> None:
    monkeypatch.setenv("LSTM_JAX_CELLS", "no_such_module")
    with pytest.raises(
        InputError,
        match=r"^\$LSTM_JAX_CELLS no_such_module: No module named .*; name modules "
        r"that call",
    ) as error:
        import_cells()
    assert error.value.remedy.endswith(
        " that Python can import (PYTHONPATH=. adds those of the current folder)"
    )


class Narrow(NamedTuple):
    bias: jax.Array


def plain(**changes: Any) -> Cell:
    return dataclasses.replace(CELLS["simple_rnn"], **({"name": "mine"} | changes))


def raises(*_: Any, **__: Any) -> None:
    raise RuntimeError


CHANGES: list[tuple[dict[str, Any], str]] = [
    ({"name": ""}, "cell name"),
    ({"name": "x y"}, "cell name"),
    ({"gates": 0}, "gates of cell mine"),
    ({"outputs": -1}, "outputs of cell mine"),
    ({"outputs": 2}, "init (recurrent_kernel) of cell mine"),
    ({"params": Narrow}, "params of cell mine"),
    ({"params": dict}, "params of cell mine"),
    ({"init": raises}, "init of cell mine"),
    ({"init": lambda *_: None}, "init of cell mine"),
    ({"gates": 2}, "init (kernel) of cell mine"),
    ({"bias": None}, "bias of cell mine"),
    ({"bias": lambda units, dtype: jnp.zeros(1)}, "bias of cell mine"),
    ({"initial_state": lambda *_: jnp.zeros(3)}, "initial_state of cell mine"),
    (
        {"initial_state": lambda *_: HiddenState(jnp.zeros((1, 4)))},
        "initial_state (h) of cell mine",
    ),
    ({"project": lambda params, x, mask, dtype: x}, "project of cell mine"),
    ({"step": lambda params, state, z, mask, dtype: z}, "step of cell mine"),
    ({"step": lambda params, state, z: state}, "step of cell mine"),
    (
        {"step": lambda p, s, z, m, d: HiddenState(z.astype(jnp.bfloat16))},
        "step (h) of cell mine",
    ),
    ({"linear": lambda z: z}, "linear of cell mine"),
]


@pytest.mark.parametrize(
    ("changes", "subject"),
    CHANGES,
    ids=[f"{n} {subject}" for n, (_, subject) in enumerate(CHANGES)],
)
def test_what_breaks_the_contract(
    changes: dict[str, Any], subject: str, unchecked: None
) -> None:
    assert_subject(lambda: register_cell(plain(**changes)), subject)


def test_arguments_that_an_own_cell_refuses(diagonal: Cell, unchecked: None) -> None:
    """The cell's function `init` gives the bias, so that `unit_forget_bias` would have
    no effect; and a step may ignore its mask.
    """
    wrong: Any = 3
    deaf = plain(
        step=lambda params, state, z, mask, dtype: HiddenState(
            z + state.h @ params.recurrent_kernel
        )
    )
    made(Recurrent, cell=deaf)
    made(Recurrent, cell=plain(), recurrent_dropout=0.5)
    assert_subject(lambda: register_cell(wrong), "cell")
    assert_subject(
        lambda: made(Recurrent, cell=diagonal, unit_forget_bias=False),
        "unit_forget_bias",
    )
    assert_subject(
        lambda: made(Recurrent, cell=deaf, recurrent_dropout=0.5), "recurrent_dropout"
    )


@pytest.mark.parametrize("name", ["step", "carried", "rngs", "initial_state"])
def test_parameters_with_names_of_the_layer_s_own(name: str) -> None:
    kind = NamedTuple("Kind", [("kernel", jax.Array), (name, jax.Array)])
    cell = plain(
        params=kind,
        init=lambda key, features, units, dtype=jnp.float32: kind(
            jnp.ones((features, units), dtype), jnp.ones(units, dtype)
        ),
        step=lambda params, state, z, mask, dtype: HiddenState(z),
        project=lambda params, x, mask, dtype: x @ params.kernel,
    )
    assert_subject(lambda: made(Recurrent, cell=cell), "params of cell mine")
