"""Weight files of Keras are read and written without Keras. Files written by Keras are converted; invalid files are refused."""

import io
import json
import os
import shutil
import zipfile

os.environ.setdefault("KERAS_BACKEND", "jax")

import h5py
import numpy as np
import pytest
from made_weights import assert_same
from numpy_lstm import probabilities

from lstm_jax import convert
from lstm_jax.errors import InputError

# Keras' variables lack the `copy` argument that NumPy 2 asks for.
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning:keras"),
    pytest.mark.usefixtures("only_peers", "quick_compiles"),
]


def new_model(middle, features=7, functional=False, **dense):
    """Return the Keras model Embedding(50, features) -> `middle` -> Dense(1).

    All weights and biases are random. A new model of Keras has only the biases 0 and 1.
    """
    keras = pytest.importorskip("keras", reason="needs the peer Keras")
    layers = [keras.layers.Embedding(50, features), *middle, keras.layers.Dense(1, **({"activation": "sigmoid"} | dense))]
    start = keras.Input((6,), dtype="int32")
    if functional:
        end = start
        for layer in layers:
            end = layer(end)
        model = keras.Model(start, end)
    else:
        model = keras.Sequential([start, *layers])
    rng = np.random.default_rng(0)
    model.set_weights([rng.normal(0, 0.6, array.shape).astype(np.float32) for array in model.get_weights()])
    return model


@pytest.fixture(scope="module")
def keras():
    return pytest.importorskip("keras", reason="needs the peer Keras")


@pytest.fixture(scope="module")
def keras_layers(keras):
    return keras.layers


@pytest.fixture(scope="module")
def example_model(keras_layers):
    """Return a small model like that of Keras' example imdb_lstm. It has an optimizer, so that its files hold optimizer variables too."""
    model = new_model([keras_layers.LSTM(5, dropout=0.2, recurrent_dropout=0.2)])
    model.compile("adam", "binary_crossentropy")
    model.optimizer.build(model.trainable_variables)
    return model


@pytest.fixture(scope="module")
def example_file(example_model, tmp_path_factory):
    path = tmp_path_factory.mktemp("example") / "x.weights.h5"
    example_model.save_weights(path)
    return path


@pytest.mark.parametrize("name", ["x.weights.h5", "x.keras"])
def test_the_example_model(example_model, tmp_path, name):
    path = tmp_path / name
    (example_model.save if name.endswith(".keras") else example_model.save_weights)(path)
    ours = convert.sentiment_from_keras_file(path)
    assert_same(ours, convert.sentiment_from_keras(example_model.get_weights()))
    ids = np.random.default_rng(1).integers(0, 50, (8, 6))
    want = probabilities(ours, ids)
    assert np.abs(example_model.predict(ids, verbose=0) - want).max() <= 1e-5 * want.max()
    assert list(convert.read_keras_weights(path)) == [
        "layers/dense/vars/0",
        "layers/dense/vars/1",
        "layers/embedding/vars/0",
        "layers/lstm/cell/vars/0",
        "layers/lstm/cell/vars/1",
        "layers/lstm/cell/vars/2",
    ]
    if name.endswith(".h5"):
        with h5py.File(path) as file:
            assert "optimizer/vars/0" in file


@pytest.mark.parametrize("name", ["x.weights.h5", "x.keras"])
def test_natural_order(keras_layers, tmp_path, name):
    model = new_model([keras_layers.LSTM(7, return_sequences=number < 11) for number in range(12)])
    (model.save if name.endswith(".keras") else model.save_weights)(tmp_path / name)
    ours = convert.sentiment_from_keras_file(tmp_path / name)
    assert_same(ours, convert.sentiment_from_keras(model.get_weights()))
    assert "recurrent/11/kernel" in ours
    paths = [path for path in convert.read_keras_weights(tmp_path / name) if path.endswith("cell/vars/0")]
    assert [path.split("/")[1] for path in paths] == ["lstm", *(f"lstm_{number}" for number in range(1, 12))]


@pytest.mark.parametrize("functional", [False, True])
@pytest.mark.parametrize("name", ["x.weights.h5", "x.keras"])
def test_mixed_layers(keras_layers, tmp_path, name, functional):
    lstm, both = keras_layers.LSTM, keras_layers.Bidirectional
    cells = [keras_layers.LSTMCell(6), keras_layers.LSTMCell(3)]
    middle = [
        keras_layers.SpatialDropout1D(0.1),
        both(lstm(4, return_sequences=True)),
        lstm(5, return_sequences=True, use_bias=False),
        keras_layers.RNN(cells, return_sequences=True),
        keras_layers.Dropout(0.1),
        both(keras_layers.RNN(keras_layers.LSTMCell(2), return_sequences=True)),
        keras_layers.RNN(keras_layers.LSTMCell(2)),
    ]
    model = new_model(middle, functional=functional)
    (model.save if name.endswith(".keras") else model.save_weights)(tmp_path / name)
    ours = convert.sentiment_from_keras_file(tmp_path / name)
    assert_same(ours, convert.sentiment_from_keras(model.get_weights()))
    assert {path.split("/")[1] for path in ours if path.startswith("recurrent/")} == set("012345")


