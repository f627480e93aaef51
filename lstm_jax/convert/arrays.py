"""Weights in the layout of lstm_jax: their checks, the flat dict of a model, and the weights of layers that are to be exported.

The docstring of the package `lstm_jax.convert` describes the layout. Each key of a flat dict is a path such as "recurrent/0/kernel".
"""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from lstm_jax.bounds import as_tuple, is_a
from lstm_jax.errors import InputError, require

Arrays = dict[str, np.ndarray]
Layer = dict[str, Any]  # {"kernel": ..., "recurrent_kernel": ..., "bias": ...}, or {"forward": Arrays, "backward": Arrays}
Library = Literal["Keras", "PyTorch", "ONNX"]

Kind = Literal["sentiment model", "character model"]  # also the name of the model in error messages
SENTIMENT: Kind = "sentiment model"  # it has an embedding and one output
CHARACTER: Kind = "character model"  # its input is one-hot or embedded, and it has one output for each character

OWN = "lstm_jax"
"""Name of this package, which the function `is_a` takes as its argument `package`."""
DIRECTIONS = ("forward", "backward")
PROJECTED = "lstm_projected"  # the cell of a layer with a recurrent projection


class Layout(NamedTuple):
    """Layout of the weights of a cell or of another layer, in lstm_jax and in other libraries.

    Attributes:
        title: name of the layer with its article, for error messages.
        shapes: dict from the name of each array to its shape. A letter stands for a size that all arrays of the layer share.
        module: name of the layer in PyTorch and ONNX, such as "LSTM".
        orders: for each library that has the cell, a tuple with one number for each gate in the library's order: the position of this gate
            in the order of lstm_jax. Keras' and PyTorch's orders are their own inverses.
    """

    title: str
    shapes: Mapping[str, tuple[str, ...]]
    module: str = ""
    orders: Mapping[Library, tuple[int, ...]] = {}

    @property
    def gates(self) -> int:
        """Number of gates of the cell."""
        return len(next(iter(self.orders.values())))


