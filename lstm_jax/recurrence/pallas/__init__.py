"""The backend `pallas`, which runs the loops of the LSTM over time as Triton kernels on a GPU."""

from lstm_jax.recurrence.pallas.loops import LARGEST, run

__all__ = ["LARGEST", "run"]