def test_an_order_that_widths_do_not_tell(keras_layers, tmp_path):
    model = new_model([keras_layers.RNN(keras_layers.LSTMCell(7), return_sequences=True), keras_layers.LSTM(7)])
    model.save_weights(tmp_path / "x.weights.h5")
    with pytest.raises(InputError, match=r"fit in several orders: save a \.keras archive"):
        convert.sentiment_from_keras_file(tmp_path / "x.weights.h5")
    model.save(tmp_path / "x.keras")
    assert_same(convert.sentiment_from_keras_file(tmp_path / "x.keras"), convert.sentiment_from_keras(model.get_weights()))


@pytest.mark.parametrize("functional", [False, True])
def test_write_loads_in_keras(keras_layers, tmp_path, functional):
    def middle():
        both = keras_layers.Bidirectional(keras_layers.LSTM(3, return_sequences=True))
        return [keras_layers.LSTM(4, return_sequences=True), keras_layers.Dropout(0.1), both, keras_layers.LSTM(5)]

    written, read = new_model(middle(), functional=functional), new_model(middle(), functional=functional)
    ours = convert.sentiment_from_keras(written.get_weights())
    read.set_weights([np.zeros_like(array) for array in read.get_weights()])
    convert.write_keras_weights(tmp_path / "y.weights.h5", ours)
    assert_same(convert.sentiment_from_keras_file(tmp_path / "y.weights.h5"), ours)
    read.load_weights(tmp_path / "y.weights.h5")
    assert_same(convert.sentiment_from_keras(read.get_weights()), ours)

    with pytest.raises(InputError, match="ends in"):
        convert.write_keras_weights(tmp_path / "y.h5", ours)
    with pytest.raises(InputError, match=r"^writing .*; name a folder that can be written"):
        convert.write_keras_weights(tmp_path / "y.weights.h5" / "y.weights.h5", ours)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision(keras_layers, tmp_path, dtype):
    keras = pytest.importorskip("keras", reason="needs the peer Keras")
    # Keras cannot draw an orthogonal kernel in half precision, and then leaves the model unbuilt without an error.
    lstm = keras_layers.LSTM(5, dtype=dtype, recurrent_initializer="glorot_uniform")
    layers = [keras_layers.Embedding(50, 7, dtype=dtype), lstm, keras_layers.Dense(1, dtype=dtype)]
    model = keras.Sequential([keras.Input((6,), dtype="int32"), *layers])
    model.save_weights(tmp_path / "x.weights.h5")
    ours = convert.sentiment_from_keras_file(tmp_path / "x.weights.h5")
    listed = convert.sentiment_from_keras(model.get_weights())
    assert listed["recurrent/0/kernel"].dtype.name == dtype
    assert_same(ours, listed if dtype == "float16" else {path: array.astype(np.float32) for path, array in listed.items()})
    convert.write_keras_weights(tmp_path / "y.weights.h5", listed)
    assert_same(convert.read_keras_weights(tmp_path / "y.weights.h5"), convert.read_keras_weights(tmp_path / "x.weights.h5"))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda layers: [layers.GRU(5)], "layer gru"),
        (lambda layers: [layers.LSTM(5, return_sequences=True), layers.GlobalAveragePooling1D()], "layer global_average_pooling1d"),
        (lambda layers: [layers.LSTM(5), layers.Dense(4)], "expected one dense layer"),
        (lambda layers: [layers.Bidirectional(layers.LSTM(5), merge_mode="sum")], "head/kernel: shape|merge_mode=sum"),
        (lambda layers: [layers.RNN(layers.GRUCell(5))], "layers/rnn/cell: recurrent_kernel: shape|a layer of class GRUCell"),
        (lambda layers: [layers.RNN([layers.LSTMCell(5), layers.GRUCell(5)])], "array layers/rnn/cell/cells/gru_cell/vars/0|class GRUCell"),
        (lambda layers: [layers.LSTM(5, return_sequences=True), layers.Flatten()], "layer flatten"),
    ],
)
@pytest.mark.parametrize("name", ["x.weights.h5", "x.keras"])
def test_refuses_other_models(keras_layers, tmp_path, build, message, name):
    model = new_model(build(keras_layers))
    (model.save if name.endswith(".keras") else model.save_weights)(tmp_path / name)
    with pytest.raises(InputError, match=message):
        convert.sentiment_from_keras_file(tmp_path / name)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda layers: [layers.LSTM(5, activation="relu")], "LSTM with activation=relu; expected tanh"),
        (lambda layers: [layers.LSTM(5, recurrent_activation="hard_sigmoid")], "LSTM with recurrent_activation=hard_sigmoid"),
        (lambda layers: [layers.LSTM(5, go_backwards=True)], "LSTM with go_backwards=True; expected False"),
        (
            lambda layers: [layers.Bidirectional(layers.LSTM(5, go_backwards=True), backward_layer=layers.LSTM(5))],
            "LSTM with go_backwards=True; expected False",
        ),
        (lambda layers: [layers.LSTM(5, return_sequences=True)], "the last recurrent layer returns sequences"),
        (lambda layers: [layers.Bidirectional(layers.LSTM(5, return_sequences=True))], "the last recurrent layer returns sequences"),
        (lambda layers: [layers.RNN(layers.LSTMCell(5, activation="relu"))], "LSTMCell with activation=relu"),
    ],
)
def test_an_archive_shows_options(keras_layers, tmp_path, build, message):
    new_model(build(keras_layers)).save(tmp_path / "x.keras")
    with pytest.raises(InputError, match=message):
        convert.sentiment_from_keras_file(tmp_path / "x.keras")


