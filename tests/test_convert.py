"""Weights to and from the peers: each peer's own forward pass against a float64 numpy LSTM that is fed with the converted arrays."""

import os

os.environ.setdefault("KERAS_BACKEND", "jax")

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from lstm_jax import convert
from lstm_jax.errors import InputError

# Keras' variables lack the `copy` argument that NumPy 2 asks for.
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning:keras"),
    pytest.mark.usefixtures("only_peers", "quick_compiles"),
]

SIZES = st.sampled_from([1, 2, 3, 5, 7])
SHAPES = st.tuples(SIZES, SIZES, SIZES, SIZES)  # B, T, E, H
# A peer compiles anew for each shape, so that shrinking a failure would take minutes.
FEW = settings(max_examples=3, deadline=None, derandomize=True, phases=[Phase.generate])
MANY = settings(max_examples=30, deadline=None, derandomize=True)


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def lstm(params, x):
    """Outputs (B, T, H) for x (B, T, E): z = x W + h U + b, split i, f, g, o; c' = f c + i g; h' = o tanh(c')."""
    kernel, recurrent, bias = (params[name].astype(np.float64) for name in ("kernel", "recurrent_kernel", "bias"))
    h = c = np.zeros((len(x), len(recurrent)))
    outputs = []
    for step in range(x.shape[1]):
        i, f, g, o = np.split(x[:, step] @ kernel + h @ recurrent + bias, 4, axis=-1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        outputs.append(h)
    return np.stack(outputs, axis=1)


def stack(layers, x):
    """All outputs (B, T, H or 2H), in time order, and the last state (B, H or 2H) of each direction of the top layer."""
    last = x[:, -1]
    for layer in layers:
        if "forward" in layer:
            ahead, back = lstm(layer["forward"], x), lstm(layer["backward"], x[:, ::-1])
            x, last = np.concatenate([ahead, back[:, ::-1]], axis=-1), np.concatenate([ahead[:, -1], back[:, -1]], axis=-1)
        else:
            x = lstm(layer, x)
            last = x[:, -1]
    return x, last


def probabilities(model, ids):
    """(B, 1) of a sentiment model in ours, for token ids (B, T)."""
    count = 1 + max(int(path.split("/")[1]) for path in model if path.startswith("recurrent/"))
    layers = []
    for number in range(count):
        flat = {p.removeprefix(f"recurrent/{number}/"): a for p, a in model.items() if p.startswith(f"recurrent/{number}/")}
        ways = {p.split("/")[0] for p in flat if "/" in p}
        split = {way: {p.split("/")[1]: a for p, a in flat.items() if p.startswith(way)} for way in ways}
        layers.append(split or flat)
    _, last = stack(layers, model["embedding/embedding"].astype(np.float64)[ids])
    return sigmoid(last @ model["head/kernel"].astype(np.float64) + model["head/bias"])


def close(got, want, tolerance=1e-5):
    got, want = np.asarray(got), np.asarray(want)
    assert got.shape == want.shape
    assert np.abs(got - want).max() <= tolerance * np.abs(want).max()


def same(got, want):
    """Equal trees of arrays, dtype and bits."""
    if isinstance(want, dict):
        assert set(got) == set(want)
        for key in want:
            same(got[key], want[key])
    elif isinstance(want, list | tuple):
        assert len(got) == len(want)
        for one, other in zip(got, want, strict=True):
            same(one, other)
    else:
        assert (got.dtype, got.shape, got.tobytes()) == (want.dtype, want.shape, want.tobytes())


def normal(seed, *shape, dtype=np.float32):
    return np.random.default_rng([seed, *shape]).normal(0, 0.6, shape).astype(dtype)


def random_lstm(features, units, seed=0, dtype=np.float32):
    shapes = {"kernel": (features, 4 * units), "recurrent_kernel": (units, 4 * units), "bias": (4 * units,)}
    return {name: normal(seed + place, *shape, dtype=dtype) for place, (name, shape) in enumerate(shapes.items())}


def random_pair(features, units, seed=0):
    return {"forward": random_lstm(features, units, seed), "backward": random_lstm(features, units, seed + 10)}


def random_model(kinds=("lstm",), vocabulary=11, features=3, units=4):
    model, width = {"embedding/embedding": normal(1, vocabulary, features)}, features
    for number, kind in enumerate(kinds):
        ways = {"": random_lstm(width, units, number)} if kind == "lstm" else random_pair(width, units, number)
        for way, arrays in ways.items():
            model |= {"/".join(filter(None, ("recurrent", str(number), way, name))): array for name, array in arrays.items()}
        width = units * len(ways)
    return model | {"head/kernel": normal(2, width, 1), "head/bias": normal(3, 1)}


# Keras


@FEW
@given(SHAPES, st.booleans())
def test_keras_lstm(shape, use_bias):
    keras = pytest.importorskip("keras", reason="needs the peer Keras")
    b, t, e, h = shape
    layer = keras.layers.LSTM(h, return_sequences=True, use_bias=use_bias)
    layer.build((b, t, e))
    ours = random_lstm(e, h)
    layer.set_weights(convert.lstm_to_keras(ours)[: 3 if use_bias else 2])
    x = normal(4, b, t, e)
    converted = convert.lstm_from_keras(layer.get_weights())
    same(converted, ours if use_bias else ours | {"bias": np.zeros_like(ours["bias"])})
    close(layer(x), lstm(converted, x))


@FEW
@given(SHAPES)
def test_keras_bidirectional(shape):
    keras = pytest.importorskip("keras", reason="needs the peer Keras")
    b, t, e, h = shape
    layer = keras.layers.Bidirectional(keras.layers.LSTM(h, return_sequences=True))
    layer.build((b, t, e))
    ours = random_pair(e, h)
    layer.set_weights(convert.bidirectional_to_keras(ours))
    x = normal(4, b, t, e)
    converted = convert.bidirectional_from_keras(layer.get_weights())
    same(converted, ours)
    close(layer(x), stack([converted], x)[0])


@pytest.mark.parametrize("kinds", [("lstm",), ("bidirectional",), ("lstm", "bidirectional", "bidirectional", "lstm", "lstm")], ids="-".join)
@pytest.mark.parametrize("use_bias", [True, False])
def test_keras_model_list(kinds, use_bias):
    keras = pytest.importorskip("keras", reason="needs the peer Keras")
    layers, units = keras.layers, 3  # features = units, the case in which a bidirectional layer looks most like two LSTMs
    model = keras.Sequential([keras.Input((6,), dtype="int32"), layers.Embedding(11, 3)])
    for number, kind in enumerate(kinds):
        one = layers.LSTM(units, return_sequences=number + 1 < len(kinds), use_bias=use_bias)
        model.add(one if kind == "lstm" else layers.Bidirectional(one))
    model.add(layers.Dense(1, activation="sigmoid", use_bias=use_bias))
    ours = random_model(kinds, units=units)
    weights = convert.sentiment_to_keras(ours)
    model.set_weights([array for array in weights if use_bias or array.ndim == 2])
    converted = convert.sentiment_from_keras(model.get_weights())
    same(converted, ours if use_bias else {path: np.zeros_like(a) if path.endswith("bias") else a for path, a in ours.items()})
    ids = np.random.default_rng(0).integers(0, 11, (4, 6))
    close(model(ids), probabilities(converted, ids))


@MANY
@given(SIZES, SIZES, st.sampled_from([np.float16, np.float32, np.float64]))
def test_keras_round_trips(e, h, dtype):
    ours = random_lstm(e, h, dtype=dtype)
    same(convert.lstm_from_keras(convert.lstm_to_keras(ours)), ours)
    table, dense = {"embedding": normal(1, h, e, dtype=dtype)}, {"kernel": normal(2, e, h, dtype=dtype), "bias": normal(3, h, dtype=dtype)}
    same(convert.embedding_from_keras(convert.embedding_to_keras(table)), table)
    same(convert.dense_from_keras(convert.dense_to_keras(dense)), dense)
    same(convert.dense_from_keras([dense["kernel"]])["bias"], np.zeros(h, dtype))


# PyTorch


@FEW
@given(SHAPES, st.sampled_from([1, 2, 3]), st.booleans(), st.booleans())
def test_torch_lstm(shape, count, bidirectional, bias):
    torch = pytest.importorskip("torch", reason="needs the peer PyTorch")
    b, t, e, h = shape
    torch.manual_seed(0)
    peer = torch.nn.LSTM(e, h, num_layers=count, bidirectional=bidirectional, bias=bias, batch_first=True)
    layers = convert.lstm_from_torch(peer.state_dict())
    assert len(layers) == count
    x = normal(4, b, t, e)
    with torch.no_grad():
        outputs, (h_n, _) = peer(torch.from_numpy(x))
    want, last = stack(layers, x)
    close(outputs.numpy(), want)
    close(np.concatenate(list(h_n.numpy()[-2 if bidirectional else -1 :]), axis=-1), last)

    back = convert.lstm_to_torch(layers)
    same(convert.lstm_from_torch(back), layers)
    twin = torch.nn.LSTM(e, h, num_layers=count, bidirectional=bidirectional, batch_first=True)
    twin.load_state_dict({name: torch.from_numpy(array) for name, array in back.items()})
    with torch.no_grad():
        close(twin(torch.from_numpy(x))[0].numpy(), want)


@pytest.mark.parametrize("kinds", [("lstm",), ("bidirectional", "bidirectional")], ids="-".join)
def test_torch_model(kinds, tmp_path):
    torch = pytest.importorskip("torch", reason="needs the peer PyTorch")
    from safetensors.torch import save_file

    ways = 1 if kinds[0] == "lstm" else 2
    peer = torch.nn.ModuleDict(
        {
            "words": torch.nn.Embedding(11, 3),
            "rnn": torch.nn.LSTM(3, 5, num_layers=len(kinds), bidirectional=ways == 2, batch_first=True),
            "out": torch.nn.Linear(5 * ways, 1),
        }
    )
    names = {"embedding": "words", "lstm": "rnn", "head": "out"}
    save_file(peer.state_dict(), tmp_path / "model.safetensors")
    ours = convert.sentiment_from_torch(convert.read_torch_file(tmp_path / "model.safetensors"), **names)
    same(convert.sentiment_from_torch(dict(peer.named_parameters()), **names), ours)
    same(convert.sentiment_from_torch(convert.sentiment_to_torch(ours, **names), **names), ours)

    ids = np.random.default_rng(0).integers(0, 11, (4, 6))
    with torch.no_grad():
        _, (h_n, _) = peer["rnn"](peer["words"](torch.from_numpy(ids)))
        want = torch.sigmoid(peer["out"](torch.cat(list(h_n[-ways:]), dim=-1)))
    close(want.numpy(), probabilities(ours, ids))


def test_torch_arrays_are_copies():
    torch = pytest.importorskip("torch", reason="needs the peer PyTorch")
    peer = torch.nn.LSTM(2, 3)
    layers = convert.lstm_from_torch(peer.state_dict())
    before = layers[0]["kernel"].copy()
    with torch.no_grad():
        peer.weight_ih_l0.add_(1)
    same(layers[0]["kernel"], before)


def torch_state(layers=2, ways=2, e=3, h=4):
    kinds = [random_pair if ways == 2 else random_lstm] * layers
    return convert.lstm_to_torch([kind(e if number == 0 else ways * h, h, number) for number, kind in enumerate(kinds)])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight_hr_l0": np.zeros((2, 4))}, "weight_hr_l0: a projection; train the nn.LSTM without proj_size"),
        ({"fc.weight": np.zeros((1, 4))}, "fc.weight; give the prefix"),
        ({"bias_hh_l1": None}, "_l1: arrays: keys bias_ih, weight_hh, weight_ih; expected exactly weight_ih"),
        ({"weight_ih_l1": None}, "expected exactly weight_ih"),
        ({"weight_hh_l0": np.zeros((16, 5))}, r"recurrent_kernel: shape \(5, 16\); expected \(H, 4H\)"),
        ({"weight_ih_l1": np.zeros((16, 4))}, r"backward/kernel: shape \(8, 16\); expected \(4, 16\)"),
        ({"bias_ih_l0": np.zeros((16, 1))}, r"bias_ih: shape \(16, 1\); expected \(16,\)"),
        ({"weight_ih_l0": np.zeros((16, 3), int)}, "weight_ih: dtype int64; give an array of floats"),
        ({"weight_ih_l0": "text"}, "weight_ih: dtype <U4"),
        ({f"{kind}_l1_reverse": None for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}, "directions x units: 1 x 4, 2 x 4"),
        (
            {f"{kind}_l0{way}": None for way in ("", "_reverse") for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")},
            r"LSTM layers: \[1\]; give the arrays of all layers",
        ),
    ],
)
def test_torch_refusals(change, message):
    state = torch_state() | change
    with pytest.raises(InputError, match=message):
        convert.lstm_from_torch({name: array for name, array in state.items() if array is not None})


