"""Test of `covering_cases`, whose cases drive the tests of the backends: they cover each pair of options."""

from itertools import combinations

from cases import covering_cases
from tables import CELLS, DROPOUTS, SHAPES


def test_cases_cover_every_pair_of_options() -> None:
    """The cases of each cell contain every pair of values of two-valued options, every dropout and every shape.

    The cases of all cells together contain every pair of values of any two options.
    """
    two_valued = ("mask", "backwards", "return_sequences", "zero_output", "time_major", "initial_state")

    def pairs(rows: list[dict], names: tuple[str, ...]) -> set[tuple]:
        return {(a, row[a], b, row[b]) for row in rows for a, b in combinations(names, 2)}

    by_cell = [[case._asdict() | {"double": double} for case, double in covering_cases(n)] for n in range(len(CELLS))]
    for rows in by_cell:
        assert len(pairs(rows, (*two_valued, "double"))) == 4 * 7 * 6 / 2
        assert {row["dropout"] for row in rows} == set(DROPOUTS)
        assert {row["shape"] for row in rows} == set(SHAPES)
    every = [row for rows in by_cell for row in rows]
    many = 7 * 2 * (len(DROPOUTS) + len(SHAPES)) + len(DROPOUTS) * len(SHAPES)
    assert len(pairs(every, ("dropout", "shape", *two_valued, "double"))) == 4 * 7 * 6 / 2 + many
