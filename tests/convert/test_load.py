"""`convert.load`: layers give the outputs of PyTorch's modules in float64; weights that
do not fit are refused and change nothing.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from made_weights import assert_refused, assert_same, assert_subject, normal

from lstm_jax import (
    GRU,
    LSTM,
    Bidirectional,
    Recurrent,
    RecurrentStack,
    SimpleRNN,
    convert,
)
from lstm_jax.cells import projected_lstm
from lstm_jax.convert.arrays import CELLS as CONVERTED
from lstm_jax.convert.arrays import LAYOUTS, PROJECTED

KINDS = {
    "LSTM": "lstm",
    "GRU": "gru",
    "RNN tanh": "simple_rnn",
    "RNN relu": "simple_rnn",
}


class Config(NamedTuple):
    layers: int
    both: bool
    bias: bool
    features: int
    units: int
    batch: int
    steps: int


CONFIGS = [
    Config(1, False, True, 1, 1, 1, 1),
    Config(2, True, True, 3, 2, 2, 3),
    Config(3, False, False, 2, 3, 2, 1),
    Config(1, True, False, 4, 2, 1, 4),
]


def torch_module(torch, kind: str, config: Config, of: str = "", **options):
    """Return an nn.LSTM, nn.GRU or nn.RNN, or its cell if `of` is "Cell"."""
    name, _, nonlinearity = kind.partition(" ")
    options |= {"nonlinearity": nonlinearity} if nonlinearity else {}
    torch.manual_seed(0)
    return getattr(torch.nn, name + of)(
        config.features, config.units, bias=config.bias, dtype=torch.float64, **options
    )


def zeros(make: Callable[..., Any], *sizes: int, **options) -> Any:
    """Return a layer whose parameters are zeros. No random numbers are drawn, so that
    nothing is compiled.
    """
    options |= {
        "kernel_initializer": "zeros",
        "recurrent_initializer": "zeros",
        "backend": "reference",
    }
    graph, shapes = nnx.split(
        nnx.eval_shape(lambda: make(*sizes, rngs=nnx.Rngs(0), **options))
    )
    return nnx.merge(
        graph,
        jax.tree.map(
            lambda leaf: jax.device_put(np.zeros(leaf.shape, leaf.dtype)), shapes
        ),
    )


def new_layers(kind: str, config: Config):
    """Return a layer or, if there are several, a stack of them, which has the sizes of
    the PyTorch module and returns its states.
    """
    options = {
        "cell": KINDS[kind],
        "activation": "relu" if kind == "RNN relu" else "tanh",
        "use_bias": config.bias,
    }
    options |= {
        "param_dtype": jnp.float64,
        "return_sequences": True,
        "return_state": True,
    }
    layers, features = [], config.features
    for _ in range(config.layers):
        layers.append(
            zeros(
                Bidirectional if config.both else Recurrent,
                features,
                config.units,
                **options,
            )
        )
        features = layers[-1].output_features
    return layers[0] if config.layers == 1 else RecurrentStack(layers)


def summed(cell: str, module) -> dict[str, np.ndarray]:
    """Return the state dict that is expected after a conversion to our layout and back.

    A cell with one bias keeps only the sum of PyTorch's two biases, which comes back as
    bias_ih. Then bias_hh is zero.
    """
    state = {name: tensor.numpy() for name, tensor in module.state_dict().items()}
    if cell == "gru":
        return state
    sums = {
        name: array + state[name.replace("_ih", "_hh")]
        for name, array in state.items()
        if "bias_ih" in name
    }
    return (
        state
        | sums
        | {
            name: np.zeros_like(array)
            for name, array in state.items()
            if "bias_hh" in name
        }
    )


def close(got, want) -> None:
    np.testing.assert_allclose(
        np.asarray(got), want.detach().numpy(), rtol=0, atol=1e-10
    )


@pytest.mark.slow(keep=6)
@pytest.mark.usefixtures("x64", "eager")
@pytest.mark.parametrize("seed", range(len(CONFIGS)))
@pytest.mark.parametrize("kind", KINDS)
def test_layers(torch, kind, seed):
    """Layers with PyTorch's weights give PyTorch's outputs and final states, and the
    weights convert back.
    """
    cell, config = KINDS[kind], CONFIGS[seed]
    module = torch_module(
        torch,
        kind,
        config,
        num_layers=config.layers,
        bidirectional=config.both,
        batch_first=True,
    )
    layer = new_layers(kind, config)
    arrays = convert.layers_from_torch(cell, module.state_dict())
    convert.load(layer, (module, module.state_dict(), arrays)[seed % 3])
    x = normal(seed, config.batch, config.steps, config.features, dtype=np.float64)
    outputs, state = layer(jnp.asarray(x))
    want, final = module(torch.from_numpy(x))
    close(outputs, want)
    per_layer = [state] if config.layers == 1 else state
    # in the order of PyTorch's h_n
    states = [
        direction for one in per_layer for direction in (one if config.both else [one])
    ]
    for number, part in enumerate(final if kind == "LSTM" else [final]):
        close(jnp.stack([found[number] for found in states]), part)
    assert_same(
        convert.layers_to_torch(cell, arrays, bias=config.bias),
        summed(cell, module),
        ordered=False,
    )


@pytest.mark.usefixtures("x64", "eager")
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_cells(torch, kind, bias):
    """A layer loaded from a PyTorch cell in a bigger model gives the cell's outputs and
    states in three steps; the weights convert back.
    """
    config, cell = (
        Config(1, False, bias, features=3, units=4, batch=2, steps=3),
        KINDS[kind],
    )
    module = torch_module(torch, kind, config, "Cell")
    state_dict = torch.nn.ModuleDict(
        {"head": torch.nn.Linear(2, 2), "cell": module}
    ).state_dict()
    layer = new_layers(kind, config)
    convert.load(layer, state_dict, prefix="cell.")
    ours, theirs = layer.initial_state(config.batch), None
    for x in normal(0, config.steps, config.batch, config.features, dtype=np.float64):
        output, ours = layer.step(jnp.asarray(x), ours)
        theirs = module(torch.from_numpy(x), theirs)
        for got, want in zip(ours, theirs if kind == "LSTM" else [theirs], strict=True):
            close(got, want)
        close(output, theirs[0] if kind == "LSTM" else theirs)
    back = convert.cell_to_torch(
        cell, convert.cell_from_torch(cell, state_dict, "cell."), suffix="", bias=bias
    )
    assert_same(back, summed(cell, module), ordered=False)


def test_module_shows_its_nonlinearity(torch):
    tanh, relu = (zeros(SimpleRNN, 3, 4, activation=name) for name in ("tanh", "relu"))
    for module in (
        torch.nn.RNN(3, 4, nonlinearity="relu"),
        torch.nn.RNNCell(3, 4, nonlinearity="relu"),
    ):
        convert.load(relu, module)
        assert_refused(tanh, module, "cell")
        convert.load(tanh, module.state_dict())
    assert_refused(relu, torch.nn.RNN(3, 4), "cell")


def weights(
    cell: str,
    features: int = 3,
    units: int = 4,
    dtype: Any = np.float32,
    outputs: int = 2,
) -> dict[str, np.ndarray]:
    columns = len(next(iter(LAYOUTS[cell].orders.values()))) * units
    outputs = outputs if cell == PROJECTED else units
    shapes = {
        "kernel": (features, columns),
        "recurrent_kernel": (outputs, columns),
        "projection": (units, outputs),
    }
    return {
        name: normal(seed, *shapes.get(name, (columns,)), dtype=dtype)
        for seed, name in enumerate(LAYOUTS[cell].shapes)
    }


def without_bias(cell: str) -> dict[str, np.ndarray]:
    return {
        name: array if "kernel" in name else np.zeros_like(array)
        for name, array in weights(cell).items()
    }


def pair(cell: str, features: int = 3) -> dict[str, dict[str, np.ndarray]]:
    return {"forward": weights(cell, features), "backward": weights(cell, features)}


def test_dtype_is_that_of_the_layer():
    layer, given = (
        zeros(GRU, 3, 4, param_dtype=jnp.bfloat16),
        weights("gru", dtype=np.float64),
    )
    convert.load(layer, given)
    for name, array in given.items():
        assert_same(np.asarray(getattr(layer, name)[...]), array.astype(jnp.bfloat16))


@pytest.mark.parametrize("cell", [cell for cell in CONVERTED if cell != PROJECTED])
def test_weights_of_other_libraries(cell):
    """Converted weights do not say which activations they need. They can be loaded into
    a layer with any activation.

    They can also be loaded into a layer without biases, if all their biases are zero,
    and into a stack whose layers have different cells.
    """
    options: dict[str, Any] = {"cell": cell, "activation": "relu"}
    layer, bare = (
        zeros(Recurrent, 3, 4, use_bias=use_bias, **options)
        for use_bias in (True, False)
    )
    both = zeros(Bidirectional, 3, 4, return_sequences=True, **options)
    convert.load(layer, weights(cell))
    assert_same(
        {
            name: np.asarray(array)
            for name, array in layer.cell_params()._asdict().items()
        },
        weights(cell),
    )
    convert.load(bare, [without_bias(cell)])
    assert_same(np.asarray(bare.kernel[...]), weights(cell)["kernel"])
    convert.load(both, pair(cell))
    stack = RecurrentStack([both, zeros(SimpleRNN, 8, 4)])
    convert.load(stack, [pair(cell), weights("simple_rnn", 8)])
    assert_same(
        np.asarray(stack.layers[1].kernel[...]), weights("simple_rnn", 8)["kernel"]
    )


def torch_state(cell: str, **options) -> dict[str, np.ndarray]:
    return convert.cell_to_torch(cell, weights(cell), **options)


def lstm(**options):
    return zeros(LSTM, 3, 4, **options)


def two_layers(upper: int = 4):
    return RecurrentStack([lstm(return_sequences=True), zeros(LSTM, upper, 4)])


UPPER = [weights("lstm"), weights("lstm", 4)]
REFUSALS: list[tuple[Callable[..., Any], dict[str, Any], Any, str]] = [
    (LSTM, {}, torch_state("gru"), "*_l0: weight_hh"),
    (GRU, {}, weights("gru_reset_before"), "weights of a GRU"),
    (Recurrent, {"cell": "lstm_coupled"}, weights("gru_reset_before"), "cell"),
    (
        LSTM,
        {"projection": 2},
        torch_state("lstm"),
        "*_l0: weights of an LSTM with a projection",
    ),
    (LSTM, {"activation": "relu"}, torch_state("lstm"), "cell"),
    (LSTM, {"projection": 3}, torch_state(PROJECTED), "layer 0/recurrent_kernel"),
    (
        LSTM,
        {"projection": 2},
        torch_state(PROJECTED) | {"weight_hr_l0": normal(0, 2, 5)},
        "*_l0: weight_hr",
    ),
    (Bidirectional, {"backward": {"units": 2}}, pair("lstm"), "backward/kernel"),
    (
        Bidirectional,
        {},
        [{"forward": weights("lstm")}],
        "weights[0]/bidirectional layer",
    ),
    (LSTM, {"use_bias": False}, weights("lstm"), "use_bias"),
    (
        GRU,
        {"use_bias": False},
        without_bias("gru") | {"recurrent_bias": normal(0, 12)},
        "use_bias",
    ),
    (
        LSTM,
        {},
        torch_state("lstm", prefix="rnn."),
        "name in the state dict of an nn.LSTM",
    ),
    (LSTM, {}, 3, "weights of an LSTM"),
    (LSTM, {}, {1: 2}, "state dict"),
]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("kind", "options", "given", "subject"), REFUSALS)
def test_refusals(kind, options, given, subject):
    assert_refused(zeros(kind, 3, 4, **options), given, subject)


@pytest.mark.usefixtures("unchecked")
def test_stacks_that_do_not_fit():
    assert_refused(two_layers(), weights("lstm"), "layers")
    assert_refused(two_layers(5), UPPER, "weights[1]/kernel")
    assert_refused(
        two_layers(), [pair("lstm"), weights("lstm", 8)], "directions of layer 0"
    )


def test_arguments():
    assert_subject(
        lambda: convert.load(lstm(), [weights("lstm")], prefix="rnn."), "prefix"
    )
    for layer in (LSTM, nnx.Conv(3, 4, (1,), rngs=nnx.Rngs(0))):
        assert_subject(
            lambda layer=layer: convert.load(layer, weights("lstm")), "layer"
        )
    assert_subject(lambda: convert.load(nnx.eval_shape(lstm), weights("lstm")), "layer")
    stack = two_layers()
    stack.layers[1] = nnx.Linear(4, 4, rngs=nnx.Rngs(0))
    assert_subject(lambda: convert.load(stack, UPPER), "layer of layer 1")


def test_layers_that_share_a_parameter():
    """Different weights for two layers of a stack that share their parameters are
    refused, and equal weights are loaded.
    """
    shared, weight = zeros(LSTM, 4, 4, return_sequences=True), weights("lstm", 4)
    stack = RecurrentStack([shared, shared])
    assert_refused(
        stack, [weight, {name: array + 1 for name, array in weight.items()}], "layer"
    )
    convert.load(stack, [weight, dict(weight)])
    np.testing.assert_array_equal(shared.kernel[...], weight["kernel"])


def test_a_user_s_cell_with_the_name_of_ours(torch):
    """Weights are loaded into our cell, but not into a user's cell of this name, whose
    layer is not exported either.
    """
    cell, module = projected_lstm(2), torch.nn.LSTM(3, 4, proj_size=2)

    def step(params, state, z, mask=None, compute_dtype=None):
        return cell.step(params, state, 2 * z, mask, compute_dtype)

    ours, theirs = (
        Recurrent(3, 4, cell=row, rngs=nnx.Rngs(0))
        for row in (cell, replace(cell, step=step))
    )
    convert.load(ours, module)
    assert_refused(theirs, module, "cell")
    assert_subject(lambda: convert.layers_to_torch("lstm", theirs), "cell")
