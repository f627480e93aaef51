"""A bidirectional recurrent layer, which reads a sequence in both directions."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from lstm_jax.dropout import DropoutMasks
from lstm_jax.errors import InputError, require
from lstm_jax.layers.initial import constructor
from lstm_jax.layers.named import recurrent
from lstm_jax.layers.recurrent import Shape, count_params
from lstm_jax.layers.single import is_single, read_input


class Bidirectional(nnx.Module):
    """Bidirectional recurrent layer (Schuster & Paliwal 1997), which computes the same as `keras.layers.Bidirectional(LSTM(...))`.

    The layer contains a forward layer, which reads the sequence, and a backward layer, which reads the sequence in reverse. If
    `return_sequences` is true, the outputs of the backward layer are reversed, so that the outputs of both layers are in the order of time.
    The outputs of masked steps are then zeros, as in Keras. The last output of the backward layer is the one after the first step.

    Args:
        features: number of input features E.
        units: number of units H of each layer.
        merge_mode: how the two outputs are combined: "concat", "sum", "ave" (average), "mul" (product), or None to return both as a tuple.
        return_sequences: whether to return the outputs of all steps instead of the last output.
        return_state: whether to return (outputs, (forward state, backward state)) instead of the outputs alone.
        backward: dict from the name of an argument, for example "units" or "cell", to its value for the backward layer. The arguments that
            are not in the dict are the same for both layers. None stands for an empty dict.
        rngs: random streams; weights are drawn from the stream `params`, and dropout masks from the stream `dropout`.
        options: further arguments of `Recurrent` for both layers. The arguments `go_backwards` and `keep_order` must not be true, and
            `zero_output_for_mask` can be given only to a call of the layer. The cell is an LSTM by default.

    Raises:
        InputError: in one of these cases.

            - `merge_mode` is unknown.
            - `go_backwards` or `keep_order` is true, or `zero_output_for_mask` is given.
            - `backward` contains "features", "rngs", "go_backwards", "keep_order", "return_sequences", "return_state", "stateful" or
              "zero_output_for_mask".
            - `merge_mode` is "sum", "ave" or "mul", and the two layers have different numbers of output features.
            - `Recurrent` does not accept the value of an argument.
    """

    @constructor
    def __init__(
        self,
        features: int,
        units: int,
        *,
        merge_mode: Literal["concat", "sum", "ave", "mul"] | None = "concat",
        return_sequences: bool = False,
        return_state: bool = False,
        backward: Mapping[str, Any] | None = None,
        rngs: nnx.Rngs,
        **options,
    ):
        require(merge_mode in ("concat", "sum", "ave", "mul", None), "merge_mode", merge_mode, "give concat, sum, ave, mul or None")
        for name in ("go_backwards", "keep_order"):
            require(not options.get(name), name, options.get(name), "Bidirectional has both directions")
        zeros, remedy = options.get("zero_output_for_mask"), "Bidirectional returns zeros at padded steps: give it to a call to change that"
        require(zeros is None, "zero_output_for_mask", zeros, remedy)
        self.merge_mode, self.return_sequences, self.return_state = merge_mode, return_sequences, return_state
        both: dict[str, Any] = options | {"units": units, "return_sequences": return_sequences, "return_state": True}
        both["zero_output_for_mask"] = return_sequences
        other = dict(backward or {})
        shared = ("features", "rngs", "go_backwards", "keep_order", "return_sequences", "return_state", "stateful", "zero_output_for_mask")
        for name in shared:
            require(name not in other, f"backward {name}", other.get(name), "it is that of Bidirectional: leave it out")
        self.forward = recurrent(features, rngs=rngs, **both)
        self.backward = recurrent(features, rngs=rngs, go_backwards=True, **(both | other))
        ahead, back = self.forward.output_features, self.backward.output_features
        fits = ahead == back or merge_mode in ("concat", None)
        name = "units" if back == self.backward.units else "outputs"
        require(fits, f"backward {name}", back, f"{merge_mode} needs {ahead}, those of the forward layer")

    @property
    def output_features(self) -> int:
        """Number of output features of the merged outputs.

        If `merge_mode` is "concat", this number is the sum of the numbers of both layers. Otherwise it is the number of the forward layer.
        """
        return self.forward.output_features + (self.backward.output_features if self.merge_mode == "concat" else 0)

    def count_params(self) -> int:
        """Return the number of scalars in the trainable parameters of both layers."""
        return count_params(self)

    def compute_output_shape(self, shape: Shape) -> Any:
        """Return the shape of the outputs for an input of the given shape, and the shapes of both states if `return_state` is true.

        Args:
            shape: shape (B, T, E) of the input, as in `Recurrent.compute_output_shape`; an unknown size is None.

        Returns:
            the shape of the outputs, which is a pair (forward shape, backward shape) if `merge_mode` is None. If `return_state` is true,
            the result is a pair: the shape of the outputs, and (shapes of the forward state, shapes of the backward state).

        Raises:
            InputError: if `shape` is not the shape of an input of this layer.
        """
        (ahead, ahead_state), (back, back_state) = (layer.compute_output_shape(shape) for layer in (self.forward, self.backward))
        outputs = (ahead, back) if self.merge_mode is None else (*ahead[:-1], self.output_features)
        return (outputs, (ahead_state, back_state)) if self.return_state else outputs

    def reset_state(self, batch: int | None = None) -> None:
        """Reset the states that both layers carry between calls; see `Recurrent.reset_state`.

        Args:
            batch: number of rows in the following calls, or None to keep the number of rows; see `Recurrent.reset_state`.

        Raises:
            InputError: if the layer was not created with `stateful=True`.
        """
        for layer in (self.forward, self.backward):
            layer.reset_state(batch)

    def initial_state(self, batch: int | None, dtype=None) -> tuple[Any, Any]:
        """Return the pair (initial state of the forward layer, initial state of the backward layer); see `Recurrent.initial_state`."""
        return self.forward.initial_state(batch, dtype), self.backward.initial_state(batch, dtype)

    def join_states(self, states: tuple[Any, Any]) -> Any:
        """Join the states of both directions to one state, with arrays (B, 2 H) that begin with the units of the forward layer.

        In an encoder-decoder model (Cho et al. 2014; Bahdanau et al. 2015), the joined state can be the initial state of a decoder with 2 H
        units. If the layers have a projection to P outputs, the decoder needs a projection to 2 P outputs.

        Args:
            states: the pair (forward state, backward state) that the layer returns.

        Raises:
            InputError: if the two layers have different cells.
        """
        alike = self.forward.row == self.backward.row
        require(alike, "states", "layers of different cells", "join their arrays yourself")
        return jax.tree.map(lambda ahead, back: jnp.concatenate([ahead, back], axis=-1), *states)

    def step(self, *args, **options) -> Any:
        """Raise an error, since the backward layer reads a sequence from its end.

        Raises:
            InputError: always.
        """
        del args, options
        raise InputError("step", "Bidirectional", "its backward layer begins at the end: call the layer on the whole sequence")

    def _pair(self, states: Any, name: str = "initial_state") -> tuple[Any, Any]:
        """Split an argument that holds states of both layers, and return the pair (forward state, backward state)."""
        if states is None:
            return None, None
        require(isinstance(states, tuple | list), name, type(states).__name__, "give a pair, forward and backward")
        sizes = [len(layer.row.state_like()) for layer in (self.forward, self.backward)]
        flat = not hasattr(states, "_fields") and len(states) == sum(sizes) and not any(isinstance(s, tuple | list) for s in states)
        if flat:
            return tuple(states[: sizes[0]]), tuple(states[sizes[0] :])
        fits = len(states) == 2 and not hasattr(states, "_fields")
        require(fits, name, f"{type(states).__name__} of {len(states)}", "give a pair, forward and backward")
        return states[0], states[1]

    def __call__(
        self,
        x: jax.Array,
        *,
        initial_state: Sequence[Any] | None = None,
        reset_state: Sequence[Any] | None = None,
        dropout: tuple[DropoutMasks, DropoutMasks] | None = None,
        rngs: nnx.Rngs | nnx.RngStream | jax.Array | None = None,
        time_major: bool = False,
        return_sequences: bool | None = None,
        **options: Any,
    ):
        """Run both layers on a batch of sequences, and return the merged outputs.

        Args:
            x: input (B, T, E), or int ids, as in `Recurrent.__call__`.
            initial_state: a pair (forward state, backward state); or, as in Keras, one flat list or tuple with the arrays of the forward
                state, followed by the arrays of the backward state. None means the states carried from the previous call or, if there are
                none, the states after a reset (see `reset_state`).
            reset_state: states of both layers after a reset, in the same form as `initial_state`. None means the learned initial states if
                the layers have them, else the initial states of their cells.
            dropout: a pair of `DropoutMasks`, for the forward and the backward layer. None means that new masks are drawn in training mode.
            rngs: source of random numbers for the masks: a key, a random stream, or `Rngs` with a stream `dropout`. A key is split into one
                key for each layer. None means the random streams of the layers.
            time_major: whether time is the first axis of the inputs and outputs.
            return_sequences: whether to return the outputs of all steps. None means the value of `return_sequences` that `Bidirectional`
                was created with.
            options: further arguments of `Recurrent.__call__`, which are passed to both layers. By default, `zero_output_for_mask` is true
                if the outputs of all steps are returned.

        Returns:
            the outputs: one array, or a pair (forward outputs, backward outputs) if `merge_mode` is None. If `return_state` is true,
            (outputs, (forward state, backward state)) is returned instead.

        Raises:
            InputError: if an argument is not of a form described above, or `Recurrent.__call__` does not accept it.
        """
        x = read_input(x)
        keys = (rngs, rngs) if rngs is None or isinstance(rngs, (nnx.Rngs, nnx.RngStream)) else jax.random.split(rngs)
        sequences = self.return_sequences if return_sequences is None else return_sequences
        options = {"zero_output_for_mask": sequences} | options | {"time_major": time_major, "return_sequences": sequences}
        own = zip(self._pair(initial_state), self._pair(reset_state, "reset_state"), _pair_of_masks(dropout), keys, strict=True)
        results = [
            layer(x, initial_state=start, reset_state=reset, dropout=masks, rngs=key, **options)
            for layer, (start, reset, masks, key) in zip((self.forward, self.backward), own, strict=True)
        ]
        (ahead, ahead_state), (back, back_state) = results
        if sequences:
            back = jnp.flip(back, 0 if time_major or is_single(x) else 1)
        outputs = _merge(self.merge_mode, ahead, back)
        return (outputs, (ahead_state, back_state)) if self.return_state else outputs


def _pair_of_masks(dropout: Any) -> tuple[Any, Any]:
    """Return the argument `dropout` of a call as a pair (forward masks, backward masks)."""
    if dropout is None:
        return None, None
    fits = type(dropout) in (tuple, list) and len(dropout) == 2
    shown = f"{type(dropout).__name__} of {len(dropout)}" if isinstance(dropout, tuple | list) else type(dropout).__name__
    require(fits, "dropout", shown, "give a pair of DropoutMasks, forward and backward")
    return dropout[0], dropout[1]


def _merge(mode: str | None, ahead: jax.Array, back: jax.Array):
    match mode:
        case "concat":
            return jnp.concatenate([ahead, back], axis=-1)
        case "sum":
            return ahead + back
        case "ave":
            return (ahead + back) / 2
        case "mul":
            return ahead * back
        case _:
            return ahead, back
