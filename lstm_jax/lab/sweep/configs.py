"""Copies of configs (frozen dataclasses) with other values, and the ids of their runs."""

import contextlib
import dataclasses
import hashlib
import inspect
import json
import pickle
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, get_args, get_type_hints

from lstm_jax.base.checks import as_tuple
from lstm_jax.base.errors import parsing, require
from lstm_jax.base.types import Values
from lstm_jax.lab.config import config_values, default
from lstm_jax.lab.runs.folder import commit_of


def is_config(value) -> bool:
    """Return whether a value is an instance of a dataclass."""
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def override(config, changes: Mapping) -> Any:
    """Return a copy of the config in which some fields have other values.

    Args:
        config: frozen dataclass.
        changes: dict from the name of a field to its new value. A name with dots, such
            as "model.units", stands for a field of an inner config.

    Raises:
        InputError: if a name in `changes` is not a field of the config.
    """
    new, inner = {}, {}
    for name, value in changes.items():
        field, _, rest = name.partition(".")
        require(
            is_config(config),
            "field",
            name,
            f"{type(config).__name__} {config!r} is no config and has no fields",
        )
        fields = [f.name for f in dataclasses.fields(config) if f.init]
        require(
            field in fields,
            "field",
            name,
            f"{type(config).__name__} has {', '.join(fields)}",
        )
        if rest:
            inner.setdefault(field, {})[rest] = value
        else:
            new[field] = value
            # a later change of the whole field replaces earlier changes of its parts
            inner.pop(field, None)
    new |= {
        field: override(new.get(field, getattr(config, field)), parts)
        for field, parts in inner.items()
    }
    # at once, since a config checks its fields together
    return dataclasses.replace(config, **new) if new else config


def variants(config, changes: Iterable[Mapping]) -> list:
    """Return one copy of the config for each dict in `changes`; see `override`."""
    return [override(config, overrides) for overrides in changes]


def grid(config, /, **axes: Sequence) -> list:
    """Return one copy of the config for every combination of the given values.

    Args:
        config: frozen dataclass.
        **axes: names of fields to vary (see `override`), with the list of values of
            each. The last field varies fastest.

    Raises:
        InputError: if a keyword is not a field of the config, or if the values of a
            field are a string or not iterable.
    """
    axes = {
        name: as_tuple(name, values, "give a list of values")
        for name, values in axes.items()
    }
    return variants(
        config,
        (dict(zip(axes, values, strict=True)) for values in product(*axes.values())),
    )


Run = Callable[[Any], Mapping[str, Any]]
"""Function that takes a config, executes its run and returns a dict from the name of
each result to its value."""


def import_name(item) -> str:
    """Return the name "module:name" with which another process can import a function or
    class.
    """
    require(
        hasattr(item, "__qualname__"),
        "function",
        item,
        "give a function with a name, by which rows are found again",
    )
    # `multiprocessing` renames it
    module = (
        main_name()
        if item.__module__ in ("__main__", "__mp_main__")
        else item.__module__
    )
    return f"{module}:{item.__qualname__}"


_main_of_parent = ""


def main_name() -> str:
    """Return the name by which another process can import the running script."""
    main = sys.modules["__main__"]
    # set by python -m; a script is imported by its file name, since its folder is on
    # the path
    spec = getattr(main, "__spec__", None)
    return _main_of_parent or (
        spec.name if spec else Path(getattr(main, "__file__", None) or "__main__").stem
    )


def set_main_name(name: str) -> None:
    """Set the name that `main_name` returns in this process."""
    global _main_of_parent
    _main_of_parent = name


def require_importable(function: Run, configs: Iterable) -> None:
    """Check that another process can import a function by its name, and rebuild configs
    by pickle.
    """
    main = Path(getattr(sys.modules["__main__"], "__file__", None) or "__main__.py")
    importable = function.__module__ != "__main__" or (
        main.is_file() and main.stem != "__main__"
    )
    remedy = (
        "another process cannot import it: define it at the top level of a module "
        'or script, or use where="here"'
    )
    require(importable, "function", import_name(function), remedy)
    for kind, item in (
        ("function", function),
        *((f"config {type(config).__name__}", config) for config in configs),
    ):
        with parsing(kind, remedy):
            pickle.dumps(item)


def run_id(function: Run, config) -> str:
    """Return the id of the run of `function` on `config`: 16 hex digits of SHA-256 over
    the function's name and the config's values.

    The name of the class of an inner config is covered only if this is not the usual
    one, in most cases the class of the field's default value (see `other_classes`). The
    values 1, 1.0 and True give different ids. Values that JSON writes in the same way
    give the same id, such as a tuple and a list.

    Raises:
        InputError: if the function has no name, or if a dict in the config has keys
            that cannot be sorted.
    """
    # no names of the default classes, so that the ids of rows that earlier versions
    # wrote stay the same
    classes = other_classes(config, config)
    name, values = import_name(function), config_values(config)
    with parsing(
        "dict in a config", "give it keys of one type, text or numbers", TypeError
    ):
        text = json.dumps(
            [name, values, *([classes] if classes else [])], sort_keys=True, default=str
        )
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def other_classes(
    value, usual, path: str = "", kinds: frozenset[type] = frozenset()
) -> dict[str, str]:
    """Return the inner configs whose class is not the usual one, as a dict from the
    path of an inner config to the name of its class.
    """
    found = {}
    if is_config(value):
        if type(value) is not type(usual) and (
            dataclasses.is_dataclass(usual) or kinds != {type(value)}
        ):
            found[path[1:]] = import_name(type(value))
        hints = _hints(type(value))
        for field in dataclasses.fields(value):
            item = getattr(value, field.name)
            annotation = hints.get(field.name, field.type)
            named = (
                frozenset({type(item)})
                if annotation == type(item).__qualname__
                else _dataclasses(annotation)
            )
            found |= other_classes(item, default(field), f"{path}.{field.name}", named)
    else:
        others = items_of(usual)
        for key, item in items_of(value).items():
            found |= other_classes(item, others.get(key), f"{path}.{key}", kinds)
    return found


def items_of(value) -> dict:
    """Return the items of a dict, or of a list or tuple by their indices. Any other
    value has none.
    """
    if isinstance(value, (list, tuple)):
        return dict(enumerate(value))
    return value if isinstance(value, dict) else {}


@cache
def _hints(kind: type) -> Values:
    try:
        return get_type_hints(kind)
    except NameError:
        return {}


def _dataclasses(annotation) -> frozenset[type]:
    if isinstance(annotation, type) and dataclasses.is_dataclass(annotation):
        return frozenset({annotation})
    return frozenset().union(*map(_dataclasses, get_args(annotation)))


def source_commit(function: Run) -> str:
    """Return the commit of the checkout with the file of a function, and "+" if a
    Python file has uncommitted changes, or "".
    """
    with contextlib.suppress(TypeError):
        if file := inspect.getsourcefile(function):
            return commit_of(Path(file), ":/*.py")
    return ""


def source_digest(function: Run) -> str:
    """Return 16 hex digits of SHA-256 over the source code of a function, or "" if the
    source is not available.
    """
    with contextlib.suppress(OSError, TypeError):
        return hashlib.sha256(inspect.getsource(function).encode()).hexdigest()[:16]
    return ""
