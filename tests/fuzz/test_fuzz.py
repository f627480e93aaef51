"""Tests that run about a hundred cases of the fuzzers, always the same ones. `nox -s
fuzz` runs thousands.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# the servers and the driver are `tests.fuzz`
sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.fuzz.__main__ import native_library, run_cases
from tests.fuzz.shell import Shell
from tests.fuzz.world import World, make_world

SEED = 16
CASES = {"flags": 40, "files": 60, "kills": 4}
AT_ONCE = 20
"""Largest number of cases in one test, so that no test takes minutes on a busy machine.
"""


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with make_world(native_library()) as made:
        yield made


@pytest.fixture(scope="module")
def shells(world) -> Iterator[list[Shell]]:
    with world.shell() as one, world.shell() as other:
        yield [one, other]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "first"),
    [
        (kind, first)
        for kind, count in CASES.items()
        for first in range(0, count, AT_ONCE)
    ],
)
def test_no_fault(kind, first, world, shells):
    numbers = range(first, min(first + AT_ONCE, CASES[kind]))
    rows = list(run_cases(world, shells, kind, numbers, SEED))
    assert len(rows) == len(numbers)
    faults = [
        f"{number}: {verdict.fault} ({verdict.line})"
        for number, verdict in rows
        if verdict.fault
    ]
    assert not faults, "\n".join(
        [f"python -m tests.fuzz {kind} --seed {SEED} --only NUMBER", *faults]
    )
