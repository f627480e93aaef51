"""Tests that the table in docs/reference/transformations.md has the entries that are
computed on this machine.

The columns of the table are the backends that are defaults on a CPU.
"""

import jax
import pytest
from tables import BACKENDS as SERVING
from transformations import COLUMNS, PAGE, ROWS, head, row

LINES = PAGE.read_text().splitlines()


def test_page_has_all_rows() -> None:
    assert head() == LINES[: len(head())]
    assert [
        line.split(" | ")[0].removeprefix("| ") for line in LINES[len(head()) :]
    ] == list(ROWS)


@pytest.mark.slow(keep=2)
@pytest.mark.parametrize("name", ROWS)
def test_row(name: str) -> None:
    """Each computed entry of a row equals the entry on the page, and is "exact", "exact
    through reference" or "its own path".
    """
    if jax.device_count() < 2 and ROWS[name][0] == "2":
        pytest.skip(f"needs two devices, JAX shows {jax.device_count()}")
    here = tuple(
        column for column in COLUMNS if column.backend in ("associative", *SERVING)
    )
    want = next(line for line in LINES if line.startswith(f"| {name} |")).split("|")
    for got, wanted, column in zip(
        row(name, here).split("|"), want, ("", "", "", *COLUMNS, ""), strict=True
    ):
        if column in here or column == "":
            assert got == wanted
            assert (
                got.strip() in ("exact", "exact through reference", "its own path")
                or column == ""
            )
