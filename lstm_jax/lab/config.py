"""Parts of a config that all tasks share: the recurrent layers and the run."""

import dataclasses
from typing import Any, ClassVar, Literal

from lstm_jax.base.checks import (
    MOST,
    Bounds,
    Checked,
    Count,
    Layers,
    Share,
    frozen,
)
from lstm_jax.base.errors import require
from lstm_jax.base.types import Texts
from lstm_jax.lab.names import AUTO, cell_traits, check_backend
from lstm_jax.training.config import TrainConfig

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
