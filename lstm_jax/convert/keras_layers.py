"""Keras layers whose recurrence is run by `lstm_jax.unroll`, and a function that puts
them into a Keras model.

    import keras
    from lstm_jax.convert.keras_layers import accelerate

    model = accelerate(keras.models.load_model("model.keras"))

`accelerate` returns a model in which `LSTM`, `GRU`, `SimpleRNN`, `RNN` and
`Bidirectional` of this module replace the layers of the same names in Keras. The new
model shares the weights of the old model. The layers of this module can also be used
directly, with the same arguments as Keras' layers. They need the environment variable
`KERAS_BACKEND=jax`.

A saved model contains the names of Keras' own classes instead of the classes of this
module. It can therefore be loaded without this package, and then consists of Keras'
layers. To get a model with the layers of this module, call `accelerate` on the loaded
model, or pass `custom_objects=LAYERS` to `keras.models.load_model`.

If `unroll` does not support the settings of a layer (see `why_not`), Keras runs the
layer, with the same result.
"""

import warnings
from typing import Any, no_type_check

import jax
import keras

from lstm_jax.base.errors import InputError, check_class, require
from lstm_jax.base.types import Values
from lstm_jax.cells import CELLS, Cell, with_activations
from lstm_jax.recurrence import BACKENDS, Request, lacks, unroll
from lstm_jax.recurrence.dropout import DropoutMasks

MIXED = "mixed_bfloat16"
POLICIES = ("float32", "float64", MIXED)


def why_not(layer: keras.layers.RNN) -> str:
    """Return the reason why `lstm_jax.unroll` cannot run a layer, or an empty string if
    it can.
    """
    if keras.backend.backend() != "jax":
        return (
            f"Keras runs on {keras.backend.backend()}, not on jax: set "
            "KERAS_BACKEND=jax"
        )
    cells, policy = _cells(layer.cell), layer.dtype_policy.name
    if unknown := [type(cell).__name__ for cell in cells if type(cell) not in _CELLS]:
        return f"its cell is {unknown[0]}, not LSTMCell, GRUCell or SimpleRNNCell"
    policies = {part.dtype_policy.name for part in (layer, layer.cell, *cells)}
    if len(policies) > 1 or policy not in POLICIES:
        return (
            f"its dtype policy is {' and '.join(sorted(policies))}, not "
            f"{', '.join(POLICIES[:-1])} or {MIXED}"
        )
    if getattr(layer, "use_cudnn", "auto") is True:
        return "it asks for cuDNN by use_cudnn=True"
    for cell in cells:
        if getattr(cell, "lora_enabled", False) or getattr(
            cell, "quantization_mode", None
        ):
            return "its weights are quantized or have LoRA"
        for function in _activations(cell):
            if isinstance(function, keras.layers.Layer) and (
                function.weights or not function.built
            ):
                return (
                    "its activation is a layer that has weights or is not built, "
                    f"{type(function).__name__}"
                )
        try:
            request = Request(_cell(cell), "float32", "bfloat16")
        except InputError as error:
            return f"its {error.subject} {error.value} is not supported"
        if policy == MIXED and (
            reason := lacks(BACKENDS["compiled"], request, jax.default_backend())
        ):
            return (
                f"its dtype policy is {MIXED}, which the compiled code does not "
                f"serve: {reason}"
            )
    return ""


def _cells(cell) -> list:
    return list(cell.cells) if type(cell) is keras.layers.StackedRNNCells else [cell]


def _activations(cell) -> list:
    """Return the activation and the recurrent activation, each as its name if it is a
    function of Keras itself.
    """
    found = []
    for function in (
        cell.activation,
        getattr(cell, "recurrent_activation", keras.activations.sigmoid),
    ):
        name = keras.activations.serialize(function)
        found.append(
            name
            if isinstance(name, str) and keras.activations.get(name) is function
            else function
        )
    return found


_CELLS = {
    keras.layers.LSTMCell: "lstm",
    keras.layers.GRUCell: "gru",
    keras.layers.SimpleRNNCell: "simple_rnn",
}
"""Dict from the class of a Keras cell to the name of the cell in `CELLS`. A GRU with
`reset_after=False` is another cell there."""


