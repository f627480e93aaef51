"""Two recurrent layers that read in both directions."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from lstm_jax.dropout import DropoutMasks
from lstm_jax.errors import require
from lstm_jax.layers.recurrent import Shape, count_params, recurrent


class Bidirectional(nnx.Module):
    """Two recurrent layers over the sequence and its reverse (Schuster & Paliwal 1997), as `keras.layers.Bidirectional(LSTM(...))`.

    Args:
        features, units, options: of each, as for `Recurrent`: an LSTM unless `cell` says otherwise. `go_backwards` is not for it.
        merge_mode: "concat", "sum", "ave", "mul", or None for both outputs as a tuple.
        backward: options of the backward layer that differ from those of the forward one, units and cell included.

    As Keras does, with `return_sequences` the outputs of masked steps are zeros, and the backward outputs are turned back into the order
    of time.
    With `return_state` it gives (outputs, (forward state, backward state)).

    Raises:
        InputError: as `Recurrent`, for an unknown `merge_mode`, and if the two layers do not fit together.
    """

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
        require(not options.get("go_backwards"), "go_backwards", options.get("go_backwards"), "Bidirectional has both directions")
        self.merge_mode, self.return_sequences, self.return_state = merge_mode, return_sequences, return_state
        both: dict[str, Any] = options | {"units": units, "return_sequences": return_sequences, "return_state": True}
        both["zero_output_for_mask"] = return_sequences
        other = dict(backward or {})
        for name in ("go_backwards", "return_sequences", "return_state", "stateful", "zero_output_for_mask"):
            require(name not in other, f"backward {name}", other.get(name), "it is that of Bidirectional: leave it out")
        self.forward = recurrent(features, rngs=rngs, **both)
        self.backward = recurrent(features, rngs=rngs, go_backwards=True, **(both | other))
        alike = self.forward.units == self.backward.units or merge_mode in ("concat", None)
        require(alike, "backward units", self.backward.units, f"{merge_mode} needs {units}, those of the forward layer")

    @property
    def output_features(self) -> int:
        """Size of the output's last axis."""
        return self.forward.units + (self.backward.units if self.merge_mode == "concat" else 0)

    def count_params(self) -> int:
        """Number of trainable entries of both layers."""
        return count_params(self)

    def compute_output_shape(self, shape: Shape) -> Any:
        """Shapes of what a call gives, see `Recurrent.compute_output_shape`; a pair for the outputs if `merge_mode` is None.

        Raises:
            InputError: if it is not the shape of an input of this layer.
        """
        (ahead, ahead_state), (back, back_state) = (layer.compute_output_shape(shape) for layer in (self.forward, self.backward))
        outputs = (ahead, back) if self.merge_mode is None else (*ahead[:-1], self.output_features)
        return (outputs, (ahead_state, back_state)) if self.return_state else outputs

    def reset_state(self, batch: int | None = None) -> None:
        """Set the carried states of both layers to zeros; see `Recurrent.reset_state`."""
        for layer in (self.forward, self.backward):
            layer.reset_state(batch)

    def _pair(self, states: Any) -> tuple[Any, Any]:
        """The forward and the backward state, from a pair of them or, as Keras takes it, a flat sequence of all their parts."""
        if states is None:
            return None, None
        require(isinstance(states, tuple | list), "initial_state", type(states).__name__, "give a pair, forward and backward")
        sizes = [len(jax.eval_shape(lambda row=layer.row: row.initial_state(1, 1))) for layer in (self.forward, self.backward)]
        flat = not hasattr(states, "_fields") and len(states) == sum(sizes) and not any(isinstance(s, tuple | list) for s in states)
        if flat:
            return tuple(states[: sizes[0]]), tuple(states[sizes[0] :])
        fits = len(states) == 2 and not hasattr(states, "_fields")
        require(fits, "initial_state", f"{type(states).__name__} of {len(states)}", "give a pair, forward and backward")
        return states[0], states[1]

    def __call__(
        self,
        x: jax.Array,
        *,
        mask: jax.Array | None = None,
        lengths: jax.Array | None = None,
        initial_state: Sequence[Any] | None = None,
        dropout: tuple[DropoutMasks, DropoutMasks] | None = None,
        tokens: jax.Array | None = None,
        deterministic: bool | None = None,
        rngs: nnx.Rngs | nnx.RngStream | jax.Array | None = None,
        time_major: bool = False,
    ):
        """As `Recurrent.__call__`; `initial_state` and `dropout` are pairs, forward and backward (or the parts of both states in a row)."""
        starts = self._pair(initial_state)
        keys = (rngs, rngs) if rngs is None or isinstance(rngs, (nnx.Rngs, nnx.RngStream)) else jax.random.split(rngs)
        results = [
            layer(
                x,
                mask=mask,
                lengths=lengths,
                initial_state=starts[n],
                dropout=None if dropout is None else dropout[n],
                tokens=tokens,
                deterministic=deterministic,
                rngs=keys[n],
                time_major=time_major,
            )
            for n, layer in enumerate((self.forward, self.backward))
        ]
        (ahead, ahead_state), (back, back_state) = results
        if self.return_sequences:
            back = jnp.flip(back, 0 if time_major else 1)
        outputs = _merge(self.merge_mode, ahead, back)
        return (outputs, (ahead_state, back_state)) if self.return_state else outputs


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
