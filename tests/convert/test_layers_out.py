"""The exporters take our layers and stacks: PyTorch and ONNX Runtime compute equal
outputs; options that a peer lacks are refused.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from made_weights import assert_same, assert_subject, normal, randomized

from lstm_jax import GRU, LSTM, Bidirectional, RecurrentStack, SimpleRNN, convert

E, H = 3, 4


def made(kind: type, features: int = E, **options: Any) -> Any:
    """Return a layer with H units and random weights and biases."""
    return randomized(
        kind(features, H, rngs=nnx.Rngs(0), **({"return_sequences": True} | options))
    )


def arrays(layer: Any) -> dict[str, Any]:
    return layer.cell_params()._asdict()


def stack_of_both() -> RecurrentStack:
    return RecurrentStack(
        [
            made(Bidirectional, dropout=0.3),
            made(Bidirectional, 2 * H, recurrent_dropout=0.3),
        ],
        dropout=0.3,
        rngs=nnx.Rngs(0),
    )


def outputs_of_onnx(model: Any, **inputs: np.ndarray) -> list[np.ndarray]:
    runtime = pytest.importorskip(
        "onnxruntime", reason="ONNX Runtime is not installed: pip install '.[onnx]'"
    )
    return runtime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    ).run(None, inputs)


def test_torch_computes_what_a_stack_computes(torch):
    stack, x = stack_of_both(), normal(0, 2, 5, E)
    peer = torch.nn.LSTM(E, H, num_layers=2, bidirectional=True, batch_first=True)
    peer.load_state_dict(
        {
            name: torch.from_numpy(array)
            for name, array in convert.layers_to_torch("lstm", stack).items()
        }
    )
    want = stack(jnp.asarray(x), deterministic=True)
    np.testing.assert_allclose(
        peer(torch.from_numpy(x))[0].detach().numpy(),
        np.asarray(want),
        rtol=0,
        atol=1e-5,
    )
    assert_same(
        convert.layers_to_torch("lstm", list(stack.layers)),
        convert.lstm_to_torch(stack),
    )


@pytest.mark.parametrize("merge", ["concat", "sum", "ave", "mul"])
def test_onnx_computes_what_a_stack_computes(merge):
    pytest.importorskip("onnx", reason="ONNX is not installed: pip install '.[onnx]'")
    lower = made(Bidirectional, merge_mode=merge, cell="gru")
    stack, x = (
        RecurrentStack([lower, made(GRU, lower.output_features)]),
        normal(0, 2, 5, E),
    )
    for given in (stack, list(stack.layers), stack.layers):
        (got,) = outputs_of_onnx(convert.layers_to_onnx("gru", given), x=x)
        np.testing.assert_allclose(
            got, np.asarray(stack(jnp.asarray(x))), rtol=0, atol=1e-5
        )
    if merge != "concat":
        assert_subject(
            lambda: convert.layers_to_onnx("gru", stack, merge="concat"), "merge_mode"
        )


@pytest.mark.parametrize("return_sequences", [False, True])
@pytest.mark.parametrize("return_state", [False, True])
@pytest.mark.parametrize(
    ("kind", "cell"),
    [(LSTM, "lstm"), (GRU, "gru"), (SimpleRNN, "simple_rnn"), (Bidirectional, "lstm")],
)
def test_onnx_returns_what_a_layer_returns(kind, cell, return_sequences, return_state):
    pytest.importorskip("onnx", reason="ONNX is not installed: pip install '.[onnx]'")
    options, x = (
        {"return_sequences": return_sequences, "return_state": return_state},
        normal(0, 2, 5, E),
    )
    for layer in (
        made(kind, **options),
        RecurrentStack([made(Bidirectional, cell=cell), made(kind, 2 * H, **options)]),
    ):
        want = layer(jnp.asarray(x))
        y, state = want if return_state else (want, ())
        # the first axis of a state in ONNX
        directions = state if kind is Bidirectional else (state,)
        final = (
            jax.tree.map(lambda *parts: jnp.stack(parts), *directions) if state else ()
        )
        for got, wanted in zip(
            outputs_of_onnx(convert.layers_to_onnx(cell, layer), x=x),
            (y, *final),
            strict=True,
        ):
            np.testing.assert_allclose(got, np.asarray(wanted), rtol=0, atol=1e-5)


def taken(export, *layers: Any) -> None:
    """Check that an exporter takes each layer as it takes the weights of the layer."""
    for layer in layers:
        both = isinstance(layer, Bidirectional)
        assert_same(
            export(layer),
            export(
                {"forward": arrays(layer.forward), "backward": arrays(layer.backward)}
                if both
                else arrays(layer)
            ),
        )


def test_layers_are_taken_as_their_arrays_are():
    for cell, kind in (("gru", GRU), ("simple_rnn", SimpleRNN)):
        for export in (
            convert.layers_to_torch,
            convert.cell_to_torch,
            convert.cell_to_keras,
        ):
            taken(functools.partial(export, cell), made(kind))
    taken(
        functools.partial(convert.cell_to_torch, "simple_rnn"),
        made(SimpleRNN, activation="relu"),
    )
    taken(
        functools.partial(convert.cell_to_keras, "gru"),
        made(GRU, activation="relu", go_backwards=True),
    )
    taken(
        functools.partial(convert.bidirectional_to_keras, cell="gru"),
        made(Bidirectional, cell="gru", merge_mode="sum"),
    )
    for export in (convert.lstm_to_keras, convert.lstm_to_linen, convert.lstm_to_nnx):
        taken(export, made(LSTM))


TO_TORCH_AND_ONNX = [
    (lambda: made(LSTM, activation="relu"), "cell"),
    (
        lambda: [made(LSTM), made(Bidirectional, H, backward={"activation": "relu"})],
        "cell of layer 1, backward",
    ),
    (lambda: made(LSTM, go_backwards=True), "go_backwards"),
    (lambda: made(LSTM, zoneout_cell=0.1), "zoneout"),
    (lambda: made(LSTM, learned_state=True), "learned_state"),
    (lambda: RecurrentStack([made(LSTM, H), made(LSTM, H)], residual=True), "residual"),
    (lambda: made(Bidirectional, merge_mode=None), "merge_mode"),
    (lambda: made(GRU), "cell"),
    (lambda: [made(LSTM), nnx.Linear(H, H, rngs=nnx.Rngs(0))], "layers[1]"),
    (lambda: 3, "layers"),
]
TO_ONE = [
    (convert.layers_to_onnx, "lstm", lambda: made(LSTM, dtype=jnp.bfloat16), "dtype"),
    (
        convert.layers_to_onnx,
        "lstm",
        lambda: [made(Bidirectional, merge_mode="sum"), made(Bidirectional, H)],
        "merge_mode",
    ),
    (
        convert.layers_to_torch,
        "lstm",
        lambda: made(Bidirectional, merge_mode="sum"),
        "merge_mode",
    ),
    (
        convert.layers_to_torch,
        "simple_rnn",
        lambda: [made(SimpleRNN), made(SimpleRNN, H, activation="relu")],
        "activations",
    ),
    (convert.cell_to_keras, "lstm", lambda: made(LSTM, zoneout=0.1), "zoneout"),
    (
        lambda cell, layer: convert.lstm_to_linen(layer),
        "lstm",
        lambda: made(LSTM, activation="relu"),
        "cell",
    ),
]
REFUSALS = TO_ONE + [
    (export, "lstm", make, subject)
    for make, subject in TO_TORCH_AND_ONNX
    for export in (convert.layers_to_torch, convert.layers_to_onnx)
]


@pytest.mark.parametrize(
    ("export", "cell", "make", "subject"),
    REFUSALS,
    ids=[f"{n} {row[-1]}" for n, row in enumerate(REFUSALS)],
)
def test_what_cannot_be_expressed(export, cell, make, subject):
    assert_subject(lambda: export(cell, make()), subject)


def test_states_make_a_learned_state_expressible():
    pytest.importorskip("onnx", reason="ONNX is not installed: pip install '.[onnx]'")
    model = convert.layers_to_onnx("lstm", made(LSTM, learned_state=True), states=True)
    assert [value.name for value in model.graph.input] == [
        "x",
        "state/0/h",
        "state/0/c",
    ]
