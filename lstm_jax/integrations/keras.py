"""Keras layers whose recurrence is run by `lstm_jax.unroll`, and a function that puts them into a Keras model.

    import keras
    from lstm_jax.integrations.keras import accelerate

    model = accelerate(keras.models.load_model("model.keras"))

`accelerate` returns a model in which `LSTM`, `GRU`, `SimpleRNN` and `Bidirectional` of this module replace the layers of the same names in
Keras. The new model shares the weights of the old model. The layers of this module can also be used directly, with the same arguments as
Keras' layers. They need the environment variable `KERAS_BACKEND=jax`.

A saved model contains the names of Keras' own classes instead of the classes of this module. It can therefore be loaded without this
package, and then consists of Keras' layers. To get a model with the layers of this module, call `accelerate` on the loaded model, or pass
`custom_objects=LAYERS` to `keras.models.load_model`.

If `unroll` does not support the settings of a layer (see `why_not`), Keras runs the layer, with the same result.
"""

import warnings
from typing import Any, no_type_check

import keras

from lstm_jax.cells import CELLS, Cell, GRUParams, HiddenState, LSTMParams, LSTMState, ResetBeforeParams, SimpleRNNParams, with_activations
from lstm_jax.dropout import DropoutMasks
from lstm_jax.errors import InputError, require
from lstm_jax.recurrence import unroll

FLOATS = ("float32", "float64")


def why_not(layer: keras.layers.RNN) -> str:
    """Return the reason why `lstm_jax.unroll` cannot run a layer, or an empty string if it can."""
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
    for function in _activations(layer.cell):
        if isinstance(function, keras.layers.Layer) and (function.weights or not function.built):
            return f"its activation is a layer that has weights or is not built, {type(function).__name__}"
    try:
        _cell(layer.cell)
    except InputError as error:
        return f"its {error.subject} {error.value} is not supported"
    return ""


def _activations(cell: Any) -> list[Any]:
    """Return a list of two entries: the activation and the recurrent activation of a Keras cell.

    A function of Keras itself is returned as its name, such as "tanh". Any other function is returned as it is. The cell of a simple RNN
    has no recurrent activation. Its second entry is "sigmoid", as a placeholder.
    """
    functions = [cell.activation, getattr(cell, "recurrent_activation", keras.activations.sigmoid)]
    names = [keras.activations.serialize(function) for function in functions]
    own = [isinstance(name, str) and keras.activations.get(name) is function for name, function in zip(names, functions, strict=True)]
    return [name if is_own else function for name, is_own, function in zip(names, own, functions, strict=True)]


def _cell(cell: Any) -> Cell:
    """Return the `Cell` that computes the same as a Keras cell.

    Raises:
        InputError: if `with_activations` does not accept the activations of the Keras cell.
    """
    name = _CELLS[type(cell)][0]
    return with_activations(CELLS[name if getattr(cell, "reset_after", True) else "gru_reset_before"], *_activations(cell))


def _lstm(cell: Any) -> LSTMParams:
    return LSTMParams(*_weights(cell))


def _gru(cell: Any) -> GRUParams | ResetBeforeParams:
    if not cell.reset_after:
        return ResetBeforeParams(*_weights(cell))
    kernel, recurrent_kernel, biases = _weights(cell, rows=(2,))
    return GRUParams(kernel, recurrent_kernel, biases[0], biases[1])


def _simple_rnn(cell: Any) -> SimpleRNNParams:
    return SimpleRNNParams(*_weights(cell))


def _weights(cell: Any, rows: tuple[int, ...] = ()) -> tuple[Any, Any, Any]:
    """Return the kernel, the recurrent kernel and the bias of a Keras cell as arrays.

    For a cell without a bias, zeros of the shape (*rows, n) are returned as the bias, where n is the size of the last axis of the kernel.

    Args:
        cell: the Keras cell.
        rows: () if cells of this class have one vector as their bias, or (2,) if their bias has two rows.
    """
    kernel: Any = keras.ops.convert_to_tensor(cell.kernel)
    recurrent_kernel: Any = keras.ops.convert_to_tensor(cell.recurrent_kernel)
    filled = keras.ops.zeros((*rows, kernel.shape[-1]), kernel.dtype) if cell.bias is None else keras.ops.convert_to_tensor(cell.bias)
    return kernel, recurrent_kernel, filled


