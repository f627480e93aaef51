"""Weight files of Keras are read and written without Keras. Files written by Keras are
converted; invalid files are refused.
"""

import shutil
import zipfile

import h5py
import numpy as np
import pytest
from made_weights import assert_same

from lstm_jax import convert
from lstm_jax.base.errors import InputError

keras = pytest.importorskip("keras", reason="needs the peer Keras")
layers = keras.layers

# Keras' variables lack the `copy` argument that NumPy 2 asks for.
pytestmark = [
    pytest.mark.filterwarnings(
        "ignore:__array__ implementation:DeprecationWarning:keras"
    ),
    pytest.mark.usefixtures("only_peers"),
]


def new_model(middle, functional=False):
    """Return the Keras model Embedding(50, 7) -> `middle` -> Dense(1).

    All weights and biases are random. A new model of Keras has only the biases 0 and 1.
    """
    start = keras.Input((6,), dtype="int32")
    model = keras.Sequential(
        [start, layers.Embedding(50, 7), *middle, layers.Dense(1, activation="sigmoid")]
    )
    model = keras.Model(model.inputs, model.outputs) if functional else model
    rng = np.random.default_rng(0)
    model.set_weights(
        [
            rng.normal(0, 0.6, array.shape).astype(np.float32)
            for array in model.get_weights()
        ]
    )
    return model


@pytest.fixture(scope="module")
def example_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("example") / "x.weights.h5"
    new_model([layers.LSTM(5)]).save_weights(path)
    return path


def mixed():
    """Return layers of all supported classes."""
    return [
        layers.SpatialDropout1D(0.1),
        layers.Bidirectional(layers.LSTM(4, return_sequences=True)),
        layers.LSTM(5, return_sequences=True, use_bias=False),
        layers.RNN([layers.LSTMCell(6), layers.LSTMCell(3)], return_sequences=True),
        layers.Dropout(0.1),
        layers.Bidirectional(layers.RNN(layers.LSTMCell(2), return_sequences=True)),
        layers.RNN(layers.LSTMCell(2)),
    ]


@pytest.mark.slow(keep=2)
@pytest.mark.parametrize("functional", [False, True])
@pytest.mark.parametrize("name", ["x.weights.h5", "x.keras"])
def test_mixed_layers(tmp_path, name, functional):
    model = new_model(mixed(), functional=functional)
    model.compile("adam", "binary_crossentropy")
    # its variables are in the files, too
    model.optimizer.build(model.trainable_variables)
    (model.save if name.endswith(".keras") else model.save_weights)(tmp_path / name)
    ours = convert.sentiment_from_keras_file(tmp_path / name)
    assert_same(ours, convert.sentiment_from_keras(model.get_weights()))
    assert {
        path.split("/")[1] for path in ours if path.startswith("recurrent/")
    } == set("012345")
    assert {
        path.split("/")[0] for path in convert.read_keras_weights(tmp_path / name)
    } == {"layers"}


def test_natural_order(tmp_path):
    model = new_model(
        [layers.LSTM(7, return_sequences=number < 11) for number in range(12)]
    )
    model.save_weights(tmp_path / "x.weights.h5")
    ours = convert.sentiment_from_keras_file(tmp_path / "x.weights.h5")
    assert_same(ours, convert.sentiment_from_keras(model.get_weights()))
    paths = [
        path
        for path in convert.read_keras_weights(tmp_path / "x.weights.h5")
        if path.endswith("cell/vars/0")
    ]
    assert [path.split("/")[1] for path in paths] == [
        "lstm",
        *(f"lstm_{number}" for number in range(1, 12)),
    ]


def test_an_order_that_widths_do_not_tell(tmp_path):
    model = new_model(
        [layers.RNN(layers.LSTMCell(7), return_sequences=True), layers.LSTM(7)]
    )
    model.save_weights(tmp_path / "x.weights.h5")
    with pytest.raises(
        InputError, match=r"fit in several orders: save a \.keras archive"
    ):
        convert.sentiment_from_keras_file(tmp_path / "x.weights.h5")
    model.save(tmp_path / "x.keras")
    assert_same(
        convert.sentiment_from_keras_file(tmp_path / "x.keras"),
        convert.sentiment_from_keras(model.get_weights()),
    )


