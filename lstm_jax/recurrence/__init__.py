"""Run a cell over time; see api.py."""

from lstm_jax.recurrence.api import BACKENDS, Backend, capability_rows, resolve_backend, unroll
from lstm_jax.recurrence.native import build as build_native

__all__ = ["BACKENDS", "Backend", "build_native", "capability_rows", "resolve_backend", "unroll"]
