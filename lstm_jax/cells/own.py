"""Cells of the user, in modules that the environment variable `LSTM_JAX_CELLS` names.

The variable contains the names of the modules, separated by commas. Through it, the
command line and the benchmark processes find the cells that the modules register.
"""

import functools
import importlib
import os

from lstm_jax.base.errors import parsing

MODULES = "LSTM_JAX_CELLS"


def import_cells() -> None:
    """Import the modules in which a user registers cells."""
    for name in filter(None, os.environ.get(MODULES, "").replace(" ", "").split(",")):
        _import(name)


@functools.cache
def _import(name: str) -> None:
    remedy = (
        "name modules that call lstm_jax.register_cell and that Python can import "
        "(PYTHONPATH=. adds those of the current folder)"
    )
    with parsing(f"${MODULES} {name}", remedy):
        importlib.import_module(name)
