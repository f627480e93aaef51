"""Weights in the layout of lstm_jax: their checks, the flat dict of a model, and the
weights of layers that are to be exported.

The docstring of the package `lstm_jax.convert` describes the layout. Each key of a flat
dict is a path such as "recurrent/0/kernel".
"""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy import ndarray

from lstm_jax.base.checks import as_tuple, is_a
from lstm_jax.base.errors import check_choice, check_class, kind_of, parsing, require
from lstm_jax.base.types import Ints, Texts

Arrays = dict[str, ndarray]
Params = Mapping[str, Any]  # weights that have not been checked yet
# {"kernel": ..., "recurrent_kernel": ..., "bias": ...}, or {"forward": Arrays,
# "backward": Arrays}
Layer = dict[str, Any]
Library = Literal["Keras", "PyTorch", "Flax", "ONNX"]

# also the name of the model in error messages
Kind = Literal["sentiment model", "character model"]
SENTIMENT: Kind = "sentiment model"  # it has an embedding and one output
# its input is one-hot or embedded, and it has one output for each character
CHARACTER: Kind = "character model"

OWN = "lstm_jax"
"""Name of this package, which the function `is_a` takes as its argument `package`."""
DIRECTIONS = ("forward", "backward")
MERGES = ("concat", "sum", "ave", "mul")
PROJECTED = "lstm_projected"  # the cell of a layer with a recurrent projection


class Layout(NamedTuple):
    """Layout of the weights of a cell or of another layer, in lstm_jax and in other
    libraries.
    """

    title: str  # name of the layer with its article, for error messages
    # such as "E, 4H"; a letter stands for a size that all arrays of the layer share
    shapes: Mapping[str, str]
    module: str = ""  # name of the layer in PyTorch and ONNX, such as "LSTM"
    # For each library that has the cell: for each gate in the library's order, its
    # position in the order of lstm_jax. Keras' and PyTorch's orders are their own
    # inverses.
    orders: Mapping[Library, Ints] = {}


def cell_shapes(columns: str, outputs: str = "H", **others: str) -> dict[str, str]:
    """Return the shapes of a cell's arrays, given the numbers of columns of the kernels
    and of rows of the recurrent kernel.
    """
    return {
        "kernel": f"E, {columns}",
        "recurrent_kernel": f"{outputs}, {columns}",
        "bias": columns,
        **others,
    }


_IFGO, _URN = (0, 1, 2, 3), (0, 1, 2)
LAYOUTS = {
    "lstm": Layout(
        "an LSTM",
        cell_shapes("4H"),
        "LSTM",
        {"Keras": _IFGO, "PyTorch": _IFGO, "Flax": _IFGO, "ONNX": (0, 3, 1, 2)},
    ),
    "gru": Layout(
        "a GRU",
        cell_shapes("3H", recurrent_bias="3H"),
        "GRU",
        {"Keras": _URN, "PyTorch": (1, 0, 2), "ONNX": _URN},
    ),
    "gru_reset_before": Layout(
        "a GRU with reset_after=False",
        cell_shapes("3H"),
        "GRU",
        {"Keras": _URN, "ONNX": _URN},
    ),
    "simple_rnn": Layout(
        "a simple RNN",
        cell_shapes("H"),
        "RNN",
        {"Keras": (0,), "PyTorch": (0,), "ONNX": (0,)},
    ),
    PROJECTED: Layout(
        "an LSTM with a projection",
        cell_shapes("4H", "P", projection="H, P"),
        "LSTM",
        {"PyTorch": _IFGO},
    ),
    "lstm_peephole": Layout(
        "an LSTM with peepholes", cell_shapes("4H", peepholes="3H"), "LSTM"
    ),
    "slstm": Layout("an sLSTM", cell_shapes("4H", "D")),
    "rg_lru": Layout("an RG-LRU", {"kernel": "E, 3H", "bias": "3H", "decay": "H"}),
    "rg_lru_blocks": Layout(
        "an RG-LRU with heads", {"kernel": "D, 2H", "bias": "2H", "decay": "H"}
    ),
    "mlstm": Layout(
        "an mLSTM",
        {"kernel": "E, 4H", "bias": "4H", "gate_kernel": "E, 2N", "gate_bias": "2N"},
    ),
    "lru": Layout("an LRU", {"kernel": "E, 2H", "nu": "H", "theta": "H", "gamma": "H"}),
    "dense": Layout("a dense layer", {"kernel": "in, out", "bias": "out"}, "Linear"),
    "embedding": Layout("an embedding", {"embedding": "V, E"}, "Embedding"),
}
"""Dict from a cell or another kind of layer to its layout, for each layer whose weights
can be converted."""
CELLS = tuple(name for name, layout in LAYOUTS.items() if layout.orders)
SUCCESSORS = ("slstm", "mlstm", "rg_lru", "rg_lru_blocks", "lru")  # loaded alone

