"""The LSTM's loops compiled for the CPU at hand; see lstm.cc."""

from lstm_jax.recurrence.native.library import build, why_not
from lstm_jax.recurrence.native.loops import run

__all__ = ["build", "run", "why_not"]
