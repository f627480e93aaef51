"""Export of the weights of lstm_jax layers, with checks that the other library can express the options of the layers."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from lstm_jax.bounds import is_a
from lstm_jax.convert.arrays import DIRECTIONS, PROJECTED, is_list, kind_of
from lstm_jax.errors import require

OWN = "lstm_jax"
"""Name of this package, which the function `is_a` takes as its argument `package`."""
TORCH_CELLS = {"lstm": ("lstm",), "gru": ("gru",), "simple_rnn": ("simple_rnn", "simple_rnn(relu)"), PROJECTED: (PROJECTED,)}
"""Dict from the name of each cell that PyTorch has to a tuple of names: the variants of this cell that PyTorch can compute.

The name of a variant is a value of the attribute `cell` of a layer: the name of the cell, followed by its activations in parentheses if
they are not the default. For example, nn.RNN computes "simple_rnn" (with tanh, the default) or "simple_rnn(relu)".
"""
BY_ARRAYS = "to export the weights alone, give layer.cell_params()._asdict()"


class Target(NamedTuple):
    """Kind of layer in another library, to which weights are exported, with the features that it can express.

    Attributes:
        title: name of the kind of layer in error messages, such as "PyTorch module".
        cells: dict from the name of a cell, without its activations, to a tuple of names: the variants of the cell that the other layer can
            compute. The name of a variant includes its activations if they are not the default, for example
            {"simple_rnn": ("simple_rnn", "simple_rnn(relu)")}. If a cell is not a key, its activations are not checked, and the user has to
            give the other layer the same activations.
        merges: values of `merge_mode` that the other layer supports if it is bidirectional.
        reverses: whether the other layer can read a sequence in reverse.
        bfloat16: whether the other layer can compute its matrix products in another dtype than that of its parameters.
        starts: whether each call of the other layer needs an initial state as an input. If false, a call may start from zeros. A layer with
            a learned initial state can therefore not be exported.
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
    require(is_list(layers), "layers", kind_of(layers), "give a list of layers or of dicts of arrays, or a RecurrentStack")
    return list(layers)


def merge_of(parts: Sequence[Any], merge: str | None) -> str:
    """Return how the outputs of two directions are combined in a stack of layers: "concat", "sum", "ave" or "mul"."""
    found = [part.merge_mode for part in parts if is_a(part, OWN, "Bidirectional")]
    alike = len(set(found)) <= 1
    require(alike, "merge_mode", ", ".join(map(str, found)), "all layers of one model must have the same: export them one by one")
    if not found:
        return "concat" if merge is None else merge
    require(merge in (None, found[0]), "merge", merge, f"the layers have merge_mode={found[0]!r}: leave it out")
    return found[0]


def exported(cell: str, layers: Any, target: Target) -> list[Mapping[str, Any]]:
    """Return the weights of a stack of layers, lowest layer first, after checking that another library can express the layers."""
    parts = parts_of(layers, target)
    found: list[Mapping[str, Any]] = []
    used: set[str] = set()
    for number, part in enumerate(parts):
        at = f" of layer {number}" if len(parts) > 1 else ""
        if is_a(part, OWN, "Bidirectional"):
            fits = part.merge_mode in target.merges
            remedy = f"a {target.title} has only {', '.join(map(str, target.merges))}: export layer.forward and layer.backward one by one"
            require(fits, f"merge_mode{at}", part.merge_mode, remedy)
            halves = {direction: getattr(part, direction) for direction in DIRECTIONS}
            used |= {half.cell for half in halves.values()}
            found.append({name: _cell_arrays(cell, half, target, f"{at}, {name}", name) for name, half in halves.items()})
        elif is_a(part, OWN, "Recurrent"):
            used.add(part.cell)
            found.append(_cell_arrays(cell, part, target, at))
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
