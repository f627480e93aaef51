"""`convert.from_onnx`: models of PyTorch, of our export and made by hand give the
outputs of ONNX Runtime; damaged files are refused.
"""

import importlib.util
import io
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from made_weights import assert_same, assert_subject, normal, random_lstm, randomized

from lstm_jax import GRU, LSTM, Bidirectional, Recurrent, RecurrentStack, convert

onnx = pytest.importorskip(
    "onnx", reason="ONNX is not installed: pip install '.[onnx]'"
)
runtime = pytest.importorskip(
    "onnxruntime", reason="ONNX Runtime is not installed: pip install '.[onnx]'"
)
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

E, H = 3, 4
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
STATES = {"LSTM": ["h", "c"], "GRU": ["h"], "RNN": ["h"]}
PLAIN = [
    "Relu",
    "Tanh",
    "Sigmoid",
    "Softsign",
    "Softplus",
    "LeakyRelu",
    "Elu",
    "HardSigmoid",
]


def made(
    nodes: list,
    inputs: dict,
    outputs: dict[str, int],
    weights: dict[str, np.ndarray],
    opset: int = 17,
) -> Any:
    """Return the bytes of a model. `inputs` maps names to arrays, whose sizes are not
    fixed, and `outputs` to numbers of axes.
    """
    described = [
        helper.make_tensor_value_info(
            k, helper.np_dtype_to_tensor_dtype(a.dtype), [None] * a.ndim
        )
        for k, a in inputs.items()
    ]
    found = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * axes)
        for name, axes in outputs.items()
    ]
    constants = [
        numpy_helper.from_array(array, name) for name, array in weights.items()
    ]
    graph = helper.make_graph(nodes, "graph", described, found, constants)
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8
    ).SerializeToString()


def check(model: bytes, inputs: dict[str, np.ndarray]) -> Any:
    """Compare an imported model with ONNX Runtime, and return it."""
    session, ours = (
        runtime.InferenceSession(model, providers=["CPUExecutionProvider"]),
        convert.from_onnx(model),
    )
    found = ours(**inputs)
    for got, wanted in zip(
        found if isinstance(found, tuple) else [found],
        session.run(None, inputs),
        strict=True,
    ):
        assert got.shape == wanted.shape
        np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-5)
    return ours


def random_node(
    seed: int, layout: int = 0, **options
) -> tuple[bytes, dict[str, np.ndarray]]:
    """Return a model of one recurrent node with random options, and its inputs."""
    random = np.random.default_rng(seed)
    operator = ["LSTM", "GRU", "RNN"][seed % 3]
    direction = ["forward", "reverse", "bidirectional"][random.integers(3)]
    d, rows, names = (
        1 + (direction == "bidirectional"),
        GATES[operator] * H,
        STATES[operator],
    )
    batch, steps = random.integers(1, 4), random.integers(1, 6)

    def draw(*shape):
        return random.normal(size=shape, scale=0.7).astype(np.float32)

    weights = {"W": draw(d, rows, E), "R": draw(d, rows, H), "B": draw(d, 2 * rows)}
    inputs: dict[str, np.ndarray] = {"X": draw(steps, batch, E)}
    optional = {
        name: random.random() < 0.5
        for name in ("B", "lengths", "h", "c", "P", "activations", "clip")
    }
    given = ["X", "W", "R", "B" if optional["B"] else "", "", "", "", ""]
    if optional["lengths"]:
        inputs["lengths"], given[4] = (
            random.integers(1, steps + 1, batch).astype(np.int32),
            "lengths",
        )
        inputs["lengths"][0] = steps
    for number, name in enumerate(names):
        if optional[name]:
            inputs[name], given[5 + number] = draw(d, batch, H), name
    options |= {"hidden_size": H, "direction": direction}
    if operator == "LSTM" and optional["P"]:
        weights["P"], given[7] = draw(d, 3 * H), "P"
    else:
        if optional["activations"]:
            options["activations"] = [
                PLAIN[random.integers(8)]
                for _ in range({"LSTM": 3, "GRU": 2, "RNN": 1}[operator])
            ] * d
            options |= {"activation_alpha": [0.3, 0.4, 0.5]} if d == 1 else {}
        if optional["clip"]:
            options["clip"] = 0.6
    if operator == "GRU":
        options["linear_before_reset"] = int(random.integers(2))
    outputs = {"Y": 4} | {f"Y_{name}": 3 for name in names}
    node = helper.make_node(
        operator,
        given[: 8 if operator == "LSTM" else 6],
        list(outputs),
        layout=layout,
        **options,
    )
    return made(
        [node],
        inputs,
        outputs,
        {name: array for name, array in weights.items() if name in given},
    ), inputs


