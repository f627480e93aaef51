"""Tests that stacks of our layers have the results and gradients of `torch.nn.LSTM`,
also for packed sequences, and of GRU and RNN.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import Case, differentiate, make_arrays
from flax import nnx
from tables import Shape, assert_close, precision, serving

from lstm_jax import CELLS, LSTM, Bidirectional, HiddenState, LSTMState, convert, unroll
from lstm_jax.training.parts import functional


class Stack(NamedTuple):
    name: str
    shape: Shape
    layers: int = 1
    bidirectional: bool = False
    lengths: tuple[int, ...] | None = None
    initial_state: bool = True
    bias: bool = True


STACKS = [
    Stack("ones", Shape(1, 1, 1, 1)),
    Stack("no bias", Shape(3, 5, 2, 5), bias=False),
    Stack("two layers", Shape(3, 5, 2, 3), layers=2, initial_state=False),
    Stack("packed", Shape(4, 6, 3, 5), lengths=(6, 1, 3, 2)),
    Stack("three layers, packed", Shape(3, 4, 3, 2), layers=3, lengths=(2, 4, 1)),
    Stack("two layers, both ways", Shape(3, 4, 3, 2), layers=2, bidirectional=True),
    Stack(
        "both ways, packed", Shape(3, 4, 1, 3), bidirectional=True, lengths=(1, 4, 2)
    ),
]


def differentiate_torch(torch, results, dtype: str) -> None:
    rng = np.random.default_rng(1)  # the same weights as `weigh` uses
    sum(
        (part * torch.from_numpy(rng.normal(size=part.shape).astype(dtype))).sum()
        for part in results
    ).backward()


def torch_results(torch, stack: Stack, dtype: str):
    """Run `torch.nn.LSTM` and return (weights, inputs, results, gradients of the
    weights, gradients of the inputs) as NumPy arrays.

    The inputs are x, h0 and c0. The results are the outputs, h and c. The weights and
    their gradients are dicts by parameter name.
    """
    torch.manual_seed(0)
    batch, steps, features, units = stack.shape
    directions = 2 if stack.bidirectional else 1
    options = {
        "num_layers": stack.layers,
        "bidirectional": stack.bidirectional,
        "bias": stack.bias,
        "batch_first": True,
    }
    module = torch.nn.LSTM(features, units, dtype=getattr(torch, dtype), **options)
    x = torch.randn(
        batch, steps, features, dtype=getattr(torch, dtype), requires_grad=True
    )
    start = [
        torch.randn(
            stack.layers * directions, batch, units, dtype=getattr(torch, dtype)
        )
        for _ in "hc"
    ]
    start = [(s if stack.initial_state else 0 * s).requires_grad_() for s in start]
    rnn = torch.nn.utils.rnn
    if stack.lengths is None:
        outputs, (h, c) = module(x, tuple(start))
    else:
        packed = rnn.pack_padded_sequence(
            x, torch.tensor(stack.lengths), batch_first=True, enforce_sorted=False
        )
        packed_outputs, (h, c) = module(packed, tuple(start))
        outputs, _ = rnn.pad_packed_sequence(
            packed_outputs, batch_first=True, total_length=steps
        )
    results = (outputs, h, c)
    differentiate_torch(torch, results, dtype)
    arrays = {name: p.detach().numpy() for name, p in module.named_parameters()}
    gradients = {name: p.grad.numpy() for name, p in module.named_parameters()}
    numpy = [a.detach().numpy() for a in (x, *start)]
    return (
        arrays,
        numpy,
        tuple(r.detach().numpy() for r in results),
        gradients,
        [a.grad.numpy() for a in (x, *start)],
    )


def flat(layer: dict) -> dict[str, jax.Array]:
    if "forward" not in layer:
        return {name: jnp.asarray(array) for name, array in layer.items()}
    return {
        f"{way}/{name}": jnp.asarray(array)
        for way, arrays in layer.items()
        for name, array in arrays.items()
    }


@pytest.mark.slow(keep=2)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("stack", STACKS, ids=lambda stack: stack.name)
def test_stack(torch, stack: Stack, dtype: str) -> None:
    weights, inputs, want, weight_gradients, input_gradients = torch_results(
        torch, stack, dtype
    )
    for name, gradient in weight_gradients.items():
        if name.startswith("bias_hh"):
            assert_close(
                gradient, weight_gradients[name.replace("bias_hh", "bias_ih")], dtype
            )
            # so that the sum of the two biases' gradients is the one of our bias
            weight_gradients[name] = np.zeros_like(gradient)
    with precision(dtype):
        params = [flat(layer) for layer in convert.lstm_from_torch(weights)]
        wanted_gradients = [
            flat(layer) for layer in convert.lstm_from_torch(weight_gradients)
        ]
        lengths = None if stack.lengths is None else jnp.asarray(stack.lengths)
        x, h, c = (jnp.asarray(a) for a in inputs)
        asked = (
            ""
            if lengths is None
            else "lengths read backwards"
            if stack.bidirectional
            else "lengths"
        )
        for backend in serving(dtype, mask=asked)[: None if dtype == "float32" else 1]:
            outputs, gradients = ours(stack, backend, lengths, params, x, h, c)
            assert_close(outputs, want, dtype, f"{backend} ")
            assert_close(
                gradients[1:], tuple(input_gradients), dtype, f"{backend} gradient "
            )
            for got, wanted in zip(gradients[0], wanted_gradients, strict=True):
                if not stack.bias:
                    got, wanted = (
                        {n: a for n, a in d.items() if not n.endswith("bias")}
                        for d in (got, wanted)
                    )
                assert_close(got, wanted, dtype, f"{backend} gradient ")


def ours(stack: Stack, backend: str, lengths, params, x, h, c):
    features, units = stack.shape.features, stack.shape.units
    layers = []
    for _ in range(stack.layers):
        options = {
            "return_sequences": True,
            "return_state": True,
            "backend": backend,
            "rngs": nnx.Rngs(0),
        }
        if stack.bidirectional:
            layers.append(functional(Bidirectional(features, units, **options)))
            features = 2 * units
        else:
            layers.append(
                functional(LSTM(features, units, zero_output_for_mask=True, **options))
            )
            features = units

    def function(params, x, h, c):
        finals = []
        for number, (layer, own) in enumerate(zip(layers, params, strict=True)):
            module = layer.rebuild(own)
            if stack.bidirectional:
                start = (
                    LSTMState(h[2 * number], c[2 * number]),
                    LSTMState(h[2 * number + 1], c[2 * number + 1]),
                )
                x, states = module(x, lengths=lengths, initial_state=start)
                finals += states
            else:
                x, state = module(
                    x, lengths=lengths, initial_state=LSTMState(h[number], c[number])
                )
                finals.append(state)
        return x, jnp.stack([s.h for s in finals]), jnp.stack([s.c for s in finals])

    return differentiate(function, params, x, h, c)


@pytest.mark.slow(keep=3)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("cell", ["gru", "simple_rnn"])
@pytest.mark.parametrize("shape", [Shape(1, 1, 1, 1), Shape(3, 5, 2, 4)], ids=str)
def test_other_cells(torch, cell: str, shape: Shape, dtype: str) -> None:
    with precision(dtype):
        case = Case(shape)
        arrays = make_arrays(case, dtype, cell)
        kind = torch.nn.RNN if cell == "simple_rnn" else torch.nn.GRU
        module = kind(
            shape.features, shape.units, batch_first=True, dtype=getattr(torch, dtype)
        )
        given = convert.cell_to_torch(cell, arrays.params._asdict())
        module.load_state_dict(
            {name: torch.tensor(array) for name, array in given.items()}
        )
        x = torch.tensor(np.array(arrays.x), requires_grad=True)
        start = torch.tensor(np.array(arrays.state.h)[None], requires_grad=True)
        outputs, h = module(x, start)
        results, (by_params, by_x, by_state) = differentiate(
            lambda params, x, state: unroll(CELLS[cell], params, x, state),
            arrays.params,
            arrays.x,
            arrays.state,
        )
        assert_close(
            results,
            (outputs.detach().numpy(), HiddenState(h[0].detach().numpy())),
            dtype,
        )
        differentiate_torch(torch, (outputs, h[0]), dtype)
        assert_close((by_x, by_state.h), (x.grad.numpy(), start.grad.numpy()[0]), dtype)
        gradients = {
            name: array.grad.numpy() for name, array in module.named_parameters()
        }
        if cell == "simple_rnn":
            # the same as that of bias_ih
            gradients["bias_hh_l0"] = np.zeros_like(gradients["bias_hh_l0"])
        assert_close(
            by_params._asdict(), convert.cell_from_torch(cell, gradients), dtype
        )
