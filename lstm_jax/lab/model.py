"""The recurrent layers of a task's model, from its config."""

import jax.numpy as jnp
from flax import nnx

from lstm_jax.lab.config import RecurrentConfig
from lstm_jax.layers import Bidirectional, Recurrent, RecurrentStack, recurrent


def make_stack(
    config: RecurrentConfig,
    features: int,
    *,
    sequences: bool,
    rngs: nnx.Rngs,
    **options,
) -> RecurrentStack:
    """Return the recurrent layers of a model with the settings of its config, some of
    which only one task has.

    `features` is the number of input features of the first layer, `sequences` says
    whether the last layer returns the outputs of all steps, as all others do, and
    `options` are further arguments of each layer.
    """
    bidirectional = getattr(config, "bidirectional", False)
    if bidirectional:
        options |= {"merge_mode": getattr(config, "merge", "concat")}
    layers: list[Recurrent | Bidirectional] = []
    for number in range(config.layers):
        layer = (Bidirectional if bidirectional else recurrent)(
            features,
            config.units,
            cell=config.cell,
            weight_drop=config.weight_drop,
            zoneout=config.zoneout,
            zoneout_cell=config.zoneout_cell,
            dropout=config.dropout,
            recurrent_dropout=config.recurrent_dropout,
            dropout_masks=config.dropout_masks,
            dtype=None if config.dtype == "float32" else jnp.dtype(config.dtype),
            backend=None if config.backend == "auto" else config.backend,
            remat=None if config.remat == "none" else config.remat,
            return_sequences=sequences or number < config.layers - 1,
            rngs=rngs,
            **options,
        )
        layers.append(layer)
        features = layer.output_features
    return RecurrentStack(
        layers, dropout=getattr(config, "step_dropout", 0.0), rngs=rngs
    )
