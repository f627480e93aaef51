"""Sections of a config that every task has: recurrent layers and training."""

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args, get_origin

from lstm_jax.backend_names import AUTO, check_backend
from lstm_jax.bounds import MOST, Count, CountOrNone, Devices, Layers, Rate, RateOrNone, Rows, Seed, Share, check_numbers
from lstm_jax.cell_names import cell_traits
from lstm_jax.errors import require


def check_fields(config: Any) -> None:
    """Check that numbers are within their bounds, and that a field with named choices holds one of them.

    The command line checks the choices already, but a config file has not been checked.

    Raises:
        InputError: if a field fails the check; the error names the first such field.
    """
    check_numbers(config)
    for field in dataclasses.fields(config):
        if get_origin(field.type) is Literal:
            value = getattr(config, field.name)
            require(value in get_args(field.type), field.name, value, f"give one of {', '.join(map(str, get_args(field.type)))}")


def _require_segments(remat: Any) -> None:
    count = isinstance(remat, int) and not isinstance(remat, bool) and 1 <= remat <= MOST
    require(count or remat in ("none", "sqrt"), "remat", remat, "give none, sqrt, or 1 or more segments")


@dataclass(frozen=True)
class RecurrentConfig:
    """Recurrent layers of every task."""

    units: Count = 128
    """Number of units of each recurrent layer."""
    layers: Layers = 1
    """Number of stacked recurrent layers."""
    dropout: Share = 0.0
    """Share of the input features of each recurrent layer that is dropped, the same features at every step."""
    recurrent_dropout: Share = 0.0
    """Share of the units of the recurrent state that is dropped, the same units at every step."""
    dropout_masks: Literal["keras", "per_gate", "variational"] = "keras"
    """'keras' draws one mask per gate if there is recurrent dropout, else one mask for all gates; 'per_gate' always draws one per gate;
    'variational' always draws one for all gates (Gal, Ghahramani 2016)."""
    weight_drop: Share = 0.0
    """Share of the entries of each recurrent kernel that is dropped, the same entries at every step of a batch (DropConnect; Merity et al.
    2018)."""
    zoneout: Share = 0.0
    """Share of the units that keep their previous state in a step. The units are drawn anew at each step (Krueger et al. 2017)."""
    zoneout_cell: Share = 0.0
    """Share of the units whose cell state c, of an LSTM, keeps its previous value in a step, drawn anew like `zoneout`."""
    cell: str = "lstm"
    """Recurrent cell: lstm, gru, simple_rnn, min_gru or another cell in `lstm_jax.cells`, or a cell that a module in $LSTM_JAX_CELLS
    registers."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Dtype of the matrix products. Parameters and state stay float32."""
    backend: str = AUTO
    """Backend that computes the recurrence: auto chooses, compiled, hoisted, reference and others are described by `lstm-jax backends`."""
    remat: Literal["none", "sqrt"] | int = "none"
    """Number of time segments that the backward pass recomputes instead of storing, which saves memory on long sequences. 'sqrt' stands for
    the square root of the number of steps, which needs the least memory; 'none' stores everything."""

    def __post_init__(self):
        check_fields(self)
        traits = cell_traits(self.cell)
        check_backend(self.backend)
        _require_segments(self.remat)
        for name in ("recurrent_dropout", "weight_drop"):  # the gates of some cells do not read the state
            have, rate = traits.has_recurrent_kernel, getattr(self, name)
            require(have or not rate, name, rate, f"the cell {self.cell} multiplies no state by a kernel: give 0")
        require(traits.has_cell_state or not self.zoneout_cell, "zoneout_cell", self.zoneout_cell, f"the cell {self.cell} has no c: give 0")
        zoned = self.zoneout or self.zoneout_cell
        require(self.remat == "none" or not zoned, "remat", self.remat, "segments have no zoneout: give none, or no zoneout")


@dataclass(frozen=True)
class TrainConfig:
    """Length, optimiser and seed of the training."""

    epochs: Count = 3
    """Number of passes over the training examples."""
    batch_size: Rows = 32
    """Number of training examples in a step, on all devices together."""
    optimizer: str = "adam"
    """Optimiser: 'adam' and 'rmsprop' are computed as in Keras; any other name is looked up in optax (sgd, lion, adamw, ...)."""
    learning_rate: Rate = 1e-3
    """Peak learning rate."""
    schedule: Literal["constant", "cosine", "linear", "exponential"] = "constant"
    """Schedule by which the learning rate decays to `final_learning_rate` over the run. 'constant' keeps it at its peak."""
    final_learning_rate: RateOrNone = 0.0
    """Learning rate at the end of a decaying schedule. The exponential schedule needs a value above 0."""
    warmup_steps: CountOrNone = 0
    """Number of first steps in which the learning rate grows linearly from 0 to its peak."""
    clip_norm: RateOrNone = 0.0
    """Largest global norm of the gradient; a larger gradient is scaled down to it. 0 means no clipping."""
    patience: CountOrNone = 0
    """Number of epochs without a better validation loss after which training stops. 0 means no early stopping."""
    seed: Seed = 0
    """Seed of the initial weights, the dropout and the order of the training examples."""
    checkpoint_steps: CountOrNone = 0
    """Number of steps between checkpoints within an epoch. 0 saves a checkpoint only at the end of each epoch."""
    devices: Devices = 0
    """Number of devices that a batch is sharded over. 0 uses all devices; on a CPU these are one per core, or a single one that uses all
    cores if the backend is `compiled`."""

    def __post_init__(self):
        check_fields(self)
        require(
            self.schedule != "exponential" or self.final_learning_rate > 0,
            "final_learning_rate",
            self.final_learning_rate,
            "an exponential schedule ends above 0",
        )


@dataclass(frozen=True)
class RunConfig:
    """Base of the config of one run; each task adds its defaults and its own sections."""

    task: ClassVar[str]
    """Name of the task, written to config.json and shown in errors."""
    commands: ClassVar[str]
    """Commands that read a run of this task."""
    data: Any
    model: RecurrentConfig
    train: TrainConfig
