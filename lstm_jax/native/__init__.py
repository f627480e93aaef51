"""Compiled code for the CPU at hand, optional; see library.py."""

from lstm_jax.native.library import build, call, cpu_devices, library_path, why_not

__all__ = ["build", "call", "cpu_devices", "library_path", "why_not"]
