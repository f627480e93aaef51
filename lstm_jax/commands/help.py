"""Function that gives the flags of a command their help lines, in place of the parser's own reading of docstrings."""

import dataclasses
from functools import cache
from typing import Annotated, Any, get_args

import docstring_parser
import tyro


def set_help(command: Any) -> None:
    """Make the docstring of each field of a command, and of the configs in it, the help line of the field's flag.

    The parser tyro reads the docstrings of fields, too, but keeps the line breaks of those that are longer than one line (tyro 1.0.17), so
    that its help breaks in the middle of sentences. For this reason the docstrings are added to the annotations of the classes.

    Args:
        command: dataclass of the command. Any other callable has no flags, and is left as it is.
    """
    for kind in getattr(command, "__mro__", ()):
        if dataclasses.is_dataclass(kind):
            _describe(kind)


@cache
def _describe(kind: type) -> None:
    """Add the docstring of each field that a dataclass itself defines to the annotation of the field. A second call does nothing."""
    texts = {param.arg_name: param.description for param in docstring_parser.parse_from_object(kind).params}
    for name, hint in vars(kind).get("__annotations__", {}).items():
        for inner in (hint, *get_args(hint)):
            if isinstance(inner, type):
                set_help(inner)
        if texts.get(name):
            described: Any = Annotated[hint, tyro.conf.arg(help=" ".join(str(texts[name]).split()))]
            kind.__annotations__[name] = described
