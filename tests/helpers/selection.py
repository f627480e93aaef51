"""Selection of the tests of the quick suite.

Tests marked `slow` are left out, except for the cases that the argument `keep` of the mark selects.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

import pytest

COLLECTED = pytest.StashKey[list[pytest.Item]]()
"""Key of the list of all collected tests, before any of them are left out."""


def spread_cases(cases: Mapping[str, Mapping[str, str]], count: int) -> list[str]:
    """Return the names of `count` cases that have few values of parameters in common.

    The first case is chosen first. Each further choice is the case with the smallest overlap. The overlap of a case is a sum over its
    parameters: for each parameter, it counts the chosen cases in which the parameter has the same value. If several cases have the smallest
    overlap, the choice is the case that is farthest away, in the order of `cases`, from the nearest chosen case.

    Args:
        cases: for each case, in order, the value of each parameter as a string.
        count: number of cases to choose, at most the number of all cases.
    """
    names, chosen = list(cases), [0][:count]
    while len(chosen) < count:
        used = Counter(value for place in chosen for value in cases[names[place]].items())
        left = [place for place in range(len(names)) if place not in chosen]
        common = {place: sum(used[value] for value in cases[names[place]].items()) for place in left}
        chosen.append(min(left, key=lambda place: (common[place], -min(abs(place - other) for other in chosen))))
    return [names[place] for place in sorted(chosen)]


def kept_cases(cases: Mapping[str, Mapping[str, str]], keep: int | list[str]) -> set[str]:
    """Return the names of those cases of a test that stay in the quick suite.

    Args:
        cases: for each case, in order, the value of each parameter as a string.
        keep: if an integer, the number of cases that stay, which `spread_cases` chooses. If a list of strings, a case stays if its name
            contains one of them.
    """
    if isinstance(keep, list):
        return {name for name in cases if any(part in name for part in keep)}
    return set(spread_cases(cases, min(keep, len(cases))))


def _values(item: pytest.Item) -> dict[str, str]:
    callspec = getattr(item, "callspec", None)
    return {name: repr(value) for name, value in callspec.params.items()} if callspec else {}


def is_filtered(config: pytest.Config) -> bool:
    """Return whether only the quick suite runs: neither --all nor --lf is given, and no argument names a test with `::`."""
    return not (config.getoption("all") or config.getoption("lf", False) or any("::" in argument for argument in config.args))


def slow_tests(items: Sequence[pytest.Item]) -> dict[str, tuple[dict[str, Mapping[str, str]], pytest.Mark]]:
    """Return a dict from each test that is marked slow to a pair: its cases, in the form that `kept_cases` takes, and its mark.

    The name of a case is the part of the test's id in square brackets, including the brackets. A test without parameters has one case, with
    the name "".
    """
    found: dict[str, tuple[dict[str, Mapping[str, str]], pytest.Mark]] = {}
    for item in items:
        if mark := item.get_closest_marker("slow"):
            test = item.nodeid.partition("[")[0]
            found.setdefault(test, ({}, mark))[0][item.nodeid.removeprefix(test)] = _values(item)
    return found


def left_out(items: Sequence[pytest.Item]) -> list[pytest.Item]:
    """Return the items that the quick suite leaves out."""
    out: set[str] = set()
    for test, (cases, mark) in slow_tests(items).items():
        out |= {test + case for case in set(cases) - kept_cases(cases, mark.kwargs.get("keep", 0))}
    return [item for item in items if item.nodeid in out]
