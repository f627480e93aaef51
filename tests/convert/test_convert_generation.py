"""Character models of Keras and PyTorch, and a `CharGenerator` with their converted
weights, give the same probabilities.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st
from made_weights import assert_same, edited, normal, random_model

from lstm_jax import convert
from lstm_jax.base.errors import InputError
from lstm_jax.lab.generation.config import GenerationModelConfig
from lstm_jax.lab.generation.model import CharGenerator
from lstm_jax.training.parts import functional

V, UNITS = 11, 6
# embed = V looks most like one-hot
KINDS = pytest.mark.parametrize(
    ("layers", "embed"), [(1, 0), (2, 0), (1, 4), (2, 4), (1, V)]
)
IDS = np.random.default_rng(0).integers(0, V, (5, 9)).astype(np.int32)
SIZES = st.sampled_from([1, 2, 3, 4, 8])


def logits(params, **config):
    """Return the logits (B, T, V) of a `CharGenerator` with the arrays `params`, which
    must be all of its parameters.
    """
    model = CharGenerator(
        GenerationModelConfig(units=UNITS, **config), V, rngs=nnx.Rngs(params=0)
    )
    own, rebuild = functional(model)
    assert params.keys() == own.keys()
    return rebuild({name: jnp.asarray(array) for name, array in params.items()})(
        jnp.asarray(IDS), deterministic=True
    )[0]


def close(ours, wanted):
    """Check that the softmax of our logits equals a peer's probabilities.

    `wanted` has the probabilities of all steps (B, T, V) or of the last step (B, V).
    """
    probabilities = np.asarray(jax.nn.softmax(ours))
    np.testing.assert_allclose(
        probabilities if wanted.ndim == 3 else probabilities[:, -1],
        wanted,
        rtol=0,
        atol=1e-6,
    )


# Keras


def keras_model(keras, layers, embed, sequences):
    """Return a Keras `Sequential` character model with random weights and biases. A new
    model of Keras has only the biases 0 and 1.
    """
    model = keras.Sequential(
        [keras.Input((9,), dtype="int32"), keras.layers.Embedding(V, embed)]
        if embed
        else [keras.Input((9, V))]
    )
    for number in range(layers):
        model.add(
            keras.layers.LSTM(UNITS, return_sequences=sequences or number + 1 < layers)
        )
    model.add(keras.layers.Dense(V, activation="softmax"))
    model.set_weights(
        [normal(place, *array.shape) for place, array in enumerate(model.get_weights())]
    )
    return model


@pytest.mark.slow(keep=3)
@KINDS
def test_keras_models(keras, peer_rules, tmp_path, layers, embed):
    sequences, name = layers == 2, "x.keras" if embed == V else "x.weights.h5"
    with peer_rules():
        peer = keras_model(keras, layers, embed, sequences)
        weights = [np.asarray(array) for array in peer.get_weights()]
        wanted = np.asarray(peer(IDS if embed else np.eye(V, dtype=np.float32)[IDS]))
        (peer.save if name.endswith(".keras") else peer.save_weights)(tmp_path / name)
    ours = convert.generation_from_keras_file(tmp_path / name)
    assert_same(ours, convert.generation_from_keras(weights))
    assert_same(convert.generation_to_keras(ours), weights)
    assert wanted.ndim == 2 + sequences
    close(logits(ours, layers=layers, embed=embed), wanted)

    convert.write_keras_weights(tmp_path / "y.weights.h5", ours)
    assert_same(convert.generation_from_keras_file(tmp_path / "y.weights.h5"), ours)
    with peer_rules():
        peer.set_weights([np.zeros_like(array) for array in weights])
        peer.load_weights(tmp_path / "y.weights.h5")
        assert_same([np.asarray(array) for array in peer.get_weights()], weights)


@given(SIZES, SIZES, SIZES, st.sampled_from([1, 2, 3]), st.booleans())
def test_shapes_tell_a_table_from_a_kernel(vocabulary, embed, units, layers, embedded):
    ours = random_model(
        ("lstm",) * layers,
        vocabulary,
        embed if embedded else 0,
        units,
        outputs=vocabulary,
    )
    weights = convert.generation_to_keras(ours)
    assert_same(convert.generation_from_keras(weights), ours)
    without_biases = {
        path: np.zeros_like(array) if path.endswith("bias") else array
        for path, array in ours.items()
    }
    assert_same(
        convert.generation_from_keras([array for array in weights if array.ndim == 2]),
        without_biases,
    )


@pytest.mark.parametrize(
    ("given", "read", "message"),
    [
        (random_model(outputs=V), convert.sentiment_from_keras_file, "head/kernel"),
        (
            random_model(features=0, outputs=V),
            convert.sentiment_from_keras_file,
            "layers dense, lstm;",
        ),
        (random_model(), convert.generation_from_keras_file, "head/kernel"),
    ],
)
def test_the_two_kinds_of_model_are_not_mixed_up(tmp_path, given, read, message):
    convert.write_keras_weights(tmp_path / "x.weights.h5", given)
    with pytest.raises(InputError, match=message):
        read(tmp_path / "x.weights.h5")


# PyTorch


def torch_model(torch, names, layers=1, embed=0, tied=False, **lstm):
    """Return a PyTorch module, and a function that returns its probabilities (B, T, V)
    for `IDS`.

    `names` are the names of its embedding, LSTM and head.
    """
    table, rnn, head = names
    parts = {
        rnn: torch.nn.LSTM(
            embed or V, UNITS, num_layers=layers, batch_first=True, **lstm
        ),
        head: torch.nn.Linear(UNITS, V),
    }
    module = torch.nn.ModuleDict(
        ({table: torch.nn.Embedding(V, embed)} if embed else {}) | parts
    )
    if tied:
        module[head].weight = module[table].weight
    with torch.no_grad():
        for place, parameter in enumerate(module.parameters()):
            parameter.copy_(torch.from_numpy(normal(place, *parameter.shape)))

    def probabilities():
        ids = torch.from_numpy(IDS).long()
        x = module[table](ids) if embed else torch.nn.functional.one_hot(ids, V).float()
        with torch.no_grad():
            return torch.softmax(module[head](module[rnn](x)[0]), dim=-1).numpy()

    return module, probabilities


@pytest.mark.slow(keep=2)
@pytest.mark.parametrize("bias", [True, False])
@KINDS
def test_torch_models(torch, layers, embed, bias):
    names = (
        ("encoder", "rnn", "decoder") if layers == 2 else ("embedding", "lstm", "fc")
    )
    module, probabilities = torch_model(torch, names, layers, embed, bias=bias)
    given = module.state_dict()
    if not bias:
        with torch.no_grad():
            given.pop(f"{names[2]}.bias").zero_()
    ours = convert.generation_from_torch(given, *names)
    close(logits(ours, layers=layers, embed=embed), probabilities())
    state = convert.generation_to_torch(ours, *names)
    assert not bias or list(state) == list(given)
    assert_same(convert.generation_from_torch(state, *names), ours)


def test_torch_tied_weights(torch):
    names = ("encoder", "rnn", "decoder")
    module, probabilities = torch_model(torch, names, 2, UNITS, tied=True)
    wanted = probabilities()
    untied = convert.generation_from_torch(module.state_dict(), *names)
    close(logits(untied, layers=2, embed=UNITS), wanted)
    tied = edited(untied, head__kernel=None)
    close(logits(tied, layers=2, embed=UNITS, tied=True), wanted)
    state = convert.generation_to_torch(tied, *names)
    assert_same(state, convert.generation_to_torch(untied, *names))
    assert not np.shares_memory(state["encoder.weight"], state["decoder.weight"])
    module.load_state_dict(
        {name: torch.from_numpy(array) for name, array in state.items()}
    )
    np.testing.assert_allclose(probabilities(), wanted, rtol=0, atol=1e-6)
