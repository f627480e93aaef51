"""Reference pages of the public API: one page a package, with every public name of the modules in `PACKAGES`."""

import ast
import importlib
import inspect
import re
from functools import cache
from itertools import pairwise
from typing import Any

import lstm_jax

_TRAINING = (
    "module_step",
    "module_loop",
    "optimizers",
    "step",
    "loop",
    "state",
    "callbacks",
    "metrics",
    "scoring",
    "predict",
    "checkpoint",
)
_INSPECTION = (
    "plots",
    "figures",
    "embedding_space",
    "embedding_map",
    "text_map",
    "trace",
    "attribution",
    "window",
    "offline",
    "collectives",
)
_TASKS = (
    "sentiment",
    "review_rows",
    "pretraining",
    "adversarial",
    "generation",
    "forecast",
    "base",
    "inspecting",
    "serving",
    "onnx_models",
    "demo",
)
PACKAGES: dict[str, list[str]] = {
    "lstm_jax": [],
    "layers": ["lstm_jax.layers"],
    "cells": ["lstm_jax.cells", "lstm_jax.cells.products"],
    "recurrence": ["lstm_jax.recurrence"],
    "dropout": ["lstm_jax.dropout"],
    "initializers": ["lstm_jax.initializers"],
    "models": ["lstm_jax.models", "lstm_jax.sampling"],
    "packing": ["lstm_jax.packing"],
    "training": [f"lstm_jax.training.{name}" for name in (*_TRAINING, "run_folder")],
    "tasks": [f"lstm_jax.tasks.{name}" for name in _TASKS],
    "config": ["lstm_jax.config"],
    "data": ["lstm_jax.data"],
    "sweep": ["lstm_jax.sweep", "lstm_jax.sweep.stats"],
    "inspection": [f"lstm_jax.inspection.{name}" for name in _INSPECTION],
    "convert": ["lstm_jax.convert"],
    "integrations": ["lstm_jax.integrations.keras"],
    "runtime": [f"lstm_jax.runtime.{name}" for name in ("sharding", "processes", "machine", "compilation_cache")],
    "native": ["lstm_jax.native"],
    "shapes": ["lstm_jax.shapes"],
    "errors": ["lstm_jax.errors"],
}
"""Modules of each page. The page `lstm_jax` lists what the package itself exports, with links to the other pages."""
INTERNAL = {"commands", "files", "primitives"}
"""Packages without a page here: `lstm-jax` has its own page of commands, and the others are not for users."""


def _sources(module: str) -> dict[str, str]:
    """Return a dict from each name that a module imports from another module to this other module."""
    tree = ast.parse(inspect.getsource(importlib.import_module(module)))
    found = [node for node in tree.body if isinstance(node, ast.ImportFrom) and node.module]
    return {alias.name: str(node.module) for node in found for alias in node.names}


def names(module: str) -> list[str]:
    """Return the public names of a module: `__all__`, or what it defines itself without an underscore in front."""
    loaded = importlib.import_module(module)
    if hasattr(loaded, "__all__"):
        return sorted(loaded.__all__, key=str.lower)
    public = (name for name in vars(loaded) if not name.startswith("_"))
    return [name for name in public if name in _docs(module) or getattr(getattr(loaded, name), "__module__", "") == module]


@cache
def documented() -> frozenset[str]:
    """Return the full names of everything that has an entry on a page, such as "lstm_jax.layers.LSTM"."""
    return frozenset(f"{module}.{name}" for modules in PACKAGES.values() for module in modules for name in names(module))


def page(package: str) -> str:
    """Return the page of a package in reStructuredText."""
    if package == "lstm_jax":
        return _front()
    title = f"lstm_jax.{package}"
    parts = [f"{title}\n{'=' * len(title)}"]
    for module in PACKAGES[package]:
        if module != title:
            parts.append(f"{module}\n{'-' * len(module)}")
        parts += [f".. automodule:: {module}\n   :no-members:", f".. currentmodule:: {module}"]
        parts += [_entry(module, name) for name in names(module)]
    return "\n\n".join(parts) + "\n"


def _entry(module: str, name: str) -> str:
    found = getattr(importlib.import_module(module), name)
    if inspect.isclass(found):
        options = ["members:"]
        options += ["show-inheritance:"] if any(base.__module__.startswith("lstm_jax") for base in found.__bases__) else []
        options += ["special-members: __call__"] if "__call__" in vars(found) else []
        # methods of a base class that has no entry of its own
        hidden = any(base.__module__.startswith("lstm_jax") and not _has_entry(base) for base in found.__mro__[1:])
        options += ["inherited-members: Module,Pytree,Recurrent"] if hidden and not _has_entry(found.__bases__[0]) else []
        return "\n   :".join([f".. autoclass:: {name}", *options])
    if inspect.isfunction(found):
        return f".. autofunction:: {name}"
    text = _docs(_sources(module).get(name, module)).get(name) or _described(found)
    body = "\n".join(f"   {_linked(line)}".rstrip() for line in text)
    return f".. py:data:: {name}\n\n{body}"


