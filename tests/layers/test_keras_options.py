"""Options that layers share with Keras' layers: named activations and initialisers,
biases, carried states, and random combinations.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from made_layers import B, E, H, T, X, made
from tables import assert_close

from lstm_jax import (
    CELLS,
    GRU,
    LSTM,
    Bidirectional,
    ClassifierHead,
    Embedding,
    InputError,
    Recurrent,
    convert,
)
from lstm_jax.cells import with_activations
from lstm_jax.cells.activations import ACTIVATIONS, find_activation
from lstm_jax.cells.initializers import NAMES, draw, find_initializer
from lstm_jax.recurrence import capability_rows
from lstm_jax.training.parts import functional


def test_every_activation_of_keras(keras, peer_rules) -> None:
    from keras.src.activations import ALL_OBJECTS_DICT

    # see the module for why
    assert set(ACTIVATIONS) == set(ALL_OBJECTS_DICT) - {"glu", "threshold", "sparsemax"}
    x = np.linspace(-4, 4, 60, dtype=np.float32).reshape(6, 10)
    for name, ours in ACTIVATIONS.items():
        found = np.asarray(ours(jnp.asarray(x)))
        with peer_rules():
            wanted = np.asarray(keras.activations.get(name)(x))
        np.testing.assert_allclose(found, wanted, rtol=2e-6, atol=2e-6, err_msg=name)
    assert find_activation(None) is ACTIVATIONS["linear"]


@pytest.mark.slow
def test_every_initialiser_of_keras(keras, peer_rules) -> None:
    from keras.src.initializers import ALL_OBJECTS_DICT

    for name in set(ALL_OBJECTS_DICT) - {
        "Initializer",
        "initializer",
        "Constant",
        "constant",
        "STFT",
        "stft",
        "STFTInitializer",
    }:
        assert find_initializer(name) is not None
    for name in NAMES:
        for shape in ((40, 60), (2000,)):
            if len(shape) == 1 and name in ("orthogonal", "identity"):
                with pytest.raises(InputError, match=r"^initializer: "):
                    draw(name, jax.random.key(0), shape)
                continue
            ours = np.asarray(draw(name, jax.random.key(0), shape))
            with peer_rules():
                theirs = np.asarray(keras.initializers.get(name)(shape))
            assert abs(ours.std() - theirs.std()) <= 0.06 * theirs.std(), name
            assert abs(ours.mean() - theirs.mean()) <= 5 * theirs.std() / np.sqrt(
                ours.size
            ), name
            assert (
                abs(np.abs(ours).max() - np.abs(theirs).max())
                <= 0.3 * np.abs(theirs).max()
            ), name


def test_names_of_initialisers_in_layers() -> None:
    layer = made(
        kernel_initializer="ones",
        recurrent_initializer="Identity",
        bias_initializer="ones",
    )
    np.testing.assert_array_equal(layer.kernel[...], np.ones((E, 4 * H)))
    np.testing.assert_array_equal(layer.recurrent_kernel[...], np.eye(H, 4 * H))
    assert (
        ClassifierHead(2, 3, bias_initializer="ones", rngs=nnx.Rngs(0)).bias[...].sum()
        == 3
    )
    assert (
        Embedding(2, 3, initializer="ones", rngs=nnx.Rngs(0)).embedding[...].sum() == 6
    )


def test_the_bias_initialiser_of_a_gru_draws_both_biases() -> None:
    params = made(GRU, bias_initializer="random_normal").cell_params()
    assert params.bias.any()
    assert params.recurrent_bias.any()
    assert not np.array_equal(params.bias, params.recurrent_bias)
    rows = jnp.arange(6 * H, dtype=jnp.float32).reshape(2, -1)
    params = made(
        GRU, bias_initializer=lambda key, shape, dtype: rows.reshape(shape)
    ).cell_params()
    np.testing.assert_array_equal([params.bias, params.recurrent_bias], rows)


def test_a_drawn_bias_of_an_lstm_has_the_spread_of_keras(keras, peer_rules) -> None:
    """Each part of a bias that an initialiser draws has the same range as in Keras.

    The bias of H units has H entries before those of the forget gate and 2 H entries
    after them. Keras draws these two parts separately, with the fans H and 2 H.
    """
    units = 500
    ours = LSTM(
        2,
        units,
        bias_initializer="glorot_uniform",
        recurrent_initializer="zeros",
        rngs=nnx.Rngs(0),
    ).bias[...]
    with peer_rules():
        layer = keras.layers.LSTM(
            units, bias_initializer="glorot_uniform", recurrent_initializer="zeros"
        )
        layer.build((1, 1, 2))
        theirs = layer.get_weights()[2]
    for part in (slice(0, units), slice(units, 2 * units), slice(2 * units, None)):
        assert abs(np.abs(ours[part]).max() / np.abs(theirs[part]).max() - 1) < 0.02
    # a layer can be made within `jax.jit`
    jax.jit(lambda: nnx.state(LSTM(2, 3, bias_initializer="ones", rngs=nnx.Rngs(0))))()


def test_other_activations_are_run_by_the_reference_alone() -> None:
    cell = with_activations(CELLS["lstm"], "relu", jax.nn.sigmoid)
    # the same object, so that compiled programs are reused
    assert cell is with_activations(CELLS["lstm"], jax.nn.relu, "sigmoid")
    assert with_activations(CELLS["lstm"], "tanh", "sigmoid") is CELLS["lstm"]
    x = jnp.ones((B, T, E))
    layer = made(activation="relu")
    np.testing.assert_array_equal(
        layer(x), made(activation="relu", backend="reference")(x)
    )
    assert not np.allclose(layer(x), made()(x))
    for backend in ("hoisted", "compiled"):
        with pytest.raises(
            InputError, match=rf"^backend {backend}: no cell lstm\(relu, sigmoid\)"
        ):
            made(activation="relu", backend=backend)(x)
    assert (
        next(
            row["backend"]
            for row in capability_rows()
            if "other activations" in row["cells"]
        )
        == "reference"
    )


def test_stateful_bidirectional_continues_each_direction() -> None:
    layer, plain = (
        made(Bidirectional, stateful=True, return_state=True),
        made(Bidirectional, return_state=True),
    )
    _, states = layer(X)
    assert_close(layer(X), plain(X, initial_state=states), "float32")
    layer.reset_state()
    assert_close(layer(X), plain(X), "float32")
    layer.reset_state(B + 1)
    with pytest.raises(
        InputError, match=r"^batch size: 3; the carried state has 4 rows"
    ):
        layer(X)


class Configuration(NamedTuple):
    """Random layer and call: the cell, options of both libraries, whether it is
    bidirectional, and whether a mask and a state are given.
    """

    kind: str
    options: dict[str, Any]
    both_ways: bool
    mask: bool
    state: bool


def configuration(seed: int) -> Configuration:
    rng = np.random.default_rng(seed)
    kind = ["lstm", "gru", "gru_reset_before", "simple_rnn"][seed % 4]
    smooth = [
        "tanh",
        "relu",
        "softsign",
        "linear",
        "elu",
        "gelu",
        "hard_tanh",
        "sigmoid",
        None,
    ]
    gates = ["sigmoid", "hard_sigmoid", "tanh", "relu6", "softsign", "softmax"]
    options: dict[str, Any] = {"activation": smooth[rng.integers(len(smooth))]}
    if kind != "simple_rnn":
        options["recurrent_activation"] = gates[rng.integers(len(gates))]
    if kind == "lstm":
        options["unit_forget_bias"] = bool(rng.integers(2))
    both_ways = bool(rng.integers(2))
    flags = [
        "return_sequences",
        "use_bias",
        *([] if both_ways else ["go_backwards", "zero_output_for_mask"]),
    ]
    options |= {name: bool(rng.integers(2)) for name in flags}
    return Configuration(
        kind, options, both_ways, bool(rng.integers(2)), bool(rng.integers(2))
    )


def keras_layer(keras, config: Configuration):
    kinds = {"lstm": keras.layers.LSTM, "simple_rnn": keras.layers.SimpleRNN}
    kind = kinds.get(config.kind, keras.layers.GRU)
    more = (
        {"reset_after": config.kind == "gru"} if config.kind.startswith("gru") else {}
    )
    # Keras draws each part of its bias with `bias_initializer`: random, so that a bias
    # that is mixed up shows
    layer = kind(
        H,
        return_state=True,
        recurrent_initializer="random_normal",
        bias_initializer="random_normal",
        **config.options,
        **more,
    )
    return (
        keras.layers.Bidirectional(layer, merge_mode="sum")
        if config.both_ways
        else layer
    )


def ours_from(config: Configuration, weights) -> dict[str, Any]:
    """Return the arrays of a Keras layer (its weights, or gradients with respect to
    them) as a dict with the names of our parameters.
    """
    names = ("forward/", "backward/") if config.both_ways else ("",)
    half = len(weights) // len(names)
    found = {}
    for n, prefix in enumerate(names):
        part = weights[n * half : (n + 1) * half]
        arrays = convert.cell_from_keras(config.kind, part)
        kept = (
            arrays
            if config.options["use_bias"]
            else {name: array for name, array in arrays.items() if "bias" not in name}
        )
        found |= {prefix + name: jnp.asarray(array) for name, array in kept.items()}
    return found


@pytest.mark.slow(keep=4)
@pytest.mark.parametrize("seed", range(20))
def test_random_configurations_as_in_keras(keras, peer_rules, seed: int) -> None:
    config = configuration(seed)
    rng = np.random.default_rng(100 + seed)
    x = jnp.asarray(rng.normal(size=(B, T, E)), jnp.float32)
    mask = (
        jnp.asarray([[1, 0, 1, 1, 1, 0], [1] * T, [1, 0, 0, 1, 1, 1]], bool)
        if config.mask
        else None
    )
    parts = (2 if config.kind == "lstm" else 1) * (1 + config.both_ways)
    start = (
        [jnp.asarray(rng.normal(size=(B, H)), jnp.float32) for _ in range(parts)]
        if config.state
        else None
    )
    outputs = (B, T, H) if config.options["return_sequences"] else (B, H)
    seen = [
        jnp.asarray(rng.normal(size=shape), jnp.float32)
        for shape in [outputs, *[(B, H)] * parts]
    ]

    def loss(found):
        return sum((a * b).sum() for a, b in zip(found, seen, strict=True)), found

    with peer_rules():
        layer = keras_layer(keras, config)
        layer.build(x.shape)
        fixed = [variable.value for variable in layer.non_trainable_variables]
        weights = [variable.value for variable in layer.trainable_variables]

        def theirs(weights, x, start):
            found, _ = layer.stateless_call(
                weights, fixed, x, initial_state=start, mask=mask
            )
            return loss(tuple(found))

        (_, wanted), by_theirs = jax.jit(
            jax.value_and_grad(theirs, (0, 1, 2), has_aux=True)
        )(weights, x, start)

    ours = Bidirectional if config.both_ways else Recurrent
    more = {"merge_mode": "sum"} if config.both_ways else {}
    made = functional(
        ours(
            E,
            H,
            cell=config.kind,
            return_state=True,
            rngs=nnx.Rngs(0),
            **more,
            **config.options,
        )
    )

    def mine(params, x, start):
        outputs, state = made.rebuild(params)(x, initial_state=start, mask=mask)
        return loss((outputs, *jax.tree.leaves(state)))

    params = ours_from(config, weights)
    (_, found), by_ours = jax.jit(jax.value_and_grad(mine, (0, 1, 2), has_aux=True))(
        params, x, start
    )
    assert_close(found, wanted, "float32", "outputs and states")
    assert_close(
        by_ours[0], ours_from(config, by_theirs[0]), "float32", "gradients by weights"
    )
    assert_close(
        by_ours[1:], by_theirs[1:], "float32", "gradients by x and the initial state"
    )
