"""The backend `parallel`, which computes the states of all steps of a nonlinear cell at once, by Newton's method."""

from lstm_jax.recurrence.parallel.newton import DEFAULTS, NEWTON_CELLS, Newton, run, solve

__all__ = ["DEFAULTS", "NEWTON_CELLS", "Newton", "run", "solve"]
