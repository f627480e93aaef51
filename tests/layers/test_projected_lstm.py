"""LSTM with a recurrent projection, compared with `torch.nn.LSTM(proj_size=P)` in
float64, and options of layers that have a projection.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from made_layers import B, E, H, T, X, made
from made_weights import normal
from tables import assert_close

from lstm_jax import LSTM, Bidirectional, DropoutMasks, RecurrentStack, convert, unroll
from lstm_jax.cells import projected_lstm
from lstm_jax.convert.arrays import PROJECTED

SIZES = [(2, 5, 2, 2, 3), (4, 3, 2, 2, 3)]
"""Tuples (features, units, outputs, batch, steps). Only two are used, since operations
are compiled anew for each shape."""
OUTPUTS = 2


def zeros(make: Any, *sizes: int, **options) -> Any:
    """Return a layer whose parameters are zeros. No random numbers are drawn, so that
    nothing is compiled.
    """
    graph, shapes = nnx.split(
        nnx.eval_shape(lambda: make(*sizes, rngs=nnx.Rngs(0), **options))
    )
    return nnx.merge(
        graph,
        jax.tree.map(
            lambda leaf: jax.device_put(np.zeros(leaf.shape, leaf.dtype)), shapes
        ),
    )


def close(got, want) -> None:
    np.testing.assert_allclose(
        np.asarray(got), want.detach().numpy(), rtol=0, atol=1e-10
    )


def make_layers(
    features: int, units: int, outputs: int, layers: int, both: bool, bias: bool
) -> Any:
    options: dict[str, Any] = {
        "projection": outputs,
        "use_bias": bias,
        "param_dtype": jnp.float64,
    }
    options |= {"return_sequences": True, "return_state": True}
    inner = outputs * (2 if both else 1)
    made = [
        zeros(
            Bidirectional if both else LSTM, inner if n else features, units, **options
        )
        for n in range(layers)
    ]
    return made[0] if layers == 1 else RecurrentStack(made)


@pytest.mark.slow
@pytest.mark.usefixtures("x64", "eager")
def test_layers_are_those_of_torch(torch) -> None:
    """In fifteen configurations, our layers with PyTorch's weights give PyTorch's
    outputs and final states.

    The configurations have one to three layers, one or two directions, two sizes, and
    biases or none.
    """
    torch.manual_seed(0)
    for seed in range(15):
        layers, both, bias = 1 + seed % 3, bool(seed // 3 % 2), seed % 4 > 0
        features, units, outputs, batch, steps = SIZES[seed % 5 % 2]
        options = {
            "num_layers": layers,
            "bidirectional": both,
            "bias": bias,
            "batch_first": True,
            "dtype": torch.float64,
        }
        module = torch.nn.LSTM(features, units, proj_size=outputs, **options)
        ours = make_layers(features, units, outputs, layers, both, bias)
        convert.load(ours, module)
        x = normal(seed, batch, steps, features, dtype=np.float64)
        got, states = ours(jnp.asarray(x))
        want, finals = module(torch.from_numpy(x))
        close(got, want)
        flat = [
            one
            for layer in ([states] if layers == 1 else states)
            for one in (layer if both else [layer])
        ]
        for n, final in enumerate(finals):
            close(jnp.stack([state[n] for state in flat]), final)


@pytest.mark.usefixtures("x64", "eager")
def test_gradients_are_those_of_torch(torch) -> None:
    torch.manual_seed(1)
    features, units, outputs, batch, steps = SIZES[1]
    module = torch.nn.LSTM(
        features, units, proj_size=outputs, batch_first=True, dtype=torch.float64
    )
    cell = projected_lstm(outputs)
    params = cell.params(
        **jax.tree.map(
            jnp.asarray, convert.cell_from_torch(PROJECTED, module.state_dict())
        )
    )
    shapes = (
        (batch, steps, features),
        (batch, outputs),
        (batch, units),
        (batch, steps, outputs),
    )
    x, h, c, weight = (
        normal(seed, *shape, dtype=np.float64) for seed, shape in enumerate(shapes)
    )

    def loss(params, x, h, c):
        found, final = unroll(cell, params, x, (h, c))
        return (found * weight).sum() + (final.c**2).sum()

    ours = jax.grad(loss, (0, 1, 2, 3))(params, *map(jnp.asarray, (x, h, c)))
    theirs = [torch.from_numpy(array).requires_grad_() for array in (x, h, c)]
    found, (_, last) = module(theirs[0], (theirs[1][None], theirs[2][None]))
    ((found * torch.from_numpy(weight)).sum() + (last**2).sum()).backward()
    slopes = {name: parameter.grad for name, parameter in module.named_parameters()}
    wanted = convert.cell_from_torch(
        PROJECTED, slopes | {"bias_hh_l0": torch.zeros(4 * units, dtype=torch.float64)}
    )
    assert_close(ours[0]._asdict(), wanted, "float64")
    assert_close(list(ours[1:]), [tensor.grad.numpy() for tensor in theirs], "float64")


def make(kind: Any = LSTM, *sizes: int, **options: Any) -> Any:
    return made(
        kind, *sizes, **({"projection": OUTPUTS, "return_sequences": True} | options)
    )


def test_parameters_start_as_those_of_an_lstm() -> None:
    layer, plain = make(), made()
    np.testing.assert_array_equal(layer.kernel[...], plain.kernel[...])
    np.testing.assert_array_equal(layer.bias[...], plain.bias[...])
    recurrent = layer.recurrent_kernel[...]
    assert_close(recurrent @ recurrent.T, np.eye(OUTPUTS), 1e-5)
    projection = np.abs(layer.projection[...])
    assert 0.3 < projection.max() < np.sqrt(6 / (H + OUTPUTS))
    assert layer.count_params() == 4 * H * (E + OUTPUTS + 1) + H * OUTPUTS
    bare = make(
        unit_forget_bias=False, kernel_initializer="zeros", recurrent_initializer="ones"
    )
    assert not bare.bias[...].any()
    assert (bare.recurrent_kernel[...] == 1).all()
    assert make(use_bias=False).bias is None


def test_masks_have_the_size_of_the_state() -> None:
    layer = make(
        dropout=0.5,
        recurrent_dropout=0.5,
        zoneout=0.5,
        zoneout_cell=0.5,
        learned_state=True,
    )
    assert (layer.initial_h.shape, layer.initial_c.shape) == ((OUTPUTS,), (H,))
    masks = layer.draw_masks(B, steps=T)
    assert (masks.input.shape, masks.recurrent.shape) == ((4, B, E), (4, B, OUTPUTS))
    assert {name: mask.shape[2] for name, mask in masks.zoneout.items()} == {
        "h": OUTPUTS,
        "c": H,
    }
    assert layer(X, dropout=masks).shape == (B, T, OUTPUTS)
    assert np.isfinite(layer(X, deterministic=True)).all()
    cell, params = layer.definition, layer.cell_params()
    mask = jnp.asarray([0.0, 2.0])
    dropped, _ = unroll(
        cell,
        params,
        X,
        dropout=DropoutMasks(recurrent=jnp.broadcast_to(mask, (B, OUTPUTS))),
    )
    scaled = params._replace(recurrent_kernel=params.recurrent_kernel * mask[:, None])
    assert_close(dropped, unroll(cell, scaled, X)[0], 1e-6)
    kept = {"h": jnp.ones((T, B, OUTPUTS), bool), "c": jnp.ones((T, B, H), bool)}
    assert not unroll(cell, params, X, dropout=DropoutMasks(zoneout=kept))[0].any()


def test_both_directions_and_stacks() -> None:
    both = make(Bidirectional, return_state=True)
    outputs, _ = both(X)
    assert both.output_features == 2 * OUTPUTS
    assert both.compute_output_shape(X.shape)[0] == outputs.shape == (B, T, 2 * OUTPUTS)
    layers = [make(), make(LSTM, OUTPUTS, H)]
    first = layers[0](X)
    assert_close(
        RecurrentStack(layers, residual=True)(X), first + layers[1](first), 1e-6
    )
