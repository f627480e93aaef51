"""Tests of how the quick suite selects its tests, and of the arguments that the tests give to the mark `pytest.mark.slow`."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from selection import COLLECTED, is_filtered, kept_cases, left_out, slow_tests, spread_cases

from lstm_jax import native

CELLS = ["lstm", "gru"]
CASES = {f"test_x[{number}-{cell}]": {"number": str(number), "cell": cell} for number in range(3) for cell in CELLS}


def names(*numbers: int) -> list[str]:
    return [list(CASES)[number] for number in numbers]


def test_cases_that_differ() -> None:
    """`spread_cases` chooses cases that differ as much as possible from each other.

    The six cases have three values of "number" and two of "cell". Two chosen cases differ in both parameters. Three chosen cases have all
    values of "number".
    """
    assert spread_cases(CASES, 0) == []
    assert spread_cases(CASES, 1) == names(0)
    assert spread_cases(CASES, 2) == names(0, 5)
    assert {CASES[name]["number"] for name in spread_cases(CASES, 3)} == {"0", "1", "2"}


@given(st.integers(1, 12), st.integers(1, 5), st.integers(1, 5))
def test_every_value_is_chosen(count: int, rows: int, columns: int) -> None:
    """The `count` cases that `spread_cases` chooses have as many different values of each parameter as possible.

    The test has two parameters, with `rows` and `columns` values, and a case for each pair of values.
    """
    cases = {f"{row} {column}": {"row": str(row), "column": str(column)} for row in range(rows) for column in range(columns)}
    count = min(count, len(cases))
    chosen = [cases[name] for name in spread_cases(cases, count)]
    assert len(chosen) == count
    for name, size in (("row", rows), ("column", columns)):
        assert len({case[name] for case in chosen}) == min(count, size)


def test_cases_by_parts_of_their_names() -> None:
    assert kept_cases(CASES, ["gru", "0-"]) == set(names(0, 1, 3, 5))


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1])
def test_with_all_alone(number: int, request: pytest.FixtureRequest) -> None:
    assert not is_filtered(request.config)


@pytest.mark.slow(keep=["gru", "2-"])
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("number", [1, 2])
def test_with_cases_that_stay(number: int, cell: str, request: pytest.FixtureRequest) -> None:
    assert not is_filtered(request.config) or (number, cell) != (1, "lstm")


def test_what_is_left_out_of_this_module(request: pytest.FixtureRequest) -> None:
    own = [item for item in request.config.stash[COLLECTED] if item.path == request.path]
    alone = {f"test_with_all_alone[{number}]" for number in range(2)}
    assert {item.name for item in left_out(own)} == {*alone, "test_with_cases_that_stay[1-lstm]"}


def test_every_mark_leaves_something_out_and_keeps_what_it_names(request: pytest.FixtureRequest) -> None:
    if request.config.getoption("lf", False):
        pytest.skip("of the tests that failed, some cases alone are collected")
    for test, (cases, mark) in slow_tests(request.config.stash[COLLECTED]).items():
        assert not mark.args, test
        assert set(mark.kwargs) <= {"keep"}, test
        keep = mark.kwargs.get("keep", 0)
        assert isinstance(keep, int | list), test
        assert bool(keep) <= len(kept_cases(cases, keep)) < len(cases), test
        for part in keep if isinstance(keep, list) and not native.why_not() else ():  # some names need the backend `compiled`
            assert any(part in case for case in cases), (test, part)
