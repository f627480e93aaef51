"""ONNX Runtime computes the outputs of our layers and models from exported files. Each file is run with several shapes of its input."""

import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from made_weights import assert_subject, edited, random_lstm, random_model

from lstm_jax import Bidirectional, Recurrent, RecurrentStack, convert
from lstm_jax.config import GenerationModelConfig, SentimentModelConfig
from lstm_jax.convert.arrays import LAYOUTS
from lstm_jax.convert.onnx import OPSET, state_names
from lstm_jax.models import CharGenerator, SentimentClassifier, functional

onnx = pytest.importorskip("onnx", reason="ONNX is not installed: pip install '.[onnx]'")
runtime = pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed: pip install '.[onnx]'")
pytestmark = pytest.mark.usefixtures("quick_compiles")

E, UNITS, V = 5, 6, 11
SIZES = [(1, 1), (4, 7), (3, 2)]
"""Pairs of batch size and number of steps. Each file is run with all of them."""
CELLS = pytest.mark.parametrize("cell", [cell for cell, layout in LAYOUTS.items() if "ONNX" in layout.orders])
MERGES = ["concat", "sum", "ave", "mul"]


def session(model: Any) -> Any:
    onnx.checker.check_model(model, full_check=True)
    return runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def close(got, wanted) -> None:
    assert got.shape == wanted.shape
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, np.asarray(wanted), rtol=0, atol=1e-5)


def with_random_values(module: nnx.Module) -> tuple[Any, dict[str, np.ndarray]]:
    """Return a copy of a module with random parameters, and these parameters.

    All parameters are random, biases included, so that a test notices if two gates are exchanged.
    """
    rng, (params, rebuild) = np.random.default_rng(0), functional(module)
    values = {name: rng.normal(0, 0.7, array.shape).astype(np.float32) for name, array in sorted(params.items())}
    return rebuild({name: jnp.asarray(array) for name, array in values.items()}), values


# layers


def made_stack(cell: str, kinds: tuple[str, ...], merge: str = "concat") -> tuple[RecurrentStack, list[dict[str, Any]]]:
    """Return a stack of layers with random parameters, and its weights in the form that `convert.layers_to_onnx` takes.

    `kinds` has one entry for each layer: "one" for a layer with one direction, "two" for a `Bidirectional`.
    """
    layers, width = [], E
    options: dict[str, Any] = {"cell": cell, "return_sequences": True, "return_state": True, "rngs": nnx.Rngs(0)}
    for kind in kinds:
        layer = Recurrent(width, UNITS, **options) if kind == "one" else Bidirectional(width, UNITS, merge_mode=merge, **options)
        layers.append(layer)
        width = layer.output_features
    rebuilt, _ = with_random_values(RecurrentStack(layers))
    weights = [
        {name: getattr(layer, name).cell_params()._asdict() for name in ("forward", "backward")}
        if isinstance(layer, Bidirectional)
        else layer.cell_params()._asdict()
        for layer in rebuilt.layers
    ]
    return rebuilt, weights


@CELLS
def test_states_of_layers(cell):
    """For given initial states, the exported file gives the outputs and final states of our layers.

    In ONNX, a state is an array (directions, B, H). The state of our `Bidirectional` is a pair with one state for each direction.
    """
    stack, weights = made_stack(cell, ("two", "one"))
    file = session(convert.layers_to_onnx(cell, weights, states=True))
    names, batch = state_names(cell), 3
    assert [value.name for value in file.get_outputs()] == ["y", *(f"new_state/{n}/{name}" for n in (0, 1) for name in names)]
    rng = np.random.default_rng(0)
    x = rng.normal(size=(batch, 4, E)).astype(np.float32)
    given = {f"state/{n}/{name}": rng.normal(size=(2 - n, batch, UNITS)).astype(np.float32) for n in (0, 1) for name in names}
    y, *states = file.run(None, {"x": x} | given)
    lower = tuple(tuple(jnp.asarray(given[f"state/0/{name}"][direction]) for name in names) for direction in (0, 1))
    upper = tuple(jnp.asarray(given[f"state/1/{name}"][0]) for name in names)
    wanted, (pair, last) = stack(jnp.asarray(x), initial_state=[lower, upper])
    close(y, wanted)
    for number, name in enumerate(names):
        close(states[number], np.stack([getattr(state, name) for state in pair]))
        close(states[len(names) + number][0], getattr(last, name))