LAYER = "give Recurrent and Bidirectional layers, or dicts of arrays"
ENDS = ("embedding/embedding", "head/kernel", "head/bias")
"""Keys of a model's flat dict that belong to no recurrent layer."""
_PATH = re.compile(
    r"recurrent/(0|[1-9]\d*)/(?:(forward|backward)/)?(?!(?:forward|backward)$)(\w+)"
)


def check_keys(
    subject: str, mapping, expected: Collection[str] = (), remedy: str = ""
) -> None:
    """Check that a value is a dict with exactly the expected keys or, if none are
    given, with strings as its keys.
    """
    remedy = remedy or f"give a dict with exactly {', '.join(expected)}"
    check_class(subject, mapping, Mapping, remedy)
    fits = (
        set(mapping) == set(expected)
        if expected
        else all(isinstance(key, str) for key in mapping)
    )
    require(
        fits,
        subject,
        f"keys {', '.join(sorted(map(str, mapping))) or '(none)'}",
        remedy,
    )


def check_cell(cell, library: Library) -> None:
    """Check that a library has a cell."""
    names = [name for name in CELLS if library in LAYOUTS[name].orders]
    check_choice("cell", cell, names, f"a cell of {library}, ")


def to_numpy(name: str, value) -> ndarray:
    """Return a copy of an array of floats as a contiguous NumPy array of the same
    precision, in native byte order.
    """
    with parsing(name, "give an array of floats (a bfloat16 tensor as .float())"):
        # NumPy cannot read a tensor that requires a gradient or is on a GPU, so every
        # tensor is first detached and moved to the CPU.
        detach = getattr(value, "detach", None)
        array = np.array(detach().cpu().numpy() if detach else value, order="C")
    require(
        array.dtype.kind == "f" or array.dtype.name == "bfloat16",
        name,
        f"dtype {array.dtype}",
        "give an array of floats",
    )
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def checked(
    layout: Layout,
    arrays,
    where: str = "",
    sizes: dict[str, int] | None = None,
    remedy: str = "",
) -> Arrays:
    """Return copies of the arrays of a cell, a dense layer or an embedding, after
    checking their keys and shapes.

    A bias of None becomes zeros. `sizes` has the sizes that are known before the call,
    and receives the others.
    """
    check_keys(f"{where}weights of {layout.title}", arrays, layout.shapes, remedy)
    found, sizes = {}, {} if sizes is None else sizes
    sizes["2"] = 2  # the axis of both biases of Keras' GRU
    # the recurrent kernel alone shows which cell it belongs to
    for name in sorted(
        layout.shapes, key=lambda name: name not in ("recurrent_kernel", "weight_hh")
    ):
        value = arrays[name]
        axes = [
            (int(factor or 1), size)
            for factor, size in re.findall(r"(\d*)(\w+)", layout.shapes[name])
        ]
        if value is None and "bias" in name:
            value = np.zeros(
                [factor * sizes[size] for factor, size in axes],
                list(found.values())[-1].dtype,
            )
        found[name] = array = to_numpy(where + name, value)
        shape = array.shape if array.ndim == len(axes) else [0] * len(axes)
        read = {
            size: length // factor
            for (factor, size), length in zip(axes, shape, strict=True)
        } | sizes
        fits = array.size > 0 and array.shape == tuple(
            factor * read[size] for factor, size in axes
        )
        known = (
            ", ".join(
                f"{size} = {length}" for size, length in sizes.items() if size != "2"
            )
            or "any sizes"
        )
        require(
            fits,
            where + name,
            f"shape {array.shape}",
            f"expected ({layout.shapes[name]}) of {layout.title}, {known}",
        )
        sizes.update(read)
    return {name: found[name] for name in layout.shapes}


def halves(layer, where: str = "") -> dict[str, Any]:
    """Return a dict from each direction of a layer, or of its weights, to this half. If
    there is one direction, its key is "".
    """
    if isinstance(layer, Mapping) and set(DIRECTIONS) & set(layer):
        check_keys(f"{where}bidirectional layer", layer, DIRECTIONS)
        return {direction: layer[direction] for direction in DIRECTIONS}
    for package, ending in ((OWN, ""), ("keras", "_layer")):
        if is_a(layer, package, "Bidirectional"):
            return {
                direction: getattr(layer, direction + ending)
                for direction in DIRECTIONS
            }
    return {"": layer}


def below(where: str, direction: str) -> str:
    """Return the path of one direction of the layer with the path `where`."""
    return where + (direction and f"{direction}/")


