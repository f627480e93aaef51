"""Values of a wrong type, such as a layer where its arrays are expected, are errors of one line in all functions of `lstm_jax.convert`."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from flax import nnx
from made_weights import assert_refused, random_lstm, random_model

from lstm_jax import LSTM, Bidirectional, convert
from lstm_jax.config import SentimentModelConfig
from lstm_jax.errors import InputError
from lstm_jax.models import SentimentClassifier

pytestmark = pytest.mark.usefixtures("unchecked", "quick_compiles")
E, H = 3, 4


def lstm() -> LSTM:
    return LSTM(E, H, rngs=nnx.Rngs(0))


def both() -> Bidirectional:
    return Bidirectional(E, H, rngs=nnx.Rngs(0))


def linear() -> nnx.Linear:
    return nnx.Linear(E, H, rngs=nnx.Rngs(0))


def sentiment() -> SentimentClassifier:
    return SentimentClassifier(SentimentModelConfig(embed=E, units=H), 7, rngs=nnx.Rngs(0))


class Stateful:
    """Class that has the method `state_dict`, as a PyTorch module does, but no weights."""

    def state_dict(self) -> dict[str, Any]:
        return {}


OF_WEIGHTS = "give weights that lstm_jax.convert has converted, or the state dict of a PyTorch module"
LOADS: list[tuple[Callable[[], Any], Any, str]] = [
    (lstm, Stateful, f"weights: class Stateful; {OF_WEIGHTS}"),
    (lstm, [Stateful], f"weights[0]: class Stateful; {OF_WEIGHTS}"),
    (linear, Stateful, "weights: class Stateful; give an nn.Linear, its state dict, or arrays that"),
    (lstm, {1: 2}, "weights: keys that are no text: 1; give the state dict of a PyTorch module, or converted weights"),
    (both, {"forward": 1, "backward": 2}, f"forward/weights: int; {OF_WEIGHTS}"),
    (both, {"forward": random_lstm(E, H), "backward": lstm()}, "backward/LSTM: LSTM; give a dict of kernel, recurrent_kernel, bias"),
    (both, {"forward": {1: 2}, "backward": {}}, f"forward/weights: keys that are no text: 1; {OF_WEIGHTS}"),
    (
        sentiment,
        {1: 2},
        "weights of a sentiment model: keys that are no text: 1; give a flat dict such as that of sentiment_from_keras_file",
    ),
]


@pytest.mark.parametrize(("make", "weights", "message"), LOADS, ids=[f"{n} {message[:40]}" for n, (*_, message) in enumerate(LOADS)])
def test_load(make: Callable[[], Any], weights: Any, message: str) -> None:
    assert_refused(make(), weights, message)


def test_load_into_a_class() -> None:
    with pytest.raises(InputError, match=r"^layer: class LSTM; give a Recurrent layer, a Bidirectional layer or a RecurrentStack"):
        convert.load(LSTM, random_lstm(E, H))


def test_classes_of_torch(torch) -> None:
    assert_refused(lstm(), torch.nn.LSTM, f"weights: class LSTM; {OF_WEIGHTS}")
    assert_refused(linear(), torch.nn.Linear, "weights: class Linear; give an nn.Linear, its state dict, or arrays that")


LAYER = nnx.Linear(E, H, rngs=nnx.Rngs(0))  # stands for a layer or a module of any library
GET_WEIGHTS = "give the list that get_weights() returns"
STATE_DICT = "give module.state_dict() of a PyTorch module"
CALLS: list[tuple[Callable[[], Any], str]] = [
    (lambda: convert.lstm_from_keras(LAYER), f"LSTM weights: Linear; {GET_WEIGHTS}"),
    (lambda: convert.lstm_from_keras(random_lstm(E, H)), f"LSTM weights: dict; {GET_WEIGHTS}"),
    (lambda: convert.lstm_from_keras(np.array(1.0)), f"LSTM weights: ndarray; {GET_WEIGHTS}"),
    (lambda: convert.cell_from_keras("gru", LAYER), f"gru weights: Linear; {GET_WEIGHTS}"),
    (lambda: convert.cell_from_keras("gru", [np.float32(1), np.ones((2, 6)), np.ones((2, 6))]), "kernel: shape (); expected (E, 3H)"),
    (lambda: convert.bidirectional_from_keras(LAYER), f"Bidirectional weights: Linear; {GET_WEIGHTS}"),
    (lambda: convert.bidirectional_to_keras({"forward": 1, "backward": 2}), "forward/LSTM: int; give a dict of kernel, recurrent_kernel"),
    (lambda: convert.dense_from_keras(LAYER), f"Dense weights: Linear; {GET_WEIGHTS}"),
    (lambda: convert.dense_to_keras(LAYER), "dense layer: Linear; give a dict of kernel, bias"),
    (lambda: convert.embedding_from_keras(LAYER), f"Embedding weights: Linear; {GET_WEIGHTS}"),
    (lambda: convert.write_keras_weights("a.weights.h5", LAYER), "params: Linear; give the flat dict of a model, see lstm_jax.convert"),
    (lambda: convert.sentiment_from_keras(LAYER), f"model weights: Linear; {GET_WEIGHTS}"),
    (
        lambda: convert.sentiment_to_keras(LAYER),
        "weights of a sentiment model: Linear; give a flat dict with keys such as recurrent/0/kernel",
    ),
    (lambda: convert.layers_from_torch("lstm", {1: 2}), f"state dict: keys that are no text: 1; {STATE_DICT}"),
    (lambda: convert.layers_from_torch("lstm", LAYER), f"state dict: Linear; {STATE_DICT}"),
    (lambda: convert.layers_from_torch(["lstm"], {}), "cell: ['lstm']; PyTorch has lstm, gru, simple_rnn, lstm_projected"),
    (lambda: convert.sentiment_from_torch({1: 2}), f"state dict: keys that are no text: 1; {STATE_DICT}"),
    (lambda: convert.generation_from_torch(LAYER), f"state dict: Linear; {STATE_DICT}"),
    (lambda: convert.lstm_from_linen(LAYER), "parameter tree: Linear; give the parameters of a cell, such as nnx.to_pure_dict("),
    (lambda: convert.layers_to_onnx(["lstm"], lstm()), "cell: ['lstm']; ONNX has no operator for it: only lstm, gru, gru_reset_before,"),
    (lambda: convert.sentiment_to_onnx({}, pooling=["last"]), "pooling: ['last']; give one of last, mean, max, mean+max"),
]


@pytest.mark.parametrize(("call", "message"), CALLS, ids=[f"{n} {message[:40]}" for n, (_, message) in enumerate(CALLS)])
def test_conversions(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(InputError) as refused:
        call()
    assert str(refused.value).startswith(message)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"a": 1}, "metadata a: 1; give a dict from names to texts"),
        ({1: "a"}, "metadata: keys that are no text: 1; give a dict from names to texts"),
        ("a", "metadata: str; give a dict from names to texts"),
    ],
)
def test_metadata_of_onnx(metadata: Any, message: str) -> None:
    pytest.importorskip("onnx", reason="ONNX is not installed: pip install '.[onnx]'")
    calls = [
        lambda: convert.layers_to_onnx("lstm", lstm(), metadata=metadata),
        lambda: convert.sentiment_to_onnx(random_model(), metadata=metadata),
    ]
    for call in calls:
        with pytest.raises(InputError) as refused:
            call()
        assert str(refused.value) == message
