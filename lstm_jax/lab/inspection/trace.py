"""Trace of a model: the gates and states of its recurrent layers at each step of an
input.

B is the batch size, T the number of steps and H the number of units.
"""

import contextlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.extend.core import get_opaque_trace_state
from jaxtyping import Array

from lstm_jax.base.checks import frozen
from lstm_jax.base.errors import check_class, require
from lstm_jax.cells import gru, lstm
from lstm_jax.layers.recurrent import Recurrent
from lstm_jax.recurrence import reference
from lstm_jax.recurrence.api import observed
from lstm_jax.recurrence.call import Call, Options

Arrays = dict[str, Array]


@frozen
class LayerTrace:
    """Gates and states of one call of a recurrent layer.

    All arrays are in the order of the input, also for a layer that reads backwards.
    """

    layer: str
    """Path of the layer in the model, such as "recurrent/layers/0". It is "" for the
    model itself."""
    cell: str
    """Name of the cell."""
    backwards: bool
    """Whether the layer reads the steps from the last to the first."""
    state: Arrays
    """Arrays (B, T, H) of the state after each step: "h" and, for an LSTM, "c". A
    padded step copies the state."""
    gates: Arrays
    """Dict from the name of each gate to its values (B, T, H). An LSTM has "input",
    "forget", "candidate" and "output"; a GRU has "update", "reset" and "candidate". The
    dict is empty for other cells, and for cells with activations other than the
    default."""
    valid: Array | None
    """bool (B, T), False at padded steps, or None if no step is padded."""


GATES: dict[Callable, Callable[..., Arrays]] = {
    lstm.CELL.step: lstm.gates,
    gru.CELL.step: gru.gates,
}
"""Dict from the step of a cell to the function that returns its gates at this step, for
each cell whose gates can be traced."""


def trace(model: nnx.Module, *args, **options) -> tuple[Any, list[LayerTrace]]:
    """Call a model, and return its result together with the gates and states of all its
    recurrent layers.

        logits, layers = trace(model, ids)
        layers[0].gates["forget"]  # (B, T, H)

    A copy of the model is called, so that the model is not changed. The gates and
    states of each layer are computed by the backend `reference`, with the dropout masks
    and the dtype of the layer. For a trace without dropout, call `model.eval()` first.

    Args:
        model: a recurrent layer of lstm_jax, such as `LSTM`, `Bidirectional` or
            `RecurrentStack`, or any Flax NNX module that contains one.
        args: arguments of the model.
        options: keyword arguments of the model.

    Returns:
        A pair of the result of the model, and a list with one `LayerTrace` for each
        call of a recurrent layer, in the order of the calls.

    Raises:
        InputError: if the model is not a module, if it calls no recurrent layer, or if
            it calls a recurrent layer inside a transformation of JAX, such as `jit` or
            `scan`. The values inside a transformation cannot be read from outside.
    """
    check_class("model", model, nnx.Module, "give an nnx.Module")
    copied = nnx.clone(model)
    running = [""]
    found = list[LayerTrace]()
    for path, node in nnx.iter_graph(copied):
        if isinstance(node, Recurrent):
            _name(node, "/".join(map(str, path)), running)

    level = get_opaque_trace_state()

    def observer(options: Options, call: Call, backwards: bool):
        remedy = (
            "it is called within jit, scan or another transformation: call it "
            "outside or, within jit or scan, under jax.disable_jit()"
        )
        require(
            get_opaque_trace_state() == level,
            f"layer {running[-1]}",
            "traced by JAX",
            remedy,
        )
        found.append(_traced(running[-1], options, call, backwards))

    with observed(observer):
        result = copied(*args, **options)  # pyright: ignore[reportCallIssue]
    require(
        found, "model", type(model).__name__, "it calls no recurrent layer of lstm_jax"
    )
    return result, found


def _name(layer: Recurrent, path: str, running: list[str]) -> None:
    """Change a layer so that its path is in the list `running` while the layer runs."""
    kind = type(layer)

    @contextlib.contextmanager
    def named():
        running.append(path)
        try:
            yield
        finally:
            running.pop()

    class Named(kind):
        __call__ = named()(kind.__call__)
        step = named()(kind.step)

    object.__setattr__(layer, "__class__", Named)


def _traced(path: str, options: Options, call: Call, backwards: bool) -> LayerTrace:
    cell, dropout = options.cell, call.dropout
    gates = GATES.get(cell.step)

    def record(before, z: Array, after) -> tuple[Arrays, Arrays]:
        found = (
            gates(call.params, before, z, dropout.recurrent, options.compute_dtype)
            if gates
            else {}
        )
        return after._asdict(), found

    x = cell.projectable(call.params, call.x, dropout.input is not None)
    (states, values), _ = reference.run(options, call._replace(x=x), record=record)

    def rows_first(array: Array):
        return jnp.swapaxes(array[::-1] if backwards else array, 0, 1)

    states, values, valid = jax.tree.map(rows_first, (states, values, call.valid))
    return LayerTrace(path, cell.name, backwards, states, values, valid)