def test_a_failed_write_keeps_the_old_file(tmp_path, example_file, monkeypatch):
    weights = convert.sentiment_from_keras_file(example_file)
    path = tmp_path / "x.weights.h5"
    convert.write_keras_weights(path, weights)
    before = path.read_bytes()
    (tmp_path / "link.weights.h5").symlink_to(path)
    with pytest.raises(InputError, match="Is a link"):
        convert.write_keras_weights(tmp_path / "link.weights.h5", weights)
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(InputError, match="No space left on device"):
        convert.write_keras_weights(path, weights)
    assert path.read_bytes() == before


def test_refuses_subclassed_models_and_legacy_files(keras_layers, example_model, tmp_path):
    with h5py.File(tmp_path / "own.weights.h5", "w") as file:  # arrays of a subclassed model are named after its attributes
        file["emb/vars/0"] = np.zeros((3, 2), np.float32)
    with h5py.File(tmp_path / "old.h5", "w") as file:
        file["model_weights/lstm/lstm/kernel:0"] = np.zeros((3, 8), np.float32)
    for name in ("own.weights.h5", "old.h5"):
        assert len(convert.read_keras_weights(tmp_path / name)) == 1
        with pytest.raises(InputError, match=r"array .*; expected a Sequential or functional model of Keras 3; load the model"):
            convert.sentiment_from_keras_file(tmp_path / name)


