"""Function that uses the docstrings of a command's fields as the help texts of the command's flags."""

import dataclasses
from functools import cache
from typing import Annotated, Any, get_args

import docstring_parser
import tyro


def set_help(command: Any) -> None:
    """Use the docstring of each field of a command as the help text of the field's flag."""
    for kind in getattr(command, "__mro__", ()):
        if dataclasses.is_dataclass(kind):
            _describe(kind)


@cache
def _describe(kind: type) -> None:
    """Write the docstring of each field of a dataclass into the type annotation of the field."""
    texts = {param.arg_name: param.description for param in docstring_parser.parse_from_object(kind).params}
    fields = {field.name for field in dataclasses.fields(kind)}
    for name, hint in vars(kind).get("__annotations__", {}).items():
        for inner in (hint, *get_args(hint)):
            if isinstance(inner, type):
                set_help(inner)
        if name in fields and texts.get(name):
            described: Any = Annotated[hint, tyro.conf.arg(help=" ".join(str(texts[name]).split()))]
            kind.__annotations__[name] = described
