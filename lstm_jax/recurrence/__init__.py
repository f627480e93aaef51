"""Run a cell over time; see api.py."""

from lstm_jax.recurrence.api import (
    BACKENDS,
    DROPOUTS,
    MASKS,
    Backend,
    Request,
    capability_rows,
    dropout_kinds,
    lacks,
    resolve_backend,
    unroll,
)
from lstm_jax.recurrence.native import build as build_native

__all__ = [
    "BACKENDS",
    "DROPOUTS",
    "MASKS",
    "Backend",
    "Request",
    "build_native",
    "capability_rows",
    "dropout_kinds",
    "lacks",
    "resolve_backend",
    "unroll",
]
