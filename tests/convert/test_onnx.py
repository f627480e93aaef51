"""ONNX Runtime computes the outputs of our layers and models from exported files. Each
file is run with several shapes of its input.
"""

import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from made_weights import (
    assert_subject,
    edited,
    normal,
    random_lstm,
    random_model,
    randomized,
)

from lstm_jax import Bidirectional, Recurrent, RecurrentStack, convert
from lstm_jax.convert.arrays import LAYOUTS
from lstm_jax.convert.onnx import OPSET, state_names
from lstm_jax.lab.generation.config import GenerationModelConfig
from lstm_jax.lab.generation.model import CharGenerator
from lstm_jax.lab.sentiment.config import SentimentModelConfig
from lstm_jax.lab.sentiment.model import SentimentClassifier
from lstm_jax.training.parts import functional

onnx = pytest.importorskip(
    "onnx", reason="ONNX is not installed: pip install '.[onnx]'"
)
runtime = pytest.importorskip(
    "onnxruntime", reason="ONNX Runtime is not installed: pip install '.[onnx]'"
)

E, UNITS, V = 5, 6, 11
SIZES = [(1, 1), (4, 7), (3, 2)]
"""Pairs of batch size and number of steps. Each file is run with all of them."""
CELLS = pytest.mark.parametrize(
    "cell", [cell for cell, layout in LAYOUTS.items() if "ONNX" in layout.orders]
)


def session(model: Any) -> Any:
    return runtime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )


def close(got, wanted) -> None:
    assert (got.shape, got.dtype) == (wanted.shape, np.float32)
    np.testing.assert_allclose(got, np.asarray(wanted), rtol=0, atol=1e-5)


def names_of(values) -> list[str]:
    return [value.name for value in values]


@CELLS
def test_states_of_layers(cell):
    """For given initial states, the exported file gives the outputs and final states of
    our layers.

    In ONNX, a state is an array (directions, B, H). The state of our `Bidirectional` is
    a pair with one state for each direction.
    """
    options: dict[str, Any] = {
        "cell": cell,
        "return_sequences": True,
        "return_state": True,
        "rngs": nnx.Rngs(0),
    }
    stack = randomized(
        RecurrentStack(
            [Bidirectional(E, UNITS, **options), Recurrent(2 * UNITS, UNITS, **options)]
        )
    )
    file = session(convert.layers_to_onnx(cell, stack, states=True))
    names, batch = state_names(cell), 3
    assert names_of(file.get_outputs()) == [
        "y",
        *(f"new_state/{n}/{name}" for n in (0, 1) for name in names),
    ]
    x = normal(0, batch, 4, E)
    given = {
        f"state/{n}/{name}": normal(len(name) + n, 2 - n, batch, UNITS)
        for n in (0, 1)
        for name in names
    }
    y, *states = file.run(None, {"x": x} | given)
    lower = tuple(
        tuple(jnp.asarray(given[f"state/0/{name}"][direction]) for name in names)
        for direction in (0, 1)
    )
    upper = tuple(jnp.asarray(given[f"state/1/{name}"][0]) for name in names)
    wanted, (pair, last) = stack(jnp.asarray(x), initial_state=[lower, upper])
    close(y, wanted)
    for number, name in enumerate(names):
        close(states[number], np.stack([getattr(state, name) for state in pair]))
        close(states[len(names) + number][0], getattr(last, name))


