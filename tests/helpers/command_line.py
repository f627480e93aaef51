"""Checks of answers of the command line, as the fixture `ask` returns them."""


def assert_error(answer: tuple[int, str, str], *needles: str) -> None:
    """Check that a command ended with code 2 and one line of error that holds each of `needles`."""
    code, _, err = answer
    assert code == 2
    lines = err.splitlines()
    assert len(lines) == 1, err
    assert lines[0].startswith("error: ")
    for needle in needles:
        assert needle in err