_CELLS = {
    keras.layers.LSTMCell: ("lstm", _lstm, LSTMState),
    keras.layers.GRUCell: ("gru", _gru, HiddenState),
    keras.layers.SimpleRNNCell: ("simple_rnn", _simple_rnn, HiddenState),
}
"""Dict from the class of a Keras cell to three values: the name of the cell in `CELLS`, a function that returns the parameters of such a
Keras cell, and the class of the state."""


def _mask(masks: Any) -> Any:
    """Return Keras' dropout mask as one array. A list with one mask per gate is stacked along a new first axis. None stays None."""
    if isinstance(masks, (list, tuple)):
        return keras.ops.stack(masks)
    return masks


def _masks(cell: Any, x: Any, h: Any, training: bool) -> DropoutMasks:
    """Return the dropout masks that a Keras cell draws for one call of the layer to which it belongs.

    Args:
        cell: the Keras cell.
        x: inputs (B, E) of the first step.
        h: initial output (B, H).
        training: whether the layer is called in training. If false, there are no masks.
    """
    if not training:
        return DropoutMasks()
    # Keras applies no dropout at a rate of 1
    of_input = cell.get_dropout_mask(x) if 0 < cell.dropout < 1 else None
    of_state = cell.get_recurrent_dropout_mask(h) if 0 < cell.recurrent_dropout < 1 else None
    if getattr(cell, "implementation", 1) != 1:
        of_state = None  # Keras' implementation 2 has no recurrent dropout
    return DropoutMasks(_mask(of_input), _mask(of_state))


def _rows_of_mask(mask: Any, rows: Any) -> Any:
    """Return a mask (B, T), (1, T), (B, T, 1) or (1, T, 1) as a bool array (B, T).

    Args:
        mask: the mask, in which False means a padded step.
        rows: the batch size B, an int or a symbolic size of JAX.
    """
    valid: Any = keras.ops.cast(mask, "bool")
    if valid.ndim == 3 and valid.shape[2] == 1:
        valid = valid[:, :, 0]
    return keras.ops.broadcast_to(valid, (rows, *valid.shape[1:])) if valid.shape[0] == 1 else valid


class _Unrolled(keras.layers.RNN):
    """Base class of the recurrent Keras layers that are run by `lstm_jax.unroll`."""

    def inner_loop(self, sequences: Any, initial_state: Any, mask: Any, training: bool = False) -> tuple[Any, Any, list[Any]]:
        """Run the recurrence of the layer with `lstm_jax.unroll`, or as in Keras if `unroll` does not support the settings of the layer.

        This method overrides `keras.layers.RNN.inner_loop`.

        Args:
            sequences: inputs (B, T, E).
            initial_state: the initial state, one array or a list of arrays.
            mask: bool (B, T), False at padded steps, or None. As in Keras' loop on JAX, it may also be (1, T), for all rows, or have a last
                axis of size 1.
            training: whether the layer is called in training.

        Returns:
            three values: the last output (B, H), the outputs (B, T, H), and a list of the arrays of the final state. If the layer does not
            return sequences, the outputs are (B, 1, H) and consist of the last output only.
        """
        if why_not(self):
            return super().inner_loop(sequences, initial_state, mask, training=training)
        _, convert, state_type = _CELLS[type(self.cell)]
        cell, params = _cell(self.cell), convert(self.cell)
        state = state_type(*keras.tree.flatten(initial_state))
        mask = next((part for part in keras.tree.flatten(mask) if part is not None), None)
        options: dict[str, Any] = {
            "mask": None if mask is None else _rows_of_mask(mask, sequences.shape[0]),
            "dropout": _masks(self.cell, sequences[:, 0], state.h, training),
            "backwards": self.go_backwards,
            "return_sequences": self.return_sequences,
            "zero_output_for_mask": self.zero_output_for_mask and not self.unroll,  # Keras' unrolled loop ignores the setting
        }
        outputs, final = unroll(cell, params, sequences, state, **options)
        if mask is not None and not (self.zero_output_for_mask or self.unroll):
            outputs = self._with_first_outputs(outputs, options["mask"], state.h)
        last = outputs[:, -1] if self.return_sequences else outputs
        return last, outputs if self.return_sequences else last[:, None], list(final)

    def _with_first_outputs(self, outputs: Any, mask: Any, h: Any) -> Any:
        """Return the outputs with zeros replaced by the initial output at all padded steps that a row has before its first valid step.

        "Before" means the order in which the layer reads the steps. At such padded steps, `unroll` and Keras' unrolled loop return zeros,
        but Keras' loop on JAX returns the initial output. A last output (B, H) is replaced only in rows without a valid step.

        Args:
            outputs: outputs (B, T, H) or, if the layer does not return sequences, last output (B, H).
            mask: bool (B, T), False at padded steps.
            h: initial output (B, H).
        """
        if not self.return_sequences:
            has_any: Any = keras.ops.any(mask, axis=1)
            return keras.ops.where(has_any[:, None], outputs, h)
        read: Any = keras.ops.flip(mask, axis=1) if self.go_backwards else mask
        counts: Any = keras.ops.cumsum(keras.ops.cast(read, "int32"), axis=1)
        return keras.ops.where((counts > 0)[:, :, None], outputs, h[:, None])


