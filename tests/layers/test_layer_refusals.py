"""Arguments of layers and of their calls that do not fit are refused; the subject of
the error names the argument.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from made_layers import B, E, H, X, made
from made_weights import assert_subject

from lstm_jax import (
    GRU,
    LSTM,
    Bidirectional,
    ClassifierHead,
    DropoutMasks,
    Embedding,
    LSTMState,
    Recurrent,
    RecurrentStack,
    SimpleRNN,
)
from lstm_jax.cells import projected_lstm

pytestmark = pytest.mark.usefixtures("unchecked")

STATE = (jnp.ones((B, H)), jnp.ones((B, H)))


def stack(*layers: Any, **options: Any) -> RecurrentStack:
    return RecurrentStack(
        layers or (made(return_sequences=True), made(LSTM, H, H)), **options
    )


def step(*args: Any, **options: Any) -> Any:
    return made().step(*args, **options)


def whole(**options: Any) -> Any:
    return made(return_sequences=True, **options)


OPTIONS: list[tuple[Any, dict[str, Any], str]] = [
    (LSTM, {"units": 0}, "units"),
    (LSTM, {"units": -3}, "units"),
    (LSTM, {"units": "4"}, "units"),
    (LSTM, {"units": 4.5}, "units"),
    (LSTM, {"features": 0}, "features"),
    (LSTM, {"features": True}, "features"),
    (LSTM, {"dropout": 1.2}, "dropout"),
    (LSTM, {"dropout": np.bool_(True)}, "dropout"),
    (LSTM, {"dropout_masks": "gal"}, "dropout_masks"),
    (LSTM, {"recurrent_dropout": 1.0}, "recurrent_dropout"),
    (LSTM, {"zoneout": -0.1}, "zoneout"),
    (LSTM, {"remat": 0}, "remat"),
    (LSTM, {"remat": np.bool_(True)}, "remat"),
    (LSTM, {"projection": 2.0}, "projection"),
    (LSTM, {"projection": -1}, "projection"),
    (LSTM, {"projection": H}, "projection"),
    (LSTM, {"projection": 2, "activation": "relu"}, "projection"),
    (GRU, {"projection": 2}, "projection"),
    (LSTM, {"cell": "gru"}, "cell"),
    (GRU, {"cell": "gru"}, "cell"),
    (SimpleRNN, {"cell": "gru"}, "cell"),
    (Recurrent, {"cell": "lstn"}, "cell"),
    (Recurrent, {"cell": "min_gru", "recurrent_dropout": 0.2}, "recurrent_dropout"),
    (Recurrent, {"cell": "min_lstm", "weight_drop": 0.2}, "weight_drop"),
    (Recurrent, {"cell": "gru", "weight_drop": 1.0}, "weight_drop"),
    (Recurrent, {"cell": "gru", "zoneout_cell": 0.1}, "zoneout of c"),
    (
        Recurrent,
        {"cell": "min_gru", "recurrent_initializer": "ones"},
        "recurrent_initializer",
    ),
    (Recurrent, {"kernel_initializer": "glorot"}, "kernel_initializer"),
    (Recurrent, {"kernel_initializer": 0.5}, "kernel_initializer"),
    (Recurrent, {"recurrent_initializer": np.ones((3, 4))}, "recurrent_initializer"),
    (Recurrent, {"recurrent_initializer": lambda shape: 0}, "recurrent_initializer"),
    (Recurrent, {"bias_initializer": lambda *_: jnp.zeros(5)}, "bias_initializer"),
    (Recurrent, {"kernel_regularizer": "l2"}, "kernel_regularizer"),
    (Recurrent, {"hidden_size": 3}, "hidden_size"),
    (Recurrent, {"other": 3}, "Recurrent"),
    (Recurrent, {"rngs": 0}, "rngs"),
    (Bidirectional, {"merge_mode": "max"}, "merge_mode"),
    (Bidirectional, {"go_backwards": True}, "go_backwards"),
    (Bidirectional, {"keep_order": True}, "keep_order"),
    (Bidirectional, {"zero_output_for_mask": False}, "zero_output_for_mask"),
    (Bidirectional, {"backward": {"stateful": True}}, "backward stateful"),
    (Bidirectional, {"backward": {"features": 3}}, "backward features"),
    (Bidirectional, {"merge_mode": "sum", "backward": {"units": 3}}, "backward units"),
    (
        Bidirectional,
        {"merge_mode": "sum", "projection": 2, "backward": {"projection": 3}},
        "backward outputs",
    ),
]
CALLS = [
    (lambda: made(Bidirectional, made()), "layer"),
    (lambda: made(ClassifierHead, 0, 1), "features"),
    (lambda: made(ClassifierHead, E, 0), "classes"),
    (lambda: made(Embedding, 0, E), "vocabulary"),
    (lambda: made(Embedding, E, 2.0), "features"),
    (lambda: made(Embedding)(jnp.ones(3)), "ids"),
    (lambda: projected_lstm(0), "outputs"),
    # stacks
    (lambda: RecurrentStack([]), "layers"),
    (lambda: RecurrentStack(made()), "layers"),
    (lambda: stack(whole(), nnx.Dropout(0.3)), "layer 1"),
    (lambda: stack(whole(), stack()), "layer 1"),
    (
        lambda: stack(
            made(Bidirectional, merge_mode=None, return_sequences=True),
            made(LSTM, H, H),
        ),
        "layer 0",
    ),
    (lambda: stack(made(), made(LSTM, H, H)), "layer 0"),
    (lambda: stack(whole(return_state=True), made(LSTM, H, H)), "layers"),
    (
        lambda: stack(whole(), made(LSTM, H, 7, return_sequences=True), residual=True),
        "residual",
    ),
    (lambda: stack(residual=True), "layer 1"),
    (
        lambda: stack(
            whole(go_backwards=True),
            made(LSTM, H, H, return_sequences=True),
            residual=True,
        ),
        "layer 0",
    ),
    (
        lambda: stack(whole(), made(LSTM, H, H, return_sequences=True), residual=True)(
            X, return_sequences=False
        ),
        "return_sequences",
    ),
    (lambda: stack()(X, initial_state=[None]), "initial_state"),
    (lambda: stack().step(X[:, 0], [None]), "state"),
    (lambda: stack().reset_state(), "stateful"),
    # calls
    *(
        (lambda layer=layer: layer([[[1.0]], [[1.0]] * 2]), "x")
        for layer in (made(), made(Bidirectional), RecurrentStack([made()]))
    ),
    (lambda: made()(X[0], mask=[[True], [True, False]]), "mask"),
    (lambda: made(dropout=0.3, rngs=nnx.Rngs(params=0))(X), "rngs"),
    (
        lambda: made(dropout=0.3, rngs=nnx.Rngs(params=0))(X, rngs=nnx.Rngs(params=1)),
        "rngs",
    ),
    (lambda: made()(X, training=True), "training"),
    (lambda: made(Bidirectional)(X, training=True), "training"),
    (lambda: made(Bidirectional)(X, initial_state=LSTMState(*STATE)), "initial_state"),
    (lambda: made().reset_state(B), "stateful"),
    (lambda: made(backend="cudnnn")(X), "backend"),
    (lambda: made(zoneout=0.1, backend="hoisted")(X), "backend hoisted"),
    (lambda: made(projection=2, backend="hoisted")(X), "backend hoisted"),
    (lambda: made(zoneout=0.1, remat=2)(X), "remat"),
    (
        lambda: made()(X, dropout=DropoutMasks(zoneout={"h": jnp.ones((2, 3), bool)})),
        "dropout.zoneout of h",
    ),
    (lambda: made(projection=2)(X, initial_state=STATE), "initial_state.h"),
    (
        lambda: made(projection=2)(X, dropout=DropoutMasks(recurrent=STATE[0])),
        "dropout.recurrent",
    ),
    (lambda: made()(X[0], mask=jnp.asarray(True), time_major=True), "mask"),
    (lambda: made(Bidirectional)(X, dropout=DropoutMasks()), "dropout"),
    (lambda: made(Bidirectional)(X, dropout=[None]), "dropout"),
    (lambda: made(Bidirectional)(X, dropout="ab"), "dropout"),
    (
        lambda: made(Bidirectional, backward={"cell": "gru"}).join_states((None, None)),
        "states",
    ),
    # steps
    (lambda: made(Bidirectional).step(X[:, 0], None), "step"),
    (lambda: made(go_backwards=True).step(X[:, 0], None), "go_backwards"),
    (lambda: step(X[:, 0], made().initial_state(2)), "initial_state.h"),
    (lambda: step("a", None), "x"),
    (lambda: step(1.0, None), "x"),
    (lambda: step(X, None), "x"),
    (lambda: step(X[:, 0], None, reset=True), "reset"),
    (lambda: step(X[0, 0], None, reset=jnp.ones(B, bool)), "reset"),
    (lambda: step(X[:, 0], None, reset=jnp.zeros(B, jnp.int32)), "reset"),
    (lambda: step(X[0, 0], ([[1.0], [1.0, 2.0]], [0.0] * H)), "state"),
    (lambda: step(X[0, 0], jnp.zeros(H)), "initial_state"),
    (lambda: step(X[0, 0], None, dropout=(None, None)), "dropout"),
    (lambda: step(X[0, 0], None, dropout=DropoutMasks(jnp.ones(H))), "dropout.input"),
]


@pytest.mark.parametrize(
    ("kind", "options", "subject"),
    OPTIONS,
    ids=[f"{n} {subject}" for n, (*_, subject) in enumerate(OPTIONS)],
)
def test_options(kind: Any, options: dict[str, Any], subject: str) -> None:
    assert_subject(
        lambda: kind(**({"features": E, "units": H, "rngs": nnx.Rngs(0)} | options)),
        subject,
    )


@pytest.mark.parametrize(
    ("call", "subject"),
    CALLS,
    ids=[f"{n} {subject}" for n, (_, subject) in enumerate(CALLS)],
)
def test_calls(call: Any, subject: str) -> None:
    assert_subject(call, subject)


def test_a_batch_of_another_size() -> None:
    layer = made(stateful=True)
    layer.reset_state(B + 1)
    assert_subject(lambda: layer(X), "batch size")
