"""Checks of weights in the layout of lstm_jax, and conversion of a model's weights to and from one flat dict.

Each key of the flat dict is a path such as "recurrent/0/kernel". The docstring of the package `lstm_jax.convert` describes the layout.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from lstm_jax.errors import InputError, require


def kind_of(value: object) -> str:
    """Return the name of a value's class for an error message, or "class NAME" if the value is itself a class."""
    return f"class {value.__name__}" if isinstance(value, type) else type(value).__name__


def check_named(subject: str, value: Any, remedy: str) -> None:
    """Check that a value is a dict whose keys are strings."""
    require(isinstance(value, Mapping), subject, kind_of(value), remedy)
    others = [repr(key) for key in value if not isinstance(key, str)]
    require(not others, subject, f"keys that are no text: {', '.join(others)}", remedy)


def is_list(value: object) -> bool:
    """Return whether a value is a list or another collection, but neither a text, a dict nor an array without axes."""
    return isinstance(value, Collection) and not isinstance(value, str | Mapping) and getattr(value, "ndim", 1) > 0


def has_state_dict(value: object) -> bool:
    """Return whether a value has a method `state_dict`, as a PyTorch module has. If the value is a class, the result is false."""
    return not isinstance(value, type) and callable(getattr(value, "state_dict", None))


Arrays = dict[str, np.ndarray]
Layer = dict[str, Any]  # {"kernel": ..., "recurrent_kernel": ..., "bias": ...}, or {"forward": Arrays, "backward": Arrays}

Kind = Literal["sentiment model", "character model"]  # also the name of the model in error messages
SENTIMENT: Kind = "sentiment model"  # it has an embedding and one output
CHARACTER: Kind = "character model"  # its input is one-hot or embedded, and it has one output for each character

DIRECTIONS = ("forward", "backward")
LSTM_NAMES = ("kernel", "recurrent_kernel", "bias")
PROJECTION = "projection"
PROJECTED = "lstm_projected"  # the cell of a layer with a recurrent projection


class Layout(NamedTuple):
    """Layout of a cell's weights in lstm_jax.

    Attributes:
        title: name of the cell in error messages, such as "LSTM".
        gates: number of gates.
        names: names of the arrays, such as "kernel".
    """

    title: str
    gates: int
    names: tuple[str, ...]

    @property
    def phrase(self) -> str:
        """Name of the cell with its article, such as "an LSTM"."""
        return f"{'an' if self.title.startswith('LSTM') else 'a'} {self.title}"

    @property
    def columns(self) -> str:
        """Text that gives the number of columns of the kernels, such as "4H" for a cell with 4 gates and H units."""
        return f"{self.gates}H" if self.gates > 1 else "H"

    @property
    def rows(self) -> str:
        """Text that gives the number of rows of the recurrent kernel: "P" (outputs) with a projection, else "H" (units)."""
        return "P" if PROJECTION in self.names else "H"


LAYOUTS = {
    "lstm": Layout("LSTM", 4, LSTM_NAMES),
    PROJECTED: Layout("LSTM with a projection", 4, (*LSTM_NAMES, PROJECTION)),
    "gru": Layout("GRU", 3, (*LSTM_NAMES, "recurrent_bias")),
    "gru_reset_before": Layout("GRU with reset_after=False", 3, LSTM_NAMES),
    "simple_rnn": Layout("simple RNN", 1, LSTM_NAMES),
}
"""Dict from the name of a cell to its `Layout`, for each cell whose weights can be converted."""

ENDS = ("embedding/embedding", "head/kernel", "head/bias")
"""Keys of a model's flat dict that belong to no recurrent layer."""
_PATH = re.compile(r"recurrent/(0|[1-9]\d*)/(?:(forward|backward)/)?(?!(?:forward|backward)$)(\w+)")


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


def shaped(name: str, value: object, *expected: int | str) -> np.ndarray:
    """Return a copy of an array of floats as a NumPy array, after checking its shape."""
    array = to_numpy(name, value)
    fits = array.ndim == len(expected) and all(
        size == wanted or (isinstance(wanted, str) and size > 0) for size, wanted in zip(array.shape, expected, strict=True)
    )
    wanted = ", ".join(map(str, expected)) + ("," if len(expected) == 1 else "")
    require(fits, name, f"shape {array.shape}", f"expected ({wanted})")
    return array


