"""The exporters take our layers and stacks: PyTorch and ONNX Runtime compute equal outputs; options that a peer lacks are refused."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from made_weights import assert_same, normal

from lstm_jax import GRU, LSTM, Bidirectional, RecurrentStack, SimpleRNN, convert
from lstm_jax.errors import InputError

pytestmark = pytest.mark.usefixtures("quick_compiles")
E, H = 3, 4
BY_ARRAYS = "; to export the weights alone, give layer.cell_params()._asdict()"


def made(kind: type, features: int = E, **options: Any) -> Any:
    """Return a layer with H units and random weights and biases."""
    layer = kind(features, H, rngs=nnx.Rngs(0), **({"return_sequences": True} | options))
    for number, (_, variable) in enumerate(nnx.to_flat_state(nnx.state(layer, nnx.Param))):
        variable[...] = jnp.asarray(normal(number, *variable.shape))
    return layer


def arrays(layer: Any) -> dict[str, Any]:
    return layer.cell_params()._asdict()


def stack_of_both() -> RecurrentStack:
    return RecurrentStack(
        [made(Bidirectional, dropout=0.3), made(Bidirectional, 2 * H, recurrent_dropout=0.3)], dropout=0.3, rngs=nnx.Rngs(0)
    )


def outputs_of_onnx(model: Any, **inputs: np.ndarray) -> list[np.ndarray]:
    runtime = pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed: pip install '.[onnx]'")
    return runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, inputs)


def test_torch_computes_what_a_stack_computes(torch) -> None:
    stack, x = stack_of_both(), normal(0, 2, 5, E)
    peer = torch.nn.LSTM(E, H, num_layers=2, bidirectional=True, batch_first=True)
    peer.load_state_dict({name: torch.from_numpy(array) for name, array in convert.layers_to_torch("lstm", stack).items()})
    want = stack(jnp.asarray(x), deterministic=True)
    np.testing.assert_allclose(peer(torch.from_numpy(x))[0].detach().numpy(), np.asarray(want), rtol=0, atol=1e-5)
    assert_same(convert.layers_to_torch("lstm", list(stack.layers)), convert.lstm_to_torch(stack))


@pytest.mark.parametrize(("kind", "nonlinearity"), [(SimpleRNN, "tanh"), (SimpleRNN, "relu"), (GRU, "tanh")])
def test_torch_computes_what_a_layer_computes(torch, kind: type, nonlinearity: str) -> None:
    layer, x = made(kind, activation=nonlinearity), normal(0, 2, 5, E)
    rnn = torch.nn.RNN(E, H, nonlinearity=nonlinearity, batch_first=True) if kind is SimpleRNN else torch.nn.GRU(E, H, batch_first=True)
    cell = "gru" if kind is GRU else "simple_rnn"
    for state in (convert.layers_to_torch(cell, layer), convert.layers_to_torch(cell, [layer]), convert.cell_to_torch(cell, layer)):
        rnn.load_state_dict({name: torch.from_numpy(array) for name, array in state.items()})
        np.testing.assert_allclose(rnn(torch.from_numpy(x))[0].detach().numpy(), np.asarray(layer(jnp.asarray(x))), rtol=0, atol=1e-5)


@pytest.mark.parametrize("merge", ["concat", "sum", "ave", "mul"])
def test_onnx_computes_what_a_stack_computes(merge: str) -> None:
    pytest.importorskip("onnx", reason="ONNX is not installed: pip install '.[onnx]'")
    lower = made(Bidirectional, merge_mode=merge, cell="gru")
    stack, x = RecurrentStack([lower, made(GRU, lower.output_features)]), normal(0, 2, 5, E)
    for given in (stack, list(stack.layers), stack.layers):
        (got,) = outputs_of_onnx(convert.layers_to_onnx("gru", given), x=x)
        np.testing.assert_allclose(got, np.asarray(stack(jnp.asarray(x))), rtol=0, atol=1e-5)
    if merge != "concat":
        with pytest.raises(InputError, match=f"^merge: concat; the layers have merge_mode='{merge}': leave it out$"):
            convert.layers_to_onnx("gru", stack, merge="concat")


@pytest.mark.parametrize("return_sequences", [False, True])
@pytest.mark.parametrize("return_state", [False, True])
@pytest.mark.parametrize(("kind", "cell"), [(LSTM, "lstm"), (GRU, "gru"), (SimpleRNN, "simple_rnn"), (Bidirectional, "lstm")])
def test_onnx_returns_what_a_layer_returns(kind: type, cell: str, return_sequences: bool, return_state: bool) -> None:
    pytest.importorskip("onnx", reason="ONNX is not installed: pip install '.[onnx]'")
    options, x = {"return_sequences": return_sequences, "return_state": return_state}, normal(0, 2, 5, E)
    for layer in (made(kind, **options), RecurrentStack([made(Bidirectional, cell=cell), made(kind, 2 * H, **options)])):
        want = layer(jnp.asarray(x))
        y, state = want if return_state else (want, ())
        directions = state if kind is Bidirectional else (state,)  # the first axis of a state in ONNX
        final = jax.tree.map(lambda *parts: jnp.stack(parts), *directions) if state else ()
        for got, wanted in zip(outputs_of_onnx(convert.layers_to_onnx(cell, layer), x=x), (y, *final), strict=True):
            np.testing.assert_allclose(got, np.asarray(wanted), rtol=0, atol=1e-5)


def test_keras_and_flax_take_layers() -> None:
    layer, both, gru = made(LSTM), made(Bidirectional, cell="gru", merge_mode="sum"), made(GRU, activation="relu", go_backwards=True)
    assert_same(convert.lstm_to_keras(layer), convert.lstm_to_keras(arrays(layer)))
    pair = {"forward": arrays(both.forward), "backward": arrays(both.backward)}
    assert_same(convert.bidirectional_to_keras(both, cell="gru"), convert.bidirectional_to_keras(pair, cell="gru"))
    assert_same(convert.cell_to_keras("gru", gru), convert.cell_to_keras("gru", arrays(gru)))
    assert_same(convert.lstm_to_linen(layer), convert.lstm_to_linen(arrays(layer)))
    assert_same(convert.lstm_to_nnx(layer), convert.lstm_to_nnx(arrays(layer)))


def residual() -> RecurrentStack:
    return RecurrentStack([made(LSTM, H), made(LSTM, H)], residual=True)


def to_torch(layers: Any, cell: str = "lstm") -> Any:
    return convert.layers_to_torch(cell, layers)


def to_onnx(layers: Any, cell: str = "lstm", **options: Any) -> Any:
    return convert.layers_to_onnx(cell, layers, **options)


ONNX, TORCH = "recurrent layer of ONNX", "PyTorch module"
REFUSALS = [
    (to_torch, lambda: made(LSTM, activation="relu"), f"activations: lstm(relu, sigmoid); the {TORCH} computes lstm: give such a layer"),
    (to_onnx, lambda: made(LSTM, activation="relu"), f"activations: lstm(relu, sigmoid); the {ONNX} computes lstm: give such a layer"),
    (
        to_onnx,
        lambda: [made(LSTM), made(LSTM, H, activation="relu")],
        "activations of layer 1: lstm(relu, sigmoid); the recurrent layer of",
    ),
    (to_torch, lambda: made(LSTM, go_backwards=True), f"go_backwards: True; a {TORCH} reads forwards: reverse its input{BY_ARRAYS}"),
    (to_onnx, lambda: [made(LSTM, go_backwards=True)], f"go_backwards: True; a {ONNX} reads forwards: reverse its input{BY_ARRAYS}"),
    (to_torch, lambda: made(LSTM, zoneout=0.1), "zoneout: {'h': 0.1, 'c': 0.0}; a PyTorch module has no zoneout, which also acts in eval"),
    (to_onnx, lambda: made(LSTM, zoneout_cell=0.1), "zoneout: {'h': 0.0, 'c': 0.1}; a recurrent layer of ONNX has no zoneout, which also"),
    (
        to_onnx,
        lambda: made(Bidirectional, backward={"activation": "relu"}),
        "activations, backward: lstm(relu, sigmoid); the recurrent layer of ONNX computes lstm: ",
    ),
    (
        to_torch,
        lambda: made(LSTM, learned_state=True),
        "learned_state: True; a PyTorch module starts from zeros: pass initial_h and initial",
    ),
    (to_onnx, lambda: made(LSTM, learned_state=True), "learned_state: True; a recurrent layer of ONNX starts from zeros: pass initial_h"),
    (
        to_onnx,
        lambda: made(LSTM, dtype=jnp.bfloat16),
        "dtype: bfloat16; a recurrent layer of ONNX multiplies in the dtype of the parameters,",
    ),
    (to_torch, residual, "residual: True; a PyTorch module has no residual connections: export the layers one by one, and add the inputs"),
    (to_onnx, residual, "residual: True; a recurrent layer of ONNX has no residual connections: "),
    (
        to_torch,
        lambda: made(Bidirectional, merge_mode="sum"),
        "merge_mode: sum; a PyTorch module has only concat: export layer.forward and",
    ),
    (to_onnx, lambda: made(Bidirectional, merge_mode=None), "merge_mode: None; a recurrent layer of ONNX has only concat, sum, ave, mul: "),
    (
        to_onnx,
        lambda: [made(Bidirectional, merge_mode="sum"), made(Bidirectional, H)],
        "merge_mode: sum, concat; all layers of one model must have the same: export them one by one",
    ),
    (to_torch, lambda: made(GRU), "cell: gru; the layers were named lstm: name the cell that they have"),
    (
        to_torch,
        lambda: [made(LSTM), nnx.Linear(H, H, rngs=nnx.Rngs(0))],
        "layers[1]: Linear; give a Recurrent or Bidirectional layer, or a",
    ),
    (to_onnx, lambda: arrays(made(LSTM)), "layers: dict; give a list of layers or of dicts of arrays, or a RecurrentStack"),
    (
        lambda layers: to_torch(layers, "simple_rnn"),
        lambda: [made(SimpleRNN), made(SimpleRNN, H, activation="relu")],
        "activations: simple_rnn, simple_rnn(relu); a PyTorch module has the same in all layers: export them one by one",
    ),
    (
        convert.lstm_to_keras,
        lambda: made(LSTM, zoneout=0.1),
        "zoneout: {'h': 0.1, 'c': 0.0}; a Keras layer has no zoneout, which also acts",
    ),
    (
        convert.lstm_to_linen,
        lambda: made(LSTM, activation="relu"),
        "activations: lstm(relu, sigmoid); the Flax cell computes lstm: give such",
    ),
]


@pytest.mark.parametrize(("export", "make", "message"), REFUSALS, ids=[f"{n} {message[:40]}" for n, (*_, message) in enumerate(REFUSALS)])
def test_what_cannot_be_expressed(export, make, message: str) -> None:
    with pytest.raises(InputError) as refused:
        export(make())
    assert str(refused.value).startswith(message)


def test_states_make_a_learned_state_expressible() -> None:
    pytest.importorskip("onnx", reason="ONNX is not installed: pip install '.[onnx]'")
    layer = made(LSTM, learned_state=True)
    model = convert.layers_to_onnx("lstm", layer, states=True)
    x, start = normal(0, 2, 5, E), {"h": layer.initial_h, "c": layer.initial_c}
    states = {f"state/0/{name}": np.broadcast_to(np.asarray(value[...]), (1, 2, H)) for name, value in start.items()}
    np.testing.assert_allclose(outputs_of_onnx(model, x=x, **states)[0], np.asarray(layer(jnp.asarray(x))), rtol=0, atol=1e-5)
