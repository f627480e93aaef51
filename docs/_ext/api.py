"""Generator of the reference pages of the public API, one page for each package of
`lstm_jax`.

`PACKAGES` lists the modules of each page. A page is reStructuredText for Sphinx, and
has an entry for each public name of its modules.
"""

import ast
import importlib
import inspect
import re
from functools import cache
from itertools import pairwise
from typing import Any

import lstm_jax


def _modules(package: str, names: str) -> list[str]:
    return [f"lstm_jax.{package}.{name}" for name in names.split()]


PACKAGES: dict[str, list[str]] = {
    "lstm_jax": [],
    "layers": ["lstm_jax.layers", "lstm_jax.layers.products"],
    "cells": [
        "lstm_jax.cells",
        "lstm_jax.cells.products",
        "lstm_jax.cells.initializers",
    ],
    "recurrence": [
        "lstm_jax.recurrence",
        "lstm_jax.recurrence.dropout",
        "lstm_jax.recurrence.packing",
    ],
    "training": _modules(
        "training",
        "make_train_step fit optimizers step state checkpoint parts config",
    ),
    "convert": ["lstm_jax.convert", *_modules("convert", "keras_layers onnx_model")],
    "native": ["lstm_jax.native"],
    "base": _modules("base", "errors types sharding machine"),
    "sentiment": _modules(
        "lab.sentiment",
        "config data model task rows pretraining adversarial page",
    ),
    "generation": _modules(
        "lab.generation",
        "config data model task sampling scores page",
    ),
    "forecast": _modules("lab.forecast", "config data model task page"),
    "task": _modules("lab", "task config optimizers model predict demo tasks"),
    "runs": _modules("lab.runs", "folder table reports trackers"),
    "sweep": ["lstm_jax.lab.sweep", "lstm_jax.lab.sweep.stats"],
    "inspection": _modules(
        "lab.inspection",
        "figures embedding_space text_map trace attribution window pages",
    ),
    "files": _modules("lab.files", "padding tables mapped"),
    "machine": _modules("lab.machine", "processes compilation_cache"),
}
"""Dict from the name of each page to its modules. The page "lstm_jax" has no modules:
it lists the names that the package exports, with links to the other pages."""
INTERNAL = {"commands"}
"""Packages of `lstm_jax.lab` that are not in `PACKAGES`. The commands have a page of
another kind, which docs/_ext/commands.py generates."""


def _sources(module: str) -> dict[str, str]:
    """Return a dict from each name that a module imports by `from ... import ...` to
    the full name of the module that it comes from.

    Args:
        module: full name of the module, such as "lstm_jax.layers".
    """
    tree = ast.parse(inspect.getsource(importlib.import_module(module)))
    found = [
        node for node in tree.body if isinstance(node, ast.ImportFrom) and node.module
    ]
    return {alias.name: str(node.module) for node in found for alias in node.names}


def names(module: str) -> list[str]:
    """Return the public names of a module, that is, the names in its `__all__`.

    If the module has no `__all__`, its public names are those that it defines itself
    and that do not begin with an underscore, or, if it defines none, those that it
    imports. The names that `lstm_jax` exports come first, then other functions and
    classes, then constants.

    Args:
        module: full name of the module, such as "lstm_jax.layers".
    """
    loaded = importlib.import_module(module)
    public = [name for name in vars(loaded) if not name.startswith("_")]
    own = [
        name
        for name in public
        if name in _docs(module)
        or getattr(getattr(loaded, name), "__module__", "") == module
    ]
    found = (
        sorted(loaded.__all__, key=str.lower)
        if hasattr(loaded, "__all__")
        else own or sorted(_sources(module), key=str.lower)
    )
    order = {name: place for place, name in enumerate(lstm_jax.__all__)}
    return sorted(
        found,
        key=lambda name: (
            order.get(name, len(order)),
            not callable(getattr(loaded, name)),
        ),
    )


@cache
def documented() -> frozenset[str]:
    """Return the full names, such as "lstm_jax.layers.LSTM", of all functions, classes
    and constants that have an entry on a page.
    """
    return frozenset(
        f"{module}.{name}"
        for modules in PACKAGES.values()
        for module in modules
        for name in names(module)
    )


