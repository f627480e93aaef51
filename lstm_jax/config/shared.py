"""Parts of a config that all tasks share: the recurrent layers and the training; and
the conversion of configs to dicts.

Users store such dicts. A later version of lstm_jax may add a field to a config. While
the new field has its default value, it is left out of the dict. The dict of a config
therefore equals the dict that an earlier version stored for the same config.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, Any, ClassVar, Literal

from lstm_jax.aliases import Texts, Values
from lstm_jax.backend_names import AUTO, check_backend
from lstm_jax.bounds import (
    MOST,
    Bounds,
    Checked,
    Count,
    CountOrNone,
    Devices,
    Layers,
    Rate,
    RateOrNone,
    Seed,
    Share,
    frozen,
)
from lstm_jax.cell_names import cell_traits
from lstm_jax.errors import require

ADDED = {"added": True}
"""Metadata of a field that was added after users had stored configs without it.
`config_values` leaves such a field out while it has its default value, so that a new
config still equals the stored config."""


def added(default) -> Any:
    """Return a dataclass field with this default value and the metadata `ADDED`."""
    return field(default=default, metadata=ADDED)


def config_values(config) -> Values:
    """Return the values of a config as a dict, without the later added fields that have
    their default values.
    """
    values = dataclasses.asdict(config)
    for own in dataclasses.fields(config):
        value = getattr(config, own.name)
        if own.metadata.get("added") and value == default(own):
            del values[own.name]
        elif dataclasses.is_dataclass(value):
            values[own.name] = config_values(value)
    return values


def default(field: dataclasses.Field) -> Any:
    """Return the default value of a dataclass field, or `dataclasses.MISSING` if it has
    neither a default value nor a default factory.
    """
    # cloudpickle copies MISSING with a class, so that `is` would not find it
    return field.default_factory() if callable(field.default_factory) else field.default


def flatten(values: Mapping, prefix: str = "") -> Values:
    """Return a nested mapping as a flat dict: {"model": {"units": 8}} becomes
    {"model.units": 8}. `prefix` is put before each key.
    """
    flat: Values = {}
    for name, value in values.items():
        flat |= (
            flatten(value, f"{prefix}{name}.")
            if isinstance(value, Mapping)
            else {prefix + name: value}
        )
    return flat


_SEGMENTS = Bounds(1, MOST, "give none, sqrt, or 1 or more segments")


@frozen
class RecurrentConfig(Checked):
    """Config of the recurrent layers of a model. The config of each task's model is a
    subclass.
    """

    units: Count = 128
    """Number of units of each recurrent layer."""
    layers: Layers = 1
    """Number of stacked recurrent layers."""
    dropout: Share = 0.0
    """Dropout rate of the input features of each recurrent layer. The same features are
    dropped at every step."""
    recurrent_dropout: Share = 0.0
    """Dropout rate of the units of the recurrent state. The same units are dropped at
    every step."""
    dropout_masks: Literal["keras", "per_gate", "variational"] = "keras"
    """Kind of the dropout masks. 'variational' draws one mask for all gates (Gal &
    Ghahramani 2016). 'per_gate' draws one mask per gate. 'keras' draws one mask per
    gate if there is recurrent dropout, and one mask for all gates if there is not."""
    weight_drop: Share = 0.0
    """Dropout rate of the entries of each recurrent kernel. The same entries are
    dropped at every step of a batch (DropConnect; Merity et al. 2018)."""
    zoneout: Share = 0.0
    """Share of the units that keep their previous h in a step. The units are drawn anew
    at each step (Krueger et al. 2017)."""
    zoneout_cell: Share = 0.0
    """Share of the units that keep their previous cell state c in a step. Only an LSTM
    has a cell state."""
    cell: str = "lstm"
    """Name of the recurrent cell: lstm, gru, simple_rnn, min_gru or another cell in
    `lstm_jax.cells`, or a cell that a module named in $LSTM_JAX_CELLS registers."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Dtype of the matrix products. Parameters and state stay float32."""
    backend: str = AUTO
    """Backend that computes the recurrence. 'auto' chooses one. `lstm-jax backends`
    describes compiled, hoisted, reference and others."""
    remat: Literal["none", "sqrt"] | int = "none"
    """Number of segments into which the sequence is divided to save memory: the
    backward pass computes the states within a segment again instead of storing them.
    'sqrt' uses the square root of the number of steps, which needs the least memory.
    'none' stores all states."""

    def __post_init__(self):
        super().__post_init__()
        traits = cell_traits(self.cell)
        check_backend(self.backend)
        if not (isinstance(self.remat, str) and self.remat in ("none", "sqrt")):
            object.__setattr__(self, "remat", _SEGMENTS.check("remat", self.remat, int))
        # some cells have no recurrent kernel
        for name in ("recurrent_dropout", "weight_drop"):
            have, rate = traits.has_recurrent_kernel, getattr(self, name)
            require(
                have or not rate,
                name,
                rate,
                f"the cell {self.cell} multiplies no state by a kernel: give 0",
            )
        require(
            traits.has_cell_state or not self.zoneout_cell,
            "zoneout_cell",
            self.zoneout_cell,
            f"the cell {self.cell} has no c: give 0",
        )
        zoned = self.zoneout or self.zoneout_cell
        require(
            self.remat == "none" or not zoned,
            "remat",
            self.remat,
            "segments have no zoneout: give none, or no zoneout",
        )


