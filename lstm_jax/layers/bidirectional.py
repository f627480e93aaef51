"""A bidirectional recurrent layer, which reads a sequence in both directions."""

import operator
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from lstm_jax.base.errors import InputError, require
from lstm_jax.cells import Cell
from lstm_jax.layers.base import Layer, Source, is_key, is_single, read_input
from lstm_jax.layers.recurrent import Recurrent, Shape, recurrent
from lstm_jax.layers.refusals import checked_call, constructor
from lstm_jax.recurrence.dropout import DropoutMasks

MERGES = {
    "concat": lambda ahead, back: jnp.concatenate([ahead, back], axis=-1),
    "sum": operator.add,
    "ave": lambda ahead, back: (ahead + back) / 2,
    "mul": operator.mul,
    None: lambda *both: both,
}
"""Dict from each merge mode to the function that combines the outputs of the forward
and the backward layer."""

SHARED = (
    "features",
    "rngs",
    "go_backwards",
    "keep_order",
    "return_sequences",
    "return_state",
    "stateful",
    "zero_output_for_mask",
)
"""Arguments that both layers have in common."""


class Bidirectional(Layer):
    """Bidirectional recurrent layer (Schuster & Paliwal 1997), which computes the same
    as `keras.layers.Bidirectional(LSTM(...))`.

    The layer contains a forward layer, which reads the sequence, and a backward layer,
    which reads the sequence in reverse. If `return_sequences` is true, the outputs of
    the backward layer are reversed, so that the outputs of both layers are in the order
    of time. The outputs of masked steps are then zeros, as in Keras. The last output of
    the backward layer is the one after the first step.

    Args:
        features: number of input features E.
        units: number of units H of each layer.
        cell: cell of both layers, as for `Recurrent`.
        merge_mode: how the two outputs are combined: "concat", "sum", "ave" (average),
            "mul" (product), or None to return both as a tuple.
        return_sequences: whether to return the outputs of all steps instead of the last
            output.
        return_state: whether to return (outputs, (forward state, backward state))
            instead of the outputs alone.
        backward: dict from the name of an argument, for example "units" or "cell", to
            its value for the backward layer. The arguments that are not in the dict are
            the same for both layers. None stands for an empty dict.
        rngs: random streams; weights are drawn from the stream `params`, and dropout
            masks from the stream `dropout`.
        options: further arguments of `Recurrent` for both layers. The arguments
            `go_backwards` and `keep_order` must not be true, and `zero_output_for_mask`
            can be given only to a call of the layer.

    Raises:
        InputError: if `merge_mode` is unknown, if it is "sum", "ave" or "mul" and the
            two layers have different numbers of output features, if an argument is
            given that concerns both layers ("features" and the like in `backward`), or
            `Recurrent` does not accept one.
    """

    reverses = False

    @constructor
    def __init__(
        self,
        features: int,
        units: int,
        *,
        cell: str | Cell = "lstm",
        merge_mode: Literal["concat", "sum", "ave", "mul"] | None = "concat",
        return_sequences: bool = False,
        return_state: bool = False,
        backward: Mapping | None = None,
        rngs: nnx.Rngs,
        **options,
    ):
        remedy = "give concat, sum, ave, mul or None"
        require(merge_mode in MERGES, "merge_mode", merge_mode, remedy)
        for name in ("go_backwards", "keep_order"):
            given = options.get(name)
            require(not given, name, given, "Bidirectional has both directions")
        zeros = options.get("zero_output_for_mask")
        remedy = "it is true with return_sequences: give it to a call to change that"
        require(zeros is None, "zero_output_for_mask", zeros, remedy)
        backward = backward or {}
        for name in SHARED:
            given = backward.get(name)
            remedy = "it is that of Bidirectional: leave it out"
            require(name not in backward, f"backward {name}", given, remedy)

        self.merge_mode = merge_mode
        self.return_sequences, self.return_state = return_sequences, return_state
        both = options | {
            "units": units,
            "cell": cell,
            "return_sequences": return_sequences,
            "return_state": True,
            "zero_output_for_mask": return_sequences,
            "rngs": rngs,
        }
        self.forward = recurrent(features, **both)
        self.backward = recurrent(features, **{**both, **backward}, go_backwards=True)

        ahead, back = self.forward.output_features, self.backward.output_features
        fits = ahead == back or merge_mode in ("concat", None)
        name = "units" if back == self.backward.units else "outputs"
        remedy = f"{merge_mode} needs {ahead}, those of the forward layer"
        require(fits, f"backward {name}", back, remedy)

    @property
    def directions(self) -> tuple[Recurrent, Recurrent]:
        """The layers that read the sequence, one for each direction: the forward and
        the backward layer.
        """
        return self.forward, self.backward

    @property
    def output_features(self) -> int:
        """Number of output features of the merged outputs.

        If `merge_mode` is "concat", this number is the sum of the numbers of both
        layers. Otherwise it is the number of the forward layer.
        """
        layers = self.directions if self.merge_mode == "concat" else (self.forward,)
        return sum(layer.output_features for layer in layers)

    def compute_output_shape(self, shape: Shape) -> Any:
        """Return the shape of the outputs; see `Recurrent.compute_output_shape`.

        It is a pair (forward shape, backward shape) if `merge_mode` is None. If
        `return_state` is true, the result is a pair: the shape of the outputs, and
        (shapes of the forward state, shapes of the backward state).
        """
        outputs, states = zip(
            *(layer.compute_output_shape(shape) for layer in self.directions),
            strict=True,
        )
        if self.merge_mode is not None:
            outputs = (*outputs[0][:-1], self.output_features)
        return (outputs, states) if self.return_state else outputs

    def reset_state(self, batch: int | None = None) -> None:
        """Reset the states that both layers carry between calls; see
        `Recurrent.reset_state`.
        """
        for layer in self.directions:
            layer.reset_state(batch)

    def initial_state(self, batch: int | None, dtype=None) -> tuple[Any, Any]:
        """Return the pair (initial state of the forward layer, initial state of the
        backward layer); see `Recurrent.initial_state`.
        """
        ahead, back = self.directions
        return ahead.initial_state(batch, dtype), back.initial_state(batch, dtype)

    def join_states(self, states: tuple[Any, Any]) -> Any:
        """Join the states of both directions, as the layer returns them, to one state
        with arrays (B, 2 H), forward units first.

        In an encoder-decoder model (Cho et al. 2014; Bahdanau et al. 2015), the joined
        state can be the initial state of a decoder with 2 H units. If the layers have a
        projection to P outputs, the decoder needs a projection to 2 P outputs.

        Raises:
            InputError: if the two layers have different cells.
        """
        alike = self.forward.definition == self.backward.definition
        remedy = "join their arrays yourself"
        require(alike, "states", "layers of different cells", remedy)
        return jax.tree.map(MERGES["concat"], *states)

    def step(self, *args, **options) -> Any:
        """Raise an `InputError`, since the backward layer reads a sequence from its
        end.
        """
        del args, options
        remedy = "its backward layer begins at the end: call the layer on the whole "
        raise InputError("step", "Bidirectional", f"{remedy}sequence")

    def _pair(self, given, name: str) -> tuple[Any, Any]:
        if given is None:
            return None, None
        plain = isinstance(given, tuple | list) and not hasattr(given, "_fields")
        parts = [*given] if plain else []
        nested = any(isinstance(part, tuple | list) for part in parts)
        if name != "dropout" and not nested:
            ahead, back = (
                len(layer.definition.state_like()) for layer in self.directions
            )
            if len(parts) == ahead + back:
                return tuple(parts[:ahead]), tuple(parts[ahead:])
        remedy = "give a pair, forward and backward"
        require(len(parts) == 2, name, type(given).__name__, remedy)
        return parts[0], parts[1]

    @checked_call
    def __call__(
        self,
        x,
        *,
        initial_state: Sequence | None = None,
        reset_state: Sequence | None = None,
        dropout: tuple[DropoutMasks, DropoutMasks] | None = None,
        rngs: Source = None,
        time_major: bool = False,
        return_sequences: bool | None = None,
        **options,
    ):
        """Run both layers on a batch of sequences, and return the merged outputs.

        The arguments and the errors are those of `Recurrent.__call__`. `initial_state`,
        `reset_state` and `dropout` are pairs for the forward and the backward layer,
        or, as in Keras, one flat list of the arrays of both states. A key as `rngs` is
        split into one for each layer. By default, `zero_output_for_mask` is true if the
        outputs of all steps are returned.

        Returns:
            the outputs: one array, or a pair (forward outputs, backward outputs) if
            `merge_mode` is None. If `return_state` is true, (outputs, (forward state,
            backward state)) is returned instead.
        """
        x = read_input(x)
        keys = jax.random.split(rngs) if is_key(rngs) else (rngs, rngs)
        sequences = return_sequences
        if sequences is None:
            sequences = self.return_sequences
        options = {"zero_output_for_mask": sequences} | options
        options |= {"time_major": time_major, "return_sequences": sequences}
        pairs = (
            self.directions,
            self._pair(initial_state, "initial_state"),
            self._pair(reset_state, "reset_state"),
            self._pair(dropout, "dropout"),
            keys,
        )
        (ahead, ahead_state), (back, back_state) = (
            layer(
                x,
                initial_state=start,
                reset_state=reset,
                dropout=masks,
                rngs=key,
                **options,
            )
            for layer, start, reset, masks, key in zip(*pairs, strict=True)
        )
        if sequences:
            back = jnp.flip(back, 0 if time_major or is_single(x) else 1)
        outputs = MERGES[self.merge_mode](ahead, back)
        return (outputs, (ahead_state, back_state)) if self.return_state else outputs
