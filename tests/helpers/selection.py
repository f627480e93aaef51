"""Selection of the tests of the quick suite.

Tests marked `slow` are left out, except for the cases that the argument `keep` of the
mark selects: a number of cases, of which all but the first are drawn at random, but
always the same ones, or parts of names.
"""

import random
from collections.abc import Sequence

import pytest


def is_filtered(config: pytest.Config) -> bool:
    """Return whether only the quick suite runs: neither --all nor --lf is given, and no
    argument names a test with `::`.
    """
    return not (
        config.getoption("all")
        or config.getoption("lf", False)
        or any("::" in argument for argument in config.args)
    )


def left_out(items: Sequence[pytest.Item]) -> set[pytest.Item]:
    """Return the items that the quick suite leaves out."""
    tests: dict[str, list[pytest.Item]] = {}
    for item in items:
        if item.get_closest_marker("slow"):
            tests.setdefault(item.nodeid.partition("[")[0], []).append(item)

    out: set[pytest.Item] = set()
    for test, cases in tests.items():
        mark = cases[0].get_closest_marker("slow")
        keep = mark.kwargs.get("keep", 0) if mark else 0
        if isinstance(keep, int):
            first, *others = cases
            random.Random(test).shuffle(others)
            kept = [first, *others][:keep]
        else:
            kept = [
                case
                for case in cases
                if any(part in case.nodeid.removeprefix(test) for part in keep)
            ]
        out |= set(cases) - set(kept)
    return out
