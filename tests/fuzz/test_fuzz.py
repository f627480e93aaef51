"""Some hundred cases of the fuzzers, always the same ones; `nox -s fuzz` runs thousands."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))  # the servers and the driver are `tests.fuzz`

from tests.fuzz.__main__ import native_library, run_cases
from tests.fuzz.world import World, make_world

CASES = {"flags": 100, "files": 80, "flips": 40, "kills": 4}


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with make_world(native_library()) as made:
        yield made


@pytest.mark.parametrize("kind", list(CASES))
def test_no_fault(kind, world):
    rows = list(run_cases(world, kind, range(CASES[kind]), seed=16, workers=2))
    assert len(rows) == CASES[kind]
    faults = [f"{row.number}: {row.verdict.fault} ({row.verdict.line})" for row in rows if row.verdict.fault]
    assert not faults, "\n".join(["python -m tests.fuzz {kind} --seed 16 --only NUMBER", *faults])
