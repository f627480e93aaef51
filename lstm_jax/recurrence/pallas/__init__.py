"""The backend `pallas`: the LSTM's loops over time as Triton kernels for a GPU; see kernels.py."""

from lstm_jax.recurrence.pallas.loops import LARGEST, run

__all__ = ["LARGEST", "run"]
