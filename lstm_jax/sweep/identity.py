"""Functions that import functions and classes by name, compute the ids of runs, and hand configs to other processes."""

import dataclasses
import hashlib
import inspect
import io
import json
import operator
import pickle
import sys
from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args, get_type_hints

from lstm_jax.config.shared import config_values, default
from lstm_jax.errors import InputError, require
from lstm_jax.sweep.configs import is_config

Run = Callable[[Any], Mapping[str, Any]]
"""Function that takes a config, executes its run and returns a dict from the name of each result to its value."""


def import_name(item: Any) -> str:
    """Return the name "module:name" with which another process can import a function or class."""
    require(hasattr(item, "__qualname__"), "function", item, "give a function with a name, by which rows are found again")
    module = main_name() if item.__module__ == "__main__" else item.__module__
    return f"{module}:{item.__qualname__}"


importing = False
"""Whether this process was started for a run of a sweep and is importing the function of the run at the moment."""
_main_of_parent = ""


def main_name() -> str:
    """Return the name by which another process can import the running script."""
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)  # set by python -m; a script is imported by its file name, since its folder is on the path
    return _main_of_parent or (spec.name if spec else Path(getattr(main, "__file__", None) or "__main__").stem)


def set_main_name(name: str) -> None:
    """Set the name that `main_name` returns in this process."""
    global _main_of_parent
    _main_of_parent = name


def import_item(name: str) -> Any:
    """Import a function or class by its name "module:name", and return it."""
    module, _, path = name.partition(":")
    return operator.attrgetter(path)(import_module(module))


def require_importable(item: Any, kind: str) -> None:
    """Check that another process will find a function or class by its name."""
    name = import_name(item)
    module, _, path = name.partition(":")
    try:
        has_module = item.__module__ != "__main__" or (module != "__main__" and find_spec(module) is not None)
        # not `is`: a class method is a new object at each access
        found = has_module and operator.attrgetter(path)(sys.modules.get(item.__module__)) == item
    except (AttributeError, ImportError, ValueError):
        found = False
    remedy = 'another process cannot import it: define it at the top level of a module or script, or use where="here"'
    require(found, kind, name, remedy)


def run_id(function: Run, config: Any) -> str:
    """Return the id of the run of `function` on `config`: 16 hex digits of SHA-256 over the function's name and the config's values.

    The hash does not cover the name of the class of `config`. An inner config is a config inside `config`, for example the value of a
    field. The hash covers the name of the class of an inner config only if this class is not the usual one. In most cases the usual class
    is the class of the field's default value. The docstring of `other_classes` defines the usual class.

    The values 1, 1.0 and True give different ids, although Python takes them to be equal. Values that JSON writes in the same way give the
    same id, such as a tuple and a list with the same items, or the dicts {1: "a"} and {"1": "a"}.

    Raises:
        InputError: if the function has no name, or if a dict in the config has keys that cannot be sorted.
    """
    # no names of the default classes, so that the ids of rows that earlier versions wrote stay the same
    classes = other_classes(config, config)
    name, values = import_name(function), config_values(config)
    try:
        text = json.dumps([name, values, *([classes] if classes else [])], sort_keys=True, default=str)
    except TypeError as error:
        raise InputError("dict in a config", error, "give it keys of one type, text or numbers") from error
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def other_classes(value: Any, usual: Any, path: str = "", kinds: frozenset[type] = frozenset()) -> dict[str, str]:
    """Return the inner configs whose class is not the usual one, as a dict from the path of an inner config to the name of its class."""
    found: dict[str, str] = {}
    if is_config(value):
        if type(value) is not type(usual) and (dataclasses.is_dataclass(usual) or kinds != {type(value)}):
            found[path[1:]] = import_name(type(value))
        hints = _hints(type(value))
        for field in dataclasses.fields(value):
            item, annotation = getattr(value, field.name), hints.get(field.name, field.type)
            named = frozenset({type(item)}) if annotation == type(item).__qualname__ else _dataclasses(annotation)
            found |= other_classes(item, default(field), f"{path}.{field.name}", named)
    else:
        others = items_of(usual)
        for key, item in items_of(value).items():
            found |= other_classes(item, others.get(key), f"{path}.{key}", kinds)
    return found


def items_of(value: Any) -> dict[Any, Any]:
    """Return the items of a dict, or of a list or tuple by their indices. Any other value has none."""
    if isinstance(value, (list, tuple)):
        return dict(enumerate(value))
    return value if isinstance(value, dict) else {}


@cache
def _hints(kind: type) -> dict[str, Any]:
    """Return the annotations of a class, or {} if a name in them cannot be found."""
    try:
        return get_type_hints(kind)
    except NameError:
        return {}


def _dataclasses(annotation: Any) -> frozenset[type]:
    if isinstance(annotation, type) and dataclasses.is_dataclass(annotation):
        return frozenset({annotation})
    return frozenset().union(*map(_dataclasses, get_args(annotation)))


def source_digest(function: Run) -> str:
    """Return 16 hex digits of SHA-256 over the source code of a function, or "" if the source is not available."""
    try:
        source = inspect.getsource(function)
    except (OSError, TypeError):
        return ""
    return hashlib.sha256(source.encode()).hexdigest()[:16]


class _Pickler(pickle.Pickler):
    """Pickler that stores classes by the names with which another process can import them, including classes of the module `__main__`."""

    def persistent_id(self, obj: Any) -> str | None:
        if not isinstance(obj, type):
            return None
        if dataclasses.is_dataclass(obj):
            require_importable(obj, "class of a config")
        return import_name(obj)


class ConfigUnpickler(pickle.Unpickler):
    """Unpickler that rebuilds a config from the bytes of `pickle_config` in another process, and imports each class by its name."""

    def persistent_load(self, pid: str) -> Any:
        return import_item(pid)


def pickle_config(config: Any) -> bytes:
    """Return a config as bytes, from which another process can rebuild it with `ConfigUnpickler`."""
    file = io.BytesIO()
    try:
        _Pickler(file).dump(config)
    except (AttributeError, TypeError, pickle.PicklingError) as error:
        raise InputError(f"config {type(config).__name__}", error, 'leave out what pickle cannot copy, or use where="here"') from error
    return file.getvalue()