@frozen
class TrainConfig(Checked):
    """Config of the training: its length, its optimiser and its seed."""

    epochs: Count = 3
    """Number of passes over the training examples."""
    batch_size: Count = 32
    """Number of training examples in a batch, summed over all devices."""
    microbatches: Count = added(1)
    """Number of parts into which each batch is divided. Their gradients are computed
    one after another and added up, so that only the residuals of one part are in
    memory. The batch size must be a multiple of this number times the number of
    devices."""
    optimizer: str = "adam"
    """Name of the optimiser. 'adam' and 'rmsprop' are computed as in Keras. Other names
    are looked up in optax (sgd, lion, adamw, ...)."""
    learning_rate: Rate = 1e-3
    """Peak learning rate."""
    schedule: Literal["constant", "cosine", "linear", "exponential", "epochs"] = (
        "constant"
    )
    """Schedule by which the learning rate decays from its peak to
    `final_learning_rate`. 'constant' keeps it at its peak, and 'epochs' divides it by
    `decay` before each epoch after the first `constant_epochs`."""
    decay: Annotated[float, Bounds(1, 1e18, "give 1 or more")] = added(2.0)
    """Number by which the schedule 'epochs' divides the learning rate."""
    constant_epochs: Count = added(1)
    """Number of epochs with the peak learning rate in the schedule 'epochs'."""
    final_learning_rate: RateOrNone = 0.0
    """Learning rate at the end of a decaying schedule. The exponential schedule needs a
    value above 0."""
    warmup_steps: CountOrNone = 0
    """Number of steps at the beginning of training in which the learning rate grows
    linearly from 0 to its peak."""
    clip_norm: RateOrNone = 0.0
    """Largest global norm of the gradient. A gradient with a larger norm is scaled down
    to this norm. 0 means no clipping."""
    patience: CountOrNone = 0
    """Number of epochs without a better validation loss after which training stops
    early. 0 means no early stopping."""
    seed: Seed = 0
    """Seed of the initial weights, the dropout and the order of the training examples.
    """
    checkpoint_steps: CountOrNone = 0
    """Number of steps between checkpoints within an epoch. 0 saves one only at the end
    of an epoch; of short epochs, about every 3 s."""
    keep_epochs: bool = added(False)
    """Keep the parameters of each epoch in the run's folder, so that `lstm-jax inspect`
    can show how the network changed."""
    stop_on_nan: bool = added(True)
    """End the training with an error as soon as the training loss is not finite."""
    devices: Devices = 0
    """Number of devices over which a batch is sharded. 0 means all devices. With 0, a
    CPU has one device per core or, if the backend is `compiled`, one device that uses
    all cores."""

    def __post_init__(self):
        super().__post_init__()
        final, remedy = (
            self.final_learning_rate,
            f"the schedule {self.schedule} has no final learning rate: give "
            "0, or another schedule",
        )
        require(
            self.schedule not in ("constant", "epochs") or not final,
            "final_learning_rate",
            final,
            remedy,
        )
        require(
            self.schedule != "exponential" or final > 0,
            "final_learning_rate",
            final,
            "an exponential schedule ends above 0",
        )


@frozen
class RunConfig:
    """Config of one training run: its data, its model and its training. Each task has a
    subclass.
    """

    task: ClassVar[str]
    """Name of the task, which is written to config.json and shown in error messages."""
    commands: ClassVar[str]
    """Names of the commands that use a trained run of this task, for error messages."""
    files: ClassVar[Texts] = ()
    """Names of the task's own files in the folder of a run, such as "vocabulary.json";
    see `Task.files`."""
    data: Any
    model: RecurrentConfig
    train: TrainConfig

    def __post_init__(self):
        """Check that each section is an instance of the class that its annotation
        names.
        """
        for own in dataclasses.fields(self):
            section, kind = getattr(self, own.name), own.type
            if isinstance(kind, type) and kind is not Any:
                require(
                    isinstance(section, kind),
                    own.name,
                    type(section).__name__,
                    f"give a {kind.__module__}.{kind.__name__}",
                )