def widths(layer: Layer, merge: str = "concat") -> tuple[int, int]:
    """Return the number of input features and the number of output features of a layer
    whose directions are combined by `merge`.
    """
    parts = list(halves(layer).values())
    outputs = parts[0]["recurrent_kernel"].shape[0]
    return parts[0]["kernel"].shape[0], outputs * (
        len(parts) if merge == "concat" else 1
    )


def check_stack(
    layers: Sequence[Params],
    cell: str,
    merge: str = "concat",
    sizes: Mapping[str, int] = {},
) -> list[Layer]:
    """Return copies of the weights of stacked layers, after checking that each layer is
    valid and reads the outputs of the one below.

    `sizes` has the number of input features E, if it is known.
    """
    require(len(layers) > 0, "recurrent/layers", "none", "give at least one layer")
    found = []
    for number, layer in enumerate(layers):
        where, sizes = f"recurrent/{number}/", dict(sizes)
        parts = halves(layer, where)
        for direction, half in parts.items():
            parts[direction] = checked(
                LAYOUTS[cell], half, below(where, direction), sizes
            )
        found.append(parts.get("", parts))
        sizes = {"E": widths(found[-1], merge)[1]}
    return found


def reordered(
    library: Library, cell: str, arrays: Arrays, back: bool = False
) -> Arrays:
    """Return the arrays of a cell with their gates in the order of another library, or
    with `back` in that of lstm_jax.

    The orders of Keras and PyTorch do not need `back`.
    """
    order = LAYOUTS[cell].orders[library]
    order = np.argsort(order) if back else order
    gates = {
        name: array.reshape(*array.shape[:-1], len(order), -1)
        for name, array in arrays.items()
        if name != "projection"
    }
    return arrays | {
        name: blocks[..., order, :].reshape(arrays[name].shape)
        for name, blocks in gates.items()
    }


def join_model(
    embedding: Arrays | None, layers: Sequence[Layer], head: Arrays, kind: Kind
) -> Arrays:
    """Join the weights of a model's embedding, recurrent layers and head to one flat
    dict, after checking that they fit together.
    """
    parts = {} if embedding is None else {"embedding/": embedding}
    for number, layer in enumerate(layers):
        parts |= {
            below(f"recurrent/{number}/", direction): half
            for direction, half in halves(layer).items()
        }
    parts["head/"] = head
    model = {
        part + name: array
        for part, arrays in parts.items()
        for name, array in arrays.items()
    }
    split_model(model, kind)
    return model


def split_model(
    params: Params,
    kind: Kind,
    cell: str = "lstm",
    merge: str = "concat",
    pooled: int = 1,
) -> tuple[Arrays | None, list[Layer], Arrays]:
    """Return copies of the weights of a model's embedding, recurrent layers and head,
    after checking that they fit together.
    """
    layers, sizes = split_paths(params, kind), {}
    table = (
        checked(
            LAYOUTS["embedding"], {"embedding": params[ENDS[0]]}, "embedding/", sizes
        )
        if ENDS[0] in params
        else None
    )
    stack = check_stack(layers, cell, merge, sizes)
    both = [
        number
        for number, layer in enumerate(stack)
        if kind == CHARACTER and len(halves(layer)) > 1
    ]
    require(
        not both,
        f"recurrent/ layers {both}",
        "two directions",
        "a character model reads forwards alone: give one cell a layer",
    )
    inputs = widths(stack[0])[0] if table is None else len(table["embedding"])
    sizes = {
        "in": widths(stack[-1], merge)[1] * pooled,
        "out": 1 if kind == SENTIMENT else inputs,
    }
    where, kernel = "head/", params.get("head/kernel")
    if table is not None and kernel is None:
        where, kernel = "head/, tied to the embedding: ", table["embedding"].T
    return (
        table,
        stack,
        checked(
            LAYOUTS["dense"],
            {"kernel": kernel, "bias": params["head/bias"]},
            where,
            sizes,
        ),
    )


def split_paths(params, kind: Kind) -> list[Layer]:
    """Return the weights of the recurrent layers in the flat dict of a model, lowest
    layer first, after checking the keys of the dict.
    """
    remedy = (
        "give a flat dict with keys such as recurrent/0/kernel, as "
        "sentiment_from_keras_file returns it"
    )
    check_keys(f"weights of a {kind}", params, remedy=remedy)
    found = {}
    for path, value in params.items():
        if match := _PATH.fullmatch(path):
            number, direction, name = match.groups()
            layer = found.setdefault(int(number), {})
            (layer.setdefault(direction, {}) if direction else layer)[name] = value
        else:
            require(
                path in ENDS,
                f"key of a {kind}",
                path,
                f"expected {', '.join(ENDS)} and recurrent/<number>/...",
            )
    for path in (
        ENDS if kind == SENTIMENT else ENDS[2:] if ENDS[0] in params else ENDS[1:]
    ):
        require(path in params, path, "missing", f"a {kind} needs it")
    require(
        sorted(found) == list(range(len(found))),
        "recurrent/ layers",
        sorted(found),
        "number them 0, 1, 2, ... without a gap",
    )
    return [found[number] for number in sorted(found)]