def _has_entry(kind: type) -> bool:
    return kind.__name__ in {full.rsplit(".", 1)[1] for full in documented()}


@cache
def _docs(module: str) -> dict[str, list[str]]:
    """Return a dict from each name that a module assigns and describes to the lines of the docstring below the assignment."""
    body = ast.parse(inspect.getsource(importlib.import_module(module))).body
    found = {}
    for node, below in pairwise(body):
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        text = below.value.value if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant) else None
        if isinstance(target, ast.Name) and isinstance(text, str):
            found[target.id] = inspect.cleandoc(text).splitlines()
    return found


def _described(found: Any) -> list[str]:
    """Return a line for a constant or a type without a docstring."""
    if isinstance(found, dict):
        return [f"Dict with the keys {', '.join(f'`{key}`' for key in found)}."]
    return [f"Equal to `{' '.join(str(found).split())}`."]


def _front() -> str:
    """Return the page of `lstm_jax` itself: a table of the exported names, each with the first line of its docstring."""
    lines = ["lstm_jax", "========", "", ".. automodule:: lstm_jax", "   :no-members:", "", ".. list-table::", "   :widths: 30 70", ""]
    for name, module in lstm_jax._MODULES.items():
        found = getattr(lstm_jax, name)
        full = f"lstm_jax.{module}.{name}"
        text = (inspect.getdoc(found) or "").splitlines()
        summary = text[0] if callable(found) else _described(found)[0]
        lines += [f"   * - :py:obj:`{name} <{full}>`", f"     - {_linked(summary)}"]
    return "\n".join(lines) + "\n"


def skip(app: Any, kind: str, name: str, found: Any, skipped: bool, options: Any) -> bool | None:
    """Leave out what a NamedTuple or an NNX module adds by itself: its docstring says what its fields are."""
    doc = getattr(found, "__doc__", None) or ""
    return True if doc.startswith("Alias for field number") else None


def signature(app: Any, kind: str, name: str, found: Any, options: Any, shown: str, returned: str) -> tuple[str, str] | None:
    """Return the arguments as Python would read them: a metaclass may hide those of a class, and some defaults have no literal."""
    if not shown:
        return None
    if kind == "class" and shown == "(*args, **kwargs)":  # the metaclass of NNX modules
        arguments = inspect.signature(found.__init__)
        plain = [value.replace(annotation=inspect.Parameter.empty) for value in list(arguments.parameters.values())[1:]]
        shown = str(arguments.replace(parameters=plain, return_annotation=inspect.Signature.empty))
    return re.sub(r"<[^<>]*>", "...", re.sub(r"<class '([\w.]+)'>", r"\1", shown)), returned


def to_rst(app: Any, kind: str, name: str, found: Any, options: Any, lines: list[str]) -> None:
    """Turn a docstring, which is written as plain text with code in backticks, into reStructuredText.

    Indented blocks become code, names of the public API become links, and other code in backticks is shown as it is.
    """
    del app, name, found, options
    # napoleon would read the words before a colon as a type: an empty comment in front keeps it from doing so
    result, before, code = ["..", ""] if kind in ("attribute", "property") and ":" in "".join(lines[:1]) else [], "", False
    for number, line in enumerate(lines):
        indented = line.startswith("    ")
        if code and line and not indented:
            code = False
        if not code and indented and number and not lines[number - 1].strip() and before and not before.startswith((" ", "-")):
            code, result = True, [*result, "::", ""]
        result.append(line if code else _linked(line))
        before = line if line.strip() else before
    lines[:] = result


@cache
def _targets() -> dict[str, str]:
    """Return a dict from each way to write a public name in a docstring to its full name."""
    found: dict[str, str] = {}
    for full in sorted(documented()):
        module, _, short = full.rpartition(".")
        found |= {full: full, full.removeprefix("lstm_jax."): full, f"{module.rpartition('.')[2]}.{short}": full}
        if short in lstm_jax._MODULES or "_" in short.strip("_") or short != short.lower():
            found[short] = full
    return found | {f"lstm_jax.{name}": f"lstm_jax.{module}.{name}" for name, module in lstm_jax._MODULES.items()}


def _linked(line: str) -> str:
    """Return a line of text with its code in backticks marked up, and the letters escaped that reStructuredText would read."""
    parts = re.split(r"`([^`]+)`", line)
    for number, part in enumerate(parts):
        if number % 2:
            target = _targets().get(part)
            parts[number] = f":py:obj:`{part} <{target}>`" if target else f"``{part}``"
        else:
            parts[number] = re.sub(r"([*|])", r"\\\1", part)
    return "".join(parts)
