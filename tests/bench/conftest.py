"""Fixtures of the tests of `bench`."""

import pytest


@pytest.fixture(scope="module", autouse=True)
def quick(quick_processes):
    """Let the processes that a test starts compile quickly."""


@pytest.fixture
def path(tmp_path):
    """Return the path of a result file, which does not exist yet."""
    return tmp_path / "rows.jsonl"
