"""Character models of Keras and PyTorch, and a `CharGenerator` with their converted weights, give the same probabilities."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st
from made_weights import assert_same, normal

from lstm_jax import convert
from lstm_jax.config import GenerationModelConfig
from lstm_jax.errors import InputError
from lstm_jax.models import CharGenerator, functional

pytestmark = pytest.mark.usefixtures("quick_compiles")

V, UNITS = 11, 6
KINDS = pytest.mark.parametrize(("layers", "embed"), [(1, 0), (2, 0), (1, 4), (2, 4), (1, V)])  # embed = V looks most like one-hot
IDS = np.random.default_rng(0).integers(0, V, (5, 9)).astype(np.int32)
SIZES = st.sampled_from([1, 2, 3, 4, 8])


def random_params(layers=1, embed=0, units=UNITS, vocabulary=V, tied=False):
    params, width = ({"embedding/embedding": normal(1, vocabulary, embed)}, embed) if embed else ({}, vocabulary)
    for number in range(layers):
        shapes = {"kernel": (width, 4 * units), "recurrent_kernel": (units, 4 * units), "bias": (4 * units,)}
        params |= {f"recurrent/{number}/{name}": normal(2 + number, *shape) for name, shape in shapes.items()}
        width = units
    return params | ({} if tied else {"head/kernel": normal(8, width, vocabulary)}) | {"head/bias": normal(9, vocabulary)}


def changed(params, change):
    """Return a copy of the dict `params` in which the arrays of `change` replace those of the same names.

    If a value in `change` is None, the copy lacks the array of this name.
    """
    return {name: array for name, array in (params | change).items() if array is not None}


def logits(params, **config):
    """Return the logits (B, T, V) of a `CharGenerator` with the arrays `params`, which must be all of its parameters."""
    model = CharGenerator(GenerationModelConfig(units=UNITS, **config), V, rngs=nnx.Rngs(params=0))
    own, rebuild = functional(model)
    assert params.keys() == own.keys()
    return rebuild({name: jnp.asarray(array) for name, array in params.items()})(jnp.asarray(IDS), deterministic=True)[0]


def close(ours, wanted):
    """Check that the softmax of our logits equals a peer's probabilities.

    `wanted` has the probabilities of all steps (B, T, V) or of the last step (B, V).
    """
    probabilities = np.asarray(jax.nn.softmax(ours))
    np.testing.assert_allclose(probabilities if wanted.ndim == 3 else probabilities[:, -1], wanted, rtol=0, atol=1e-6)


# Keras


def keras_model(keras, layers=1, embed=0, sequences=False, activation="softmax", **lstm):
    """Return a Keras `Sequential` character model with random weights and biases. A new model of Keras has only the biases 0 and 1."""
    model = keras.Sequential([keras.Input((9,), dtype="int32"), keras.layers.Embedding(V, embed)] if embed else [keras.Input((9, V))])
    for number in range(layers):
        model.add(keras.layers.LSTM(UNITS, return_sequences=sequences or number + 1 < layers, **lstm))
    model.add(keras.layers.Dense(V, activation=activation))
    model.set_weights([normal(place, *array.shape) for place, array in enumerate(model.get_weights())])
    return model


def keras_probabilities(model, embed):
    return np.asarray(model(IDS if embed else np.eye(V, dtype=np.float32)[IDS]))


@KINDS
def test_keras_lists(keras, peer_rules, layers, embed):
    with peer_rules():
        peer = keras_model(keras, layers, embed)
        weights, wanted = [np.asarray(array) for array in peer.get_weights()], keras_probabilities(peer, embed)
    ours = convert.generation_from_keras(weights)
    close(logits(ours, layers=layers, embed=embed), wanted)
    assert_same(convert.generation_to_keras(ours), weights)


@pytest.mark.parametrize("name", ["x.weights.h5", "x.keras"])
@pytest.mark.parametrize("sequences", [False, True])
@pytest.mark.parametrize(("layers", "embed"), [(1, 0), (2, 4)])
def test_keras_files(keras, peer_rules, tmp_path, layers, embed, sequences, name):
    with peer_rules():
        peer = keras_model(keras, layers, embed, sequences)
        weights, wanted = [np.asarray(array) for array in peer.get_weights()], keras_probabilities(peer, embed)
        (peer.save if name.endswith(".keras") else peer.save_weights)(tmp_path / name)
    ours = convert.generation_from_keras_file(tmp_path / name)
    assert_same(ours, convert.generation_from_keras(weights))
    assert wanted.ndim == 2 + sequences
    close(logits(ours, layers=layers, embed=embed), wanted)

    convert.write_keras_weights(tmp_path / "y.weights.h5", ours)
    assert_same(convert.generation_from_keras_file(tmp_path / "y.weights.h5"), ours)
    with peer_rules():
        peer.set_weights([np.zeros_like(array) for array in weights])
        peer.load_weights(tmp_path / "y.weights.h5")
        assert_same([np.asarray(array) for array in peer.get_weights()], weights)


def test_cells_in_one_rnn_layer(keras, peer_rules, tmp_path):
    with peer_rules():
        cells = [keras.layers.LSTMCell(UNITS), keras.layers.LSTMCell(UNITS)]
        peer = keras.Sequential([keras.Input((9, V)), keras.layers.RNN(cells), keras.layers.Dense(V)])
        peer.set_weights([normal(place, *array.shape) for place, array in enumerate(peer.get_weights())])
        wanted = np.asarray(jax.nn.softmax(keras_probabilities(peer, 0)))
        peer.save(tmp_path / "x.keras")
    close(logits(convert.generation_from_keras_file(tmp_path / "x.keras"), layers=2), wanted)


@given(SIZES, SIZES, SIZES, st.sampled_from([1, 2, 3]), st.booleans())
def test_shapes_tell_a_table_from_a_kernel(vocabulary, embed, units, layers, embedded):
    ours = random_params(layers, embed if embedded else 0, units, vocabulary)
    weights = convert.generation_to_keras(ours)
    assert_same(convert.generation_from_keras(weights), ours)
    without_biases = {path: np.zeros_like(array) if path.endswith("bias") else array for path, array in ours.items()}
    assert_same(convert.generation_from_keras([array for array in weights if array.ndim == 2]), without_biases)


def test_refuses_wrong_lists():
    one_hot, embedded = (convert.generation_to_keras(random_params(2, embed)) for embed in (0, 4))
    both = [normal(1, V, 24), normal(2, UNITS, 24), normal(3, 24)] * 2
    for weights, message in [
        ([], r"model weights: 0 arrays; expected those of LSTM layers -> Dense\(V\), or with an Embedding before them"),
        (one_hot[:3], "model weights: 3 arrays"),
        (one_hot[1:], r"LSTM 0 from weights\[1\].*expected those of LSTM layers"),
        (embedded[1:], "recurrent/0/: takes 4 features; the head gives 11 outputs: without an embedding"),
        ([normal(1, V + 1, 4), *embedded[1:]], "embedding/embedding: 12 rows; the head gives 11 outputs"),
        ([normal(1, V, 5), *embedded[1:]], "recurrent/0/: takes 4 features; the embedding gives 5"),
        ([*one_hot[:-2], normal(1, UNITS, V - 1), normal(2, V - 1)], "recurrent/0/: takes 11 features; the head gives 10 outputs"),
        ([*one_hot[:-2], normal(1, UNITS - 1, V), normal(2, V)], r"head/kernel: shape \(5, 11\); expected \(6, V\)"),
        ([*one_hot[:-1], normal(2, V - 1)], r"Dense from weights\[6\]: bias: shape \(10,\); expected \(11,\)"),
        ([*one_hot[:-2], normal(2, V)], r"Dense from weights\[5\]: kernel: shape \(24,\); expected \(in, out\)"),
        ([*one_hot[:-2], normal(1, UNITS, 5), normal(2, 5), normal(3, 5, V), normal(4, V)], r"LSTM 0 from weights\[1\]"),
        ([*both, normal(4, 12, V), normal(5, V)], r"recurrent/ layers \[0\]: two directions; a character model reads forwards alone"),
        (
            [normal(1, V, 18), normal(2, UNITS, 18), normal(3, 18), *one_hot[-2:]],
            "expected .H, 4H.: is this the recurrent kernel of an LSTM",
        ),
        ([np.zeros((V, 24), int), *one_hot[1:]], r"weights\[0\]: dtype int64; give an array of floats"),
    ]:
        with pytest.raises(InputError, match=message):
            convert.generation_from_keras(weights)
    with pytest.raises(InputError, match="head/kernel: shape"):
        convert.sentiment_from_keras(embedded)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda keras: keras_model(keras, activation="sigmoid"), "Dense with activation=sigmoid; expected linear or softmax"),
        (lambda keras: keras_model(keras, recurrent_activation="relu"), "LSTM with recurrent_activation=relu"),
        (lambda keras: keras_model(keras, go_backwards=True), "LSTM with go_backwards=True"),
    ],
)
def test_an_archive_shows_options(keras, peer_rules, tmp_path, build, message):
    with peer_rules():
        build(keras).save(tmp_path / "x.keras")
    with pytest.raises(InputError, match=message):
        convert.generation_from_keras_file(tmp_path / "x.keras")


@pytest.mark.parametrize("name", ["x.weights.h5", "x.keras"])
def test_refuses_files_of_other_models(keras, peer_rules, tmp_path, name):
    layers = keras.layers
    for number, (middle, message) in enumerate(
        [
            ([layers.Bidirectional(layers.LSTM(UNITS))], "two directions"),
            ([layers.GRU(UNITS)], "layer gru"),
            ([layers.LSTM(UNITS), layers.LeakyReLU()], "layer leaky_re_lu"),
            ([layers.LSTM(UNITS), layers.Dense(5)], "expected one dense layer;"),
            ([layers.Dense(V), layers.LSTM(UNITS)], "expected one dense layer;"),
        ]
    ):
        path = tmp_path / f"{number}{name}"
        with peer_rules():
            model = keras.Sequential([keras.Input((9, V)), *middle, layers.Dense(V, activation="softmax")])
            (model.save if name.endswith(".keras") else model.save_weights)(path)
        with pytest.raises(InputError, match=message):
            convert.generation_from_keras_file(path)


@pytest.mark.parametrize("name", ["x.weights.h5", "x.keras"])
def test_the_two_kinds_of_model_are_not_mixed_up(keras, peer_rules, tmp_path, name):
    with peer_rules():
        peer = keras_model(keras, embed=4)
        (peer.save if name.endswith(".keras") else peer.save_weights)(tmp_path / name)
    with pytest.raises(InputError, match=r"head/kernel: shape \(6, 11\); expected \(6, 1\)|Dense with activation=softmax"):
        convert.sentiment_from_keras_file(tmp_path / name)
    convert.write_keras_weights(tmp_path / "y.weights.h5", random_params())
    with pytest.raises(InputError, match="layers dense, lstm; expected one embedding layer;"):
        convert.sentiment_from_keras_file(tmp_path / "y.weights.h5")
    sentiment = random_params(embed=4) | {"head/kernel": normal(1, UNITS, 1), "head/bias": normal(2, 1)}
    convert.write_keras_weights(tmp_path / "z.weights.h5", sentiment)
    with pytest.raises(InputError, match="embedding/embedding: 11 rows; the head gives 1 outputs"):
        convert.generation_from_keras_file(tmp_path / "z.weights.h5")


# PyTorch


def torch_model(torch, names, layers=1, embed=0, tied=False, **lstm):
    """Return a PyTorch module, and a function that returns its probabilities (B, T, V) for `IDS`.

    `names` are the names of its embedding, LSTM and head.
    """
    table, rnn, head = names
    parts = {rnn: torch.nn.LSTM(embed or V, UNITS, num_layers=layers, batch_first=True, **lstm), head: torch.nn.Linear(UNITS, V)}
    module = torch.nn.ModuleDict(({table: torch.nn.Embedding(V, embed)} if embed else {}) | parts)
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


def load(torch, module, state):
    module.load_state_dict({name: torch.from_numpy(array) for name, array in state.items()})


@pytest.mark.slow(keep=3)
@KINDS
@pytest.mark.parametrize("names", [("embedding", "lstm", "fc"), ("encoder", "rnn", "decoder")], ids="-".join)
def test_torch_models(torch, layers, embed, names):
    module, probabilities = torch_model(torch, names, layers, embed)
    wanted = probabilities()
    ours = convert.generation_from_torch(module.state_dict(), *names)
    close(logits(ours, layers=layers, embed=embed), wanted)

    state = convert.generation_to_torch(ours, *names)
    assert list(state) == list(module.state_dict())
    assert_same(convert.generation_from_torch(state, *names), ours)
    twin, twins = torch_model(torch, names, layers, embed)
    load(torch, twin, {name: np.zeros_like(array) for name, array in state.items()})
    load(torch, twin, state)
    np.testing.assert_allclose(twins(), wanted, rtol=0, atol=1e-6)


def test_torch_without_biases(torch):
    module, probabilities = torch_model(torch, ("embedding", "lstm", "fc"), 2, 4, bias=False)
    with torch.no_grad():
        module["fc"].bias.zero_()
    state = {name: tensor for name, tensor in module.state_dict().items() if name != "fc.bias"}
    close(logits(convert.generation_from_torch(state), layers=2, embed=4), probabilities())


def test_torch_tied_weights(torch):
    module, probabilities = torch_model(torch, ("encoder", "rnn", "decoder"), 2, UNITS, tied=True)
    names = {"embedding": "encoder", "lstm": "rnn", "head": "decoder"}
    wanted = probabilities()
    untied = convert.generation_from_torch(module.state_dict(), **names)
    close(logits(untied, layers=2, embed=UNITS), wanted)
    tied = changed(untied, {"head/kernel": None})
    close(logits(tied, layers=2, embed=UNITS, tied=True), wanted)

    state = convert.generation_to_torch(tied, **names)
    assert_same(state, convert.generation_to_torch(untied, **names))
    assert list(state) == list(module.state_dict())
    assert not np.shares_memory(state["encoder.weight"], state["decoder.weight"])
    load(torch, module, state)
    assert module["decoder"].weight is module["encoder"].weight
    np.testing.assert_allclose(probabilities(), wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("embed", "change", "message"),
    [
        (0, {"fc.weight": None}, "fc.weight: missing; name the attributes: embedding=, lstm=, head="),
        (
            0,
            {"norm.weight": normal(1, 3)},
            r"name in the state dict: norm.weight; expected only embedding.weight, fc.weight, fc.bias and lstm",
        ),
        (0, {"lstm.weight_hh_l0": None}, r"lstm\.\*_l0: arrays: keys bias_hh, bias_ih, weight_ih; expected exactly"),
        (0, {f"lstm.{kind}_l0": None for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}, r"none under 'lstm\.'"),
        (
            0,
            {"lstm.weight_ih_l0": normal(1, 24, V - 1)},
            "recurrent/0/: takes 10 features; the head gives 11 outputs: without an embedding",
        ),
        (0, {"fc.weight": normal(1, V, 5)}, r"head/kernel: shape \(5, 11\); expected \(6, V\)"),
        (0, {"fc.weight": normal(1, V)}, r"fc.weight: shape \(11,\); expected \(V, H\)"),
        (0, {"fc.bias": normal(1, V - 1)}, r"head/bias: shape \(10,\); expected \(11,\)"),
        (4, {"embedding.weight": None}, "recurrent/0/: takes 4 features; the head gives 11 outputs: without an embedding"),
        (4, {"embedding.weight": normal(1, V + 1, 4)}, "embedding/embedding: 12 rows; the head gives 11 outputs"),
        (4, {"embedding.weight": normal(1, V, 5)}, "recurrent/0/: takes 4 features; the embedding gives 5"),
        (4, {"embedding.weight": normal(1, V)}, r"embedding.weight: shape \(11,\); expected \(V, E\)"),
    ],
)
def test_refuses_wrong_state_dicts(embed, change, message):
    state = convert.generation_to_torch(random_params(embed=embed))
    with pytest.raises(InputError, match=message):
        convert.generation_from_torch(changed(state, change))


def test_refuses_foreign_names_and_two_directions(torch):
    state = convert.generation_to_torch(random_params(embed=4), "encoder", "rnn", "decoder")
    with pytest.raises(InputError, match=r"name in the state dict: encoder.weight; expected only embedding.weight"):
        convert.generation_from_torch(state, lstm="rnn", head="decoder")
    with pytest.raises(InputError, match=r"name in the state dict: rnn.weight_ih_l0; .* lstm\.\*; name the attributes"):
        convert.generation_from_torch(state, "encoder", head="decoder")
    module = torch.nn.ModuleDict({"lstm": torch.nn.LSTM(V, UNITS, bidirectional=True), "fc": torch.nn.Linear(2 * UNITS, V)})
    with pytest.raises(InputError, match=r"recurrent/ layers \[0\]: two directions; a character model reads forwards alone"):
        convert.generation_from_torch(module.state_dict())


# Ours


def test_a_tied_model_becomes_an_untied_one(tmp_path):
    tied = random_params(2, UNITS, tied=True)
    weights = convert.generation_to_keras(tied)
    np.testing.assert_array_equal(weights[-2], tied["embedding/embedding"].T)
    untied = convert.generation_from_keras(weights)
    assert_same({path: array for path, array in untied.items() if path != "head/kernel"}, tied)
    close(logits(untied, layers=2, embed=UNITS), np.asarray(jax.nn.softmax(logits(tied, layers=2, embed=UNITS, tied=True))))
    convert.write_keras_weights(tmp_path / "x.weights.h5", tied)
    assert_same(convert.generation_from_keras_file(tmp_path / "x.weights.h5"), untied)


def test_the_arrays_of_a_model_itself():
    params, _ = functional(CharGenerator(GenerationModelConfig(units=UNITS, layers=2, embed=4), V, rngs=nnx.Rngs(params=0)))
    back = convert.generation_from_torch(convert.generation_to_torch(params))
    assert back.keys() == params.keys()
    for path, array in params.items():
        np.testing.assert_array_equal(back[path], array)


@pytest.mark.parametrize(
    ("embed", "change", "message"),
    [
        (0, {"head/bias": None}, "head/bias: missing; a character model needs it"),
        (0, {"head/kernel": None}, "head/kernel: missing; a character model needs it"),
        (4, {"head/kernel": None}, r"head/kernel: missing; only a model whose embedding \(4\) is as wide as its last layer \(6\)"),
        (0, {"head/gain": normal(1, 1)}, "key of a character model: head/gain; expected embedding/embedding, head/kernel"),
        (0, {"recurrent/2/kernel": normal(1, UNITS, 24)}, r"recurrent/ layers: \[0, 2\]; number them"),
        (0, {"recurrent/0/bias": None}, "recurrent/0/LSTM: keys kernel, recurrent_kernel; expected exactly"),
        (0, {"recurrent/0/kernel": normal(1, V - 1, 24)}, "recurrent/0/: takes 10 features; the head gives 11 outputs"),
        (0, {"embedding/embedding": normal(1, V, 4)}, "recurrent/0/: takes 11 features; the embedding gives 4"),
        (4, {"embedding/embedding": None}, "recurrent/0/: takes 4 features; the head gives 11 outputs"),
        (4, {"embedding/embedding": normal(1, V - 1, 4)}, "embedding/embedding: 10 rows; the head gives 11 outputs"),
        (4, {"head/bias": normal(1, V, 1)}, r"head/bias: shape \(11, 1\); expected \(11,\)"),
    ],
)
def test_refuses_wrong_params(tmp_path, embed, change, message):
    params = changed(random_params(embed=embed), change)
    with pytest.raises(InputError, match=message):
        convert.generation_to_keras(params)
    with pytest.raises(InputError, match=message):
        convert.generation_to_torch(params)
    if "head/bias" in params:
        with pytest.raises(InputError, match=message):
            convert.write_keras_weights(tmp_path / "x.weights.h5", params)


def test_refuses_bidirectional_params():
    params = random_params()
    lstm = {name: params.pop(f"recurrent/0/{name}") for name in ("kernel", "recurrent_kernel", "bias")}
    pair = {f"recurrent/0/{way}/{name}": array for way in ("forward", "backward") for name, array in lstm.items()}
    with pytest.raises(InputError, match=r"recurrent/ layers \[0\]: two directions"):
        convert.generation_to_torch(params | pair | {"head/kernel": normal(1, 2 * UNITS, V)})
