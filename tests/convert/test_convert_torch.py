"""Weights are converted to and from PyTorch modules; PyTorch's outputs equal those of a float64 NumPy LSTM with these arrays."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_weights import FEW, SHAPES, assert_same, normal, random_lstm, random_model, random_pair
from numpy_lstm import assert_close, probabilities, stack

from lstm_jax import convert
from lstm_jax.errors import InputError

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning:keras"),  # NumPy 2 asks for an argument `copy`
    pytest.mark.usefixtures("only_peers", "quick_compiles"),
]


@FEW
@given(SHAPES, st.sampled_from([1, 2, 3]), st.booleans(), st.booleans())
def test_torch_lstm(shape, count, bidirectional, bias):
    torch = pytest.importorskip("torch", reason="needs the peer PyTorch")
    b, t, e, h = shape
    torch.manual_seed(0)
    peer = torch.nn.LSTM(e, h, num_layers=count, bidirectional=bidirectional, bias=bias, batch_first=True)
    layers = convert.lstm_from_torch(peer.state_dict())
    assert len(layers) == count
    x = normal(4, b, t, e)
    with torch.no_grad():
        outputs, (h_n, _) = peer(torch.from_numpy(x))
    want, last = stack(layers, x)
    assert_close(outputs.numpy(), want)
    assert_close(np.concatenate(list(h_n.numpy()[-2 if bidirectional else -1 :]), axis=-1), last)

    back = convert.lstm_to_torch(layers)
    assert_same(convert.lstm_from_torch(back), layers)
    twin = torch.nn.LSTM(e, h, num_layers=count, bidirectional=bidirectional, batch_first=True)
    twin.load_state_dict({name: torch.from_numpy(array) for name, array in back.items()})
    with torch.no_grad():
        assert_close(twin(torch.from_numpy(x))[0].numpy(), want)


@pytest.mark.parametrize("kinds", [("lstm",), ("bidirectional", "bidirectional")], ids="-".join)
def test_torch_model(kinds, tmp_path):
    torch = pytest.importorskip("torch", reason="needs the peer PyTorch")
    from safetensors.torch import save_file

    ways = 1 if kinds[0] == "lstm" else 2
    peer = torch.nn.ModuleDict(
        {
            "words": torch.nn.Embedding(11, 3),
            "rnn": torch.nn.LSTM(3, 5, num_layers=len(kinds), bidirectional=ways == 2, batch_first=True),
            "out": torch.nn.Linear(5 * ways, 1),
        }
    )
    names = {"embedding": "words", "lstm": "rnn", "head": "out"}
    save_file(peer.state_dict(), tmp_path / "model.safetensors")
    ours = convert.sentiment_from_torch(convert.read_torch_file(tmp_path / "model.safetensors"), **names)
    assert_same(convert.sentiment_from_torch(dict(peer.named_parameters()), **names), ours)
    assert_same(convert.sentiment_from_torch(convert.sentiment_to_torch(ours, **names), **names), ours)

    ids = np.random.default_rng(0).integers(0, 11, (4, 6))
    with torch.no_grad():
        _, (h_n, _) = peer["rnn"](peer["words"](torch.from_numpy(ids)))
        want = torch.sigmoid(peer["out"](torch.cat(list(h_n[-ways:]), dim=-1)))
    assert_close(want.numpy(), probabilities(ours, ids))


def test_torch_arrays_are_copies():
    torch = pytest.importorskip("torch", reason="needs the peer PyTorch")
    peer = torch.nn.LSTM(2, 3)
    layers = convert.lstm_from_torch(peer.state_dict())
    before = layers[0]["kernel"].copy()
    with torch.no_grad():
        peer.weight_ih_l0.add_(1)
    assert_same(layers[0]["kernel"], before)


def torch_state(layers=2, ways=2, e=3, h=4):
    kinds = [random_pair if ways == 2 else random_lstm] * layers
    return convert.lstm_to_torch([kind(e if number == 0 else ways * h, h, number) for number, kind in enumerate(kinds)])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight_hr_l0": np.zeros((2, 4))}, r"_l0: weight_hr: a projection; convert such an nn.LSTM by layers_from_torch\('lstm_pro"),
        ({"fc.weight": np.zeros((1, 4))}, "fc.weight; give the prefix"),
        ({"bias_hh_l1": None}, "_l1: arrays: keys bias_ih, weight_hh, weight_ih; expected exactly weight_ih"),
        ({"weight_ih_l1": None}, "expected exactly weight_ih"),
        ({"weight_hh_l0": np.zeros((16, 5))}, r"recurrent_kernel: shape \(5, 16\); expected \(H, 4H\)"),
        ({"weight_ih_l1": np.zeros((16, 4))}, r"backward/kernel: shape \(8, 16\); expected \(4, 16\)"),
        ({"bias_ih_l0": np.zeros((16, 1))}, r"bias_ih: shape \(16, 1\); expected \(16,\)"),
        ({"weight_ih_l0": np.zeros((16, 3), int)}, "weight_ih: dtype int64; give an array of floats"),
        ({"weight_ih_l0": "text"}, "weight_ih: dtype <U4"),
        ({f"{kind}_l1_reverse": None for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}, "directions x units: 1 x 4, 2 x 4"),
        (
            {f"{kind}_l0{way}": None for way in ("", "_reverse") for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")},
            r"LSTM layers: \[1\]; give the arrays of all layers",
        ),
    ],
)
def test_torch_refusals(change, message):
    state = torch_state() | change
    with pytest.raises(InputError, match=message):
        convert.lstm_from_torch({name: array for name, array in state.items() if array is not None})


def test_torch_refuses_other_models_and_files(tmp_path):
    model = convert.sentiment_to_torch(random_model())
    (tmp_path / "bad.safetensors").write_bytes(b"not a header at all")
    for call, arguments, message in [
        (convert.lstm_from_torch, ({"rnn.weight_ih_l0": np.zeros((4, 1))}, "lstm."), r"none under 'lstm\.'"),
        (convert.lstm_to_torch, ([random_lstm(2, 3), random_lstm(3, 4)],), "one of each"),
        (convert.sentiment_from_torch, (model | {"norm.weight": np.zeros(3)},), "name in the state dict: norm.weight"),
        (convert.sentiment_from_torch, (model, "embedding", "lstm", "head"), "state dict: fc.weight; expected only embedding.weight"),
        (convert.read_torch_file, ("model.pt",), "save the weights with safetensors"),
        (convert.read_torch_file, (tmp_path / "absent.safetensors",), "no such file"),
        (convert.read_torch_file, (tmp_path / "bad.safetensors",), "damaged or foreign"),
    ]:
        with pytest.raises(InputError, match=message):
            call(*arguments)


def test_bfloat16_without_jax(tmp_path) -> None:
    """Weights in bfloat16 are read in a process that has not imported JAX, which defines this dtype."""
    torch_file = pytest.importorskip("safetensors.torch")
    import torch

    torch_file.save_file({"weight_ih_l0": torch.full((4, 2), 1.5, dtype=torch.bfloat16)}, tmp_path / "m.safetensors")
    script = f"""
import sys
from lstm_jax.convert import read_torch_file
found = read_torch_file({str(tmp_path / "m.safetensors")!r})["weight_ih_l0"]
print(found.dtype, float(found[0, 0]), "jax" in sys.modules)
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (run.stdout, run.stderr) == ("bfloat16 1.5 False\n", "")
