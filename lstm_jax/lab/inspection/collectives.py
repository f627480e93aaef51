"""Function that lists the collectives of a compiled program: the operations, such as
all-reduce, by which its devices exchange data.
"""

import math
import re
from typing import NamedTuple

_CALL = re.compile(
    r" = (.*?) "
    r"(all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute)(-start)?\("
)
_ARRAY = re.compile(r"\b(pred|[a-z]+\d+)(?:e\d+m\d+\w*)?\[([\d,]*)\]")

_LAYOUT, _MEMBER = re.compile(r"{.*?}"), re.compile(r"\([^()]*\)|\w+\[[\d,]*\]")
"""Layout of an array, and member of a tuple: an array or a tuple of arrays."""
_WITH_OPERAND = ("all-gather", "collective-permute", "reduce-scatter", "all-to-all")
"""Collectives whose asynchronous form returns a tuple of the operands, the results and,
on some devices, further members."""


class Collective(NamedTuple):
    """Collective operation in a compiled program, such as an all-reduce."""

    kind: str
    """Name in HLO: "all-reduce", "all-gather", "all-to-all", "reduce-scatter" or
    "collective-permute"."""
    bytes: int
    """Size of the result on one device, in bytes."""


def collectives(hlo: str) -> list[Collective]:
    """Return the collectives of a compiled program, in the order in which they stand in
    the text of the program.

    A collective within a loop is listed once, since the text contains it once.

    Args:
        hlo: text of the compiled program,
            `jax.jit(function).lower(*arguments).compile().as_text()`.
    """
    found = []
    for line in hlo.splitlines():
        if call := _CALL.search(line):
            shapes, kind, start = call.groups()
            if start and kind in _WITH_OPERAND:
                shapes = _MEMBER.findall(_LAYOUT.sub("", shapes)[1:-1])[1]
            found.append(Collective(kind, sum(map(_bytes, _ARRAY.findall(shapes)))))
    return found


def _bytes(array: tuple[str, str]) -> int:
    kind, sizes = array
    bits = 8 if kind == "pred" else int(re.sub(r"\D", "", kind))
    return bits * math.prod(map(int, filter(None, sizes.split(",")))) // 8
