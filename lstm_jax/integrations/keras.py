"""Keras' recurrent layers on JAX, run by `lstm_jax.unroll`.

    import keras
    from lstm_jax.integrations.keras import accelerate

    model = accelerate(keras.models.load_model("model.keras"))

`accelerate` returns the model with its recurrent layers replaced and its weights shared. `LSTM`, `GRU`, `SimpleRNN` and `Bidirectional` are
the replacements; they take Keras' arguments and can be used in its place. They need `KERAS_BACKEND=jax`.

Files stay Keras' own: the layers are saved under Keras' names, so that a saved model loads without this package, as Keras' layers. To load
it with ours, call `accelerate` on it, or pass `custom_objects=LAYERS` to `keras.models.load_model`.

What a layer cannot run (see `why_not`) is run by Keras, with the same result.
"""

import warnings
from typing import Any, no_type_check

import keras

from lstm_jax.cells import CELLS, Cell, GRUParams, HiddenState, LSTMParams, LSTMState, ResetBeforeParams, SimpleRNNParams, with_activations
from lstm_jax.dropout import DropoutMasks
from lstm_jax.errors import require
from lstm_jax.recurrence import unroll

FLOATS = ("float32", "float64")


def why_not(layer: keras.layers.RNN) -> str:
    """Return why Keras has to run this layer; empty if `unroll` can."""
    if keras.backend.backend() != "jax":
        return f"Keras runs on {keras.backend.backend()}, not on jax: set KERAS_BACKEND=jax"
    if type(layer.cell) not in _CELLS:
        return f"its cell is {type(layer.cell).__name__}, not LSTMCell, GRUCell or SimpleRNNCell"
    if layer.compute_dtype not in FLOATS or layer.variable_dtype != layer.compute_dtype:
        return f"its dtype policy is {layer.dtype_policy.name}, not float32 or float64"
    if getattr(layer, "use_cudnn", "auto") is True:
        return "it asks for cuDNN by use_cudnn=True"
    if getattr(layer.cell, "lora_enabled", False) or getattr(layer.cell, "quantization_mode", None):
        return "its weights are quantized or have LoRA"
    return ""


def _activation(function: Any) -> Any:
    """Return the name by which our table knows one of Keras' activations, or the function itself."""
    name = keras.activations.serialize(function)
    return name if isinstance(name, str) and keras.activations.get(name) is function else function


def _lstm(cell: Any) -> tuple[Cell, Any]:
    found = with_activations(CELLS["lstm"], _activation(cell.activation), _activation(cell.recurrent_activation))
    return found, LSTMParams(*_weights(cell, cell.bias))


def _gru(cell: Any) -> tuple[Cell, Any]:
    name = "gru" if cell.reset_after else "gru_reset_before"
    found = with_activations(CELLS[name], _activation(cell.activation), _activation(cell.recurrent_activation))
    if not cell.reset_after:
        return found, ResetBeforeParams(*_weights(cell, cell.bias))
    kernel, recurrent_kernel, biases = _weights(cell, cell.bias, rows=(2,))
    return found, GRUParams(kernel, recurrent_kernel, biases[0], biases[1])


def _simple_rnn(cell: Any) -> tuple[Cell, Any]:
    return with_activations(CELLS["simple_rnn"], _activation(cell.activation), "sigmoid"), SimpleRNNParams(*_weights(cell, cell.bias))


def _weights(cell: Any, bias: Any, rows: tuple[int, ...] = ()) -> tuple[Any, Any, Any]:
    """Return kernel, recurrent kernel and bias as arrays; zeros where the cell has no bias."""
    kernel: Any = keras.ops.convert_to_tensor(cell.kernel)
    recurrent_kernel: Any = keras.ops.convert_to_tensor(cell.recurrent_kernel)
    filled = keras.ops.zeros((*rows, kernel.shape[-1]), kernel.dtype) if bias is None else keras.ops.convert_to_tensor(bias)
    return kernel, recurrent_kernel, filled


