"""The LSTM's loops as Triton kernels for a GPU, one launch for all T; see kernels.py."""

from lstm_jax.recurrence.pallas.loops import LARGEST, run

__all__ = ["LARGEST", "run"]