@pytest.mark.slow(keep=4)
@pytest.mark.parametrize("seed", range(27))
def test_nodes_made_by_hand(seed):
    check(*random_node(seed))


def test_activations_without_parameters():
    x = {"x": np.linspace(-4, 4, 12, dtype=np.float32).reshape(3, 4)}
    nodes = [helper.make_node(name, ["x"], [f"y{name}"]) for name in PLAIN]
    check(made(nodes, x, {f"y{name}": 2 for name in PLAIN}, {}), x)


def test_batch_first():
    """ONNX Runtime lacks layout 1, which swaps the axes of the inputs and outputs."""
    _, inputs = random_node(4)
    plain = convert.from_onnx(random_node(4)[0])(**inputs)
    swapped = {
        name: array if array.ndim == 1 else np.swapaxes(array, 0, 1)
        for name, array in inputs.items()
    }
    y, *states = convert.from_onnx(random_node(4, layout=1)[0])(**swapped)
    assert_same(
        [jnp.moveaxis(y, 2, 0), *(jnp.swapaxes(h, 0, 1) for h in states)],
        [jnp.moveaxis(plain[0], 1, 0).swapaxes(1, 2), *plain[1:]],
    )


class Arguments:
    """Random sizes of a model of PyTorch or Keras."""

    def __init__(self, seed: int):
        random = np.random.default_rng(seed)
        self.kind, self.both, self.layers = (
            ["LSTM", "GRU", "RNN"][seed % 3],
            bool(random.integers(2)),
            int(random.integers(1, 3)),
        )
        self.first, self.bias = bool(random.integers(2)), bool(random.integers(2))
        self.ids = random.integers(0, 20, (2, 5)), random.integers(0, 20, (3, 4))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(18))
def test_models_of_pytorch(seed):
    """Embedding, recurrent layers, normalisation and head; the file serves two shapes,
    and its nodes give the layers' weights.
    """
    torch = pytest.importorskip("torch")
    a = Arguments(seed)

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            options = {
                "num_layers": a.layers,
                "bidirectional": a.both,
                "batch_first": a.first,
                "bias": a.bias,
            }
            self.embedding, self.rnn = (
                torch.nn.Embedding(20, 6),
                getattr(torch.nn, a.kind)(6, H, **options),
            )
            self.norm, self.head = (
                torch.nn.LayerNorm(H * (1 + a.both)),
                torch.nn.Linear(H * (1 + a.both), 3),
            )

        def forward(self, ids):
            y, state = self.rnn(self.embedding(ids))
            h = state[0] if isinstance(state, tuple) else state
            return torch.log_softmax(self.head(self.norm(y)), -1), h.transpose(
                0, 1
            ).reshape(h.shape[1], -1)

    model, file = Model().eval(), io.BytesIO()
    axes = {"ids": {0: "batch", 1: "time"}}
    torch.onnx.export(
        model,
        (torch.tensor(a.ids[0]),),
        file,
        dynamo=False,
        input_names=["ids"],
        dynamic_axes=axes,
    )
    ours, _ = [check(file.getvalue(), {"ids": ids}) for ids in a.ids]
    options = {
        "cell": {"LSTM": "lstm", "GRU": "gru", "RNN": "simple_rnn"}[a.kind],
        "return_sequences": True,
        "rngs": nnx.Rngs(0),
    }
    widths = [6, *[H * (1 + a.both)] * (a.layers - 1)]
    stacks = [
        RecurrentStack(
            [
                (Bidirectional if a.both else Recurrent)(width, H, **options)
                for width in widths
            ]
        )
        for _ in range(2)
    ]
    convert.load(stacks[0], ours.recurrent)
    convert.load(stacks[1], model.rnn)
    for layer, wanted in zip(*(stack.layers for stack in stacks), strict=True):
        assert_same(
            *(
                jax.tree.leaves(nnx.to_pure_dict(nnx.state(part, nnx.Param)))
                for part in (layer, wanted)
            )
        )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(15))