_CELLS = {
    keras.layers.LSTMCell: (_lstm, LSTMState),
    keras.layers.GRUCell: (_gru, HiddenState),
    keras.layers.SimpleRNNCell: (_simple_rnn, HiddenState),
}
"""Keras' cells: the function that finds ours and its parameters, and the class of its state."""


def _mask(masks: Any) -> Any:
    """Return Keras' dropout mask, or its list with one a gate, as one array."""
    if isinstance(masks, (list, tuple)):
        return keras.ops.stack(masks)
    return masks


def _masks(cell: Any, x: Any, h: Any, training: bool) -> DropoutMasks:
    """Return the masks that Keras' cell has drawn for this call."""
    if not training:
        return DropoutMasks()
    # Keras applies no dropout at a rate of 1
    of_input = cell.get_dropout_mask(x) if 0 < cell.dropout < 1 else None
    of_state = cell.get_recurrent_dropout_mask(h) if 0 < cell.recurrent_dropout < 1 else None
    if getattr(cell, "implementation", 1) != 1:
        of_state = None  # Keras' implementation 2 has no recurrent dropout
    return DropoutMasks(_mask(of_input), _mask(of_state))


class _Unrolled(keras.layers.RNN):
    """A recurrent layer of Keras whose steps `unroll` runs."""

    def inner_loop(self, sequences: Any, initial_state: Any, mask: Any, training: bool = False) -> tuple[Any, Any, list[Any]]:
        """Return the last output (B, H), the outputs (B, T, H) and the final state, as Keras' method of this name."""
        if why_not(self):
            return super().inner_loop(sequences, initial_state, mask, training=training)
        convert, state_type = _CELLS[type(self.cell)]
        cell, params = convert(self.cell)
        state = state_type(*keras.tree.flatten(initial_state))
        mask = next((part for part in keras.tree.flatten(mask) if part is not None), None)
        options: dict[str, Any] = {
            "mask": None if mask is None else keras.ops.cast(mask, "bool"),
            "dropout": _masks(self.cell, sequences[:, 0], state.h, training),
            "backwards": self.go_backwards,
            "return_sequences": self.return_sequences,
            "zero_output_for_mask": self.zero_output_for_mask,
        }
        outputs, final = unroll(cell, params, sequences, state, **options)
        last = outputs[:, -1] if self.return_sequences else outputs
        return last, outputs if self.return_sequences else last[:, None], list(final)


class LSTM(_Unrolled, keras.layers.LSTM):
    """`keras.layers.LSTM`, run by `lstm_jax.unroll`: same arguments, weights and results."""


class GRU(_Unrolled, keras.layers.GRU):
    """`keras.layers.GRU`, run by `lstm_jax.unroll`: same arguments, weights and results."""


class SimpleRNN(_Unrolled, keras.layers.SimpleRNN):
    """`keras.layers.SimpleRNN`, run by `lstm_jax.unroll`: same arguments, weights and results."""


class Bidirectional(keras.layers.Bidirectional):
    """`keras.layers.Bidirectional` of our layers; Keras' own makes copies of Keras' layers."""

    @no_type_check  # Keras reads the signature
    def __init__(self, layer: Any, *args: Any, **kwargs: Any) -> None:
        ours = any(type(layer) is kind for kind in LAYERS.values())
        with keras.saving.custom_object_scope(LAYERS if ours else {}):
            super().__init__(layer, *args, **kwargs)


LAYERS: dict[str, type] = {"LSTM": LSTM, "GRU": GRU, "SimpleRNN": SimpleRNN, "Bidirectional": Bidirectional}
"""The layers by Keras' names, for `custom_objects`."""
for _kind in LAYERS.values():
    _kind.__module__ = "keras.layers"  # Keras writes this into files: they load without this package

_RECURRENT = {keras.layers.LSTM: LSTM, keras.layers.GRU: GRU, keras.layers.SimpleRNN: SimpleRNN}


def _replace(layer: Any, name: str, part: Any) -> None:
    """Set a sublayer; Keras would go on counting the weights of the one before."""
    layer._tracker.untrack(getattr(layer, name))
    setattr(layer, name, part)


