"""Tests of the segments of `remat`, and that they need less memory. test_contract.py
compares their values and gradients.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tables import BACKENDS

from lstm_jax import CELLS, DropoutMasks, unroll
from lstm_jax.recurrence.api import segment_length

CELL = CELLS["lstm"]


@pytest.mark.parametrize(
    ("remat", "steps", "length"),
    [
        *[
            ("sqrt", 1, 1),
            ("sqrt", 2, 1),
            ("sqrt", 9, 3),
            ("sqrt", 10, 3),
            ("sqrt", 10_000, 100),
            ("sqrt", 10_001, 100),
        ],
        *[
            (1, 7, 7),
            (2, 8, 4),
            (2, 7, 3),
            (2, 1, 1),
            (3, 7, 3),
            (7, 7, 1),
            (100, 7, 1),
        ],
    ],
)
def test_segments(remat, steps: int, length: int) -> None:
    assert segment_length(remat, steps) == length


@pytest.mark.parametrize("remat", ["sqrt", 4])
def test_a_program_for_every_length(remat, unchecked: None) -> None:
    """A program that is exported with a symbolic number of steps has no segments. Its
    outputs equal those with segments.
    """
    params = CELL.init(jax.random.key(0), 3, 4)

    def run(x):
        return unroll(CELL, params, x, remat=remat)[0]

    exported = jax.export.export(jax.jit(run))(
        jax.ShapeDtypeStruct(jax.export.symbolic_shape("2, t, 3"), jnp.float32)
    )
    for steps in (1, 9):
        x = jax.random.normal(jax.random.key(steps), (2, steps, 3))
        np.testing.assert_allclose(exported.call(x), run(x), rtol=2e-6, atol=2e-6)


@pytest.mark.slow(keep=1)
# another may take minutes to compile so many steps
@pytest.mark.parametrize("backend", BACKENDS[: BACKENDS.index("reference") + 1])
def test_less_is_kept(backend: str) -> None:
    """XLA needs less temporary memory with `remat`.

    With `remat="sqrt"`, no array (T, B, 4H) of all steps is kept. The number of steps T
    is odd and not a square.
    """
    steps, units = 907, 16
    params = CELL.init(jax.random.key(0), units, units)
    x = jax.ShapeDtypeStruct((steps, 8, units), jnp.float32)
    masks = DropoutMasks(jnp.ones((4, 8, units)), jnp.ones((4, 8, units)))

    def allotted(remat) -> int:
        def loss(params, x):
            last, _ = unroll(
                CELL,
                params,
                x,
                dropout=masks,
                time_major=True,
                return_sequences=False,
                backend=backend,
                remat=remat,
            )
            return (last**2).sum()

        analysis = (
            jax.jit(jax.grad(loss, (0, 1))).lower(params, x).compile().memory_analysis()
        )
        assert analysis is not None
        return analysis.temp_size_in_bytes

    whole = steps * 8 * units * 4
    best, halves, all_kept = (allotted(remat) for remat in ("sqrt", 2, None))
    # without `remat` z, local derivatives, h and c are kept; the compiled code stores
    # the gates in place of z and keeps no derivatives, so that two segments save less
    kept, share = (6, 0.9) if backend == "compiled" else (8, 0.8)
    assert all_kept > kept * whole
    assert best < 2.5 * whole + 2**20 // 2
    assert best < halves < share * all_kept