def test_models_of_keras(seed):
    """Keras layers, converted and exported by this package, come back with the same
    bits.
    """
    keras = pytest.importorskip("keras")
    a = Arguments(seed)
    options = {"reset_after": a.bias} if a.kind == "GRU" else {}
    theirs = getattr(keras.layers, {"RNN": "SimpleRNN"}.get(a.kind, a.kind))(
        H, return_sequences=True, **options
    )
    cell = {
        "LSTM": "lstm",
        "GRU": "gru" if a.bias else "gru_reset_before",
        "RNN": "simple_rnn",
    }[a.kind]
    theirs = keras.layers.Bidirectional(theirs) if a.both else theirs
    with jax.numpy_rank_promotion("allow"):
        theirs.build((None, None, E))
    theirs.set_weights(
        [
            normal(number, *array.shape)
            for number, array in enumerate(theirs.get_weights())
        ]
    )
    arrays = theirs.get_weights()
    weights = (
        convert.bidirectional_from_keras(arrays, cell=cell)
        if a.both
        else convert.cell_from_keras(cell, arrays)
    )
    x = normal(seed, 2, 5, E)
    ours = check(convert.layers_to_onnx(cell, [weights]).SerializeToString(), {"x": x})
    assert_same(jax.tree.leaves(ours.recurrent[0].weights), jax.tree.leaves(weights))


def test_load_reverse_with_peepholes():
    """ONNX's gates have the order i, o, f, c, and its peepholes the order i, o, f."""
    weights = {
        "W": normal(0, 1, 4 * H, E),
        "R": normal(1, 1, 4 * H, H),
        "P": normal(2, 1, 3 * H),
    }
    node = helper.make_node(
        "LSTM",
        ["x", "W", "R", "", "", "", "", "P"],
        ["y"],
        hidden_size=H,
        direction="reverse",
    )
    x = normal(3, 5, 2, E)
    model = check(made([node], {"x": x}, {"y": 4}, weights), {"x": x})
    options = {
        "cell": "lstm_peephole",
        "go_backwards": True,
        "keep_order": True,
        "return_sequences": True,
    }
    convert.load(
        layer := Recurrent(E, H, **options, rngs=nnx.Rngs(0)), model.recurrent[0]
    )
    np.testing.assert_allclose(
        layer(jnp.asarray(x.swapaxes(0, 1))),
        model(x)[:, 0].swapaxes(0, 1),
        rtol=0,
        atol=1e-6,
    )


def test_transformations():
    """A model is a function of its parameters that JAX compiles and differentiates."""
    layer = randomized(GRU(E, H, return_sequences=True, rngs=nnx.Rngs(0)))
    model, x = (
        convert.from_onnx(convert.layers_to_onnx("gru", layer)),
        jnp.asarray(normal(0, 2, 5, E)),
    )
    np.testing.assert_allclose(jax.jit(model)(x), layer(x), rtol=0, atol=1e-6)
    wanted = jax.grad(lambda x: layer(x).sum())(x)
    np.testing.assert_allclose(
        jax.grad(lambda x: model(x).sum())(x), wanted, rtol=0, atol=1e-5
    )
    gradients = jax.grad(lambda params: model.apply(params, x).sum())(model.params)
    assert jax.tree.map(jnp.shape, gradients) == jax.tree.map(jnp.shape, model.params)


