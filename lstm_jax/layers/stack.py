"""The class `RecurrentStack`, a stack of recurrent layers."""

from collections.abc import Sequence
from typing import Any

import jax
from flax import nnx

from lstm_jax.errors import require
from lstm_jax.layers.bidirectional import Bidirectional
from lstm_jax.layers.carried import check_stateful
from lstm_jax.layers.recurrent import Recurrent, Shape, count_params


class RecurrentStack(nnx.Module):
    """Stack of recurrent layers. Each layer reads the outputs of the layer before it. All layers get the same argument `mask`.

    A call returns the outputs of the last layer. If all layers have `return_state=True`, it returns (outputs, list of the final states). If
    only the last layer has `return_state=True`, it returns (outputs, final state).

    Args:
        layers: `Recurrent` or `Bidirectional` modules. Every layer except the last must have `return_sequences=True`. `return_state` must
            be true for all layers, for the last one only, or for none.

    Raises:
        InputError: if `layers` is empty, or a layer's `return_sequences` or `return_state` is not as described above.
    """

    def __init__(self, layers: Sequence[Recurrent | Bidirectional]):
        require(len(layers) >= 1, "layers", len(layers), "give 1 or more")
        for n, layer in enumerate(layers[:-1]):
            require(layer.return_sequences, f"layer {n}", "returns its last output", "set return_sequences=True")
            alike = layer.return_state == layers[0].return_state and layers[-1].return_state >= layer.return_state
            require(alike, f"layer {n}", f"return_state={layer.return_state}", "return states from all layers, the last or none")
        self.layers = nnx.List(layers)
        self.all_states = layers[0].return_state

    def count_params(self) -> int:
        """Return the number of scalars in the trainable parameters of all layers."""
        return count_params(self)

    def compute_output_shape(self, shape: Shape) -> Any:
        """Return the shape of the outputs for an input of the given shape, and the shapes of the states if the layers return states.

        The form of the result is that of `Recurrent.compute_output_shape`. If all layers return states, the shapes of the states are a list
        with one entry per layer.

        Args:
            shape: shape (B, T, E) of the input; an unknown size is None.

        Raises:
            InputError: if `shape` is not the shape of an input of the first layer.
        """
        found: Any = shape
        states = []
        for layer in self.layers:
            found = layer.compute_output_shape(found)
            if self.all_states:
                found, state = found
                states.append(state)
        return (found, states) if self.all_states else found

    def reset_state(self, batch: int | None = None) -> None:
        """Set to zeros the states that the layers with `stateful=True` carry from one call to the next.

        Args:
            batch: number of rows in the following calls, or None to keep the number of rows; see `Recurrent.reset_state`.

        Raises:
            InputError: if no layer was created with `stateful=True`.
        """
        stateful = [layer for layer in self.layers if _is_stateful(layer)]
        check_stateful(bool(stateful))
        for layer in stateful:
            layer.reset_state(batch)

    def __call__(
        self,
        x: jax.Array,
        *,
        tokens: jax.Array | None = None,
        rngs: nnx.Rngs | nnx.RngStream | jax.Array | None = None,
        **options,
    ):
        """Run the layers one after another, and return the outputs of the last layer.

        Args:
            x: input of the first layer.
            tokens: int (B, T), or (T, B) if `time_major` is true. Two steps of a row may have equal tokens only if they have equal `x`; see
                `unroll`. Only the first layer uses the tokens.
            rngs: source of random numbers, as in `Recurrent.__call__`. If it is a single key, layer n gets `jax.random.fold_in(key, n)`.
            options: further arguments of `Recurrent.__call__` for all layers. `initial_state` and `dropout` are lists with one entry per
                layer.

        Returns:
            the outputs, together with final states if layers have `return_state=True`; see the class.
        """
        per_layer = {name: options.pop(name) for name in ("initial_state", "dropout") if options.get(name) is not None}
        y: Any = x
        states = []
        for n, layer in enumerate(self.layers):
            own = {name: values[n] for name, values in per_layer.items()}
            key = jax.random.fold_in(rngs, n) if isinstance(rngs, jax.Array) else rngs
            y = layer(y, rngs=key, tokens=tokens if n == 0 else None, **(options | own))
            if self.all_states:
                y, state = y
                states.append(state)
        return (y, states) if self.all_states else y


def _is_stateful(layer: Recurrent | Bidirectional) -> bool:
    return (layer.forward if isinstance(layer, Bidirectional) else layer).stateful