def _cell(cell) -> Cell:
    name = (
        _CELLS[type(cell)] if getattr(cell, "reset_after", True) else "gru_reset_before"
    )
    return with_activations(CELLS[name], *_activations(cell))


def _params(cell) -> Any:
    """Return the parameters of a Keras cell in the dtype of its variables. With mixed
    precision, Keras has rounded them to bfloat16.
    """
    dtype, columns = cell.variable_dtype, cell.kernel.shape[-1]
    # the bias of such a GRU has two rows
    rows = 2 if getattr(cell, "reset_after", False) else 1
    bias: Any = (
        keras.ops.zeros((rows, columns), dtype)
        if cell.bias is None
        else keras.ops.reshape(cell.bias, (rows, columns))
    )
    return _cell(cell).params(
        *(
            keras.ops.cast(weight, dtype)
            for weight in (cell.kernel, cell.recurrent_kernel, *bias)
        )
    )


def _masks(cell, x, h, training: bool) -> DropoutMasks:
    """Return the dropout masks that a Keras cell draws for one call, in which `x` (B,
    E) is the first step and `h` the initial output.
    """
    if not training:
        return DropoutMasks()
    # Keras applies no dropout at a rate of 1
    of_input = cell.get_dropout_mask(x) if 0 < cell.dropout < 1 else None
    of_state = (
        cell.get_recurrent_dropout_mask(h) if 0 < cell.recurrent_dropout < 1 else None
    )
    if getattr(cell, "implementation", 1) != 1:
        of_state = None  # Keras' implementation 2 has no recurrent dropout
    per_gate: list = [
        keras.ops.stack(masks) if isinstance(masks, list) else masks
        for masks in (of_input, of_state)
    ]
    return DropoutMasks(*per_gate)


class _Unrolled(keras.layers.RNN):
    """Base class of the recurrent Keras layers that are run by `lstm_jax.unroll`."""

    def inner_loop(
        self, sequences, initial_state, mask, training: bool = False
    ) -> tuple[Any, Any, list]:
        """Run the recurrence of the layer with `lstm_jax.unroll`, or as in Keras if
        `unroll` does not support the settings of the layer.
        """
        if why_not(self):
            return super().inner_loop(sequences, initial_state, mask, training=training)
        outputs: Any = sequences
        valid: Any = next(
            (part for part in keras.tree.flatten(mask) if part is not None), None
        )
        if valid is not None:
            valid = keras.ops.cast(valid, "bool")
            # a mask may be (B, T, 1), (1, T) or (1, T, 1)
            valid = valid[:, :, 0] if valid.ndim == 3 and valid.shape[2] == 1 else valid
            valid = (
                keras.ops.repeat(valid, sequences.shape[0], axis=0)
                if len(valid) == 1
                else valid
            )
        if self.go_backwards:
            outputs, valid = (
                part if part is None else keras.ops.flip(part, axis=1)
                for part in (outputs, valid)
            )
        given, cells, finals = (
            iter(keras.tree.flatten(initial_state)),
            _cells(self.cell),
            [],
        )
        state: Any = None
        for number, cell in enumerate(cells):
            row = _cell(cell)
            kind = type(row.state_like())
            state = kind(*(next(given) for _ in kind._fields))
            outputs, final = unroll(
                row,
                _params(cell),
                outputs,
                state,
                mask=valid,
                dropout=_masks(cell, outputs[:, 0], state.h, training),
                return_sequences=self.return_sequences or number < len(cells) - 1,
                # Keras' unrolled loop ignores the setting
                zero_output_for_mask=self.zero_output_for_mask and not self.unroll,
                compute_dtype=cell.compute_dtype,
            )
            finals += final
        if valid is not None and not (self.zero_output_for_mask or self.unroll):
            # Where a row has had no valid step yet, Keras' loop on JAX returns the
            # initial output of the last cell, and `unroll` zeros.
            started = (valid.cumsum(1) > 0)[..., None]  # (B, T, 1)
            start = (
                (started, state.h[:, None])
                if self.return_sequences
                else (started[:, -1], state.h)
            )
            outputs = keras.ops.where(start[0], outputs, start[1])
        last: Any = outputs[:, -1] if self.return_sequences else outputs
        return (
            last,
            outputs if self.return_sequences else last[:, None],
            keras.tree.pack_sequence_as(initial_state, finals),
        )


