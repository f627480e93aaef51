"""Choice of the tests of the quick suite: what is marked `slow` is left out, but for the cases that the mark keeps."""

from collections import defaultdict
from collections.abc import Sequence

import pytest


def kept_cases(names: Sequence[str], keep: int | list[str]) -> set[str]:
    """Return those of a test's cases that stay in the quick suite.

    Args:
        names: names of the cases, in the order of the parameters.
        keep: number of cases, which are evenly spaced and begin with the first; or parts of the names of the cases that stay.

    Raises:
        pytest.UsageError: if no case would be left out, or if no name contains one of the parts.
    """
    if isinstance(keep, int):
        chosen = {names[number * len(names) // keep] for number in range(keep)}
    else:
        chosen = {name for name in names if any(part in name for part in keep)}
        for part in keep:
            if not any(part in name for name in names):
                raise pytest.UsageError(f"slow: no case {part} among {', '.join(names)}")
    if len(chosen) == len(names):
        raise pytest.UsageError(f"slow: keep={keep} keeps all cases of {names[0]}")
    return chosen


def left_out(items: Sequence[pytest.Item]) -> list[pytest.Item]:
    """Return the items that the quick suite leaves out."""
    slow = defaultdict(list)
    for item in items:
        if mark := item.get_closest_marker("slow"):
            slow[item.nodeid.partition("[")[0]].append((item, mark.kwargs.get("keep", 0)))
    return [
        item
        for cases in slow.values()
        for stay in [kept_cases([item.name for item, _ in cases], cases[0][1])]
        for item, _ in cases
        if item.name not in stay
    ]
