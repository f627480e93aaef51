"""Choice of the tests of the quick suite: what is marked `slow` is left out, but for the cases that the mark keeps."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import pytest


def spread_cases(cases: Mapping[str, Mapping[str, str]], count: int) -> list[str]:
    """Return the names of `count` cases that differ in as many parameters as they can.

    The first case is chosen first. Each next one is the case whose values have been chosen least often. If there are several, it is the one
    farthest, in the order of the cases, from those chosen.

    Args:
        cases: for each case, in order, the value of each parameter as a string.
        count: number of cases to choose, at most that of all cases.
    """
    names, chosen, used = list(cases), [], Counter()
    for _ in range(count):
        left = [place for place in range(len(names)) if place not in chosen]
        best = min(
            left,
            key=lambda place: (
                sum(used[value] for value in cases[names[place]].items()),
                -min((abs(place - other) for other in chosen), default=-place),
            ),
        )
        chosen.append(best)
        used.update(cases[names[best]].items())
    return [names[place] for place in sorted(chosen)]


def kept_cases(cases: Mapping[str, Mapping[str, str]], keep: int | list[str]) -> set[str]:
    """Return the names of those cases of a test that stay in the quick suite.

    Args:
        cases: for each case, in order, the value of each parameter as a string.
        keep: number of cases, for `spread_cases`; or parts of the names of the cases that stay.

    Raises:
        pytest.UsageError: if all cases would stay, or if no name contains one of the parts.
    """
    if isinstance(keep, list):
        for part in keep:
            if not any(part in name for name in cases):
                raise pytest.UsageError(f"slow: no case {part} among {', '.join(cases)}")
        chosen = {name for name in cases if any(part in name for part in keep)}
    else:
        chosen = set(spread_cases(cases, min(keep, len(cases))))
    if len(chosen) == len(cases):
        raise pytest.UsageError(f"slow: keep={keep} keeps all cases of {min(cases)}")
    return chosen


def _values(item: pytest.Item) -> dict[str, str]:
    callspec = getattr(item, "callspec", None)
    return {name: repr(value) for name, value in callspec.params.items()} if callspec else {}


def left_out(items: Sequence[pytest.Item]) -> list[pytest.Item]:
    """Return the items that the quick suite leaves out."""
    slow = defaultdict(list)
    for item in items:
        if item.get_closest_marker("slow"):
            slow[item.nodeid.partition("[")[0]].append(item)
    out = []
    for members in slow.values():
        cases = {item.name: _values(item) for item in members}
        stay = kept_cases(cases, members[0].get_closest_marker("slow").kwargs.get("keep", 0))
        out += [item for item in members if item.name not in stay]
    return out