def test_torch_refuses_other_models_and_files(tmp_path):
    with pytest.raises(InputError, match=r"none under 'lstm\.'"):
        convert.lstm_from_torch({"rnn.weight_ih_l0": np.zeros((4, 1))}, "lstm.")
    with pytest.raises(InputError, match="one of each"):
        convert.lstm_to_torch([random_lstm(2, 3), random_lstm(3, 4)])
    model = convert.sentiment_to_torch(random_model())
    with pytest.raises(InputError, match=r"name in the state dict: norm.weight"):
        convert.sentiment_from_torch(model | {"norm.weight": np.zeros(3)})
    with pytest.raises(InputError, match=r"name in the state dict: fc.weight; expected only embedding.weight"):
        convert.sentiment_from_torch(model, head="head")
    with pytest.raises(InputError, match="save the weights with safetensors"):
        convert.read_torch_file("model.pt")
    with pytest.raises(InputError, match="no such file"):
        convert.read_torch_file(tmp_path / "absent.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"not a header at all")
    with pytest.raises(InputError, match="damaged or foreign"):
        convert.read_torch_file(tmp_path / "bad.safetensors")


# Flax


@FEW
@given(SHAPES, st.sampled_from(["LSTMCell", "OptimizedLSTMCell"]))
def test_linen(shape, cell):
    linen, jax = pytest.importorskip("flax.linen", reason="needs Flax"), pytest.importorskip("jax")
    b, t, e, h = shape
    x = normal(4, b, t, e)
    peer = linen.RNN(getattr(linen, cell)(h))
    first = peer.init(jax.random.key(0), x)
    same(convert.lstm_to_linen(convert.lstm_from_linen(first), rnn=True), jax.tree.map(np.asarray, first["params"]))

    ours = random_lstm(e, h)
    tree = convert.lstm_to_linen(ours, rnn=True)
    assert jax.tree.structure(tree) == jax.tree.structure(first["params"])
    converted = convert.lstm_from_linen(tree["cell"])
    same(converted, ours)
    close(peer.apply({"params": tree}, x), lstm(converted, x))


@FEW
@given(SHAPES, st.booleans())
def test_nnx(shape, optimized):
    nnx = pytest.importorskip("flax.nnx", reason="needs Flax")
    b, t, e, h = shape
    x = normal(4, b, t, e)
    cell = (nnx.OptimizedLSTMCell if optimized else nnx.LSTMCell)(e, h, rngs=nnx.Rngs(0))
    peer = nnx.RNN(cell, rngs=nnx.Rngs(1))
    first = nnx.to_pure_dict(nnx.state(cell))
    same(
        convert.lstm_to_nnx(convert.lstm_from_nnx(first), optimized),
        {k: {n: np.asarray(a) for n, a in v.items()} for k, v in first.items()},
    )

    ours = random_lstm(e, h)
    state = nnx.state(cell)
    nnx.replace_by_pure_dict(state, convert.lstm_to_nnx(ours, optimized))
    nnx.update(cell, state)
    converted = convert.lstm_from_nnx(nnx.to_pure_dict(nnx.state(peer)))
    same(converted, ours)
    same(convert.lstm_from_nnx(nnx.state(cell)), ours)
    close(peer(x), lstm(converted, x))


def test_flax_key_styles():
    ours = random_lstm(3, 5)
    tree = convert.lstm_to_linen(ours)
    flat = {(layer, name): array for layer, arrays in tree.items() for name, array in arrays.items()}
    same(convert.lstm_from_linen(flat), ours)
    same(convert.lstm_from_linen({"/".join(("params", "cell", *path)): array for path, array in flat.items()}), ours)
    same(convert.lstm_from_nnx(convert.lstm_to_nnx(ours, optimized=False, rnn=True)), ours)


def test_flax_refusals():
    tree = convert.lstm_to_linen(random_lstm(3, 5))
    with pytest.raises(InputError, match="Flax LSTM cell: keys"):
        convert.lstm_from_linen({layer: arrays for layer, arrays in tree.items() if layer != "hg"})
    with pytest.raises(InputError, match="Flax LSTM cell: keys"):
        convert.lstm_from_nnx(tree)
    with pytest.raises(InputError, match=r"ig/kernel: shape \(3, 4\); expected \(3, 5\)"):
        convert.lstm_from_linen(tree | {"ig": {"kernel": np.zeros((3, 4))}})
    wide = convert.lstm_to_nnx(random_lstm(3, 5))
    with pytest.raises(InputError, match=r"nnx\.OptimizedLSTMCell: keys"):
        convert.lstm_from_nnx(wide | {"dense_i": {}})


# Ours


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kernel": np.zeros((3, 21))}, r"kernel: shape \(3, 21\); expected \(E, 20\)"),
        ({"kernel": np.zeros((0, 20))}, r"kernel: shape \(0, 20\); expected \(E, 20\)"),
        ({"recurrent_kernel": np.zeros((5, 15))}, r"recurrent_kernel: shape \(5, 15\); expected \(H, 4H\)"),
        ({"bias": np.zeros((2, 20))}, r"bias: shape \(2, 20\); expected \(20,\)"),
        ({"bias": [[1.0], [2.0, 3.0]]}, "bias: .*; give an array of floats"),
        ({"gain": np.zeros(20)}, "LSTM: keys bias, gain, kernel, recurrent_kernel; expected exactly kernel, recurrent_kernel, bias"),
    ],
)
def test_refuses_a_wrong_lstm(change, message):
    with pytest.raises(InputError, match=message):
        convert.lstm_to_keras(random_lstm(3, 5) | change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"head/bias": None}, "head/bias: missing"),
        ({"head/gain": np.zeros(1)}, "key of a sentiment model: head/gain"),
        ({"recurrent/2/kernel": np.zeros((4, 16))}, r"recurrent/ layers: \[0, 2\]; number them"),
        ({"recurrent/0/kernel": None}, "recurrent/0/LSTM: keys bias, recurrent_kernel"),
        ({"recurrent/0/forward/kernel": np.zeros((3, 16))}, "recurrent/0/bidirectional layer: keys"),
        ({"embedding/embedding": np.zeros((11, 9))}, "recurrent/0/: takes 3 features; the embedding gives 9"),
        ({"head/kernel": np.zeros((8, 1))}, r"head/kernel: shape \(8, 1\); expected \(4, 1\)"),
        ({"head/kernel": np.zeros((4, 2))}, r"head/kernel: shape \(4, 2\); expected \(4, 1\)"),
    ],
)
def test_refuses_a_wrong_model(change, message):
    model = random_model() | change
    with pytest.raises(InputError, match=message):
        convert.sentiment_to_keras({path: array for path, array in model.items() if array is not None})


