"""Collectives of a compiled program: what its devices exchange, and how many bytes."""

import math
import re
from typing import NamedTuple

_CALL = re.compile(r"= (\S+|\([^)]*\)) (all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute)(-start)?\(")
_ARRAY = re.compile(r"\b(pred|[a-z]+\d+)(?:e\d+m\d+\w*)?\[([\d,]*)\]")

_WITH_OPERAND = ("all-gather", "collective-permute")
"""Collectives whose asynchronous form returns its operand, too, before its result."""


class Collective(NamedTuple):
    """One collective of a program."""

    kind: str
    """Name in HLO: "all-reduce", "all-gather", "all-to-all", "reduce-scatter" or "collective-permute"."""
    bytes: int
    """Size of its result on one device."""


def collectives(hlo: str) -> list[Collective]:
    """Return the collectives of a compiled program, in the order of its text.

    A collective within a loop is listed once.

    Args:
        hlo: text of the compiled program, `jax.jit(function).lower(*arguments).compile().as_text()`.
    """
    found = []
    for shapes, kind, start in _CALL.findall(hlo):
        arrays = _ARRAY.findall(shapes)
        if start and kind in _WITH_OPERAND:
            arrays = arrays[1:2]
        found.append(Collective(kind, sum(map(_bytes, arrays))))
    return found


def _bytes(array: tuple[str, str]) -> int:
    kind, sizes = array
    bits = 8 if kind == "pred" else int(re.sub(r"\D", "", kind))
    return bits * math.prod(map(int, filter(None, sizes.split(",")))) // 8
