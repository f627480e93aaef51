"""Random calls of `unroll`: each gives the results of the backend `reference`, or an `InputError` if an operand is wrong.

drawn_calls.py draws the operands. It also converts them to plain operands for the backend `reference`, for example lengths to a mask and
ids to one-hot vectors. Operations run one by one (`jax.disable_jit`), so that no program is compiled for an example.

LSTM_JAX_FUZZ_EXAMPLES=10000 python -m pytest --all tests/recurrence/test_fuzz.py --timeout 0

The command above is the long run.
"""

import itertools
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import weigh
from drawn_calls import Call, Drawing, draw_call
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tables import BACKENDS

from lstm_jax import CELLS as CELL_TABLE
from lstm_jax import DropoutMasks, InputError, unroll

pytestmark = pytest.mark.usefixtures("quick_compiles")

EXAMPLES = int(os.environ.get("LSTM_JAX_FUZZ_EXAMPLES", "160"))
LONG = EXAMPLES > 1000
PROGRAMS = 500  # examples after which JAX forgets its compiled programs, which would fill the memory in a long run
ANY = settings(
    max_examples=EXAMPLES,
    derandomize=not LONG,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
    phases=[Phase.generate, Phase.shrink],
)
TOLERANCE = {"float32": 2e-5, "float64": 1e-10, "bfloat16": 6e-2}


def compare(got: Any, want: Any, tolerance: float, exact: Callable[[], Any] | None = None) -> None:
    """Check that two trees are equal up to `tolerance` times the largest entry of an array, and are NaN in the same places.

    If they are not, `got` may also be 4 times as far from `exact()`, the results in float64, as `want` is, plus the tolerance.
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


def run_call(call: Call, operands: dict[str, Any], backend: str | None):
    outputs, state = unroll(CELL_TABLE[call.cell], backend=backend, **operands)
    many = operands.get("time_major") and operands["return_sequences"]
    return jnp.swapaxes(outputs, 0, 1) if many else outputs, state


def gradients(call: Call, operands: dict[str, Any], backend: str | None) -> dict[str, Any]:
    """Return the gradients of the scalar that `weigh` makes of the results of a call, as a dict from operand to gradient.

    The operands are the parameters, the initial state and the reset state if they are given, and x (B, T, E) if `call.x_has_gradient` is
    true.
    """
    by = {"params": operands["params"]} | {name: call.clean[name] for name in ("initial_state", "reset_state") if name in call.clean}
    if call.x_has_gradient:
        by["x"] = jnp.asarray(operands["x"], call.clean["x"].dtype)
    found = jax.grad(lambda by: weigh(run_call(call, operands | by, backend)))(by)
    if "x" in found and operands.get("time_major"):
        found["x"] = jnp.swapaxes(found["x"], 0, 1)
    return found


@pytest.mark.slow(keep=1)
@pytest.mark.parametrize("x64", [False, True])
@pytest.mark.filterwarnings("ignore:Explicitly requested dtype")
def test_unroll(x64: bool) -> None:
    count = itertools.count(1)

    @settings(ANY, max_examples=EXAMPLES // 2)
    @given(st.data())
    def check(data: st.DataObject) -> None:
        if next(count) % PROGRAMS == 0:
            jax.clear_caches()
        with jax.enable_x64(x64), jax.disable_jit():
            on = Drawing(data, x64)
            call = draw_call(on)
            backend = on.one(None, *BACKENDS, "associative", "compiled" if "compiled" in BACKENDS else None)
            check_call(on, call, backend)

    check()


def check_call(on: Drawing, call: Call, backend: str | None) -> None:
    try:
        run_call(call, call.given, backend)
        refused = ""
    except InputError as error:
        refused = str(error)
    if refused:
        assert call.wrong or refused.startswith(("x: ", "backend") if call.outside else "backend"), f"refused: {refused}"
        return
    assert not call.wrong, f"accepted: {call.wrong}"
    dtype = call.clean["params"].kernel.dtype.name if call.given["compute_dtype"] in (None, "float32") else "bfloat16"
    rounded = dtype == "float64" and call.given["compute_dtype"] == "float32"
    # ids look up rows of the kernel, which are not rounded to float32 as their products with one-hot vectors are, and not multiplied by NaN
    plain = call.given if call.x_are_ids and (rounded or np.isnan(call.clean["x"]).any()) else call.clean

    def check(function: Callable, tolerance: float) -> Any:
        def exact() -> Any:
            with jax.enable_x64(True):
                clean, operands = jax.tree.map(
                    lambda a: np.asarray(a, np.float64) if getattr(a, "dtype", "") == "float32" else a, (call.clean, plain)
                )
                return function(replace(call, clean=clean), operands | {"compute_dtype": None}, "reference")

        found = function(call, call.given, backend)
        compare(found, function(call, plain, "reference"), tolerance, exact if dtype == "float32" else None)
        return found

    check(run_call, TOLERANCE[dtype])
    if dtype != "bfloat16" and on.one(False, False, True):
        # each backend may round such gradients in another order
        found = check(gradients, 10 * TOLERANCE["float32" if rounded else dtype])
        if "x" in found and not call.clean.get("dropout", DropoutMasks()).zoneout:
            check_nan(call, found)


def check_nan(call: Call, found: dict[str, Any]) -> None:
    """Check that a NaN in x is in the gradients of all parameters, and of x at all valid steps of its row since the last reset, alone."""
    x, resets = call.clean["x"], call.clean.get("resets")
    number = np.zeros(x.shape[:2]) if resets is None else np.cumsum(resets, 1)
    spread = (np.isnan(x).any(-1)[:, None] & (number[:, :, None] == number[:, None])).any(-1)
    if call.clean["mask"] is not None:
        spread &= call.clean["mask"]
    np.testing.assert_array_equal(np.isnan(found["x"]).all(-1), spread)
    np.testing.assert_array_equal(np.isnan(found["x"]).any(-1), spread)
    assert all((np.isnan(leaf) == spread.any()).all() for leaf in found["params"])
