"""Weights are converted to and from PyTorch modules; PyTorch's outputs equal those of a
float64 NumPy LSTM with these arrays.
"""

import subprocess
import sys

import numpy as np
import pytest
from made_weights import assert_same
from numpy_lstm import assert_close, probabilities

from lstm_jax import convert

pytestmark = [
    # NumPy 2 asks for an argument `copy`
    pytest.mark.filterwarnings(
        "ignore:__array__ implementation:DeprecationWarning:keras"
    ),
    pytest.mark.usefixtures("only_peers"),
]


@pytest.mark.parametrize(
    "kinds", [("lstm",), ("bidirectional", "bidirectional")], ids="-".join
)
def test_torch_model(kinds, tmp_path):
    torch = pytest.importorskip("torch", reason="needs the peer PyTorch")
    from safetensors.torch import save_file

    ways = 1 if kinds[0] == "lstm" else 2
    peer = torch.nn.ModuleDict(
        {
            "words": torch.nn.Embedding(11, 3),
            "rnn": torch.nn.LSTM(
                3, 5, num_layers=len(kinds), bidirectional=ways == 2, batch_first=True
            ),
            "out": torch.nn.Linear(5 * ways, 1),
        }
    )
    names = {"embedding": "words", "lstm": "rnn", "head": "out"}
    save_file(peer.state_dict(), tmp_path / "model.safetensors")
    ours = convert.sentiment_from_torch(
        convert.read_torch_file(tmp_path / "model.safetensors"), **names
    )
    assert_same(
        convert.sentiment_from_torch(dict(peer.named_parameters()), **names), ours
    )
    assert_same(
        convert.sentiment_from_torch(
            convert.sentiment_to_torch(ours, **names), **names
        ),
        ours,
    )

    ids = np.random.default_rng(0).integers(0, 11, (4, 6))
    with torch.no_grad():
        _, (h_n, _) = peer["rnn"](peer["words"](torch.from_numpy(ids)))
        want = torch.sigmoid(peer["out"](torch.cat(list(h_n[-ways:]), dim=-1)))
    assert_close(want.numpy(), probabilities(ours, ids))


def test_torch_arrays_are_copies():
    torch = pytest.importorskip("torch", reason="needs the peer PyTorch")
    state = {
        name: tensor.detach()
        for name, tensor in torch.nn.LSTM(2, 3).state_dict().items()
    }
    kernel = convert.lstm_from_torch(state)[0]["kernel"]
    assert not np.shares_memory(kernel, state["weight_ih_l0"].numpy())


def test_bfloat16_without_jax(tmp_path):
    """Weights in bfloat16 are read in a process that has not imported JAX, which
    defines this dtype.
    """
    torch_file = pytest.importorskip("safetensors.torch")
    import torch

    torch_file.save_file(
        {"weight_ih_l0": torch.full((4, 2), 1.5, dtype=torch.bfloat16)},
        tmp_path / "m.safetensors",
    )
    script = f"""
import sys
from lstm_jax.convert import read_torch_file
found = read_torch_file({str(tmp_path / "m.safetensors")!r})["weight_ih_l0"]
print(found.dtype, float(found[0, 0]), "jax" in sys.modules)
"""
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60
    )
    assert (run.stdout, run.stderr) == ("bfloat16 1.5 False\n", "")