def cell_arrays(cell: str, arrays: Mapping[str, object], where: str = "") -> Arrays:
    """Check the arrays of a cell, and return copies of them as a dict."""
    layout = LAYOUTS[cell]
    recurrent = shaped(f"{where}recurrent_kernel", arrays["recurrent_kernel"], layout.rows, layout.columns)
    units, columns = recurrent.shape
    projection = {}
    if PROJECTION in layout.names:
        projection = {PROJECTION: shaped(f"{where}{PROJECTION}", arrays[PROJECTION], "H", units)}
        units = len(projection[PROJECTION])
    remedy = f"expected ({layout.rows}, {layout.columns}): is this the recurrent kernel of {layout.phrase}?"
    require(columns == layout.gates * units, f"{where}recurrent_kernel", f"shape {recurrent.shape}", remedy)
    kernel = shaped(f"{where}kernel", arrays["kernel"], "E", columns)
    biases = {
        name: np.zeros(columns, kernel.dtype) if arrays[name] is None else shaped(f"{where}{name}", arrays[name], columns)
        for name in layout.names
        if "bias" in name
    }
    return {"kernel": kernel, "recurrent_kernel": recurrent} | biases | projection


def check_keys(subject: str, mapping: Mapping[str, Any], expected: Sequence[str]) -> None:
    """Check that a dict has exactly the expected keys."""
    require(isinstance(mapping, Mapping), subject, kind_of(mapping), f"give a dict of {', '.join(expected)}")
    remedy = f"expected exactly {', '.join(expected)}"
    require(set(mapping) == set(expected), subject, f"keys {', '.join(sorted(map(str, mapping))) or '(none)'}", remedy)


def check_cell(cell: str, params: Mapping[str, Any], where: str = "") -> Arrays:
    """Return a copy of the weights of a cell, after checking their keys and shapes."""
    check_keys(f"{where}{LAYOUTS[cell].title}", params, LAYOUTS[cell].names)
    return cell_arrays(cell, params, where)


def is_bidirectional(layer: Mapping[str, Any]) -> bool:
    """Return whether a layer is bidirectional, which means that its dict of weights has a key "forward" or "backward"."""
    return any(direction in layer for direction in DIRECTIONS)


def check_layer(layer: Mapping[str, Any], where: str = "", cell: str = "lstm") -> Layer:
    """Return a copy of the weights of a unidirectional or bidirectional layer, after checking their keys and shapes."""
    if not is_bidirectional(layer):
        return check_cell(cell, layer, where)
    check_keys(f"{where}bidirectional layer", layer, DIRECTIONS)
    pair = {direction: check_cell(cell, layer[direction], f"{where}{direction}/") for direction in DIRECTIONS}
    for name in ("kernel", "recurrent_kernel"):
        wanted, found = (pair[direction][name].shape for direction in DIRECTIONS)
        require(found == wanted, f"{where}backward/{name}", f"shape {found}", f"expected {wanted}, as in the forward direction")
    return pair


def widths(layer: Mapping[str, Any], merge: str = "concat") -> tuple[int, int]:
    """Return the number of input features and the number of output features of a layer whose directions are combined by `merge`."""
    if is_bidirectional(layer):
        taken, outputs = widths(layer["forward"])
        return taken, outputs * (2 if merge == "concat" else 1)
    return layer["kernel"].shape[0], layer["recurrent_kernel"].shape[0]


def check_stack(layers: Sequence[Mapping[str, Any]], where: str = "recurrent/", cell: str = "lstm", merge: str = "concat") -> list[Layer]:
    """Return copies of the weights of stacked layers, after checking that each layer is valid and that the layers fit together."""
    require(len(layers) > 0, f"{where}layers", "none", "give at least one layer")
    checked = [check_layer(layer, f"{where}{number}/", cell) for number, layer in enumerate(layers)]
    for number in range(1, len(checked)):
        below, taken = widths(checked[number - 1], merge)[1], widths(checked[number])[0]
        require(taken == below, f"{where}{number}/", f"takes {taken} features", f"the layer below it gives {below}: they must be equal")
    return checked


