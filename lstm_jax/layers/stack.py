"""The class `RecurrentStack`, a stack of recurrent layers."""

from collections.abc import Sequence
from typing import Any

import jax
from flax import nnx
from jaxtyping import Array

from lstm_jax.base.checks import as_tuple
from lstm_jax.base.errors import check_class, require
from lstm_jax.layers.base import DropoutLayer, Source, dropout_key, is_key, is_training
from lstm_jax.layers.bidirectional import Bidirectional
from lstm_jax.layers.recurrent import Recurrent, Shape
from lstm_jax.layers.refusals import checked_call
from lstm_jax.recurrence.dropout import check_rate, draw_mask


class RecurrentStack(DropoutLayer):
    """Stack of recurrent layers, in which each layer reads the outputs of the layer
    before it.

    A call returns the outputs of the last layer. If all layers have
    `return_state=True`, it returns (outputs, list of the final states). If only the
    last layer has `return_state=True`, it returns (outputs, final state).

    Args:
        layers: `Recurrent` or `Bidirectional` modules. Every layer except the last must
            have `return_sequences=True` and return one array of outputs (a `merge_mode`
            other than None). `return_state` must be true for all layers, for the last
            one only, or for none.
        dropout: dropout rate of the outputs of every layer except the last. As in
            `torch.nn.LSTM`, each number of each step is dropped independently of the
            others. (The argument `dropout` of a call is something else: the masks
            inside the layers.)
        residual: whether the inputs of a layer are added to its outputs, for every
            layer except the first (as in Wu et al. 2016, section 3.1). The dropout
            between layers is not applied to the inputs that are added. With residual
            connections, all layers must have the same number of outputs, and if there
            is more than one layer, the last one must have `return_sequences=True`, too.
            No layer may return its outputs in the reverse order of time, or as a pair
            (`merge_mode=None`).
        rngs: random streams; the dropout between layers is drawn from the stream
            `dropout`. They are needed if `dropout` is above 0 and calls are made
            without `rngs`.

    Raises:
        InputError: if `layers` is empty, if `dropout` is not in [0, 1), or if the
            layers do not meet the conditions above.
    """

    def __init__(
        self,
        layers: Sequence[Recurrent | Bidirectional],
        *,
        dropout: float = 0.0,
        residual: bool = False,
        rngs: nnx.Rngs | None = None,
    ):
        layers = list(as_tuple("layers", layers, "give a list of layers"))
        require(layers, "layers", 0, "give 1 or more")
        remedy = "give Recurrent or Bidirectional layers"
        for n, layer in enumerate(layers):
            check_class(f"layer {n}", layer, Recurrent | Bidirectional, remedy)
        # whose outputs are read step by step
        read = layers if residual and len(layers) > 1 else layers[:-1]
        for n, layer in enumerate(read):
            name, joined = f"layer {n}", getattr(layer, "merge_mode", "") is not None
            remedy = "give another merge_mode, or make it the last layer"
            require(joined, name, "merge_mode None, a pair of outputs", remedy)
            remedy = "set return_sequences=True"
            require(layer.return_sequences, name, "returns its last output", remedy)
            remedy = "residual connections need the order of time"
            require(not (residual and layer.reverses), name, "go_backwards", remedy)
        states = [layer.return_state for layer in layers]
        alike = all(states) or not any(states[:-1])
        remedy = "return states from all layers, the last or none"
        require(alike, "layers", f"return_state {states}", remedy)
        sizes = [layer.output_features for layer in layers]
        alike = not residual or len(set(sizes)) == 1
        remedy = "give all layers the same number of outputs"
        require(alike, "residual", f"layers with {sizes} outputs", remedy)
        self.layers = nnx.List(layers)
        self.all_states = layers[0].return_state
        self.dropout, self.residual = check_rate("dropout", dropout), residual
        super().__init__(rngs, bool(dropout))

    def compute_output_shape(self, shape: Shape) -> Any:
        """Return the shape of the outputs of the last layer; see
        `Recurrent.compute_output_shape`.

        If layers return states, the result is a pair: the shape of the outputs, and
        states that contain shapes in place of arrays. The states are a list if all
        layers return states, or one state if only the last layer does.
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
        """Reset the states that the layers with `stateful=True` carry between calls;
        see `Recurrent.reset_state`.
        """
        stateful = [layer for layer in self.layers if layer.directions[0].stateful]
        for layer in stateful or self.layers:  # of which the first one raises
            layer.reset_state(batch)

    @checked_call
    def __call__(
        self,
        x,
        *,
        tokens=None,
        deterministic: bool | None = None,
        return_sequences: bool | None = None,
        rngs: Source = None,
        **options,
    ):
        """Run the layers one after another, and return the outputs of the last layer.

        The arguments are those of `Recurrent.__call__`. `initial_state`, `reset_state`
        and `dropout` are lists with one entry per layer, `tokens` are for the first
        layer, and `return_sequences` is about the last one. If `rngs` is a key, layer n
        gets `jax.random.fold_in(key, n)`.

        Raises:
            InputError: if a layer does not accept an argument, or a list does not have
                one entry per layer. Also if `return_sequences` is False in a stack of
                several layers with residual connections, or if `mask`, `lengths`,
                `resets` or `segment_ids` is given and a layer before the last returns
                its outputs in the reverse order of time.
        """
        per_layer = {
            name: options.pop(name)
            for name in ("initial_state", "reset_state", "dropout")
            if options.get(name) is not None
        }
        for name, values in per_layer.items():
            self._check_list(name, values)
        last = self.residual and return_sequences is False and len(self.layers) > 1
        remedy = "residual connections need all steps: take the last one of the result"
        require(not last, "return_sequences", False, remedy)
        if any(layer.reverses for layer in self.layers[:-1]):
            remedy = (
                "the next layer reads its outputs in reverse order: set "
                "keep_order=True, or use Bidirectional"
            )
            for name in ("mask", "lengths", "resets", "segment_ids"):
                given = "given after a layer with go_backwards"
                require(options.get(name) is None, name, given, remedy)

        drops = self.dropout and is_training(self, deterministic)
        count = len(self.layers)
        y: Any = x
        states = []
        for n, layer in enumerate(self.layers):
            key = jax.random.fold_in(rngs, n) if is_key(rngs) else rngs
            before = y
            if drops and n > 0:  # a layer folds in the smaller numbers
                own = jax.random.fold_in(dropout_key(self.rngs, key), 3)
                y = y * draw_mask(own, self.dropout, y.shape, y.dtype)
            y = layer(
                y,
                rngs=key,
                tokens=tokens if n == 0 else None,
                deterministic=deterministic,
                return_sequences=return_sequences if n == count - 1 else None,
                **options,
                **{name: values[n] for name, values in per_layer.items()},
            )
            if layer.return_state:
                y, state = y
                states.append(state)
            y = y + before if self.residual and n > 0 else y
        return y if not states else (y, states if self.all_states else states[0])

    def _check_list(self, name: str, values) -> None:
        size = len(values) if isinstance(values, Sequence) else type(values).__name__
        count = len(self.layers)
        remedy = f"give a list of {count}, one for each layer"
        require(size == count, name, size, remedy)

    def initial_state(self, batch: int | None, dtype=None) -> list:
        """Return the list of the initial states of all layers; see
        `Recurrent.initial_state`.
        """
        return [layer.initial_state(batch, dtype) for layer in self.layers]

    def step(self, x, state: Sequence, *, reset=None) -> tuple[Array, list]:
        """Run one step of all layers without dropout, and return (output of the last
        layer, list of the states of all layers).

        The arguments are those of `Recurrent.step`, except that `state` is the list of
        the states of all layers before the step.

        Raises:
            InputError: as `Recurrent.step` does, and if `state` is no list with a state
                for each layer.
        """
        self._check_list("state", state)
        y: Any = x
        states = []
        for n, (layer, own) in enumerate(zip(self.layers, state, strict=True)):
            output, new = layer.step(y, own, reset=reset)
            y = output + y if self.residual and n > 0 else output
            states.append(new)
        return y, states
