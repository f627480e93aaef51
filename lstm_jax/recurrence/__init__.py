"""Run a cell over time; see api.py."""

from lstm_jax.recurrence.api import BACKENDS, Backend, capability_rows, resolve_backend, unroll

__all__ = ["BACKENDS", "Backend", "capability_rows", "resolve_backend", "unroll"]
