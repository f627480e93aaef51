"""Generator of the reference page of the error messages of `lstm_jax`.

An error message consists of a subject, a value and a remedy. The page lists the
subjects and remedies, which are read from the calls of `require` and `InputError` in
the source code.
"""

import ast
from pathlib import Path

import lstm_jax

ROOT = Path(lstm_jax.__file__).parent


def page() -> str:
    """Return the text of the reference page of the error messages, in Markdown, with
    one table for each package of `lstm_jax`.
    """
    tables: dict[str, list[str]] = {}
    for path in sorted(ROOT.rglob("*.py")):
        package = path.relative_to(ROOT).parts[0].removesuffix(".py")
        tables.setdefault(package, []).extend(_rows(path))
    parts = [
        "# Error messages",
        "A wrong call, file or flag raises an [InputError](base.rst) of one "
        "line, `subject: value; remedy`. These are the subjects and "
        "remedies of the library, read from its code; words in braces are "
        "filled in. [What is checked](../safety.md) says when they arise.",
    ]
    for package, rows in tables.items():
        if rows:
            parts += [
                f"## {package}",
                "\n".join(
                    ["| subject | remedy |", "| --- | --- |", *dict.fromkeys(rows)]
                ),
            ]
    return "\n\n".join(parts) + "\n"


def _rows(path: Path) -> list[str]:
    calls = [
        node
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
    ]
    found = []
    for call in sorted(calls, key=lambda node: node.lineno):
        name = getattr(call.func, "id", "")
        first = {"require": 1, "InputError": 0}.get(name)
        if first is None or len(call.args) != first + 3:
            continue
        subject, remedy = _text(call.args[first]), _text(call.args[first + 2])
        if subject and remedy:
            found.append(f"| {_cell(subject)} | {_cell(remedy)} |")
    return found


def _text(node: ast.expr) -> str:
    """Return the text of a string or an f-string in source code, or "" if the
    expression is neither.

    In an f-string, each inserted value is replaced by braces with the name of its
    variable or attribute, or with "..." if the value is any other expression.

    Args:
        node: syntax tree of the expression.
    """
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(
            str(part.value)
            if isinstance(part, ast.Constant)
            else "{" + _name(part) + "}"
            for part in node.values
        )
    return ""


def _name(part: ast.expr) -> str:
    value = part.value if isinstance(part, ast.FormattedValue) else part
    return (
        value.attr
        if isinstance(value, ast.Attribute)
        else value.id
        if isinstance(value, ast.Name)
        else "..."
    )


def _cell(text: str) -> str:
    return "".join(
        f"\\{letter}" if letter in "*_<>[]$~|`" else letter
        for letter in " ".join(text.split())
    )