class LSTM(_Unrolled, keras.layers.LSTM):
    """LSTM layer that is run by `lstm_jax.unroll`. Its arguments, weights and results are the same as those of `keras.layers.LSTM`."""


class GRU(_Unrolled, keras.layers.GRU):
    """GRU layer that is run by `lstm_jax.unroll`. Its arguments, weights and results are the same as those of `keras.layers.GRU`."""


class SimpleRNN(_Unrolled, keras.layers.SimpleRNN):
    """Simple RNN that is run by `lstm_jax.unroll`. Its arguments, weights and results are the same as those of `keras.layers.SimpleRNN`."""


class Bidirectional(keras.layers.Bidirectional):
    """Wrapper that makes a layer bidirectional, with the arguments, weights and results of `keras.layers.Bidirectional`.

    Use it for the layers `LSTM`, `GRU` and `SimpleRNN` of this module, which are run by `lstm_jax.unroll`. Keras' own wrapper makes a new
    forward layer from the class name of the given layer, and would thus make the Keras layer of this name instead of the layer of this
    module.
    """

    @no_type_check  # Keras reads the signature
    def __init__(self, layer: Any, *args: Any, **kwargs: Any) -> None:
        ours = any(type(layer) is kind for kind in LAYERS.values())
        with keras.saving.custom_object_scope(LAYERS if ours else {}):
            super().__init__(layer, *args, **kwargs)

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict[str, type] | None = None) -> Any:
        """Make a `Bidirectional` layer from a config that `get_config` of such a layer returned.

        A class name in `LAYERS`, such as "LSTM", stands for the layer of this module, unless `custom_objects` gives another class for it.
        """
        return super().from_config(config, custom_objects=LAYERS | (custom_objects or {}))


LAYERS: dict[str, type] = {"LSTM": LSTM, "GRU": GRU, "SimpleRNN": SimpleRNN, "Bidirectional": Bidirectional}
"""Dict from the name of a layer in Keras to the layer of this module, for the argument `custom_objects` of Keras' functions."""
for _kind in LAYERS.values():
    _kind.__module__ = "keras.layers"  # Keras writes this name into saved models, so that they can be loaded without this package

_GRAPHS = ("Sequential", "Functional")
"""Names of Keras' own classes of models that can be cloned with other layers."""
_RECURRENT = {keras.layers.LSTM: LSTM, keras.layers.GRU: GRU, keras.layers.SimpleRNN: SimpleRNN}


def _replace(layer: Any, name: str, part: Any) -> None:
    """Replace a sublayer of a Keras layer.

    The old sublayer is removed from Keras' tracker first, since Keras would otherwise still count its weights.

    Args:
        layer: the Keras layer.
        name: name of the attribute that holds the sublayer.
        part: the new sublayer.
    """
    layer._tracker.untrack(getattr(layer, name))
    setattr(layer, name, part)


def _shared(layer: Any, kind: type) -> Any:
    """Return a layer of class `kind` that has the settings of a Keras layer and shares its weights."""
    made = kind.from_config(layer.get_config())
    _replace(made, "cell", layer.cell)
    made.zero_output_for_mask = layer.zero_output_for_mask
    made.use_cudnn = getattr(layer, "use_cudnn", "auto")
    object.__setattr__(made, "states", layer.states)  # as in Keras, whose `fit` and `predict` drop a state that they do not track
    made._expected_batch_size = layer._expected_batch_size
    made.built = layer.built
    return made


