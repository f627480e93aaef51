"""Tests that GRU and simple RNN have the outputs, final states and gradients of Keras' and PyTorch's layers.

The GRU with `reset_after=False` is compared with Keras only, because PyTorch has no such layer.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from cases import Case, cases, differentiate, make_arrays, weigh
from flax import nnx
from hypothesis import given, settings
from tables import DROPOUTS, Shape, assert_close, precision

from lstm_jax import GRU, HiddenState, Recurrent, SimpleRNN, convert
from lstm_jax.models import functional

pytestmark = pytest.mark.usefixtures("quick_compiles")

LAYERS = {"gru": (GRU, {}), "gru_reset_before": (GRU, {"reset_after": False}), "simple_rnn": (SimpleRNN, {})}


def run_layer(cell: str, case: Case, arrays: Any, dtype: str):
    """Return ((outputs, final h), gradients with respect to params, x and initial h) of our layer."""
    kind, options = LAYERS[cell]
    layer: Recurrent = kind(
        case.shape.features,
        case.shape.units,
        return_sequences=case.return_sequences,
        return_state=True,
        go_backwards=case.backwards,
        zero_output_for_mask=case.zero_output,
        param_dtype=jnp.dtype(dtype),
        rngs=nnx.Rngs(0),
        **options,
    )
    made = functional(layer)

    def function(params, x, state):
        outputs, final = made.rebuild(params._asdict())(x, mask=arrays.mask, initial_state=state, dropout=arrays.dropout)
        return outputs, final

    return differentiate(function, arrays.params, arrays.x, arrays.state)


def run_keras(keras, cell: str, case: Case, arrays: Any, dtype: str, unroll: bool):
    """Return what `run_layer` returns, but for Keras' layer, with our dropout masks in place of those that Keras would draw."""
    kind, own = (keras.layers.SimpleRNN, {}) if cell == "simple_rnn" else (keras.layers.GRU, {"reset_after": cell == "gru"})
    if cell != "simple_rnn":
        own |= {"implementation": 1, "use_cudnn": False}
    dropped = DROPOUTS[case.dropout]
    layer = kind(
        case.shape.units,
        return_sequences=case.return_sequences,
        return_state=True,
        go_backwards=case.backwards,
        zero_output_for_mask=case.zero_output,
        dropout=0.4 if dropped.input else 0.0,
        recurrent_dropout=0.4 if dropped.recurrent else 0.0,
        kernel_initializer="zeros",
        recurrent_initializer="zeros",
        dtype=dtype,
        unroll=unroll,
        **own,
    )
    layer.build(arrays.x.shape)
    fixed = [variable.value for variable in layer.non_trainable_variables]

    def form(mask):
        if mask is None or cell == "simple_rnn":
            return mask if mask is None or mask.ndim == 2 else mask[0]
        return list(mask) if mask.ndim == 3 else [mask] * 3

    def function(params, x, state):
        layer.cell.get_dropout_mask = lambda step_input: form(arrays.dropout.input)
        layer.cell.get_recurrent_dropout_mask = lambda step_input: form(arrays.dropout.recurrent)
        layer.cell.activation = jnp.tanh  # Keras' own tanh on JAX rounds float64 to float32
        weights = [*params[:2], jnp.stack(params[2:])] if cell == "gru" else list(params)
        start = None if state is None else [state.h]
        (outputs, h), _ = layer.stateless_call(weights, fixed, x, initial_state=start, mask=arrays.mask, training=True)
        return outputs, HiddenState(h)

    return differentiate(function, arrays.params, arrays.x, arrays.state)


@pytest.mark.slow(keep=1)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("cell", LAYERS)
def test_keras(keras, peer_rules, cell: str, dtype: str) -> None:
    @settings(max_examples=3)
    @given(cases)
    def check(case: Case) -> None:
        case = case._replace(time_major=False)
        with precision(dtype):
            arrays = make_arrays(case, dtype, cell)
            gaps = case.mask not in ("none", "all valid") and case.initial_state and not case.zero_output
            with peer_rules():
                want = run_keras(keras, cell, case, arrays, dtype, unroll=gaps)
            assert_close(run_layer(cell, case, arrays, dtype), want, dtype, f"{case} ")

    check()


@pytest.mark.slow(keep=["units=4)-gru-float32", "units=4)-simple_rnn-float64"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("cell", ["gru", "simple_rnn"])
@pytest.mark.parametrize("shape", [Shape(1, 1, 1, 1), Shape(3, 5, 2, 4)], ids=str)
def test_torch(cell: str, shape: Shape, dtype: str) -> None:
    torch = pytest.importorskip("torch")
    with precision(dtype):
        case = Case(shape)
        arrays = make_arrays(case, dtype, cell)
        if cell == "simple_rnn":
            module = torch.nn.RNN(shape.features, shape.units, batch_first=True, dtype=getattr(torch, dtype))
        else:
            module = torch.nn.GRU(shape.features, shape.units, batch_first=True, dtype=getattr(torch, dtype))
        given = convert.cell_to_torch(cell, arrays.params._asdict())
        module.load_state_dict({name: torch.tensor(array) for name, array in given.items()})
        x = torch.tensor(np.array(arrays.x), requires_grad=True)
        start = torch.tensor(np.array(arrays.state.h)[None], requires_grad=True)
        outputs, h = module(x, start)
        results, (by_params, by_x, by_state) = run_layer(cell, case, arrays, dtype)
        assert_close(results, (outputs.detach().numpy(), HiddenState(h[0].detach().numpy())), dtype)
        # the same weights as `weigh` uses
        rng = np.random.default_rng(1)
        parts = [(part * torch.tensor(rng.normal(size=part.shape).astype(dtype))).sum() for part in (outputs, h[0])]
        sum(parts[1:], parts[0]).backward()
        assert weigh(results) == pytest.approx(float(sum(parts[1:], parts[0]).detach()), rel=1e-4)
        assert_close((by_x, by_state.h), (x.grad.numpy(), start.grad.numpy()[0]), dtype)
        gradients = {name: array.grad.numpy() for name, array in module.named_parameters()}
        if cell == "simple_rnn":
            gradients["bias_hh_l0"] = np.zeros_like(gradients["bias_hh_l0"])  # the same as that of bias_ih
        assert_close(by_params._asdict(), convert.cell_from_torch(cell, gradients), dtype)


@pytest.mark.parametrize("cell", LAYERS)
def test_there_and_back(cell: str) -> None:
    params = {name: np.asarray(array) for name, array in make_arrays(Case(), "float32", cell).params._asdict().items()}
    back = convert.cell_from_keras(cell, convert.cell_to_keras(cell, params))
    assert_close(back, params, "float32")
    if cell != "gru_reset_before":
        assert_close(convert.cell_from_torch(cell, convert.cell_to_torch(cell, params)), params, "float32")