@pytest.mark.parametrize("functional", [False, True])
def test_write_loads_in_keras(tmp_path, functional):
    both = layers.Bidirectional(layers.LSTM(3, return_sequences=True))
    model = new_model(
        [
            layers.LSTM(4, return_sequences=True),
            layers.Dropout(0.1),
            both,
            layers.LSTM(5),
        ],
        functional=functional,
    )
    ours = convert.sentiment_from_keras(model.get_weights())
    convert.write_keras_weights(tmp_path / "y.weights.h5", ours)
    assert_same(convert.sentiment_from_keras_file(tmp_path / "y.weights.h5"), ours)
    model.set_weights([np.zeros_like(array) for array in model.get_weights()])
    model.load_weights(tmp_path / "y.weights.h5")
    assert_same(convert.sentiment_from_keras(model.get_weights()), ours)

    with pytest.raises(
        InputError, match=r"^writing .*; name a folder that can be written"
    ):
        convert.write_keras_weights(tmp_path / "y.weights.h5" / "y.weights.h5", ours)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision(tmp_path, dtype):
    # Keras cannot draw an orthogonal kernel in half precision, and then leaves the
    # model unbuilt without an error.
    lstm = layers.LSTM(5, dtype=dtype, recurrent_initializer="glorot_uniform")
    embedding, dense = (
        layers.Embedding(50, 7, dtype=dtype),
        layers.Dense(1, dtype=dtype),
    )
    model = keras.Sequential([keras.Input((6,), dtype="int32"), embedding, lstm, dense])
    model.save_weights(tmp_path / "x.weights.h5")
    ours = convert.sentiment_from_keras_file(tmp_path / "x.weights.h5")
    listed = convert.sentiment_from_keras(model.get_weights())
    assert listed["recurrent/0/kernel"].dtype.name == dtype
    assert_same(
        ours,
        listed
        if dtype == "float16"
        else {path: array.astype(np.float32) for path, array in listed.items()},
    )
    convert.write_keras_weights(tmp_path / "y.weights.h5", listed)
    assert_same(
        convert.read_keras_weights(tmp_path / "y.weights.h5"),
        convert.read_keras_weights(tmp_path / "x.weights.h5"),
    )


def test_refuses_what_is_no_weights_file(example_file, tmp_path):
    whole = example_file.read_bytes()
    with pytest.raises(InputError, match="No such file"):
        convert.read_keras_weights(tmp_path / "absent.weights.h5")
    for content in (b"no weights here" * 100, b"", whole[: len(whole) // 2]):
        (tmp_path / "x.weights.h5").write_bytes(content)
        with pytest.raises(InputError, match="truncated, damaged or no HDF5 file"):
            convert.read_keras_weights(tmp_path / "x.weights.h5")


def _virtual(where, outside):
    layout = h5py.VirtualLayout((4,), "f4")
    layout[:] = h5py.VirtualSource(outside, "secret", (4,))
    where.create_virtual_dataset("3", layout)


def _set(value):
    return lambda where, outside: where.__setitem__("3", value)


ELSEWHERE = "is kept in another file"
HOSTILE = [
    (
        "is a ExternalLink",
        lambda where, outside: where.__setitem__(
            "3", h5py.ExternalLink(outside, "/secret")
        ),
    ),
    ("is a SoftLink", _set(h5py.SoftLink("/layers/dense/vars/0"))),
    (
        ELSEWHERE,
        lambda where, outside: where.create_dataset(
            "3", (4,), "f4", external=[(outside, 0, 16)]
        ),
    ),
    (ELSEWHERE, _virtual),
    (
        "has dtype object",
        lambda where, outside: where.create_dataset(
            "3", data=["text"], dtype=h5py.string_dtype()
        ),
    ),
    ("is a Datatype", _set(np.dtype("f4"))),
    (
        "under two names",
        lambda where, outside: where.__setitem__("3", where.file["layers"]),
    ),
    ("under two names", lambda where, outside: where.__setitem__("3", where["0"])),
    (ELSEWHERE, lambda where, outside: where.create_dataset("3", (1 << 45,), "f4")),
    (
        ELSEWHERE,
        lambda where, outside: where.create_dataset(
            "3", data=np.zeros(10_000, "f4"), compression="gzip"
        ),
    ),
    (
        ELSEWHERE,
        lambda where, outside: where.create_dataset("3", data=h5py.Empty("f4")),
    ),
]


@pytest.mark.parametrize(("message", "add"), HOSTILE)
def test_refuses_hostile_files(example_file, tmp_path, message, add):
    path, outside = tmp_path / "x.weights.h5", tmp_path / "outside.h5"
    shutil.copy(example_file, path)
    with h5py.File(outside, "w") as file:
        file["secret"] = np.zeros((7, 20), np.float32)
    with h5py.File(path, "a") as file:
        add(file["layers/lstm/cell/vars"], str(outside))
    with pytest.raises(InputError, match=message):
        convert.read_keras_weights(path)


def test_refuses_damaged_archives(tmp_path):
    path = tmp_path / "x.keras"
    new_model([layers.LSTM(5)]).save(path)
    with zipfile.ZipFile(path) as archive:
        config, weights = archive.read("config.json"), archive.read("model.weights.h5")
    for parts, compression, message in [
        ((config, None), zipfile.ZIP_STORED, r"no model\.weights\.h5"),
        ((config, weights), zipfile.ZIP_DEFLATED, "is compressed; unzip it"),
        ((b"[" * 100_000, weights), zipfile.ZIP_STORED, "it is damaged"),
        ((b"[]", weights), zipfile.ZIP_STORED, r"config\.json: "),
        (
            (config, weights[:-50]),
            zipfile.ZIP_STORED,
            r"x\.keras/model\.weights\.h5.*truncated",
        ),
    ]:
        with zipfile.ZipFile(path, "w", compression) as archive:
            for member, content in zip(
                ("config.json", "model.weights.h5"), parts, strict=True
            ):
                if content is not None:
                    archive.writestr(member, content)
        with pytest.raises(InputError, match=message):
            convert.sentiment_from_keras_file(path)
