"""Selection of the tests of the quick suite.

Tests marked `slow` are left out, except for the cases that the argument `keep` of the
mark selects.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

import pytest


def _spread(cases: Mapping[str, Mapping[str, str]], count: int) -> set[str]:
    """Return the names of `count` cases that have few values of parameters in common,
    beginning with the first case.
    """
    names, chosen = list(cases), [0][:count]
    while len(chosen) < min(count, len(names)):
        used = Counter(
            value for place in chosen for value in cases[names[place]].items()
        )
        left = set(range(len(names))) - set(chosen)
        common = {
            place: sum(used[value] for value in cases[names[place]].items())
            for place in left
        }
        chosen.append(
            min(
                left,
                key=lambda place: (
                    common[place],
                    -min(abs(place - other) for other in chosen),
                    place,
                ),
            )
        )
    return {names[place] for place in chosen}


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
    out = set()
    for test, own in tests.items():
        cases = {
            item.nodeid.removeprefix(test): getattr(item, "callspec", None)
            for item in own
        }
        mark = own[0].get_closest_marker("slow")
        keep = mark.kwargs.get("keep", 0) if mark else 0
        if isinstance(keep, int):
            values = {
                name: {key: repr(value) for key, value in spec.params.items()}
                if spec
                else {}
                for name, spec in cases.items()
            }
            kept = _spread(values, keep)
        else:
            kept = {name for name in cases if any(part in name for part in keep)}
        out |= {item for item in own if item.nodeid.removeprefix(test) not in kept}
    return out