X = {"x": normal(1, 2, 3, 4)}
"""Input of the models of some nodes, each with its constants."""
OPERATORS = {
    "shapes": (
        [
            helper.make_node("Shape", ["x"], ["s"]),
            helper.make_node("Gather", ["s", "zero"], ["n"]),
            helper.make_node("Mul", ["n", "six"], ["m"]),
            helper.make_node("Div", ["m", "n"], ["k"]),
            helper.make_node("Concat", ["n", "k", "last"], ["to"], axis=0),
            helper.make_node("Reshape", ["x", "to"], ["r"]),
            helper.make_node("Transpose", ["r"], ["y"], perm=[0, 2, 1]),
        ],
        {"zero": np.array([0]), "six": np.array([6]), "last": np.array([-1])},
        3,
    ),
    "slices": (
        [
            helper.make_node("Slice", ["x", "a", "b", "axes", "steps"], ["s"]),
            helper.make_node("Pad", ["s", "pads"], ["p"], mode="reflect"),
            helper.make_node("Split", ["p"], ["u", "v"], axis=2),
            helper.make_node("Where", ["mask", "u", "v"], ["w"]),
            helper.make_node("ReduceMean", ["w"], ["y"], axes=[1], keepdims=0),
        ],
        {
            "a": np.array([-1, 0]),
            "b": np.array([-(2**40), 2**40]),
            "axes": np.array([-1, 1]),
            "steps": np.array([-1, 1]),
        }
        | {"pads": np.array([0, 0, 1, 0, 0, 1]), "mask": np.array([True, False, True])},
        2,
    ),
    "convolution": (
        [
            helper.make_node(
                "Conv",
                ["x", "kernel", "bias"],
                ["c"],
                pads=[1, 2],
                strides=[2],
                dilations=[2],
                group=1,
                kernel_shape=[2],
            ),
            helper.make_node("HardSigmoid", ["c"], ["h"], alpha=0.3),
            helper.make_node("Clip", ["h", "low"], ["l"]),
            helper.make_node("Softmax", ["l"], ["q"], axis=1),
            helper.make_node("Unsqueeze", ["q", "zero"], ["z"]),
            helper.make_node(
                "MaxPool",
                ["z"],
                ["y"],
                kernel_shape=[1, 2],
                pads=[0, 1, 0, 0],
                strides=[1, 2],
                ceil_mode=1,
            ),
        ],
        {
            "kernel": normal(2, 5, 3, 2),
            "bias": normal(3, 5),
            "low": np.array(0.4, np.float32),
            "zero": np.array([0]),
        },
        4,
    ),
    "products": (
        [
            helper.make_node("Flatten", ["x"], ["f"]),
            helper.make_node(
                "Gemm", ["f", "w", "b"], ["g"], transB=1, alpha=0.5, beta=2.0
            ),
            helper.make_node("Cast", ["g"], ["i"], to=TensorProto.INT64),
            helper.make_node("Greater", ["i", "zero"], ["positive"]),
            helper.make_node(
                "ConstantOfShape",
                ["size"],
                ["fill"],
                value=numpy_helper.from_array(np.array([3])),
            ),
            helper.make_node("Expand", ["fill", "shape"], ["many"]),
            helper.make_node("Where", ["positive", "i", "many"], ["e"]),
            helper.make_node("OneHot", ["e", "depth", "values"], ["y"]),
        ],
        {
            "w": normal(4, 5, 12),
            "b": normal(5, 5),
            "zero": np.array(0),
            "size": np.array([1]),
            "shape": np.array([2, 5]),
        }
        | {"depth": np.array([4]), "values": np.array([-1, 2], np.float32)},
        3,
    ),
    "8 bits": (
        [
            helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "scale", "zero"]),
            helper.make_node(
                "ConvInteger", ["q", "kernel", "zero"], ["c"], pads=[1, 1]
            ),
            helper.make_node("Cast", ["c"], ["f"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMean", ["f"], ["n"], axes=[1]),
            helper.make_node("MatMulInteger", ["q", "matrix", "", "shift"], ["m"]),
            helper.make_node("DequantizeLinear", ["m", "scales"], ["d"], axis=2),
            helper.make_node("Concat", ["n", "d"], ["all"], axis=1),
            helper.make_node("Mul", ["all", "scale"], ["y"]),
        ],
        {
            "kernel": np.arange(-14, 16, dtype=np.int8).reshape(5, 3, 2),
            "matrix": np.arange(250, 230, -1).reshape(4, 5).astype(np.uint8),
        }
        | {
            "shift": np.array(7, np.uint8),
            "scales": 2.0 ** -np.arange(5, dtype=np.float32),
        },
        3,
    ),
    "means": (
        [
            helper.make_node(
                "BatchNormalization",
                ["x", "scale", "bias", "mean", "variance"],
                ["n"],
                epsilon=0.1,
            ),
            helper.make_node("ArgMax", ["n"], ["a"], axis=-1),
            helper.make_node(
                "ArgMax", ["n"], ["b"], axis=-1, keepdims=1, select_last_index=1
            ),
            helper.make_node("GlobalAveragePool", ["n"], ["g"]),
            helper.make_node("Where", ["is_b", "b", "a"], ["i"]),
            helper.make_node("Cast", ["i"], ["f"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["f", "g"], ["y"]),
        ],
        {
            name: normal(number, 3)
            for number, name in enumerate(["scale", "bias", "mean"])
        }
        | {
            "variance": normal(3, 3) ** 2,
            "is_b": np.array([[[True], [False], [True]]]),
        },
        3,
    ),
}


@pytest.mark.slow(keep=2)
@pytest.mark.parametrize("name", OPERATORS)
def test_operators(name):
    nodes, constants, axes = OPERATORS[name]
    check(made(nodes, X, {"y": axes}, constants), X)


def test_zeros_in_8_bits():
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    check(made(nodes, X, {"y": 3, "s": 0}, {}), {"x": np.zeros((2, 3, 4), np.float32)})


def test_old_softmax():
    """Before opset 13, all axes from `axis` on are normalised together."""
    check(
        made(
            [helper.make_node("Softmax", ["x"], ["y"], axis=1)],
            X,
            {"y": 3},
            {},
            opset=11,
        ),
        X,
    )


def branches(condition: str) -> bytes:
    """Return a model whose input "rate" decides which LSTM runs. Both branches use the
    same names of values.
    """
    parts = {}
    for number, name in enumerate(["then_branch", "else_branch"]):
        layer = convert.layers_to_onnx(
            "lstm", [random_lstm(E, H + number, seed=number)]
        ).graph
        outer = [node for node in layer.node if node.op_type != "Identity"]
        outer[-1].output[0] = "y"
        result = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * 3)
        parts[name] = helper.make_graph(outer, name, [], [result], layer.initializer)
    nodes = [
        helper.make_node("Equal", [condition, "half"], ["is_half"]),
        helper.make_node("If", ["is_half"], ["out"], **parts),
    ]
    return made(
        nodes,
        {"x": normal(0, 2, 3, E), "rate": np.array(8)},
        {"out": 3},
        {"half": np.array(8)},
    )


