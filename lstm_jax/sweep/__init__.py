"""Ablations: overrides of a frozen config -> runs known by their content -> rows -> one table."""

from lstm_jax.sweep.planner import DONE, FAILED, Run, Where, content, each, flat, grid, override, rows, run, table, write_table

__all__ = ["DONE", "FAILED", "Run", "Where", "content", "each", "flat", "grid", "override", "rows", "run", "table", "write_table"]
