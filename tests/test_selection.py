"""The quick suite leaves out what is marked slow, and keeps the cases that the mark names."""

import pytest
from selection import kept_cases, left_out

CASES = [f"test_x[{number}-{cell}]" for number in range(3) for cell in ("lstm", "gru")]


def test_cases_are_evenly_spaced_from_the_first() -> None:
    assert kept_cases(CASES, 0) == set()
    assert kept_cases(CASES, 1) == {CASES[0]}
    assert kept_cases(CASES, 3) == {CASES[0], CASES[2], CASES[4]}
    assert kept_cases(CASES, 5) == {CASES[0], CASES[1], CASES[2], CASES[3], CASES[4]}


def test_cases_by_parts_of_their_names() -> None:
    assert kept_cases(CASES, ["gru", "0-"]) == {CASES[0], *CASES[1::2]}


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
