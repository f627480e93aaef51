"""Calls of few rows, whose threads form a team: the number of threads changes no bit."""

import numpy as np
import pytest
from calls import recurrence
from tables import BACKENDS

pytestmark = pytest.mark.skipif("compiled" not in BACKENDS, reason="no C++ compiler to build the backend with")
# T, B, E, H: enough units for several threads, also more steps than a chunk has, and units for one thread only
SIZES = [(70, 1, 3, 200), (4, 3, 20, 140), (9, 2, 7, 260), (5, 2, 7, 16)]


@pytest.mark.slow(keep=4)
@pytest.mark.parametrize("cell", ["lstm", "gru", "simple_rnn"])
@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("ids", [False, True])
def test_threads_change_no_bit(cell: str, backward: bool, ids: bool) -> None:
    """Outputs, gradients and sums over rows, with one thread and with more threads than there are cores or units for."""
    for sizes in SIZES:
        call = recurrence(backward, sizes=sizes, ids=ids, kinds=(0, 1), cell=cell)
        alone = call.run(threads=1)
        for threads in (2, 3, 64, 2, 2, 2):
            for got, want in zip(call.run(threads=threads), alone, strict=True):
                np.testing.assert_array_equal(got, want)
