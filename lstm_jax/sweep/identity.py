"""Functions that import functions and classes by name, compute the ids of runs, and rebuild configs from JSON."""

import dataclasses
import hashlib
import inspect
import json
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from lstm_jax.config.values import config_values

Run = Callable[[Any], Mapping[str, Any]]
"""Function that takes a config, executes its run and returns a dict from the name of each result to its value."""


def import_name(item: Any) -> str:
    """Return the name "module:name" with which another process can import a function or class."""
    module = item.__module__
    if module == "__main__":
        main = sys.modules["__main__"]
        spec = getattr(main, "__spec__", None)  # set by python -m; a script is imported by its file name, since its folder is on the path
        module = spec.name if spec else Path(getattr(main, "__file__", None) or module).stem
    return f"{module}:{item.__qualname__}"


def import_item(name: str) -> Any:
    """Import a function or class by its name "module:name", and return it."""
    module, _, path = name.partition(":")
    item = import_module(module)
    for part in path.split("."):
        item = getattr(item, part)
    return item


def run_id(function: Run, config: Any) -> str:
    """Return the id of the run of `function` on `config`: 16 hex digits of SHA-256 over the function's name and the config's values."""
    text = json.dumps([import_name(function), config_values(config)], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def source_digest(function: Run) -> str:
    """Return 16 hex digits of SHA-256 over the source code of a function, or "" if the source is not available.

    The digest changes if the function itself is edited, but not if a function that it calls, or the data that it reads, is changed.
    """
    try:
        source = inspect.getsource(function)
    except (OSError, TypeError):
        return ""
    return hashlib.sha256(source.encode()).hexdigest()[:16]


def rebuild(kind: Any, values: Mapping[str, Any]) -> Any:
    """Rebuild a config from values that were read from JSON.

    JSON turns tuples into lists, and inner configs into dicts. Therefore every list is turned back into a tuple. A dict is turned back into
    an inner config if the `default_factory` of its field makes an inner config.

    Args:
        kind: dataclass of the config.
        values: result of `dataclasses.asdict` for the original config, written to JSON and read again.
    """
    inner = {f.name: type(f.default_factory()) for f in dataclasses.fields(kind) if f.default_factory is not dataclasses.MISSING}

    def restore(name: str, value: Any) -> Any:
        if isinstance(value, dict) and dataclasses.is_dataclass(inner.get(name)):
            return rebuild(inner[name], value)
        return tuple(value) if isinstance(value, list) else value

    return kind(**{name: restore(name, value) for name, value in values.items()})
