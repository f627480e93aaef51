"""Benchmark of PyTorch: nn.LSTM (which is cuDNN's LSTM on a GPU) and torch.optim.Adam(fused=True), in eager mode or with torch.compile.

If the dtype is bfloat16, there are two cases. A workload of a recurrent layer alone has weights, inputs and states in bfloat16. A training
step of a whole model runs the model under `torch.autocast`, which keeps the weights in float32.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import cycle
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from torch import nn  # pyright: ignore[reportMissingImports]

from bench.peers import base
from bench.peers.base import Built, Options, comparable, evaluation, no_recurrent_dropout
from bench.workloads import Arrays, Workload, in_layer
from lstm_jax import convert
from lstm_jax.errors import require

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False  # full float32, as in our models
BIASES = "two biases, each with a step of its own"
COMPILED = "torch.compile around nn.LSTM, which stays PyTorch's own operator"


class Net(nn.Module):
    """PyTorch model of a training or evaluation workload: embedding (for word ids), LSTM and a dense output layer."""

    def __init__(self, work: Workload, rate: float):
        super().__init__()
        self.embedding = nn.Embedding(work.vocabulary, work.features) if work.words else None
        self.dropout = nn.Dropout(rate)
        self.lstm = nn.LSTM(work.features, work.units, batch_first=True)
        self.fc = nn.Linear(work.units, work.classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.embedding is not None:
            x = self.embedding(x)
            if self.training:
                x = x * self.dropout(x.new_ones(len(x), 1, x.shape[2]))  # one mask for all words of a review, as in Keras
        _, (h, _) = self.lstm(x)
        logits = self.fc(h[-1])
        return logits if self.embedding is None else logits[:, 0]


def build(work: Workload, arrays: Arrays, options: Options, compiled: bool = False) -> Built:
    """Prepare a benchmark workload, such as a training step, in PyTorch, and return functions that run it; see `base.Built`."""
    runs = ("float32",) if work.kind == "evaluation" else ("float32", "bfloat16")
    require(options.dtype in runs, "dtype", options.dtype, f"give {' or '.join(runs)} in {work.kind}")
    wrapped = torch.compile if compiled else lambda net: net
    make = {"evaluation": _evaluation, "recurrence": _recurrence, "forward": _recurrence}.get(work.kind, _training)
    built = make(work, arrays, options, wrapped)
    return replace(built, note=f"{built.note}; {COMPILED}") if compiled else built


def devices() -> list[str]:
    """Return the name of the device that PyTorch uses."""
    return [f"cpu, {torch.get_num_threads()} threads" if DEVICE == "cpu" else f"gpu:{torch.cuda.get_device_name()}"]


def wait(result: object = None) -> None:
    """Wait until the device has ended all its work."""
    if DEVICE != "cpu":
        torch.cuda.synchronize()


def to_numpy(tensor: torch.Tensor) -> np.ndarray:
    """Return a tensor of any float dtype, on any device, as a NumPy array of float32."""
    return tensor.detach().float().cpu().numpy()


def _loaded(module: nn.Module, state: dict[str, np.ndarray]) -> nn.Module:
    module.load_state_dict({name: torch.tensor(array) for name, array in state.items()})
    return module.to(DEVICE)


def _recurrence(work: Workload, arrays: Arrays, options: Options, wrapped: Callable[[nn.Module], Any]) -> Built:
    layer, cell = {"lstm": nn.LSTM, "gru": nn.GRU, "simple_rnn": nn.RNN}[work.cell], work.cell
    dtype = getattr(torch, options.dtype)
    rnn = _loaded(layer(work.features, work.units, batch_first=True), convert.cell_to_torch(cell, arrays.cell())).to(dtype)
    x = torch.tensor(arrays.inputs, requires_grad=True, device=DEVICE, dtype=dtype)
    cotangent = torch.tensor(arrays.targets, device=DEVICE, dtype=dtype)
    names, leaves = zip(*rnn.named_parameters(), strict=True)
    rnn = wrapped(rnn)

    def to_ours(gradients: Sequence[torch.Tensor]) -> dict[str, np.ndarray]:
        state = {name: to_numpy(gradient) for name, gradient in zip(names, gradients, strict=True)}
        if cell != "gru":  # our GRU has two biases too, so it needs both gradients
            state["bias_hh_l0"] = np.zeros_like(state["bias_hh_l0"])  # the gradients of both biases are equal, and ours has one bias
        return in_layer(convert.cell_from_torch(cell, state))

    @torch.inference_mode()
    def forward() -> torch.Tensor:
        return rnn(x)[0]

    step = forward if work.kind == "forward" else differentiated(lambda: rnn(x)[0], leaves, x, cotangent)
    return base.layer(work, step, to_ours, devices(), "" if cell == "gru" else "two biases", wait=wait, to_numpy=to_numpy)


def differentiated(forward: Callable[[], Any], leaves: Sequence[Any], x: torch.Tensor, cotangent: torch.Tensor) -> Callable[[], Any]:
    """Return a function that runs a layer forward and backward, and returns (h, (gradients of its weights, gradient of x))."""

    def step():
        h = forward()
        *by_weights, by_x = torch.autograd.grad(h, (*leaves, x), cotangent)
        return h, (by_weights, by_x)

    return step


def _evaluation(work: Workload, arrays: Arrays, options: Options, wrapped: Callable[[nn.Module], Any]) -> Built:
    net = wrapped(_loaded(Net(work, 0.0), convert.sentiment_to_torch(arrays.weights)).eval())
    batches = torch.tensor(arrays.inputs, dtype=torch.int64, device=DEVICE).split(work.batch)

    @torch.inference_mode()
    def evaluate() -> np.ndarray:
        return to_numpy(torch.cat([net(batch) for batch in batches]))

    return evaluation(work, evaluate, devices(), BIASES)


def _training(work: Workload, arrays: Arrays, options: Options, wrapped: Callable[[nn.Module], Any]) -> Built:
    words = work.words
    to_torch = convert.sentiment_to_torch if words else convert.generation_to_torch
    from_torch = convert.sentiment_from_torch if words else convert.generation_from_torch
    ids = torch.tensor(arrays.inputs, dtype=torch.int64, device=DEVICE)
    inputs = ids if words else nn.functional.one_hot(ids, work.vocabulary).float()
    targets = torch.tensor(arrays.targets, dtype=torch.float32 if words else torch.int64, device=DEVICE)
    batches = list(zip(inputs.chunk(work.batches), targets.chunk(work.batches), strict=True))
    loss_of = nn.BCEWithLogitsLoss() if words else nn.CrossEntropyLoss()

    def start(rate: float) -> tuple[nn.Module, torch.optim.Optimizer]:
        net = _loaded(Net(work, rate), to_torch(arrays.weights))
        return net, torch.optim.Adam(net.parameters(), lr=1e-3, eps=1e-7, fused=True)

    def step(net: Any, optimizer: torch.optim.Optimizer, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        optimizer.zero_grad()
        with torch.autocast(DEVICE, torch.bfloat16, enabled=options.dtype == "bfloat16"):
            logits = net(x)
        loss = loss_of(logits.float(), y)
        loss.backward()
        optimizer.step()
        return loss

    trained, optimizer = start(options.dropout)
    net = wrapped(trained)
    each = cycle(batches)

    def outputs() -> np.ndarray:
        return comparable(work, to_numpy(wrapped(start(0.0)[0])(batches[0][0])))

    def after_one_step() -> dict[str, np.ndarray]:
        net, optimizer = start(0.0)
        loss = step(wrapped(net), optimizer, *batches[0])
        state = {name: to_numpy(array) for name, array in net.state_dict().items()}
        state["lstm.bias_hh_l0"] = np.zeros_like(state["lstm.bias_hh_l0"])  # the second bias starts at zero and moves as bias_ih does
        return from_torch(state) | {"loss": to_numpy(loss)}

    note = ", ".join(part for part in (no_recurrent_dropout(options), BIASES) if part)
    run = base.repeated(lambda: step(net, optimizer, *next(each)), wait)
    return Built(run, outputs, after_one_step, "corrected", devices(), note)
