"""The backend `parallel`, which computes the states of all steps of a nonlinear cell at once, by Newton's method."""

from lstm_jax.recurrence.parallel.newton import NEWTON_CELLS, Newton, Solution, run, solve_states

__all__ = ["NEWTON_CELLS", "Newton", "Solution", "run", "solve_states"]