def reordered(order: Sequence[int], arrays: Arrays) -> Arrays:
    """Return the arrays of a cell with their gates in another order. Block n of the columns is block order[n] of the given array."""
    blocks = {name: np.split(array, len(order), axis=-1) for name, array in arrays.items() if name != PROJECTION}
    return arrays | {name: np.concatenate([parts[gate] for gate in order], axis=-1) for name, parts in blocks.items()}


def check_model(
    embedding: Mapping[str, Any] | None,
    layers: Sequence[Mapping[str, Any]],
    head: Mapping[str, Any],
    kind: Kind,
    cell: str = "lstm",
    merge: str = "concat",
    pooled: int = 1,
) -> tuple[Arrays | None, list[Layer], Arrays]:
    """Return copies of the weights of a model's embedding, recurrent layers and head, after checking that they fit together."""
    table = None if embedding is None else shaped("embedding/embedding", embedding["embedding"], "V", "E")
    stack = check_stack(layers, cell=cell, merge=merge)
    taken, given = widths(stack[0])[0], widths(stack[-1], merge)[1] * pooled
    if table is not None:
        fits = taken == table.shape[1]
        require(fits, "recurrent/0/", f"takes {taken} features", f"the embedding gives {table.shape[1]}: they must be equal")
    if kind == CHARACTER:
        both = [number for number, layer in enumerate(stack) if is_bidirectional(layer)]
        require(not both, f"recurrent/ layers {both}", "two directions", "a character model reads forwards alone: give one cell a layer")
    kernel = head.get("kernel")
    if kernel is None and table is not None:
        remedy = f"only a model whose embedding ({table.shape[1]}) is as wide as its last layer ({given}) can go without: the two are tied"
        require(table.shape[1] == given, "head/kernel", "missing", remedy)
        kernel = table.T
    kernel = shaped("head/kernel", kernel, given, 1 if kind == SENTIMENT else "V")
    outputs = kernel.shape[1]
    bias = shaped("head/bias", head["bias"], outputs)
    if kind == CHARACTER and table is None:
        remedy = f"the head gives {outputs} outputs: without an embedding, one-hot characters, they must be equal"
        require(taken == outputs, "recurrent/0/", f"takes {taken} features", remedy)
    elif kind == CHARACTER and table is not None:
        remedy = f"the head gives {outputs} outputs: both must be the number of characters"
        require(len(table) == outputs, "embedding/embedding", f"{len(table)} rows", remedy)
    return None if table is None else {"embedding": table}, stack, {"kernel": kernel, "bias": bias}


def join_model(embedding: Mapping[str, Any] | None, layers: Sequence[Mapping[str, Any]], head: Mapping[str, Any], kind: Kind) -> Arrays:
    """Join the weights of the embedding, the recurrent layers and the head of a model, and return them as one flat dict."""
    table, stack, dense = check_model(embedding, layers, head, kind)
    model = {} if table is None else {"embedding/embedding": table["embedding"]}
    for number, layer in enumerate(stack):
        parts = {f"{direction}/": layer[direction] for direction in DIRECTIONS} if is_bidirectional(layer) else {"": layer}
        model |= {f"recurrent/{number}/{part}{name}": arrays[name] for part, arrays in parts.items() for name in LSTM_NAMES}
    return model | {"head/kernel": dense["kernel"], "head/bias": dense["bias"]}


def split_model(params: Mapping[str, Any], kind: Kind, *how: Any) -> tuple[Arrays | None, list[Layer], Arrays]:
    """Split the flat dict of a model into the weights of the embedding, of the recurrent layers and of the head."""
    layers = split_paths(params, kind)
    embedding = {"embedding": params[ENDS[0]]} if ENDS[0] in params else None
    head = {path.removeprefix("head/"): params[path] for path in ENDS[1:] if path in params}
    return check_model(embedding, layers, head, kind, *how)


def split_paths(params: Mapping[str, Any], kind: Kind) -> list[Layer]:
    """Return the weights of the recurrent layers in the flat dict of a model, lowest layer first, after checking the keys of the dict."""
    check_named(f"weights of a {kind}", params, "give a flat dict with keys such as recurrent/0/kernel")
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
