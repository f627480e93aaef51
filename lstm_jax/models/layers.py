"""Recurrent layers with the settings of a model's config."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from lstm_jax.config import RecurrentConfig


def make_layer(kind: Callable, features: int, config: RecurrentConfig, **options) -> Any:
    """Return a recurrent layer with the settings of a model's config."""
    return kind(
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
        **options,
    )