def page(package: str) -> str:
    """Return the text of a reference page, in reStructuredText.

    Args:
        package: name of the page, a key of `PACKAGES`, such as "layers".
    """
    if package == "lstm_jax":
        return _front()
    title = f"lstm_jax.{package}"
    parts = [f"{title}\n{'=' * len(title)}"]
    for module in PACKAGES[package]:
        if module != title:
            parts.append(f"{module}\n{'-' * len(module)}")
        parts += [
            f".. automodule:: {module}\n   :no-members:",
            f".. currentmodule:: {module}",
        ]
        parts += [_entry(module, name) for name in names(module)]
    return "\n\n".join(parts) + "\n"


def _entry(module: str, name: str) -> str:
    found = getattr(importlib.import_module(module), name)
    if inspect.isclass(found):
        options = ["members:"]
        options += (
            ["show-inheritance:"]
            if any(base.__module__.startswith("lstm_jax") for base in found.__bases__)
            else []
        )
        options += ["special-members: __call__"] if "__call__" in vars(found) else []
        # methods of a base class that has no entry of its own
        hidden = any(
            base.__module__.startswith("lstm_jax") and not _has_entry(base)
            for base in found.__mro__[1:]
        )
        options += (
            ["inherited-members: Module,Pytree,Recurrent"]
            if hidden and not _has_entry(found.__bases__[0])
            else []
        )
        return "\n   :".join([f".. autoclass:: {name}", *options])
    if inspect.isfunction(found):
        return f".. autofunction:: {name}"
    text = _docs(_sources(module).get(name, module)).get(name) or _described(found)
    body = "\n".join(f"   {_linked(line)}".rstrip() for line in _whole(text))
    return f".. py:data:: {name}\n\n{body}"


def _has_entry(kind: type) -> bool:
    return kind.__name__ in {full.rsplit(".", 1)[1] for full in documented()}


@cache
def _docs(module: str) -> dict[str, list[str]]:
    """Return the docstrings of a module's constants, as a dict from the name of each
    constant to the lines of its docstring.

    The docstring of a constant is a string that stands directly below its assignment.
    Constants without a docstring are left out.

    Args:
        module: full name of the module, such as "lstm_jax.layers".
    """
    body = ast.parse(inspect.getsource(importlib.import_module(module))).body
    found = {}
    for node, below in pairwise(body):
        target = (
            node.targets[0]
            if isinstance(node, ast.Assign)
            else getattr(node, "target", None)
        )
        text = (
            below.value.value
            if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
            else None
        )
        if isinstance(target, ast.Name) and isinstance(text, str):
            found[target.id] = inspect.cleandoc(text).splitlines()
    return found


def _described(found: Any) -> list[str]:
    """Return a generated description of a constant or a type that has no docstring, as
    a list with a single line.

    The description of a dict lists its keys. The description of any other object shows
    the object as text.

    Args:
        found: constant or type to describe.
    """
    if isinstance(found, dict):
        return [f"Dict with the keys {', '.join(f'`{key}`' for key in found)}."]
    return [f"Equal to `{' '.join(str(found).split())}`."]


def _front() -> str:
    """Return the text of the reference page "lstm_jax": a table of the names that this
    package exports, each with a short description.
    """
    lines = [
        "lstm_jax",
        "========",
        "",
        ".. automodule:: lstm_jax",
        "   :no-members:",
        "",
        ".. list-table::",
        "   :widths: 30 70",
        "",
    ]
    for name, module in lstm_jax._MODULES.items():
        found = getattr(lstm_jax, name)
        full = f"lstm_jax.{module}.{name}"
        text = (inspect.getdoc(found) or "").splitlines()
        summary = text[0] if callable(found) else _described(found)[0]
        lines += [f"   * - :py:obj:`{name} <{full}>`", f"     - {_linked(summary)}"]
    return "\n".join(lines) + "\n"


def skip(
    app: Any, kind: str, name: str, found: Any, skipped: bool, options: Any
) -> bool | None:
    """Leave the fields of named tuples out of the reference pages.

    Sphinx calls this function for each member of a class, with the arguments of the
    event "autodoc-skip-member". Here `found` is the member. Python itself gives the
    fields of a named tuple docstrings such as "Alias for field number 0", which do not
    help a reader.

    Returns:
        True if the member is such a field, and is therefore left out. Otherwise None,
        which leaves the decision to Sphinx.
    """
    doc = getattr(found, "__doc__", None) or ""
    return True if doc.startswith("Alias for field number") else None