class LSTM(_Unrolled, keras.layers.LSTM):
    """LSTM layer that is run by `lstm_jax.unroll`. Its arguments, weights and results
    are the same as those of `keras.layers.LSTM`.
    """


class GRU(_Unrolled, keras.layers.GRU):
    """GRU layer that is run by `lstm_jax.unroll`. Its arguments, weights and results
    are the same as those of `keras.layers.GRU`.
    """


class SimpleRNN(_Unrolled, keras.layers.SimpleRNN):
    """Simple RNN that is run by `lstm_jax.unroll`. Its arguments, weights and results
    are the same as those of `keras.layers.SimpleRNN`.
    """


class RNN(_Unrolled):
    """Layer of an `LSTMCell`, `GRUCell` or `SimpleRNNCell`, or of a list of them, with
    the results of `keras.layers.RNN`.
    """


class Bidirectional(keras.layers.Bidirectional):
    """Wrapper that makes a layer bidirectional, with the arguments, weights and results
    of `keras.layers.Bidirectional`.

    Use it for the other layers of this module, which are run by `lstm_jax.unroll`.
    Keras' own wrapper makes a new forward layer from the class name of the given layer,
    and would thus make the Keras layer of this name instead of the layer of this
    module.
    """

    @no_type_check  # Keras reads the signature
    def __init__(self, layer, *args, **kwargs) -> None:
        ours = type(layer) in LAYERS.values()
        with keras.saving.custom_object_scope(LAYERS if ours else {}):
            super().__init__(layer, *args, **kwargs)

    @classmethod
    def from_config(
        cls, config: Values, custom_objects: dict[str, type] | None = None
    ) -> Any:
        """Make a `Bidirectional` layer from a config that `get_config` of such a layer
        returned.
        """
        return super().from_config(
            config, custom_objects=LAYERS | (custom_objects or {})
        )


LAYERS: dict[str, type] = {
    "LSTM": LSTM,
    "GRU": GRU,
    "SimpleRNN": SimpleRNN,
    "RNN": RNN,
    "Bidirectional": Bidirectional,
}
"""Dict from the name of a layer in Keras to the layer of this module, for the argument
`custom_objects` of Keras' functions."""
for _kind in LAYERS.values():
    # Keras writes this name into saved models, so that they can be loaded without this
    # package
    _kind.__module__ = "keras.layers"

_RECURRENT = {getattr(keras.layers, name): kind for name, kind in LAYERS.items()}


def _copied(layer, kind: type, **parts) -> Any:
    made = kind.from_config(layer.get_config())
    for name, part in parts.items():
        # Keras would still count its weights
        made._tracker.untrack(getattr(made, name))
        setattr(made, name, part)
    made.built = layer.built
    return made


def _inside(layer) -> list[str]:
    parts = layer._flatten_layers(include_self=False)
    return [
        part.name
        for part in parts
        if isinstance(part, keras.layers.RNN) and not isinstance(part, _Unrolled)
    ]