def test_refuses_what_is_no_weights_file(example_file, tmp_path):
    whole = example_file.read_bytes()
    with pytest.raises(InputError, match="there is no such file"):
        convert.read_keras_weights(tmp_path / "absent.weights.h5")
    for name, content in {"text": b"no weights here" * 100, "empty": b"", "head": whole[:100], "half": whole[: len(whole) // 2]}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match="truncated, damaged or no HDF5 file"):
            convert.read_keras_weights(tmp_path / name)


def test_damage_never_escapes_as_another_error(example_file, tmp_path):
    whole, rng = example_file.read_bytes(), np.random.default_rng(0)
    path = tmp_path / "x.weights.h5"
    refused = 0
    for _ in range(60):
        damaged = bytearray(whole)
        for place in rng.integers(0, len(whole), 40):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            convert.sentiment_from_keras_file(path)
        except InputError:
            refused += 1
    assert refused > 30


def hostile(path, what, outside):
    with h5py.File(path, "a") as file:
        where = file["layers/lstm/cell/vars"]
        if what == "external link":
            del where["0"]
            where["0"] = h5py.ExternalLink(os.fspath(outside), "/secret")
        elif what == "external link to a group":
            file["layers/lstm_1"] = h5py.ExternalLink(os.fspath(outside), "/")
        elif what == "soft link":
            where["3"] = h5py.SoftLink("/layers/dense/vars/0")
        elif what == "dangling soft link":
            where["3"] = h5py.SoftLink("/nowhere")
        elif what == "external storage":
            where.create_dataset("3", (4,), "f4", external=[(os.fspath(outside), 0, 16)])
        elif what == "virtual dataset":
            layout = h5py.VirtualLayout((4,), "f4")
            layout[:] = h5py.VirtualSource(os.fspath(outside), "secret", (4,))
            where.create_virtual_dataset("3", layout)
        elif what == "objects":
            where.create_dataset("3", data=["text"], dtype=h5py.string_dtype())
        elif what == "references":
            where.create_dataset("3", data=np.array([where.ref], dtype=h5py.ref_dtype), dtype=h5py.ref_dtype)
        elif what == "records":
            where.create_dataset("3", data=np.zeros(2, [("a", "f4"), ("b", "i4")]))
        elif what == "named type":
            where["3"] = np.dtype("f4")
        elif what == "loop of groups":
            where["up"] = file["layers"]
        elif what == "array under two names":
            where["3"] = where["0"]
        elif what == "huge and unwritten":
            where.create_dataset("3", (1 << 45,), "f4")
        elif what == "compressed":
            where.create_dataset("3", data=np.zeros(10_000, "f4"), compression="gzip")
        elif what == "no data":
            where.create_dataset("3", data=h5py.Empty("f4"))


HOSTILE = {
    "external link": "layers/lstm/cell/vars/0 is a ExternalLink; links are not followed",
    "external link to a group": "layers/lstm_1 is a ExternalLink",
    "soft link": "layers/lstm/cell/vars/3 is a SoftLink",
    "dangling soft link": "layers/lstm/cell/vars/3 is a SoftLink",
    "external storage": "layers/lstm/cell/vars/3 keeps its data in another file",
    "virtual dataset": "layers/lstm/cell/vars/3 keeps its data in another file",
    "objects": "layers/lstm/cell/vars/3 has dtype object",
    "references": "layers/lstm/cell/vars/3 has dtype object",
    "records": "layers/lstm/cell/vars/3 has dtype",
    "named type": "layers/lstm/cell/vars/3 is a Datatype",
    "loop of groups": "under two names",
    "array under two names": "under two names",
    "huge and unwritten": "empty, compressed or was never written",
    "compressed": "empty, compressed or was never written",
    "no data": "empty, compressed or was never written",
}


@pytest.mark.parametrize("what", HOSTILE)
def test_refuses_hostile_files(example_file, tmp_path, what):
    path, outside = tmp_path / "x.weights.h5", tmp_path / "outside.h5"
    shutil.copy(example_file, path)
    with h5py.File(outside, "w") as file:
        file["secret"] = np.zeros((7, 20), np.float32)
    hostile(path, what, outside)
    with pytest.raises(InputError) as refusal:
        convert.read_keras_weights(path)
    assert HOSTILE[what] in f"{refusal.value.value}; {refusal.value.remedy}"
    archive = tmp_path / "x.keras"
    with zipfile.ZipFile(archive, "w") as zipped:
        zipped.writestr("config.json", "{}")
        zipped.write(path, "model.weights.h5")
    with pytest.raises(InputError, match=r"x\.keras/model\.weights\.h5"):
        convert.read_keras_weights(archive)


def test_refuses_damaged_archives(example_model, tmp_path):
    example_model.save(tmp_path / "x.keras")
    whole = (tmp_path / "x.keras").read_bytes()
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        config, weights = archive.read("config.json"), archive.read("model.weights.h5")

    def write(name, members, compression=zipfile.ZIP_STORED):
        with zipfile.ZipFile(tmp_path / name, "w", compression) as archive:
            for member, content in members.items():
                archive.writestr(member, content)
        return tmp_path / name

    flipped = bytearray(whole)
    flipped[whole.index(weights) + len(weights) // 2] ^= 1
    (tmp_path / "flipped.keras").write_bytes(flipped)
    deeper = json.loads(config)
    deeper["config"]["layers"][-1]["config"] = None
    for path, message in [
        (write("a.keras", {"config.json": config}), r"no model\.weights\.h5"),
        (write("b.keras", {"model.weights.h5": weights}), r"no config\.json"),
        (write("c.keras", {"config.json": config, "model.weights.h5": weights}, zipfile.ZIP_DEFLATED), "is compressed; unzip it"),
        (write("d.keras", {"config.json": b"{", "model.weights.h5": weights}), "it is damaged"),
        (write("e.keras", {"config.json": b"[" * 100_000, "model.weights.h5": weights}), "it is damaged"),
        (write("f.keras", {"config.json": b"[]", "model.weights.h5": weights}), r"config\.json: "),
        (write("g.keras", {"config.json": json.dumps(deeper), "model.weights.h5": weights}), r"config\.json: "),
        (write("h.keras", {"config.json": config, "model.weights.h5": weights[:-50]}), "truncated"),
        (
            write("i.keras", {"config.json": config.replace(b'"LSTM"', b'"Dense"'), "model.weights.h5": weights}),
            "Dense with activation=tanh",
        ),
        (tmp_path / "flipped.keras", "it is damaged"),
    ]:
        with pytest.raises(InputError, match=message):
            convert.sentiment_from_keras_file(path)
