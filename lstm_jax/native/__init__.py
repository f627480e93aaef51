"""C++ code that JAX calls. It is compiled when lstm_jax is installed, or by the function `build` for the processor of this machine."""

from lstm_jax.native.library import build, call, describe_library, loaded_library, why_not, why_not_products
from lstm_jax.native.switch import compiled_code

__all__ = ["build", "call", "compiled_code", "describe_library", "loaded_library", "why_not", "why_not_products"]