def test_refuses_wrong_lists():
    with pytest.raises(InputError, match="LSTM weights: 4 arrays"):
        convert.lstm_from_keras([np.zeros((2, 4))] * 4)
    with pytest.raises(InputError, match="Bidirectional weights: 5 arrays"):
        convert.bidirectional_from_keras([np.zeros((2, 4))] * 5)
    with pytest.raises(InputError, match=r"backward/kernel: shape \(3, 8\); expected \(2, 8\)"):
        convert.bidirectional_from_keras([*convert.lstm_to_keras(random_lstm(2, 2)), *convert.lstm_to_keras(random_lstm(3, 2))])
    good = convert.sentiment_to_keras(random_model(("lstm", "lstm")))
    for weights, message in [
        (good[:3], "model weights: 3 arrays"),
        (good[:2] + good[3:], r"LSTM 0 from weights\[1\].*expected those of Embedding"),
        ([*good[:4], np.zeros((4, 12)), np.zeros((4, 12)), np.zeros(12), *good[7:]], r"LSTM 1 from weights\[4\]: recurrent_kernel: shape"),
        ([*good[:7], np.zeros((5, 1)), np.zeros(1)], r"head/kernel: shape \(5, 1\); expected \(4, 1\)"),
    ]:
        with pytest.raises(InputError, match=message):
            convert.sentiment_from_keras(weights)