def padded_ids(batch: int, steps: int) -> np.ndarray:
    """Return random ids (B, T) with padding at the start of the first row and at the
    end of the last row.

    If B > 3, row 1 is padding only, and row 2 has padding between words.
    """
    ids = np.random.default_rng(batch).integers(1, V, (batch, steps))
    ids[0, : steps // 2] = 0
    ids[-1, steps - steps // 2 :] = 0
    if batch > 3:
        ids[1] = 0
        ids[2, steps // 2] = 0
    return ids


def check_sentiment(
    cell: str = "lstm",
    pooling: str = "last",
    mask_zero: bool = False,
    merge: str = "concat",
    **options,
) -> None:
    config = SentimentModelConfig(
        units=UNITS,
        embed=E,
        cell=cell,
        merge=merge,
        pooling=pooling,
        mask_zero=mask_zero,
        **options,
    )
    model = randomized(SentimentClassifier(config, V, rngs=nnx.Rngs(params=0)))
    params = functional(model).params
    file = session(
        convert.sentiment_to_onnx(
            params, cell=cell, merge=merge, pooling=pooling, skip_padding=mask_zero
        )
    )
    assert [(value.name, value.type, value.shape) for value in file.get_inputs()] == [
        ("ids", "tensor(int64)", ["batch", "time"])
    ]
    assert [(value.name, value.shape) for value in file.get_outputs()] == [
        ("probability", ["batch"])
    ]
    for batch, steps in SIZES:
        ids = padded_ids(batch, steps)
        close(
            file.run(None, {"ids": ids})[0],
            jax.nn.sigmoid(model(jnp.asarray(ids, jnp.int32), deterministic=True)),
        )


@pytest.mark.slow(keep=2)
@CELLS
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("mask_zero", [False, True])
def test_sentiment_cells(cell, bidirectional, mask_zero):
    check_sentiment(cell, mask_zero=mask_zero, bidirectional=bidirectional, layers=2)


@pytest.mark.slow(keep=3)
@pytest.mark.parametrize("merge", ["concat", "sum", "ave", "mul", None])
@pytest.mark.parametrize("pooling", ["last", "mean", "max", "mean+max"])
def test_sentiment_merges_and_poolings(merge, pooling):
    """The outputs of both directions are merged and pooled. If `merge` is None, there
    is one direction.
    """
    options = {"merge": merge, "bidirectional": True, "layers": 2} if merge else {}
    check_sentiment(
        pooling=pooling, mask_zero=merge in ("concat", "mul", None), **options
    )


@pytest.mark.slow(keep=2)
@CELLS
@pytest.mark.parametrize(
    "options",
    [{}, {"embed": 4}, {"embed": UNITS, "tied": True}, {"layers": 2}],
    ids=["one-hot", "embedding", "tied", "two layers"],
)
def test_generation(cell, options):
    """The logits and final states are those of our model, in one call or in a call for
    each step that starts from the states before it.
    """
    model = randomized(
        CharGenerator(
            GenerationModelConfig(units=UNITS, cell=cell, **options),
            V,
            rngs=nnx.Rngs(params=0),
        )
    )
    file = session(convert.generation_to_onnx(functional(model).params, cell=cell))
    names = [
        f"{n}/{name}"
        for n in range(options.get("layers", 1))
        for name in state_names(cell)
    ]
    assert names_of(file.get_inputs()) == ["ids", *(f"state/{name}" for name in names)]
    assert names_of(file.get_outputs()) == [
        "logits",
        *(f"new_state/{name}" for name in names),
    ]
    for batch, steps in SIZES:
        ids = np.random.default_rng(steps).integers(0, V, (batch, steps))
        wanted, finals = model(jnp.asarray(ids, jnp.int32), deterministic=True)
        for size in (steps, 1):
            states, logits = (
                {
                    f"state/{name}": np.zeros((1, batch, UNITS), np.float32)
                    for name in names
                },
                [],
            )
            for begin in range(0, steps, size):
                found, *new = file.run(
                    None, {"ids": ids[:, begin : begin + size]} | states
                )
                states = dict(zip(states, new, strict=True))
                logits.append(found)
            close(np.concatenate(logits, axis=1), wanted)
            for got, want in zip(states.values(), jax.tree.leaves(finals), strict=True):
                close(got[0], want)


ONE, SENTIMENT, CHARACTERS = (
    random_lstm(E, UNITS),
    random_model(units=UNITS),
    random_model(features=0, units=UNITS, outputs=V),
)


def test_what_a_file_says_of_itself():
    model = convert.layers_to_onnx("lstm", [ONE], metadata={"name": "value"})
    assert (
        model.producer_name,
        model.opset_import[0].version,
        len(model.opset_import),
    ) == ("lstm_jax", OPSET, 1)
    assert {entry.key: entry.value for entry in model.metadata_props} == {
        "opset": "17",
        "cell": "lstm",
        "name": "value",
    }


REFUSALS = [
    (lambda: convert.layers_to_onnx(["lstm"], [ONE]), "cell"),
    (lambda: convert.sentiment_to_onnx(SENTIMENT, cell="min_gru"), "cell"),
    (lambda: convert.layers_to_onnx("lstm", []), "recurrent/layers"),
    (lambda: convert.layers_to_onnx("lstm", [ONE], merge="max"), "merge"),
    (
        lambda: convert.layers_to_onnx(
            "lstm", [random_lstm(E, UNITS, dtype=np.float64)]
        ),
        "recurrent/0/kernel",
    ),
    (lambda: convert.layers_to_onnx("lstm", [ONE], metadata={"a": 1}), "metadata"),
    (lambda: convert.sentiment_to_onnx(SENTIMENT, pooling=["last"]), "pooling"),
    (lambda: convert.sentiment_to_onnx(SENTIMENT, pooling="mean+max"), "head/kernel"),
    (
        lambda: convert.generation_to_onnx(edited(CHARACTERS, head__kernel=None)),
        "head/kernel",
    ),
]


@pytest.mark.usefixtures("unchecked")
def test_refused(monkeypatch):
    for call, subject in REFUSALS:
        assert_subject(call, subject)
    monkeypatch.setattr("lstm_jax.convert.onnx.LARGEST", 1000)
    assert_subject(lambda: convert.layers_to_onnx("lstm", [ONE]), "weights")
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert_subject(lambda: convert.layers_to_onnx("lstm", [ONE]), "package onnx")