def _shared(layer: Any, kind: type) -> Any:
    """Return a layer of that class with this layer's settings and its very weights."""
    made = kind.from_config(layer.get_config())
    _replace(made, "cell", layer.cell)
    made.zero_output_for_mask = layer.zero_output_for_mask
    made.use_cudnn = getattr(layer, "use_cudnn", "auto")
    made.states, made._expected_batch_size = layer.states, layer._expected_batch_size
    made.built = layer.built
    return made


class _Replacing:
    """The replacement of a model's layers, with a note for each recurrent layer that stays."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.count = 0

    def layer(self, layer: Any) -> Any:
        """Return the layer's replacement, or the layer itself."""
        if type(layer) is keras.layers.Bidirectional:
            return self.bidirectional(layer)
        if isinstance(layer, keras.Model):
            return self.model(layer)
        if isinstance(layer, _Unrolled) or not isinstance(layer, keras.layers.RNN):
            wrapped = getattr(layer, "layer", None)  # TimeDistributed and the like
            if isinstance(wrapped, keras.layers.RNN):
                self.notes.append(f"{layer.name}: a {type(layer).__name__} around a recurrent layer")
            return layer
        kind, reason = _RECURRENT.get(type(layer)), why_not(layer)
        if kind is None and not reason:
            reason = f"its class is {type(layer).__name__}, not LSTM, GRU or SimpleRNN"
        if kind is None or reason:
            self.notes.append(f"{layer.name}: {reason}")
            return layer
        self.count += 1
        return _shared(layer, kind)

    def bidirectional(self, layer: Any) -> Any:
        """Return the layer with both of its directions replaced, or the layer itself where neither can be."""
        both = [self.layer(layer.forward_layer), self.layer(layer.backward_layer)]
        if both == [layer.forward_layer, layer.backward_layer]:
            return layer
        made = Bidirectional.from_config(layer.get_config())
        _replace(made, "forward_layer", both[0])
        _replace(made, "backward_layer", both[1])
        made.built = layer.built
        return made

    def model(self, model: Any) -> Any:
        """Return the model on the replacements of its layers, or the model itself where it has none."""
        graph = isinstance(model, keras.Sequential) or type(model).__name__ == "Functional"
        if not graph:
            inside = [part for part in model._flatten_layers(include_self=False) if isinstance(part, keras.layers.RNN)]
            if inside:
                names = ", ".join(part.name for part in inside)
                self.notes.append(
                    f"{model.name}: a subclass of Model; use the layers of lstm_jax.integrations.keras in its code for {names}"
                )
            return model
        before = self.count
        made: dict[int, Any] = {}

        def once(layer: Any) -> Any:  # a layer that stands in several places stays one layer
            if id(layer) not in made:
                made[id(layer)] = self.layer(layer)
            return made[id(layer)]

        for layer in model.layers:
            once(layer)
        return model if self.count == before else keras.models.clone_model(model, clone_function=once)


def accelerate(model: Any) -> Any:
    """Return a model that computes the same with our layers in the place of Keras' recurrent ones.

    The weights are the given model's own: training either trains both. A compiled model stays compiled, with the same optimizer object.

    Args:
        model: a Sequential or Functional model, built; models within it too.

    Returns:
        The new model; the given one if nothing in it can be replaced. A warning names each recurrent layer that was left, and why.

    Raises:
        InputError: if it is no Keras model, has no weights yet, or Keras does not run on JAX.
    """
    require(isinstance(model, keras.Model), "model", type(model).__name__, "give a keras.Model")
    backend = keras.backend.backend()
    require(backend == "jax", "KERAS_BACKEND", backend, "set it to jax before Keras is imported")
    require(model.built, f"model {model.name}", "not built", "call it, build it or give it an Input first")
    replacing = _Replacing()
    made = replacing.model(model)
    for note in replacing.notes:
        warnings.warn(f"left to Keras: {note}", stacklevel=2)
    if made is not model and model.compiled:
        made.compile_from_config(model.get_compile_config())
        made.optimizer = model.optimizer
    return made
