"""Import of the modules of `lstm_jax.convert` without JAX.

The package itself imports JAX, which its modules for PyTorch and ONNX do not need. A peer without JAX must not load it: JAX would
count in the measured memory of the process and in the measured time to import the peer.
"""

import sys
from importlib import import_module
from importlib.util import find_spec, module_from_spec
from types import ModuleType

PACKAGE = "lstm_jax.convert"


def convert_module(name: str) -> ModuleType:
    """Import a module of `lstm_jax.convert`, such as "torch", without running `lstm_jax/convert/__init__.py`, and return it."""
    spec = find_spec(PACKAGE)
    if PACKAGE in sys.modules or spec is None:
        return import_module(f"{PACKAGE}.{name}")
    sys.modules[PACKAGE] = module_from_spec(spec)  # an empty package at the same place, until its module is imported
    try:
        return import_module(f"{PACKAGE}.{name}")
    finally:
        del sys.modules[PACKAGE]