class _Replacing:
    """Replacement of the recurrent layers of one Keras model: the names of the replaced
    layers, and a note for each of the others.
    """

    def __init__(self) -> None:
        self.names, self.notes, self.made = [], [], {}

    def layer(self, layer) -> Any:
        """Return the layer in place of a layer. A layer that a model uses several times
        is replaced by a single layer.
        """
        if id(layer) not in self.made:
            self.made[id(layer)] = self._layer(layer)
        return self.made[id(layer)]

    def _layer(self, layer) -> Any:
        # an operation of a Functional model, such as the comparison that computes a
        # mask
        if not isinstance(layer, keras.layers.Layer):
            return layer
        kind = type(layer)
        if kind in (keras.layers.Bidirectional, Bidirectional):
            both = {
                name: self.layer(getattr(layer, name))
                for name in ("forward_layer", "backward_layer")
            }
            if all(part is getattr(layer, name) for name, part in both.items()):
                return layer
            return _copied(layer, Bidirectional, **both)
        if isinstance(layer, keras.Model):
            return self._model(layer)
        if isinstance(layer, _Unrolled) or not isinstance(layer, keras.layers.RNN):
            where = (
                f"inside the layer {layer.name}, whose class {kind.__name__} is "
                "kept as it is"
            )
            self.notes.extend(f"{name}: {where}" for name in _inside(layer))
            return layer
        reason = (
            why_not(layer)
            if kind in _RECURRENT
            else f"its class is {kind.__name__}, not LSTM, GRU, SimpleRNN or RNN"
        )
        if reason:
            self.notes.append(f"{layer.name}: {reason}")
            return layer
        compiled = all(
            BACKENDS["compiled"].serves(_cell(cell)) for cell in _cells(layer.cell)
        )
        self.names.append(
            layer.name
            if compiled
            else f"{layer.name} (no compiled code for its activations: not faster)"
        )
        made = _copied(layer, _RECURRENT[kind], cell=layer.cell)
        made.zero_output_for_mask = layer.zero_output_for_mask
        made.use_cudnn = getattr(layer, "use_cudnn", "auto")
        # as in Keras, whose `fit` and `predict` drop a state that they do not track
        object.__setattr__(made, "states", layer.states)
        made._expected_batch_size = layer._expected_batch_size
        return made

    def _model(self, model) -> Any:
        kind = type(model)
        if not (
            kind.__name__ in ("Sequential", "Functional")
            and kind.__module__.startswith("keras.")
        ):  # a copy would lose a subclass' methods
            base = "Sequential" if isinstance(model, keras.Sequential) else "Model"
            if names := ", ".join(_inside(model)):
                remedy = (
                    "use the layers of lstm_jax.convert.keras_layers in its code "
                    f"for {names}"
                )
                self.notes.append(f"{model.name}: a subclass of {base}; {remedy}")
            return model
        if [self.layer(layer) for layer in model.layers] == model.layers:
            return model
        # the clone would be compiled from names, which fails for functions of the user
        compiled, model.compiled = model.compiled, False
        try:
            return keras.models.clone_model(model, clone_function=self.layer)
        finally:
            model.compiled = compiled


def accelerate(model, verbose: bool = True) -> Any:
    """Return a copy of a Keras model whose recurrent layers are run by
    `lstm_jax.unroll`. The copy gives the same results.

    Both models share their weights: training one of them also trains the other. If the
    given model is compiled, the new model is compiled too, with the same optimizer
    object. A warning names each recurrent layer that is not replaced, and the reason.
    With mixed_bfloat16, a layer is replaced if the compiled code has products in
    bfloat16 on this processor; sums and states are then in float32.

    The layers that are not replaced are the same objects in both models, and their
    attribute `output` belongs to the given model. To get an accelerated model that
    returns the output of an inner layer, first make a Keras model with this output from
    the given model, for example `keras.Model(model.inputs, model.layers[1].output)`.
    Then call `accelerate` on the new Keras model.

    Args:
        model: a Sequential or Functional model whose weights have been created. Layers
            in a Sequential or Functional model inside it are also replaced. A model of
            a subclass of `keras.Sequential` or `keras.Model` is not changed: none of
            its layers is replaced.
        verbose: whether to print the names of the layers that are replaced, and which
            of these have no compiled code.

    Returns:
        The new model, or the given model if no layer can be replaced.

    Raises:
        InputError: if `model` is not a Keras model or has no weights yet, or if the
            backend of Keras is not JAX.
    """
    check_class("model", model, keras.Model, "give a keras.Model")
    backend = keras.backend.backend()
    require(
        backend == "jax",
        "KERAS_BACKEND",
        backend,
        "set it to jax before Keras is imported",
    )
    require(
        model.built,
        f"model {model.name}",
        "not built",
        "call it, build it or give it an Input first",
    )
    replacing = _Replacing()
    made = replacing.layer(model)
    if verbose:
        print("run by lstm_jax:", ", ".join(replacing.names) or "no layer")
    for note in replacing.notes:
        warnings.warn(f"left to Keras: {note}", stacklevel=2)
    if made is not model and model.compiled:
        # the objects themselves; Keras cannot restore a function of the user's from its
        # name
        settings = model._compile_config.config
        made.compile(**settings | {"optimizer": model.optimizer})
    return made
