"""Function that uses the docstrings of a command's fields as the help texts of the command's flags."""

import dataclasses
from functools import cache
from typing import Annotated, Any, get_args

import docstring_parser
import tyro


def set_help(command: Any) -> None:
    """Use the docstring of each field of a command as the help text of the field's flag.

    If a field is a config, the docstrings of the config's fields are used in the same way.

    The argument parser tyro (version 1.0.17) would also find the docstrings, but it would keep the line breaks within sentences. This
    function therefore writes each docstring without line breaks into the type annotation of the field, where tyro reads it.

    Args:
        command: dataclass of the command. If it is a callable that is no dataclass, it has no flags, and is left as it is.
    """
    for kind in getattr(command, "__mro__", ()):
        if dataclasses.is_dataclass(kind):
            _describe(kind)


@cache
def _describe(kind: type) -> None:
    """Write the docstring of each field of a dataclass into the type annotation of the field.

    Class variables, and fields that the dataclass inherits, are left out. If the type of a field is a dataclass, its fields are treated in
    the same way. A second call with the same class does nothing.
    """
    texts = {param.arg_name: param.description for param in docstring_parser.parse_from_object(kind).params}
    fields = {field.name for field in dataclasses.fields(kind)}
    for name, hint in vars(kind).get("__annotations__", {}).items():
        for inner in (hint, *get_args(hint)):
            if isinstance(inner, type):
                set_help(inner)
        if name in fields and texts.get(name):
            described: Any = Annotated[hint, tyro.conf.arg(help=" ".join(str(texts[name]).split()))]
            kind.__annotations__[name] = described
