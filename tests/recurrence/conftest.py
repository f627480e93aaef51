"""A fixture that applies to all tests of the recurrence."""

import pytest


@pytest.fixture(scope="module", autouse=True)
def quick_recurrence(quick_compiles: None) -> None:
    """Use the fixture `quick_compiles` in every module."""