class Target(NamedTuple):
    """Library to which weights are exported, with the options of a layer that it can
    express.
    """

    library: Library
    # For each cell that has several, the values of the attribute `cell` of a layer that
    # the library can compute, such as "simple_rnn(relu)". None if the activations are
    # not checked.
    cells: Mapping[str, Texts] | None = {}
    # values of `merge_mode` that a bidirectional layer of the library can have
    merges: tuple[str | None, ...] = ("concat",)
    options: Texts = ("dtype",)  # options of a `Recurrent` layer that are not refused


TORCH_CELLS = {"simple_rnn": ("simple_rnn", "simple_rnn(relu)")}
TORCH = Target("PyTorch", TORCH_CELLS)
KERAS = Target("Keras", None, (*MERGES, None), ("dtype", "go_backwards"))
FLAX = Target("Flax", options=("dtype", "go_backwards"))


def base_cell(layer) -> str:
    """Return the name of a `Recurrent` layer's cell without its activations: "lstm" for
    "lstm(relu, sigmoid)".
    """
    return layer.cell.partition("(")[0]


def check_computes(source: str, allowed: Sequence[str], cell: str, at: str) -> None:
    """Check that the cell of a layer, with its activations, is one that a layer of
    another library computes.
    """
    require(
        cell in allowed,
        f"cell{at}",
        cell,
        f"{source} computes {' or '.join(allowed)}: give such a layer",
    )


def layers_of(layers) -> list:
    """Return the layers of a stack or a list, lowest layer first, or a list of the only
    layer.
    """
    if is_a(layers, OWN, "RecurrentStack"):
        return list(layers.layers)
    one = isinstance(layers, Mapping) or is_a(layers, OWN, "Recurrent", "Bidirectional")
    return [layers] if one else list(as_tuple("layers", layers, LAYER))


def exported(cell: str, layers, target: Target) -> list[Params]:
    """Return the weights of a stack of layers, lowest layer first, after checking that
    another library can express the layers.
    """
    library, found, used = target.library, [], set()
    check_cell(cell, library)
    remedy = (
        f"{library} has no residual connections: export the layers one by one, "
        "and add the inputs yourself"
    )
    require(not getattr(layers, "residual", False), "residual", True, remedy)
    parts = layers_of(layers)
    for number, layer in enumerate(parts):
        if isinstance(layer, Mapping):
            found.append(layer)
            continue
        require(
            is_a(layer, OWN, "Recurrent", "Bidirectional"),
            f"layers[{number}]",
            kind_of(layer),
            LAYER,
        )
        at = f" of layer {number}" if len(parts) > 1 else ""
        merge = getattr(layer, "merge_mode", "concat")
        remedy = (
            f"{library} has only {', '.join(map(str, target.merges))}: export "
            "layer.forward and layer.backward one by one"
        )
        require(merge in target.merges, f"merge_mode{at}", merge, remedy)
        arrays = {}
        for direction, half in halves(layer).items():
            place = at + (direction and f", {direction}")
            own_cell = base_cell(half) if target.cells is None else half.cell
            check_computes(
                library, (target.cells or {}).get(cell, (cell,)), own_cell, place
            )
            used.add(own_cell)
            dtype = np.dtype(half.dtype or half.kernel.dtype)
            refused = [
                (
                    "go_backwards",
                    half.go_backwards and not direction,
                    "reads forwards: reverse its input",
                ),
                (
                    "zoneout",
                    any(half.zoneout.values()) and dict(half.zoneout),
                    "has no zoneout, which also acts in evaluation",
                ),
                (
                    "learned_state",
                    half.learned_state,
                    "starts from zeros: pass initial_h and initial_c to it",
                ),
                (
                    "dtype",
                    dtype != half.kernel.dtype and dtype,
                    "multiplies in the dtype of the parameters",
                ),
            ]
            for name, value, reason in refused:
                remedy = (
                    f"{library} {reason}; or give the weights alone, "
                    "layer.cell_params()._asdict()"
                )
                require(
                    not value or name in target.options, name + place, value, remedy
                )
            arrays[direction] = half.cell_params()._asdict()
        found.append(arrays.get("", arrays))
    require(
        len(used) <= 1,
        "activations",
        ", ".join(sorted(used)),
        f"{library} has the same in all layers: export them one by one",
    )
    return found


def exported_layer(cell: str, layer, target: Target) -> Arrays:
    """Return copies of the weights of one layer of one direction, after checking them,
    and that another library can express the layer.
    """
    (weights,) = exported(cell, [layer], target)
    return checked(LAYOUTS[cell], weights)
