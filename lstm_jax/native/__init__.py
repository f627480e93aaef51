"""Compiled code for the CPU at hand, optional; see library.py."""

from lstm_jax.native.library import build, call, cpu_devices, library_path, why_not
from lstm_jax.native.switch import compiled_code

__all__ = ["build", "call", "compiled_code", "cpu_devices", "library_path", "why_not"]
