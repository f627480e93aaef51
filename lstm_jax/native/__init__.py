"""Optional C++ code that is compiled for this CPU; see library.py."""

from lstm_jax.native.library import build, call, library_path, why_not
from lstm_jax.native.switch import compiled_code

__all__ = ["build", "call", "compiled_code", "library_path", "why_not"]
