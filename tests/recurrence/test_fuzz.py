"""Random calls of `unroll`: each gives the results of the backend `reference`, or an
`InputError` if an operand is wrong.

drawn_calls.py draws the operands. It also converts them to plain operands for the
backend `reference`, for example lengths to a mask and ids to one-hot vectors.
Operations run one by one (`jax.disable_jit`), so that no program is compiled for an
example.

LSTM_JAX_FUZZ_EXAMPLES=10000 python -m pytest --all tests/recurrence/test_fuzz.py
--timeout 0

The command above is the long run.
"""

import copy
import itertools
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import weigh
from drawn_calls import Drawing, draw_operands
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tables import BACKENDS

from lstm_jax import CELLS as CELL_TABLE
from lstm_jax import InputError, unroll

EXAMPLES = int(os.environ.get("LSTM_JAX_FUZZ_EXAMPLES", "160"))
LONG = EXAMPLES > 1000
# examples after which JAX forgets its compiled programs, which would fill the memory in
# a long run
PROGRAMS = 500
ANY = settings(
    max_examples=EXAMPLES,
    derandomize=not LONG,
    suppress_health_check=[
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.large_base_example,
    ],
    phases=[Phase.generate, Phase.shrink],
)
TOLERANCE = {"float32": 2e-5, "float64": 1e-10, "bfloat16": 6e-2}


def compare(
    got: Any, want: Any, tolerance: float, exact: Callable[[], Any] | None = None
) -> None:
    """Check that two trees are equal up to `tolerance` times the largest entry of an
    array, and are NaN in the same places.

    If they are not, `got` may also be 4 times as far from `exact()`, the results in
    float64, as `want` is, plus the tolerance.
    """
    got_leaves, want_leaves = jax.tree.leaves(got), jax.tree.leaves(want)
    assert len(got_leaves) == len(want_leaves)
    for n, (a, b) in enumerate(zip(got_leaves, want_leaves, strict=True)):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        atol = tolerance * np.abs(b[np.isfinite(b)]).max(initial=0.1)
        if exact and not np.allclose(a, b, rtol=0, atol=atol, equal_nan=True):
            b, rounded = np.asarray(jax.tree.leaves(exact())[n]), b
            atol += 4 * np.nan_to_num(np.abs(rounded - b)).max()
        np.testing.assert_allclose(a, b, rtol=0, atol=atol, equal_nan=True)


def run_call(on: Drawing, operands: dict[str, Any], backend: str | None):
    outputs, state = unroll(CELL_TABLE[on.cell], backend=backend, **operands)
    many = operands.get("time_major") and operands["return_sequences"]
    return jnp.swapaxes(outputs, 0, 1) if many else outputs, state


def gradients(
    on: Drawing, operands: dict[str, Any], backend: str | None
) -> dict[str, Any]:
    """Return the gradients of the scalar that `weigh` makes of the results of a call,
    as a dict from operand to gradient.

    The operands are the parameters, the initial state and the reset state if they are
    given, and x (B, T, E) if `on.x_has_gradient` is true.
    """
    by = {"params": operands["params"]} | {
        name: on.clean[name]
        for name in ("initial_state", "reset_state")
        if name in on.clean
    }
    if on.x_has_gradient:
        by["x"] = jnp.asarray(operands["x"], on.clean["x"].dtype)
    found = jax.grad(lambda by: weigh(run_call(on, operands | by, backend)))(by)
    if "x" in found and operands.get("time_major"):
        found["x"] = jnp.swapaxes(found["x"], 0, 1)
    return found


@pytest.mark.slow(keep=1)
@pytest.mark.parametrize("x64", [False, True])
@pytest.mark.filterwarnings("ignore:Explicitly requested dtype")
def test_unroll(x64: bool) -> None:
    count = itertools.count(1)

    @settings(ANY, max_examples=EXAMPLES // (2 if LONG else 4))
    @given(st.data())
    def check(data: st.DataObject) -> None:
        if next(count) % PROGRAMS == 0:
            jax.clear_caches()
        with jax.enable_x64(x64), jax.disable_jit():
            on = Drawing(data, x64)
            draw_operands(on)
            backend = on.one(
                None,
                *BACKENDS,
                "associative",
                "compiled" if "compiled" in BACKENDS else None,
            )
            check_call(on, backend)

    check()


def check_call(on: Drawing, backend: str | None) -> None:
    try:
        run_call(on, on.given, backend)
        refused = ""
    except InputError as error:
        refused = str(error)
    if refused:
        assert on.wrong or refused.startswith(
            ("x: ", "backend") if on.outside else "backend"
        ), f"refused: {refused}"
        return
    assert not on.wrong, f"accepted: {on.wrong}"
    dtype = (
        on.clean["params"].kernel.dtype.name
        if on.given["compute_dtype"] in (None, "float32")
        else "bfloat16"
    )
    rounded = dtype == "float64" and on.given["compute_dtype"] == "float32"
    # ids look up rows of the kernel, which are not rounded to float32 as their products
    # with one-hot vectors are, and not multiplied by NaN
    plain = (
        on.given
        if on.x_are_ids and (rounded or np.isnan(on.clean["x"]).any())
        else on.clean
    )

    def check(function: Callable, tolerance: float) -> None:
        def exact() -> Any:
            with jax.enable_x64(True):
                wide = copy.copy(on)
                wide.clean, operands = jax.tree.map(
                    lambda a: (
                        np.asarray(a, np.float64)
                        if getattr(a, "dtype", "") == "float32"
                        else a
                    ),
                    (on.clean, plain),
                )
                return function(wide, operands | {"compute_dtype": None}, "reference")

        want = function(on, plain, "reference")
        compare(
            function(on, on.given, backend),
            want,
            tolerance,
            exact if dtype == "float32" else None,
        )

    check(run_call, TOLERANCE[dtype])
    if dtype != "bfloat16" and on.one(False, False, True):
        # each backend may round such gradients in another order
        check(gradients, 10 * TOLERANCE["float32" if rounded else dtype])
