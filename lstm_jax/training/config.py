"""Config of a training."""

from dataclasses import field
from typing import Annotated, Any, Literal

from lstm_jax.base.checks import (
    Bounds,
    Checked,
    Count,
    CountOrNone,
    Devices,
    Rate,
    RateOrNone,
    Seed,
    frozen,
)
from lstm_jax.base.errors import require

ADDED = {"added": True}
"""Metadata of a field that was added after users had stored configs without it.
`lab.config.config_values` leaves such a field out while it has its default value, so
that a new config still equals the stored config."""


def added(default) -> Any:
    """Return a dataclass field with this default value and the metadata `ADDED`."""
    return field(default=default, metadata=ADDED)


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