def _inside(layer: Any) -> list[str]:
    """Return the names of the recurrent layers inside a Keras layer, except those that `lstm_jax.unroll` already runs."""
    parts = layer._flatten_layers(include_self=False)
    return [part.name for part in parts if isinstance(part, keras.layers.RNN) and not isinstance(part, _Unrolled)]


class _Replacing:
    """Object that replaces the recurrent layers of one Keras model by layers that are run by `lstm_jax.unroll`.

    Attributes:
        notes: one sentence for each recurrent layer that is not replaced, with the reason.
        count: number of replaced layers.
    """

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.count = 0

    def layer(self, layer: Any) -> Any:
        """Return a layer that replaces the given Keras layer, or the given layer if it is not recurrent or cannot be replaced.

        `keras.models.clone_model` also calls this method for those operations of a Functional model that are not layers, for example the
        comparison of ids with 0 that computes a mask. Such operations are returned unchanged.
        """
        if not isinstance(layer, keras.layers.Layer):
            return layer
        if type(layer) in (keras.layers.Bidirectional, Bidirectional):
            return self.bidirectional(layer)
        if isinstance(layer, keras.Model):
            return self.model(layer)
        if isinstance(layer, _Unrolled) or not isinstance(layer, keras.layers.RNN):
            where = f"inside the layer {layer.name}, whose class {type(layer).__name__} is kept as it is"
            self.notes.extend(f"{name}: {where}" for name in _inside(layer))
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
        """Return a copy of a Keras `Bidirectional` layer in which the forward and the backward layer are replaced, if possible.

        Each of the two is replaced by the layer that the method `self.layer` returns for it. If neither can be replaced, the given layer is
        returned.
        """
        both = [self.layer(layer.forward_layer), self.layer(layer.backward_layer)]
        if both == [layer.forward_layer, layer.backward_layer]:
            return layer
        made = Bidirectional.from_config(layer.get_config())
        _replace(made, "forward_layer", both[0])
        _replace(made, "backward_layer", both[1])
        made.built = layer.built
        return made

    def model(self, model: Any) -> Any:
        """Return a copy of a model with its recurrent layers replaced, or the model itself if no layer can be replaced."""
        kind = type(model)
        if not (kind.__name__ in _GRAPHS and kind.__module__.startswith("keras.")):  # a copy would lose the methods of a subclass
            base = "Sequential" if isinstance(model, keras.Sequential) else "Model"
            if names := ", ".join(_inside(model)):
                remedy = f"use the layers of lstm_jax.integrations.keras in its code for {names}"
                self.notes.append(f"{model.name}: a subclass of {base}; {remedy}")
            return model
        before = self.count
        made: dict[int, Any] = {}

        def once(layer: Any) -> Any:  # a layer that the model uses several times is replaced by a single layer
            if id(layer) not in made:
                made[id(layer)] = self.layer(layer)
            return made[id(layer)]

        for layer in model.layers:
            once(layer)
        if self.count == before:
            return model
        compiled, model.compiled = model.compiled, False  # the clone would be compiled from names, which fails for functions of the user
        try:
            return keras.models.clone_model(model, clone_function=once)
        finally:
            model.compiled = compiled


def accelerate(model: Any) -> Any:
    """Return a copy of a Keras model whose recurrent layers are run by `lstm_jax.unroll`. The copy gives the same results.

    Both models share their weights: training one of them also trains the other. If the given model is compiled, the new model is compiled
    too, with the same optimizer object. A warning names each recurrent layer that is not replaced, and the reason.

    The layers that are not replaced are the same objects in both models, and their attribute `output` belongs to the given model. To get an
    accelerated model that returns the output of an inner layer, first make a Keras model with this output from the given
    model, for example `keras.Model(model.inputs, model.layers[1].output)`. Then call `accelerate` on the new Keras model.

    Args:
        model: a Sequential or Functional model whose weights have been created. Layers in a Sequential or Functional model inside it are
            also replaced. A model of a subclass of `keras.Sequential` or `keras.Model` is not changed: none of its layers is replaced.

    Returns:
        The new model, or the given model if no layer can be replaced.

    Raises:
        InputError: if `model` is not a Keras model or has no weights yet, or if the backend of Keras is not JAX.
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
        settings = model._compile_config.config  # the objects themselves; Keras cannot restore a function of the user's from its name
        made.compile(**settings | {"optimizer": model.optimizer})
    return made
