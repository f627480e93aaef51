"""Run a cell over time; see api.py."""

from lstm_jax.recurrence.api import BACKENDS, Backend, capability_rows, resolve_backend, unroll
from lstm_jax.recurrence.segments import Remat, check_remat

__all__ = ["BACKENDS", "Backend", "Remat", "capability_rows", "check_remat", "resolve_backend", "unroll"]
