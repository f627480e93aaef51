"""Parts of a config that every task has: recurrent layers and training."""

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args, get_origin

from lstm_jax.bounds import MOST, Count, CountOrNone, Devices, Layers, Rate, RateOrNone, Rows, Seed, Share, check_numbers
from lstm_jax.cell_names import cell_traits
from lstm_jax.errors import require


def check_fields(config: Any) -> None:
    """Check the bounds of numbers, and that a field of named choices holds one of them (the command line checks choices, a file does not).

    Raises:
        InputError: for the first field that fails.
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
    """Units of each recurrent layer."""
    layers: Layers = 1
    """Stacked recurrent layers."""
    dropout: Share = 0.0
    """Share of each recurrent layer's input features dropped, the same features at every step."""
    recurrent_dropout: Share = 0.0
    """Share of the recurrent state dropped, the same units at every step."""
    dropout_masks: Literal["keras", "per_gate", "variational"] = "keras"
    """'keras': one mask per gate with recurrent dropout, else a shared one; 'per_gate': one per gate; 'variational': shared (Gal,
    Ghahramani 2016)."""
    weight_drop: Share = 0.0
    """Share of each recurrent kernel's entries dropped, the same at every step of a batch (DropConnect; Merity et al. 2018)."""
    zoneout: Share = 0.0
    """Share of the units that keep their previous state in a step, drawn anew at each step (Krueger et al. 2017)."""
    zoneout_cell: Share = 0.0
    """Like `zoneout`, for the cell state c of an LSTM."""
    cell: str = "lstm"
    """Recurrent cell: lstm, gru, simple_rnn, min_gru, ..., or a cell registered by a module in $LSTM_JAX_CELLS; see `lstm_jax.cells`."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the matrix products; parameters and state stay float32."""
    backend: Literal["auto", "reference", "hoisted", "compiled", "cudnn", "pallas", "associative"] = "auto"
    """Recurrence backend; see `lstm-jax backends`."""
    remat: Literal["none", "sqrt"] | int = "none"
    """Segments of time that are recomputed in the backward pass instead of stored, for long sequences. 'sqrt': the square root of the
    number of steps, which needs the least memory. 'none': store everything."""

    def __post_init__(self):
        check_fields(self)
        traits = cell_traits(self.cell)
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
    """Passes over the training rows."""
    batch_size: Rows = 32
    """Rows per step, over all devices."""
    optimizer: str = "adam"
    """'adam' and 'rmsprop' as Keras computes them; any other name is looked up in optax (sgd, lion, adamw, ...)."""
    learning_rate: Rate = 1e-3
    """Peak learning rate."""
    schedule: Literal["constant", "cosine", "linear", "exponential"] = "constant"
    """Decay of the learning rate over the run, to `final_learning_rate`."""
    final_learning_rate: RateOrNone = 0.0
    """Learning rate at the end of a decaying schedule (exponential needs more than 0)."""
    warmup_steps: CountOrNone = 0
    """Steps of linear warm-up from 0."""
    clip_norm: RateOrNone = 0.0
    """Largest global norm of the gradient. 0: no clipping."""
    patience: CountOrNone = 0
    """Stop after this many epochs without a better validation loss. 0: never."""
    seed: Seed = 0
    """Seed of initial weights, dropout and the order of rows."""
    checkpoint_steps: CountOrNone = 0
    """Steps between checkpoints inside an epoch. 0: a checkpoint at the end of each epoch only."""
    devices: Devices = 0
    """Devices in the mesh. 0: all; on a CPU one per core, or a single one that uses all cores where the backend compiled runs."""

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
    """Base of the config of one run; a task adds its defaults and its own parts."""

    task: ClassVar[str]
    """Name of the task, written to config.json and shown in errors."""
    commands: ClassVar[str]
    """Commands that read a run of this task."""
    data: Any
    model: RecurrentConfig
    train: TrainConfig