# the sentiment model


def made_sentiment(**options) -> tuple[Any, dict[str, np.ndarray]]:
    config = SentimentModelConfig(**({"units": UNITS, "embed": E} | options))
    return with_random_values(SentimentClassifier(config, V, rngs=nnx.Rngs(params=0)))


def padded_ids(batch: int, steps: int) -> np.ndarray:
    """Return random ids (B, T) with padding at the start of the first row and at the end of the last row.

    If B > 3, row 1 is padding only, and row 2 has padding between words.
    """
    rng = np.random.default_rng(batch)
    ids = rng.integers(1, V, (batch, steps))
    ids[0, : steps // 2] = 0
    ids[-1, steps - steps // 2 :] = 0
    if batch > 3:
        ids[1] = 0
        ids[2, steps // 2] = 0
        assert ids[2, [0, -1]].all()
    return ids


def check_sentiment(cell: str = "lstm", merge: str = "concat", pooling: str = "last", mask_zero: bool = False, **options) -> None:
    model, params = made_sentiment(cell=cell, merge=merge, pooling=pooling, mask_zero=mask_zero, **options)
    exported = convert.sentiment_to_onnx(params, cell=cell, merge=merge, pooling=pooling, skip_padding=mask_zero)
    file = session(exported)
    assert [(value.name, value.type, value.shape) for value in file.get_inputs()] == [("ids", "tensor(int64)", ["batch", "time"])]
    assert [(value.name, value.shape) for value in file.get_outputs()] == [("probability", ["batch"])]
    for batch, steps in SIZES:
        ids = padded_ids(batch, steps)
        wanted = jax.nn.sigmoid(model(jnp.asarray(ids, jnp.int32), deterministic=True))
        close(file.run(None, {"ids": ids})[0], wanted)


@pytest.mark.slow(keep=2)
@CELLS
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("mask_zero", [False, True])
def test_sentiment_cells(cell, bidirectional, mask_zero):
    check_sentiment(cell, mask_zero=mask_zero, bidirectional=bidirectional, layers=2)


@pytest.mark.slow(keep=2)
@pytest.mark.parametrize("merge", MERGES)
@pytest.mark.parametrize("pooling", ["last", "mean", "max", "mean+max"])
def test_sentiment_merges_and_poolings(merge, pooling):
    check_sentiment(merge=merge, pooling=pooling, mask_zero=merge in ("concat", "mul"), bidirectional=True, layers=2)


@pytest.mark.parametrize("pooling", ["mean", "max", "mean+max"])
@pytest.mark.parametrize("mask_zero", [False, True])
def test_sentiment_poolings_in_one_direction(pooling, mask_zero):
    check_sentiment("gru", pooling=pooling, mask_zero=mask_zero)


# the character model


def made_generator(**options) -> tuple[Any, dict[str, np.ndarray]]:
    return with_random_values(CharGenerator(GenerationModelConfig(**({"units": UNITS} | options)), V, rngs=nnx.Rngs(params=0)))


def zeros(file: Any, batch: int) -> dict[str, np.ndarray]:
    return {value.name: np.zeros((1, batch, UNITS), np.float32) for value in file.get_inputs() if value.name != "ids"}


def run_steps(file: Any, ids: np.ndarray, sizes: list[int]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Run an ONNX file on consecutive parts of `ids`, and return the logits of all steps and the final states.

    `sizes` holds the number of steps of each part. The first run starts from zeros, every other run from the final states of the run
    before it.
    """
    states, logits, begin = zeros(file, len(ids)), [], 0
    for size in sizes:
        found = dict(
            zip([value.name for value in file.get_outputs()], file.run(None, {"ids": ids[:, begin : begin + size]} | states), strict=True)
        )
        logits.append(found.pop("logits"))
        states = {name.removeprefix("new_"): array for name, array in found.items()}
        begin += size
    assert begin == ids.shape[1]
    return np.concatenate(logits, axis=1), states


@pytest.mark.slow(keep=2)
@CELLS
@pytest.mark.parametrize(
    "options", [{}, {"embed": 4}, {"embed": UNITS, "tied": True}, {"layers": 2}], ids=["one-hot", "embedding", "tied", "two layers"]
)
def test_generation(cell, options):
    model, params = made_generator(cell=cell, **options)
    file = session(convert.generation_to_onnx(params, cell=cell))
    names = [f"{n}/{name}" for n in range(options.get("layers", 1)) for name in state_names(cell)]
    assert [value.name for value in file.get_inputs()] == ["ids", *(f"state/{name}" for name in names)]
    assert [value.name for value in file.get_outputs()] == ["logits", *(f"new_state/{name}" for name in names)]
    for batch, steps in SIZES:
        ids = np.random.default_rng(steps).integers(0, V, (batch, steps))
        wanted, finals = model(jnp.asarray(ids, jnp.int32), deterministic=True)
        for sizes in ([steps], [1] * steps):
            logits, states = run_steps(file, ids, sizes)
            close(logits, wanted)
            for number, final in enumerate(finals):
                for name, array in final._asdict().items():
                    close(states[f"state/{number}/{name}"][0], array)


# the file


def test_what_a_file_says_of_itself():
    model = convert.layers_to_onnx("gru", [made_stack("gru", ("one",))[1][0]], metadata={"name": "value"})
    assert (model.producer_name, model.opset_import[0].version, len(model.opset_import)) == ("lstm_jax", OPSET, 1)
    assert {entry.key: entry.value for entry in model.metadata_props} == {"opset": "17", "cell": "gru", "name": "value"}
    assert model.SerializeToString(deterministic=True) == model.SerializeToString(deterministic=True)


def refusals():
    one, sentiment, characters = random_lstm(E, UNITS), random_model(units=UNITS), random_model(features=0, units=UNITS, outputs=V)
    double = {name: array.astype(np.float64) for name, array in one.items()}
    return [
        (lambda: convert.layers_to_onnx("lstm_peephole", [one]), "cell"),
        (lambda: convert.layers_to_onnx(["lstm"], [one]), "cell"),
        (lambda: convert.sentiment_to_onnx(sentiment, cell="min_gru"), "cell"),
        (lambda: convert.generation_to_onnx(characters, cell="lstm(relu, sigmoid)"), "cell"),
        (lambda: convert.layers_to_onnx("lstm", []), "recurrent/layers"),
        (lambda: convert.layers_to_onnx("lstm", [one, one]), "recurrent/1/kernel"),
        (lambda: convert.layers_to_onnx("gru", [one]), "recurrent/0/weights of a GRU"),
        (lambda: convert.layers_to_onnx("lstm", [one], merge="max"), "merge"),
        (lambda: convert.layers_to_onnx("lstm", [double]), "recurrent/0/kernel"),
        (lambda: convert.layers_to_onnx("lstm", [one], metadata={"a": 1}), "metadata"),
        (lambda: convert.layers_to_onnx("lstm", [one], metadata="a"), "metadata"),
        (lambda: convert.sentiment_to_onnx(sentiment, metadata={1: "a"}), "metadata"),
        (lambda: convert.sentiment_to_onnx(sentiment, pooling="first"), "pooling"),
        (lambda: convert.sentiment_to_onnx(sentiment, pooling=["last"]), "pooling"),
        (lambda: convert.sentiment_to_onnx(sentiment, merge="max"), "merge"),
        (lambda: convert.sentiment_to_onnx(sentiment, pooling="mean+max"), "head/kernel"),
        (lambda: convert.generation_to_onnx(edited(characters, head__kernel=None)), "head/kernel"),
    ]


@pytest.mark.usefixtures("unchecked")
def test_refused(monkeypatch):
    for call, subject in refusals():
        assert_subject(call, subject)
    monkeypatch.setattr("lstm_jax.convert.onnx.LARGEST", 1000)
    assert_subject(lambda: convert.layers_to_onnx("lstm", [random_lstm(E, UNITS)]), "weights")
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert_subject(lambda: convert.layers_to_onnx("lstm", [random_lstm(E, UNITS)]), "package onnx")
