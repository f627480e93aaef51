"""ONNX models as functions of JAX. Their recurrent nodes run on the backends of
`lstm_jax.unroll`; see `lstm_jax.convert.from_onnx`.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.dtypes import canonicalize_dtype

from lstm_jax.base.checks import frozen
from lstm_jax.base.errors import check_choice, parsing, require
from lstm_jax.base.reading import MORE, most_bytes
from lstm_jax.base.types import Values
from lstm_jax.cells import CELLS, Cell, with_activations
from lstm_jax.cells.lstm import make_step
from lstm_jax.convert.arrays import Layer, halves
from lstm_jax.convert.onnx_files import RECURRENT, Node, OnnxFile, recurrent_weights
from lstm_jax.convert.onnx_operators import ACTIVATIONS, FOLDED, OPERATORS
from lstm_jax.recurrence import unroll

_DEFAULTS = {
    "LSTM": [b"Sigmoid", b"Tanh", b"Tanh"],
    "GRU": [b"Sigmoid", b"Tanh"],
    "RNN": [b"Tanh"],
}


@frozen
class RecurrentNode:
    """LSTM, GRU or RNN node of an ONNX model. `convert.load(layer, node)` sets the
    parameters of a layer to its weights.

    Attributes:
        name: name of the node.
        cell: the cell. Its name is "lstm_onnx" if no cell of `lstm_jax.cells` has the
            options of the node.
        direction: "forward", "reverse" or "bidirectional".
        weights: NumPy arrays in the layout that `lstm_jax.convert` describes. Peepholes
            have the key "peepholes".
        batch_first: whether the batch is the first axis of the node's inputs and
            outputs.
    """

    name: str
    cell: Cell
    direction: str
    weights: Layer
    batch_first: bool

    def run(self, weights: Layer, x, lengths, *initial) -> tuple:
        """Return the outputs of the node, given its weights and the inputs X,
        sequence_lens, initial_h and initial_c.
        """
        turn = (
            partial(jnp.swapaxes, axis1=0, axis2=1) if self.batch_first else jnp.asarray
        )
        results, given = [], [state for state in initial if state is not None]
        states = [
            turn(jnp.zeros_like(given[0]) if state is None else state)
            for state in initial
            if given
        ]
        for number, half in enumerate(halves(weights).values()):
            backwards = number == 1 or self.direction == "reverse"
            state = [
                state[number] for state in states[: len(self.cell.state_like())]
            ] or None
            options = {
                "lengths": lengths,
                "backwards": backwards,
                "zero_output_for_mask": True,
                "time_major": True,
            }
            y, final = unroll(
                self.cell, self.cell.params(**half), turn(x), state, **options
            )
            results.append((turn(y[::-1] if backwards else y), *final))
        y, *finals = zip(*results, strict=True)
        return jnp.stack(y, 2 if self.batch_first else 1), *(
            turn(jnp.stack(final)) for final in finals
        )


def _cell(node: Node, functions: list, peepholes: bool) -> Cell:
    f, g, h = (functions * 3)[:3]
    # ONNX Runtime does not clip the input of h
    if limit := node.attributes.get("clip"):
        f, g = (
            lambda x, inner=inner, limit=limit: inner(jnp.clip(x, -limit, limit))
            for inner in (f, g)
        )
    if node.operator == "RNN":
        return with_activations(CELLS["simple_rnn"], f, "sigmoid")
    if node.operator == "GRU":
        return with_activations(
            CELLS[
                "gru"
                if node.attributes.get("linear_before_reset")
                else "gru_reset_before"
            ],
            g,
            f,
        )
    coupled, mixed = node.attributes.get("input_forget"), g is not h
    require(
        not (coupled or (mixed and peepholes)),
        f"ONNX node {node.name}",
        "input_forget, or peepholes with clip",
        "no cell has them",
    )
    if not mixed:
        return with_activations(CELLS["lstm_peephole" if peepholes else "lstm"], g, f)
    return replace(
        CELLS["lstm"], name="lstm_onnx", step=make_step(g, f, h), make_step=None
    )


def _recurrent(node: Node, *weights) -> RecurrentNode:
    direction, default = (
        node.attributes.get("direction", "forward"),
        _DEFAULTS[node.operator],
    )
    directions, functions = 2 if direction == "bidirectional" else 1, []
    given = {
        key: iter(node.attributes.get(f"activation_{key}", ()))
        for key in ("alpha", "beta")
    }
    for name in node.attributes.get("activations", default * directions):
        check_choice("activation", name.decode(), ACTIVATIONS)
        function, known = ACTIVATIONS[name.decode()]
        functions.append(
            (function, {key: next(given[key], value) for key, value in known.items()})
        )
    same = functions[: len(default)]
    require(
        same * directions == functions,
        "activations",
        node.attributes.get("activations"),
        "both directions must have the same",
    )
    cell = _cell(
        node,
        [partial(function, **known) if known else function for function, known in same],
        weights[3] is not None,
    )
    arrays = recurrent_weights(
        "lstm" if node.operator == "LSTM" else cell.name.partition("(")[0],
        directions,
        *weights,
    )
    return RecurrentNode(
        node.name, cell, direction, arrays, bool(node.attributes.get("layout"))
    )


class OnnxModel:
    """Function of JAX that computes what an ONNX model computes. `convert.from_onnx`
    makes it.

        # or several outputs as a tuple, in the order of `outputs`
        y = model(x)
        y, h = model(input=x, state=h)

    Inputs are given in the order of `inputs` or by name. Sizes and branches may depend
    on the shapes of inputs, and on inputs whose values `from_onnx` gets, but not on
    values of other arrays.

    Attributes:
        inputs: dict from the name of each input to its dtype and shape, in which 0 is
            any size.
        outputs: names of the outputs.
        recurrent: the recurrent nodes, a list of `RecurrentNode`.
        params: dict of the weights, with which `apply` can be differentiated.
    """

    def __init__(self, file: OnnxFile):
        self.file, self.inputs, self.outputs = file, file.inputs, file.body[1]
        big = {
            name: array
            for name, array in file.constants.items()
            if array.size > FOLDED and array.dtype == np.float32
        }
        self.small = {
            name: array for name, array in file.constants.items() if name not in big
        }
        nodes = [node for node in file.nodes if node.operator in RECURRENT]
        names = {name for node in nodes for name in node.attributes["weights"]}
        computed = sorted(names - file.constants.keys() - {""})
        with parsing(
            "recurrent nodes of the ONNX model",
            "their weights must be constants of the model",
        ):
            found = (
                jax.jit(
                    lambda big: self._evaluate(file.nodes, computed, self.small | big)
                )(big)
                if computed
                else []
            )
            known = (
                file.constants
                | {"": None}
                | dict(zip(computed, map(np.asarray, found), strict=True))
            )
            self.runs = {
                node.inputs[0]: _recurrent(
                    node, *(known[name] for name in node.attributes["weights"])
                )
                for node in nodes
            }
        self.recurrent = list(self.runs.values())
        arrays = {name: node.weights for name, node in self.runs.items()}
        self.params: Values = jax.tree.map(
            jnp.asarray,
            arrays | {name: array for name, array in big.items() if name not in names},
        )
        self._run_jitted = jax.jit(self._run)

    def __call__(self, *args, **named) -> Any:
        """Return the outputs of the model.

        Raises:
            InputError: if an input is missing or unknown or has another shape or dtype
                than the model declares, or if a node cannot be run: its operator is
                unknown, or it needs the values of an array that JAX traces.
        """
        return self.apply(self.params, *args, **named)

    def apply(self, params: Values, *args, **named) -> Any:
        """Like a call of the model, but with `params` in place of the attribute
        `params`.
        """
        given, arrays = dict(zip(self.inputs, args, strict=False)) | named, {}
        fits = given.keys() == self.inputs.keys() and len(args) + len(named) == len(
            given
        )
        require(
            fits,
            "inputs of the ONNX model",
            ", ".join(given) or "none",
            f"give {', '.join(self.inputs)}",
        )
        for name, (dtype, sizes) in self.inputs.items():
            subject, remedy = f"input {name}", f"the model declares {dtype} {sizes}"
            with parsing(subject, remedy):
                array = jnp.asarray(given[name])
                fits = not sizes or [
                    size or n for size, n in zip(sizes, array.shape, strict=True)
                ] == [*array.shape]
                require(
                    fits and np.can_cast(array.dtype, dtype, "same_kind"),
                    subject,
                    f"{array.dtype} {array.shape}",
                    remedy,
                )
            arrays[name] = array.astype(canonicalize_dtype(dtype))
        return self._run_jitted(params, arrays)

    def _run(self, params: Values, arrays: Values) -> Any:
        with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
            found = list(
                map(
                    jnp.asarray,
                    self._evaluate(*self.file.body, self.small | params | arrays),
                )
            )
        return tuple(found) if len(found) > 1 else found[0]

    def _evaluate(
        self, nodes: Sequence[Node], outputs: Sequence[str], values: Values
    ) -> list:
        needed, kept = {*outputs}, []
        for node in reversed(nodes):
            if needed.intersection(node.outputs):
                kept.append(node)
                needed |= node.reads
        for node in reversed(kept):
            remedy = (
                "it has inputs or options that are not known here, or needs "
                "values of arrays to know a size or a branch"
            )
            with parsing(f"ONNX node {node.name} ({node.operator})", remedy):
                values.update(
                    zip(node.outputs, self._compute(node, values), strict=False)
                )
        return [values[name] for name in outputs]

    def _compute(self, node: Node, values: Values) -> Sequence:
        given: list[Any] = [values[name] if name else None for name in node.inputs]
        if node.operator == "If":
            nodes, outputs = node.attributes[
                "then_branch" if given[0] else "else_branch"
            ]
            return self._evaluate(nodes, outputs, values)
        if node.operator in RECURRENT:
            return self.runs[node.inputs[0]].run(*given)
        remedy = "add it to lstm_jax.convert.onnx_operators.OPERATORS"
        require(
            node.operator in OPERATORS,
            "operator of an ONNX model",
            node.operator,
            remedy,
        )
        arrays = [array for array in given if array is not None]
        known = (
            all(isinstance(array, np.ndarray) for array in arrays)
            and sum(array.size for array in arrays) <= FOLDED
        )
        more = {
            "Split": {"num_outputs": len(node.outputs)},
            "Softmax": {"opset": self.file.opset},
        }
        options = node.attributes | more.get(node.operator.removeprefix("Log"), {})
        found = OPERATORS[node.operator](np if known else jnp, *given, **options)
        found = [
            np.asarray(part) if np.isscalar(part) else part
            for part in (found if isinstance(found, list | tuple) else [found])
        ]
        for part in found:
            require(
                4 * part.size <= most_bytes(),
                "ONNX model",
                f"an array of shape {part.shape}",
                MORE,
            )
        return found