def signature(
    app: Any, kind: str, name: str, found: Any, options: Any, shown: str, returned: str
) -> tuple[str, str] | None:
    """Return the signature that the reference pages show for a function or a class.

    Sphinx calls this function with the arguments of the event
    "autodoc-process-signature". Here `shown` is the text of the arguments that Sphinx
    would show, and `returned` is the text of the return annotation. Two things are
    changed in `shown`:

    - Sphinx shows "(*args, **kwargs)" for an NNX module, because a metaclass hides the
      module's arguments. This text is replaced by the arguments of `__init__`.
    - A default value such as "<class 'x.Y'>" is shown as "x.Y". Any other text in angle
      brackets is shown as "...".

    Returns:
        The pair (text of the arguments, `returned`), or None if `shown` is empty.
    """
    if not shown:
        return None
    if kind == "class" and shown == "(*args, **kwargs)":  # the metaclass of NNX modules
        arguments = inspect.signature(found.__init__)
        plain = [
            value.replace(annotation=inspect.Parameter.empty)
            for value in list(arguments.parameters.values())[1:]
        ]
        shown = str(
            arguments.replace(
                parameters=plain, return_annotation=inspect.Signature.empty
            )
        )
    return re.sub(
        r"<[^<>]*>", "...", re.sub(r"<class '([\w.]+)'>", r"\1", shown)
    ), returned


def to_rst(
    app: Any, kind: str, name: str, found: Any, options: Any, lines: list[str]
) -> None:
    """Convert a docstring from the plain text of this project to reStructuredText, by
    changing the list `lines` in place.

    Sphinx calls this function for each docstring, with the arguments of the event
    "autodoc-process-docstring".

    Names of the public API in backticks become links. Other text in backticks is shown
    as code. An indented block that follows an empty line becomes a code block, unless
    the last line before the empty line is indented or begins a list item.
    """
    del app, name, found, options
    lines[:] = _whole(lines)
    # napoleon would read the words before a colon as a type: an empty comment in front
    # keeps it from doing so
    result, before, code = (
        ["..", ""]
        if kind in ("attribute", "property") and ":" in "".join(lines[:1])
        else [],
        "",
        False,
    )
    for number, line in enumerate(lines):
        indented = line.startswith("    ")
        if code and line and not indented:
            code = False
        if (
            not code
            and indented
            and number
            and not lines[number - 1].strip()
            and before
            and not before.startswith((" ", "-"))
        ):
            code, result = True, [*result, "::", ""]
        result.append(line if code else _linked(line))
        before = line if line.strip() else before
    lines[:] = result


@cache
def _targets() -> dict[str, str]:
    """Return a dict from each short or full name that a docstring may use for a public
    object to the full name of the object.

    For example, "LSTM" and "layers.LSTM" stand for "lstm_jax.layers.LSTM".
    """
    found: dict[str, str] = {}
    for full in sorted(documented()):
        module, _, short = full.rpartition(".")
        found |= {
            full: full,
            full.removeprefix("lstm_jax."): full,
            f"{module.rpartition('.')[2]}.{short}": full,
        }
        if (
            short in lstm_jax._MODULES
            or "_" in short.strip("_")
            or short != short.lower()
        ):
            found[short] = full
    return found | {
        f"lstm_jax.{name}": f"lstm_jax.{module}.{name}"
        for name, module in lstm_jax._MODULES.items()
    }


def _whole(lines: list[str]) -> list[str]:
    """Join lines between which code in backticks is broken."""
    found: list[str] = []
    for line in lines:
        if found and found[-1].count("`") % 2:
            found[-1] += f" {line.strip()}"
        else:
            found.append(line)
    return found


def _linked(line: str) -> str:
    """Convert a line of plain text to reStructuredText.

    Code in backticks becomes a link if it names a public object, and otherwise is
    marked as code. In other text, "*" and "|" are escaped.
    """
    parts = re.split(r"`([^`]+)`", line)
    for number, part in enumerate(parts):
        if number % 2:
            target = _targets().get(part)
            parts[number] = f":py:obj:`{part} <{target}>`" if target else f"``{part}``"
        else:
            parts[number] = re.sub(r"([*|])", r"\\\1", part)
    return "".join(parts)
