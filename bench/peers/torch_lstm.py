"""Benchmark of PyTorch: nn.LSTM (which is cuDNN's LSTM on a GPU) and
torch.optim.Adam(fused=True), in eager mode or with torch.compile.

If the dtype is bfloat16, there are two cases. A workload of a recurrent layer alone has
weights, inputs and states in bfloat16. A training step of a whole model runs the model
under `torch.autocast`, which keeps the weights in float32.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from torch import Tensor, nn  # pyright: ignore[reportMissingImports]

from bench.peers import base
from bench.peers.base import Built, Options, evaluation
from bench.workloads import Arrays, Weights, Workload, in_layer
from lstm_jax import convert
from lstm_jax.base.errors import require

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# full float32, as in our models
torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
BIASES = "two biases, each with a step of its own"
COMPILED = "torch.compile around nn.LSTM, which stays PyTorch's own operator"


class Net(nn.Module):
    """Embedding (of word ids), LSTM and dense layer."""

    def __init__(self, work: Workload, rate: float):
        super().__init__()
        self.embedding = (
            nn.Embedding(work.vocabulary, work.features) if work.words else None
        )
        self.dropout = nn.Dropout(rate)
        self.lstm = nn.LSTM(work.features, work.units, batch_first=True)
        self.fc = nn.Linear(work.units, work.classes)

    def forward(self, x: Tensor) -> Tensor:
        if self.embedding is not None:
            x = self.embedding(x)
            if self.training:
                # one mask for all words of a review, as in Keras
                x = x * self.dropout(x.new_ones(len(x), 1, x.shape[2]))
        _, (h, _) = self.lstm(x)
        logits = self.fc(h[-1])
        return logits if self.embedding is None else logits[:, 0]


def build(
    work: Workload, arrays: Arrays, options: Options, compiled: bool = False
) -> Built:
    """Build a workload; see `base.Built`."""
    runs = ("float32",) if work.kind == "evaluation" else ("float32", "bfloat16")
    require(
        options.dtype in runs,
        "dtype",
        options.dtype,
        f"give {' or '.join(runs)} in {work.kind}",
    )
    wrapped: Callable[[nn.Module], Any] = torch.compile if compiled else lambda net: net
    if work.layer_alone:
        layer = loaded_layer(work, arrays, options)
        run = wrapped(layer)
        built = recurrence(work, arrays, layer, lambda x: run(x)[0])
    else:
        built = _model(work, arrays, options, wrapped)
    return replace(built, note=f"{built.note}; {COMPILED}") if compiled else built


def _devices() -> list[str]:
    return [
        f"cpu, {torch.get_num_threads()} threads"
        if DEVICE == "cpu"
        else f"gpu:{torch.cuda.get_device_name()}"
    ]


def _wait(result: object) -> None:
    if DEVICE != "cpu":
        torch.cuda.synchronize()


def to_numpy(tensor: Tensor) -> np.ndarray:
    """Return a tensor of any float dtype, on any device, as a NumPy array of float32."""
    return tensor.detach().float().cpu().numpy()


def _loaded(module: nn.Module, state: Weights) -> nn.Module:
    module.load_state_dict({name: torch.tensor(array) for name, array in state.items()})
    return module.to(DEVICE)


def loaded_layer(work: Workload, arrays: Arrays, options: Options) -> Any:
    """Return the recurrent layer of a workload of a layer alone, with our weights."""
    kind = {"lstm": nn.LSTM, "gru": nn.GRU, "simple_rnn": nn.RNN}[work.cell]
    layer = _loaded(
        kind(work.features, work.units, batch_first=True),
        convert.cell_to_torch(work.cell, arrays.cell()),
    )
    return layer.to(getattr(torch, options.dtype))


def recurrence(
    work: Workload,
    arrays: Arrays,
    layer,
    forward: Callable[[Tensor], Tensor],
    backend: str = "",
    to_ours: Callable[[Weights], Weights] | None = None,
) -> Built:
    """Return the `Built` of a recurrent layer alone, which `forward` runs on x (B, T,
    E), with the result h (B, T, H).

    `to_ours` converts the gradients from the names of the layer's parameters. By
    default, `layer` is the result of `loaded_layer`.
    """
    names, leaves = zip(*layer.named_parameters(), strict=True)
    x = torch.tensor(
        arrays.inputs, requires_grad=True, device=DEVICE, dtype=leaves[0].dtype
    )
    cotangent = torch.tensor(arrays.targets, device=DEVICE, dtype=x.dtype)
    # our GRU has two biases too, so it needs both gradients
    one_bias = to_ours is None and work.cell != "gru"

    def converted(gradients):
        state = {
            name: to_numpy(gradient)
            for name, gradient in zip(names, gradients, strict=True)
        }
        if to_ours:
            return to_ours(state)
        if one_bias:
            # the gradients of both biases are equal, and ours has one bias
            state["bias_hh_l0"] = np.zeros_like(state["bias_hh_l0"])
        return in_layer(convert.cell_from_torch(work.cell, state))

    @torch.inference_mode()
    def alone():
        return forward(x)

    def both():
        h = forward(x)
        *by_weights, by_x = torch.autograd.grad(h, (*leaves, x), cotangent)
        return h, (by_weights, by_x)

    step = alone if work.kind == "forward" else both
    return base.layer(
        work,
        step,
        converted,
        _wait,
        to_numpy,
        devices=_devices(),
        note="two biases" if one_bias else "",
        backend=backend,
    )


def _model(
    work: Workload,
    arrays: Arrays,
    options: Options,
    wrapped: Callable[[nn.Module], Any],
) -> Built:
    words = work.words
    to_torch = convert.sentiment_to_torch if words else convert.generation_to_torch
    from_torch = (
        convert.sentiment_from_torch if words else convert.generation_from_torch
    )
    ids = torch.tensor(arrays.inputs, dtype=torch.int64, device=DEVICE)
    inputs = (
        ids if words else nn.functional.one_hot(ids, work.vocabulary).float()
    ).split(work.batch)

    def loaded(rate):
        return _loaded(Net(work, rate), to_torch(arrays.weights))

    about: Any = {"devices": _devices(), "note": BIASES}
    if work.kind == "evaluation":
        evaluated = wrapped(loaded(0.0).eval())

        @torch.inference_mode()
        def evaluate():
            return to_numpy(torch.cat([evaluated(batch) for batch in inputs]))

        return evaluation(work, evaluate, **about)
    targets = torch.tensor(
        arrays.targets, dtype=torch.float32 if words else torch.int64, device=DEVICE
    ).split(work.batch)
    loss_of = nn.BCEWithLogitsLoss() if words else nn.CrossEntropyLoss()

    def start(dropout):
        module = loaded(options.dropout if dropout else 0.0)
        optimizer, net = (
            torch.optim.Adam(module.parameters(), lr=1e-3, eps=1e-7, fused=True),
            wrapped(module),
        )

        def step(x, y):
            optimizer.zero_grad()
            with torch.autocast(
                DEVICE, torch.bfloat16, enabled=options.dtype == "bfloat16"
            ):
                logits = net(x)
            loss = loss_of(logits.float(), y)
            loss.backward()
            optimizer.step()
            return loss

        def weights():
            state = {
                name: to_numpy(array) for name, array in module.state_dict().items()
            }
            # the second bias starts at zero and moves as bias_ih does
            state["lstm.bias_hh_l0"] = np.zeros_like(state["lstm.bias_hh_l0"])
            return from_torch(state)

        return step, weights

    def predict(x):
        return to_numpy(wrapped(loaded(0.0))(x))

    batches = list(zip(inputs, targets, strict=True))
    return base.training(work, batches, start, predict, _wait, to_numpy, **about)
