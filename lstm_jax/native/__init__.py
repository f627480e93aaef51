"""C++ code that is compiled for levels of the processor when lstm_jax is installed, or for this processor by `build`; see library.py."""

from lstm_jax.native.library import build, call, describe_library, library_path, loaded_library, why_not
from lstm_jax.native.switch import compiled_code

__all__ = ["build", "call", "compiled_code", "describe_library", "library_path", "loaded_library", "why_not"]