def cell_shapes(columns: str, outputs: str = "H", **others: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """Return the shapes of a cell's arrays, given the numbers of columns of the kernels and of rows of the recurrent kernel."""
    return {"kernel": ("E", columns), "recurrent_kernel": (outputs, columns), "bias": (columns,), **others}


_IFGO, _URN = (0, 1, 2, 3), (0, 1, 2)
LAYOUTS = {
    "lstm": Layout("an LSTM", cell_shapes("4H"), "LSTM", {"Keras": _IFGO, "PyTorch": _IFGO, "ONNX": (0, 3, 1, 2)}),
    "gru": Layout("a GRU", cell_shapes("3H", recurrent_bias=("3H",)), "GRU", {"Keras": _URN, "PyTorch": (1, 0, 2), "ONNX": _URN}),
    "gru_reset_before": Layout("a GRU with reset_after=False", cell_shapes("3H"), "GRU", {"Keras": _URN, "ONNX": _URN}),
    "simple_rnn": Layout("a simple RNN", cell_shapes("H"), "RNN", {"Keras": (0,), "PyTorch": (0,), "ONNX": (0,)}),
    PROJECTED: Layout("an LSTM with a projection", cell_shapes("4H", "P", projection=("H", "P")), "LSTM", {"PyTorch": _IFGO}),
    "dense": Layout("a dense layer", {"kernel": ("in", "out"), "bias": ("out",)}, "Linear"),
    "head": Layout("a head with an output for each character that the model reads", {"kernel": ("in", "out"), "bias": ("out",)}),
    "embedding": Layout("an embedding", {"embedding": ("V", "E")}, "Embedding"),
}
"""Dict from a cell or another kind of layer to its layout, for each layer whose weights can be converted."""
CELLS = tuple(name for name, layout in LAYOUTS.items() if layout.orders)

ENDS = ("embedding/embedding", "head/kernel", "head/bias")
"""Keys of a model's flat dict that belong to no recurrent layer."""
_PATH = re.compile(r"recurrent/(0|[1-9]\d*)/(?:(forward|backward)/)?(?!(?:forward|backward)$)(\w+)")


def kind_of(value: object) -> str:
    """Return the name of a value's class for an error message, or "class NAME" if the value is itself a class."""
    return f"class {value.__name__}" if isinstance(value, type) else type(value).__name__


def check_named(subject: str, value: Any, remedy: str) -> None:
    """Check that a value is a dict whose keys are strings."""
    require(isinstance(value, Mapping), subject, kind_of(value), remedy)
    others = [repr(key) for key in value if not isinstance(key, str)]
    require(not others, subject, f"keys that are no text: {', '.join(others)}", remedy)


def check_keys(subject: str, mapping: Any, expected: Collection[str]) -> None:
    """Check that a value is a dict with exactly the expected keys."""
    remedy = f"give a dict with exactly {', '.join(expected)}"
    require(isinstance(mapping, Mapping), subject, kind_of(mapping), remedy)
    require(set(mapping) == set(expected), subject, f"keys {', '.join(sorted(map(str, mapping))) or '(none)'}", remedy)


def check_cell(cell: Any, library: Library) -> None:
    """Check that a library has a cell."""
    names = [name for name in CELLS if library in LAYOUTS[name].orders]
    require(isinstance(cell, str) and cell in names, "cell", cell, f"{library} has {', '.join(names)}")


def to_numpy(name: str, value: object) -> np.ndarray:
    """Return a copy of an array of floats as a contiguous NumPy array of the same precision, in native byte order."""
    try:
        # NumPy cannot read a tensor that requires a gradient or is on a GPU, so every tensor is first detached and moved to the CPU.
        detach = getattr(value, "detach", None)
        array = np.array(detach().cpu().numpy() if detach else value, order="C")
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(name, error, "give an array of floats (a bfloat16 tensor as .float())") from error
    require(array.dtype.kind == "f" or array.dtype.name == "bfloat16", name, f"dtype {array.dtype}", "give an array of floats")
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def fitted(name: str, value: object, shape: Sequence[str], sizes: dict[str, int], owner: str = "") -> np.ndarray:
    """Return a copy of an array of floats, after checking its shape.

    Args:
        name: name of the array in error messages.
        value: the array.
        shape: expected shape, such as ("H", "4H").
        sizes: dict from letters to sizes. A letter of `shape` that is not in the dict may have any size above 0, and is added.
        owner: end of error messages.
    """
    array = to_numpy(name, value)
    found, wanted, fits = dict(sizes), [], array.ndim == len(shape)
    for symbol, size in zip(shape, array.shape if fits else [0] * len(shape), strict=True):
        letter = symbol.lstrip("0123456789")
        factor = int(symbol.removesuffix(letter) or 1)
        wanted.append(str(sizes[letter] * factor) if letter in sizes else symbol)
        fits = fits and size > 0 and found.setdefault(letter, size // factor) * factor == size
    require(fits, name, f"shape {array.shape}", f"expected ({', '.join(wanted)}{',' * (len(wanted) == 1)}){owner}")
    sizes.update(found)
    return array


def checked(kind: str, arrays: Any, where: str = "", sizes: dict[str, int] | None = None, names: Mapping[str, str] | None = None) -> Arrays:
    """Return copies of the arrays of a cell, a dense layer or an embedding, after checking their keys and shapes.

    A bias of None becomes zeros. `names` are the names of the arrays in error messages if they are not those of lstm_jax.
    """
    layout, found, sizes = LAYOUTS[kind], {}, {} if sizes is None else sizes
    check_keys(f"{where}weights of {layout.title}", arrays, layout.shapes)
    for name in sorted(layout.shapes, key="recurrent_kernel".__ne__):  # the recurrent kernel alone shows which cell it belongs to
        value, shape = arrays[name], layout.shapes[name]
        if value is None and "bias" in name:
            value = np.zeros(found["kernel"].shape[1:], found["kernel"].dtype)
        found[name] = fitted(where + (names or {}).get(name, name), value, shape, sizes, f" of {layout.title}")
    return {name: found[name] for name in layout.shapes}


def is_bidirectional(layer: Mapping[str, Any]) -> bool:
    """Return whether a layer is bidirectional, which means that its dict of weights has a key "forward" or "backward"."""
    return any(direction in layer for direction in DIRECTIONS)


def halves(layer: Layer) -> list[Arrays]:
    """Return the weights of each direction of a layer."""
    return [layer[direction] for direction in DIRECTIONS] if is_bidirectional(layer) else [layer]


def check_layer(layer: Mapping[str, Any], where: str = "", cell: str = "lstm", sizes: dict[str, int] | None = None) -> Layer:
    """Return a copy of the weights of a unidirectional or bidirectional layer, after checking their keys and shapes."""
    if not is_bidirectional(layer):
        return checked(cell, layer, where, sizes)
    check_keys(f"{where}bidirectional layer", layer, DIRECTIONS)
    sizes = {} if sizes is None else sizes  # those of both directions
    return {direction: checked(cell, layer[direction], f"{where}{direction}/", sizes) for direction in DIRECTIONS}


def widths(layer: Layer, merge: str = "concat") -> tuple[int, int]:
    """Return the number of input features and the number of output features of a layer whose directions are combined by `merge`."""
    parts = halves(layer)
    outputs = parts[0]["recurrent_kernel"].shape[0]
    return parts[0]["kernel"].shape[0], outputs * (len(parts) if merge == "concat" else 1)


def check_stack(
    layers: Sequence[Mapping[str, Any]],
    where: str = "recurrent/",
    cell: str = "lstm",
    merge: str = "concat",
    features: int | None = None,
) -> list[Layer]:
    """Return copies of the weights of stacked layers, after checking that each layer is valid and reads the outputs of the one below."""
    require(len(layers) > 0, f"{where}layers", "none", "give at least one layer")
    found: list[Layer] = []
    for number, layer in enumerate(layers):
        found.append(check_layer(layer, f"{where}{number}/", cell, {} if features is None else {"E": features}))
        features = widths(found[-1], merge)[1]
    return found


def find_cell(name: str, shape: tuple[int, ...], cells: Sequence[str]) -> str:
    """Return the cell among `cells` whose recurrent kernel can have the given shape."""
    for cell in cells:
        if len(shape) == 2 and shape[1] == LAYOUTS[cell].gates * shape[0] > 0:
            return cell
    expected = [f"({', '.join(LAYOUTS[cell].shapes['recurrent_kernel'])}) of {LAYOUTS[cell].title}" for cell in cells]
    raise InputError(name, f"shape {shape}", f"expected {' or '.join(expected)}")


def reordered(library: Library, cell: str, arrays: Arrays) -> Arrays:
    """Return the arrays of a cell with their gates in the order of another library, or in that of lstm_jax if they have the other order."""
    order = LAYOUTS[cell].orders[library]
    blocks = {name: np.split(array, len(order), axis=-1) for name, array in arrays.items() if name != "projection"}
    return arrays | {name: np.concatenate([parts[gate] for gate in order], axis=-1) for name, parts in blocks.items()}


def join_model(embedding: Arrays | None, layers: Sequence[Layer], head: Arrays, kind: Kind) -> Arrays:
    """Join the weights of the embedding, the recurrent layers and the head of a model, and return them as one flat dict."""
    model = {} if embedding is None else {ENDS[0]: embedding["embedding"]}
    for number, layer in enumerate(layers):
        for direction, arrays in zip(DIRECTIONS, halves(layer), strict=False):
            part = f"recurrent/{number}/" + (f"{direction}/" if is_bidirectional(layer) else "")
            model |= {part + name: array for name, array in arrays.items()}
    model |= {f"head/{name}": array for name, array in head.items()}
    split_model(model, kind)  # checks that the layers fit together
    return model


def split_model(
    params: Mapping[str, Any], kind: Kind, cell: str = "lstm", merge: str = "concat", pooled: int = 1
) -> tuple[Arrays | None, list[Layer], Arrays]:
    """Return copies of the weights of a model's embedding, recurrent layers and head, after checking that they fit together."""
    layers = split_paths(params, kind)
    table = checked("embedding", {"embedding": params[ENDS[0]]}, "embedding/") if ENDS[0] in params else None
    stack = check_stack(layers, cell=cell, merge=merge, features=None if table is None else table["embedding"].shape[1])
    if kind == CHARACTER:
        both = [number for number, layer in enumerate(stack) if is_bidirectional(layer)]
        require(not both, f"recurrent/ layers {both}", "two directions", "a character model reads forwards alone: give one cell a layer")
    inputs = widths(stack[0])[0] if table is None else len(table["embedding"])
    sizes = {"in": widths(stack[-1], merge)[1] * pooled, "out": 1 if kind == SENTIMENT else inputs}
    head, names = {name: params.get(f"head/{name}") for name in ("kernel", "bias")}, {}
    if table is not None and head["kernel"] is None:
        head["kernel"], names["kernel"] = table["embedding"].T, "kernel, missing and thus the transposed embedding"
    return table, stack, checked("dense" if kind == SENTIMENT else "head", head, "head/", sizes, names)


def split_paths(params: Any, kind: Kind) -> list[Layer]:
    """Return the weights of the recurrent layers in the flat dict of a model, lowest layer first, after checking the keys of the dict."""
    remedy = "give a flat dict with keys such as recurrent/0/kernel, as sentiment_from_keras_file returns it"
    check_named(f"weights of a {kind}", params, remedy)
    found: dict[int, Layer] = {}
    for path, value in params.items():
        if match := _PATH.fullmatch(path):
            number, direction, name = match.groups()
            layer = found.setdefault(int(number), {})
            (layer.setdefault(direction, {}) if direction else layer)[name] = value
        else:
            require(path in ENDS, f"key of a {kind}", path, f"expected {', '.join(ENDS)} and recurrent/<number>/...")
    for path in ENDS if kind == SENTIMENT else ENDS[2:] if ENDS[0] in params else ENDS[1:]:
        require(path in params, path, "missing", f"a {kind} needs it")
    require(sorted(found) == list(range(len(found))), "recurrent/ layers", sorted(found), "number them 0, 1, 2, ... without a gap")
    return [found[number] for number in range(len(found))]


TORCH_CELLS = {"lstm": ("lstm",), "gru": ("gru",), "simple_rnn": ("simple_rnn", "simple_rnn(relu)"), PROJECTED: (PROJECTED,)}
"""Dict from each cell that PyTorch has to the values of the attribute `cell` of a layer that PyTorch can compute.

Such a value is the name of the cell, followed by its activations in parentheses if they are not the default.
"""
BY_ARRAYS = "to export the weights alone, give layer.cell_params()._asdict()"


class Target(NamedTuple):
    """Kind of layer in another library, to which weights are exported, with the features that it can express.

    Attributes:
        title: name of the kind of layer in error messages, such as "PyTorch module".
        cells: dict like `TORCH_CELLS`. The activations of a cell that is not a key are not checked.
        merges: values of `merge_mode` that the other layer supports if it is bidirectional.
        reverses: whether the other layer can read a sequence in reverse.
        bfloat16: whether the other layer can compute its matrix products in another dtype than that of its parameters.
        starts: whether each call of the other layer needs an initial state as an input, so that a learned one can be exported.
    """

    title: str
    cells: Mapping[str, tuple[str, ...]]
    merges: tuple[str | None, ...] = ("concat",)
    reverses: bool = False
    bfloat16: bool = True
    starts: bool = False


TORCH = Target("PyTorch module", TORCH_CELLS)
KERAS = Target("Keras layer", {}, ("concat", "sum", "ave", "mul", None), reverses=True)
FLAX = Target("Flax cell", {"lstm": ("lstm",)}, reverses=True)


def base_cell(layer: Any) -> str:
    """Return the name of a `Recurrent` layer's cell without its activations: "lstm" for "lstm(relu, sigmoid)"."""
    return layer.cell.partition("(")[0]


def check_activations(layer: Any, allowed: tuple[str, ...], at: str, source: str) -> None:
    """Check that a `Recurrent` layer has the activations of a layer of another library."""
    require(layer.cell in allowed, f"activations{at}", layer.cell, f"the {source} computes {' or '.join(allowed)}: give such a layer")


def parts_of(layers: Any, target: Target) -> list[Any]:
    """Return a stack of layers as a list, lowest layer first."""
    if is_a(layers, OWN, "RecurrentStack"):
        remedy = f"a {target.title} has no residual connections: export the layers one by one, and add the inputs yourself"
        require(not layers.residual, "residual", True, remedy)
        return list(layers.layers)
    if is_a(layers, OWN, "Recurrent", "Bidirectional"):
        return [layers]
    remedy = "give a list of layers or of dicts of arrays, or a RecurrentStack"
    require(not isinstance(layers, Mapping), "layers", kind_of(layers), remedy)
    return list(as_tuple("layers", layers, remedy))


def exported(cell: str, layers: Any, target: Target) -> list[Mapping[str, Any]]:
    """Return the weights of a stack of layers, lowest layer first, after checking that another library can express the layers."""
    parts = parts_of(layers, target)
    found: list[Mapping[str, Any]] = []
    used: set[str] = set()
    for number, part in enumerate(parts):
        at = f" of layer {number}" if len(parts) > 1 else ""
        if is_a(part, OWN, "Bidirectional"):
            remedy = f"a {target.title} has only {', '.join(map(str, target.merges))}: export layer.forward and layer.backward one by one"
            require(part.merge_mode in target.merges, f"merge_mode{at}", part.merge_mode, remedy)
            both = [(direction, getattr(part, direction)) for direction in DIRECTIONS]
            found.append({name: _cell_arrays(cell, half, target, f"{at}, {name}", name) for name, half in both})
            used |= {half.cell for _, half in both}
        elif is_a(part, OWN, "Recurrent"):
            found.append(_cell_arrays(cell, part, target, at))
            used.add(part.cell)
        else:
            remedy = "give a Recurrent or Bidirectional layer, or a dict of arrays"
            require(isinstance(part, Mapping), f"layers[{number}]", kind_of(part), remedy)
            found.append(part)
    alike = len(used) <= 1 or cell not in target.cells
    require(alike, "activations", ", ".join(sorted(used)), f"a {target.title} has the same in all layers: export them one by one")
    return found


def exported_layer(cell: str, layer: Any, target: Target) -> Mapping[str, Any]:
    """Return the weights of one layer, after checking that another library can express the layer; see `exported`."""
    return exported(cell, [layer], target)[0]


def _cell_arrays(cell: str, layer: Any, target: Target, at: str, direction: str = "") -> dict[str, np.ndarray]:
    """Return the arrays of a `Recurrent` layer, after checking its cell and its options."""
    require(base_cell(layer) == cell, f"cell{at}", layer.cell, f"the layers were named {cell}: name the cell that they have")
    if cell in target.cells:
        check_activations(layer, target.cells[cell], at, target.title)
    title, own_dtype = f"a {target.title}", layer.kernel.dtype
    dtype = own_dtype if layer.dtype is None or target.bfloat16 else np.dtype(layer.dtype)
    refused = [
        ("go_backwards", layer.go_backwards and not (target.reverses or direction), f"{title} reads forwards: reverse its input"),
        ("zoneout", any(layer.zoneout.values()) and dict(layer.zoneout), f"{title} has no zoneout, which also acts in evaluation"),
        ("learned_state", layer.learned_state and not target.starts, f"{title} starts from zeros: pass initial_h and initial_c to it"),
        ("dtype", dtype != own_dtype and dtype.name, f"{title} multiplies in the dtype of the parameters, {own_dtype}"),
    ]
    for name, value, reason in refused:
        require(not value, f"{name}{at}", value, f"{reason}; {BY_ARRAYS}")
    return {name: np.asarray(array) for name, array in layer.cell_params()._asdict().items()}