def test_branches():
    for rate, units in ((8, H), (16, H + 1)):
        model = convert.from_onnx(branches("rate"), rate=rate)
        x = normal(0, 2, 3, E)
        wanted = runtime.InferenceSession(branches("rate")).run(
            None, {"x": x, "rate": np.array(rate)}
        )[0]
        np.testing.assert_allclose(model(x), wanted, rtol=0, atol=1e-5)
        # the package onnx sorts the branches
        assert [len(node.weights["recurrent_kernel"]) for node in model.recurrent] == [
            H + 1,
            H,
        ]
        assert model(x).shape == (2, 3, units)


def test_float16_is_computed_in_float32():
    model = onnx.load_model_from_string(random_node(1)[0])
    for tensor in model.graph.initializer:
        tensor.CopyFrom(
            numpy_helper.from_array(
                numpy_helper.to_array(tensor).astype(np.float16), tensor.name
            )
        )
    (node,) = convert.from_onnx(model).recurrent
    assert {array.dtype for array in jax.tree.leaves(node.weights)} == {
        np.dtype(np.float32)
    }


@pytest.mark.parametrize("per_channel", [False, True])
def test_lstm_with_weights_in_8_bits(per_channel, tmp_path):
    """It has the outputs of an LSTM with these weights. ONNX Runtime also rounds the
    inputs and the state to 8 bits.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    (tmp_path / "float.onnx").write_bytes(
        convert.layers_to_onnx("lstm", [random_lstm(E, H)]).SerializeToString()
    )
    quantize_dynamic(
        tmp_path / "float.onnx",
        tmp_path / "small.onnx",
        per_channel=per_channel,
        weight_type=QuantType.QUInt8,
    )
    small, x = onnx.load(tmp_path / "small.onnx"), normal(1, 2, 5, E)
    assert [node.op_type for node in small.graph.node if "LSTM" in node.op_type] == [
        "DynamicQuantizeLSTM"
    ]
    model = convert.from_onnx(small)
    arrays = {
        tensor.name: numpy_helper.to_array(tensor) for tensor in small.graph.initializer
    }
    (node,) = (node for node in small.graph.node if "LSTM" in node.op_type)
    for at in (1, 2):
        kernel, scale, zero = (
            arrays[name]
            for name in (node.input[at], *node.input[6 + 2 * at : 8 + 2 * at])
        )
        array = (
            kernel.astype(np.float32) - zero[:, None].reshape(1, 1, -1)
        ) * scale.reshape(1, 1, -1)
        small.graph.initializer.append(
            numpy_helper.from_array(array.swapaxes(1, 2), f"kernel{at}")
        )
        node.input[at] = f"kernel{at}"
    rounded = runtime.InferenceSession(tmp_path / "small.onnx").run(None, {"x": x})[0]
    node.op_type, node.domain = "LSTM", ""
    del node.input[8:]
    wanted = runtime.InferenceSession(small.SerializeToString()).run(None, {"x": x})[0]
    np.testing.assert_allclose(model(x), wanted, rtol=0, atol=1e-5)
    assert 1e-4 < np.abs(rounded - wanted).max() < 0.05


@pytest.mark.parametrize(
    ("package", "file", "shapes", "error"),
    [
        (
            "silero_vad",
            "data/silero_vad_16k_sequence.onnx",
            [(9, 576), (1, 1, 128), (1, 1, 128)],
            1e-5,
        ),
        ("ddddocr", "common.onnx", [(1, 1, 64, 80)], 1e-5),
        ("text2tashkeel", "models/rawi_v3.int8.onnx", [(1, 20)], 0.05),
    ],
)
def test_models_of_packages(package, file, shapes, error):
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        pytest.skip(f"{package} is not installed")
    path = Path(found.origin).parent / file
    model = convert.from_onnx(path)
    arrays = [
        np.abs(normal(0, *shape)).astype(dtype)
        for shape, (dtype, _) in zip(shapes, model.inputs.values(), strict=True)
    ]
    wanted = runtime.InferenceSession(path).run(
        model.outputs, dict(zip(model.inputs, arrays, strict=True))
    )
    for got, want in zip(jax.tree.leaves(model(*arrays)), wanted, strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=error * np.abs(want).max())


def external(location: str) -> Any:
    model = convert.layers_to_onnx("lstm", [random_lstm(E, H)])
    (tensor,) = (
        tensor for tensor in model.graph.initializer if tensor.name.endswith("/kernel")
    )
    onnx.external_data_helper.set_external_data(tensor, location)
    content = tensor.raw_data
    tensor.ClearField("raw_data")
    return model.SerializeToString(), content


def test_external_data(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    for location in (
        "weights.bin",
        "../weights.bin",
        str(tmp_path / "weights.bin"),
        "link.bin",
    ):
        model, content = external(location)
        (folder / "model.onnx").write_bytes(model)
        for place in (folder, tmp_path):
            (place / "weights.bin").write_bytes(content)
        if location == "weights.bin":
            x = normal(0, 2, 3, E)
            np.testing.assert_array_equal(
                convert.from_onnx(folder / "model.onnx")(x),
                convert.from_onnx(convert.layers_to_onnx("lstm", [random_lstm(E, H)]))(
                    x
                ),
            )
            (folder / "link.bin").symlink_to(tmp_path / "weights.bin")
        else:
            assert_subject(
                lambda: convert.from_onnx(folder / "model.onnx"), "ONNX model"
            )
        assert_subject(lambda model=model: convert.from_onnx(model), "ONNX model")


def edited_model(edit) -> Any:
    model = onnx.ModelProto()
    model.ParseFromString(GOOD)
    edit(model)
    return model.SerializeToString()


GOOD = random_node(1)[0]
NODE = helper.make_node("Relu", ["x"], ["y"])
BAD = {
    "not a model": (lambda: 3, "ONNX model"),
    "empty": (lambda: b"", "opset of the ONNX model"),
    "truncated": (lambda: GOOD[: len(GOOD) // 2], "ONNX model"),
    "foreign": (lambda: b"PK\x03\x04 a zip archive", "ONNX model"),
    "missing": (lambda: "/missing/model.onnx", "ONNX model /missing/model.onnx"),
    "too old": (
        lambda: made([NODE], X, {"y": 3}, {}, opset=6),
        "opset of the ONNX model",
    ),
    "too new": (
        lambda: edited_model(
            lambda model: setattr(model.opset_import[0], "version", 99)
        ),
        "opset of the ONNX model",
    ),
    "declared size": (
        lambda: edited_model(
            lambda model: model.graph.initializer[0].dims.append(2**31)
        ),
        "ONNX model",
    ),
    "cyclic": (
        lambda: made(
            [
                helper.make_node("Add", ["x", "y"], ["z"]),
                helper.make_node("Relu", ["z"], ["y"]),
            ],
            X,
            {"y": 3},
            {},
        ),
        "ONNX model",
    ),
    "used twice": (lambda: made([NODE, NODE], X, {"y": 3}, {}), "ONNX model"),
    "activation": (lambda: random_node(2, activations=["Affine"])[0], "activation"),
    "weights from an input": (
        lambda: made(
            [helper.make_node("RNN", ["x", "x", "x"], ["y"])], X, {"y": 3}, {}
        ),
        "recurrent nodes of the ONNX model",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_refused_files(name):
    source, subject = BAD[name]
    assert_subject(lambda: convert.from_onnx(source()), subject)


def test_refused_calls():
    """The recurrent nodes are given, whatever else the model has."""
    lstm = convert.layers_to_onnx("lstm", [random_lstm(E, H)])
    lstm.graph.node.append(helper.make_node("Det", ["x"], ["unknown"]))
    lstm.graph.output[0].name = "unknown"
    unknown, x = convert.from_onnx(lstm), normal(0, 2, 3, E)
    assert_subject(lambda: unknown(x), "operator of an ONNX model")
    (node,) = unknown.recurrent
    convert.load(layer := LSTM(E, H, rngs=nnx.Rngs(0)), node)
    np.testing.assert_array_equal(layer.kernel[...], random_lstm(E, H)["kernel"])
    big = [
        helper.make_node("ConstantOfShape", ["size"], ["c"]),
        helper.make_node("Add", ["x", "c"], ["y"]),
    ]
    computed = [helper.make_node("Reshape", ["x", "to"], ["y"])]
    for call, subject in (
        (lambda: unknown(), "inputs of the ONNX model"),
        (lambda: unknown(x, y=x), "inputs of the ONNX model"),
        (lambda: unknown(x[0]), "input x"),
        (lambda: unknown(x[..., :2]), "input x"),
        (lambda: unknown("text"), "input x"),
        (
            lambda: convert.from_onnx(
                made(big, X, {"y": 3}, {"size": np.array([2**40, 1, 1])})
            )(**X),
            "ONNX model",
        ),
        (
            lambda: convert.from_onnx(
                made(computed, X | {"to": np.array([4, 6])}, {"y": 2}, {})
            )(**X, to=np.array([4, 6])),
            "ONNX node 0/ (Reshape)",
        ),
        (
            lambda: convert.load(LSTM(E, H, activation="relu", rngs=nnx.Rngs(0)), node),
            "cell",
        ),
        (
            lambda: convert.load(LSTM(E, H, go_backwards=True, rngs=nnx.Rngs(0)), node),
            "go_backwards",
        ),
    ):
        assert_subject(call, subject)
