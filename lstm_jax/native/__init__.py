"""C++ code that JAX calls. It is compiled when lstm_jax is installed, or by the function `build` for the processor of this machine."""

from importlib import import_module
from typing import Any

__all__ = [
    "build",
    "call",
    "compiled_code",
    "describe_library",
    "loaded_library",
    "threads",
    "warn_if_slow",
    "why_not",
    "why_not_products",
]  # pyright: ignore[reportUnsupportedDunderAll]


# the names are imported on first use, because an installation compiles where there is no JAX
def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("lstm_jax.native.library"), name)
    raise AttributeError(f"module lstm_jax.native has no attribute {name}")
