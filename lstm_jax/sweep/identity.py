"""Names by which another process imports a function or class, and the id of a run."""

import dataclasses
import hashlib
import json
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

Run = Callable[[Any], Mapping[str, Any]]
"""Function that executes the run of a config and returns its results by name."""


def import_name(item: Any) -> str:
    """Return "module:name" of a function or class, by which another process imports it."""
    module = item.__module__
    if module == "__main__":
        main = sys.modules["__main__"]
        spec = getattr(main, "__spec__", None)  # set by python -m; a script is imported by its file name, since its folder is on the path
        module = spec.name if spec else Path(getattr(main, "__file__", None) or module).stem
    return f"{module}:{item.__qualname__}"


def import_item(name: str) -> Any:
    """Return the function or class that "module:name" names."""
    module, _, path = name.partition(":")
    item = import_module(module)
    for part in path.split("."):
        item = getattr(item, part)
    return item


def run_id(function: Run, config: Any) -> str:
    """Return the id of a run: 16 hex digits of SHA-256 over the function's name and the values of the config."""
    text = json.dumps([import_name(function), dataclasses.asdict(config)], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def rebuild(kind: Any, values: Mapping[str, Any]) -> Any:
    """Return the config of class `kind` from the output of `dataclasses.asdict` that was written to JSON and read again.

    JSON turns tuples into lists, so every list becomes a tuple. The class of an inner config is that of the field's default.
    """
    inner = {f.name: type(f.default_factory()) for f in dataclasses.fields(kind) if f.default_factory is not dataclasses.MISSING}

    def restore(name: str, value: Any) -> Any:
        if isinstance(value, dict) and dataclasses.is_dataclass(inner.get(name)):
            return rebuild(inner[name], value)
        return tuple(value) if isinstance(value, list) else value

    return kind(**{name: restore(name, value) for name, value in values.items()})
