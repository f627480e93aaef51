"""The quick suite leaves out what is marked slow, and keeps cases that differ, or that the mark names."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from selection import kept_cases, left_out, spread_cases

CELLS = ["lstm", "gru"]
CASES = {f"test_x[{number}-{cell}]": {"number": str(number), "cell": cell} for number in range(3) for cell in CELLS}


def names(*numbers: int) -> list[str]:
    return [list(CASES)[number] for number in numbers]


def test_cases_that_differ() -> None:
    """The second case differs in both parameters, the third has the number that is missing."""
    assert spread_cases(CASES, 0) == []
    assert spread_cases(CASES, 1) == names(0)
    assert spread_cases(CASES, 2) == names(0, 5)
    assert {CASES[name]["number"] for name in spread_cases(CASES, 3)} == {"0", "1", "2"}


@given(st.integers(1, 12), st.integers(1, 5), st.integers(1, 5))
def test_every_value_is_chosen(count: int, rows: int, columns: int) -> None:
    """As many cases as the longest parameter has values: each value of each parameter, none of the longest twice."""
    cases = {f"{row} {column}": {"row": str(row), "column": str(column)} for row in range(rows) for column in range(columns)}
    count = min(count, len(cases))
    chosen = [cases[name] for name in spread_cases(cases, count)]
    assert len(chosen) == count
    for name, size in (("row", rows), ("column", columns)):
        assert len({case[name] for case in chosen}) == min(count, size)


def test_cases_by_parts_of_their_names() -> None:
    assert kept_cases(CASES, ["gru", "0-"]) == set(names(0, 1, 3, 5))


@pytest.mark.parametrize("keep", [6, 7, ["lstm", "gru"], ["rnn"]])
def test_marks_that_leave_out_nothing_or_name_no_case(keep: int | list[str]) -> None:
    with pytest.raises(pytest.UsageError, match="slow: "):
        kept_cases(CASES, keep)


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1])
def test_with_all_alone(number: int, request: pytest.FixtureRequest) -> None:
    named = any("::" in argument for argument in request.config.args)
    assert request.config.getoption("all") or named


def test_items(request: pytest.FixtureRequest) -> None:
    """A mark without `keep` leaves out all cases, and a test without a mark stays."""
    own = [item for item in request.session.items if item.path == request.path]
    out = {item.name for item in left_out(own)}
    assert request.node.name not in out
    assert out == {item.name for item in own if item.name.startswith("test_with_all_alone")}
