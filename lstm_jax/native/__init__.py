"""C++ code that JAX calls. It is compiled when lstm_jax is installed, or by the
function `build` for the processor of this machine.
"""

from importlib import import_module
from typing import Any

_NAMES = (
    "build",
    "call",
    "compiled_code",
    "describe_library",
    "loaded_library",
    "threads",
    "warn_if_slow",
    "why_not",
    "why_not_products",
)
__all__ = list(_NAMES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    # the names are imported on first use, because an installation compiles where there
    # is no JAX
    if name not in _NAMES:
        raise AttributeError(f"module lstm_jax.native has no attribute {name}")
    return globals().setdefault(
        name, getattr(import_module("lstm_jax.native.library"), name)
    )
