"""Test cases of a recurrence: options and arrays of a call of `unroll`, and functions
that compute its results and gradients.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from tables import DROPOUTS, MASKS, SHAPES, Shape, assert_close, lacking, precision

from lstm_jax import CELLS, DropoutMasks, InputError, unroll


class Case(NamedTuple):
    shape: Shape = SHAPES[3]
    mask: str = "none"
    dropout: str = "none"
    backwards: bool = False
    return_sequences: bool = True
    zero_output: bool = False
    time_major: bool = False
    initial_state: bool = True
    seed: int = 0
    resets: bool = False
    ids: bool = False
    remat: int | None = None
    tokens: bool = False


cases = st.tuples(
    st.sampled_from(SHAPES),
    st.sampled_from(list(MASKS)),
    st.sampled_from(list(DROPOUTS)),
    *[st.booleans()] * 5,
    st.integers(0, 99),
).map(lambda drawn: Case(*drawn))
"""Cases without resets, ids and tokens, which Keras' layers have too."""


def covering_cases(turn: int) -> list[tuple[Case, bool]]:
    """Return eight pairs of a case and a bool, which tells whether the case is computed
    in float64.

    The options with two values follow the columns of an orthogonal array. For any two
    of these options, each pair of values therefore occurs among the eight cases. The
    dropout, the shape, resets, ids and `remat` change from case to case and with
    `turn`. Over several values of `turn`, each of them therefore occurs with both
    values of each two-valued option.
    """
    kinds, chosen = list(DROPOUTS), []
    for row in range(8):
        a, b, c = (bool(row >> bit & 1) for bit in range(3))
        dropout, shape = (
            kinds[(row + turn) % len(kinds)],
            SHAPES[(row + 2 * turn) % len(SHAPES)],
        )
        mask = "gaps" if a ^ b ^ c else "none"
        more: dict[str, Any] = {
            "resets": (row + turn) % 2 == 0,
            "ids": (row + turn) % 4 == 3,
            "remat": (None, None, 2)[(row + turn) % 3],
        }
        chosen.append(
            (Case(shape, mask, dropout, a, b, c, a ^ b, a ^ c, seed=row, **more), b ^ c)
        )
    return chosen


def request(case: Case, **more: str) -> dict[str, Any]:
    """Return the fields of a `recurrence.Request` for a case, together with the fields
    in `more`.

    If `case.mask` is not "none", the request asks for the support of a mask, and not of
    lengths.
    """
    dropped, each = (
        DROPOUTS[case.dropout],
        " per gate" * DROPOUTS[case.dropout].per_gate,
    )
    kinds = [
        name + each
        for name, there in (
            ("input dropout", dropped.input),
            ("recurrent dropout", dropped.recurrent),
        )
        if there
    ]
    own = {
        "dropout": tuple(kinds),
        "mask": "" if case.mask == "none" else "mask",
        "resets": case.resets,
    }
    return own | more


def refused(
    case: Case,
    backend: str,
    dtype: str = "float32",
    compute_dtype: str = "",
    cell: str = "lstm",
    **options,
) -> bool:
    """Return whether the backend or the cell refuses a case.

    If so, also check that `run_case` raises an `InputError` that names the reason.
    """
    asked = request(case, dtype=dtype, compute_dtype=compute_dtype or dtype, cell=cell)
    why = lacking(backend, **asked)
    stateless = (
        DROPOUTS[case.dropout].recurrent and not CELLS[cell].has_recurrent_kernel
    )
    if why or stateless:
        if compute_dtype:
            options["compute_dtype"] = compute_dtype
        with (
            precision(dtype),
            pytest.raises(
                InputError,
                match=f"^backend {backend}: {why}; |the cell {cell} multiplies no "
                "state by a kernel$",
            ),
        ):
            run_case(case, make_arrays(case, dtype, cell), backend, cell, **options)
    return bool(why) or stateless


class Arrays(NamedTuple):
    """Arrays of a case. The batch is the first axis of x (B, T, E) or (B, T), mask and
    resets (B, T), also if the case is time major.

    If there are tokens (B, T), x is a table with one row for each token. Thus steps
    with equal tokens read equal inputs.
    """

    params: Any
    x: jax.Array
    state: Any
    dropout: DropoutMasks
    mask: jax.Array | None
    resets: jax.Array | None = None
    reset_state: Any = None
    tokens: jax.Array | None = None


def usable(case: Case, cell: str) -> Case:
    """Return the case without recurrent dropout if the cell has no recurrent kernel."""
    if CELLS[cell].has_recurrent_kernel:
        return case
    return case._replace(
        dropout=case.dropout.replace("both", "input")
        if "recurrent" not in case.dropout
        else "none"
    )


def make_arrays(case: Case, dtype: str = "float32", cell: str = "lstm") -> Arrays:
    rng = np.random.default_rng(case.seed)
    batch, steps, features, units = case.shape
    row = CELLS[cell]

    def normal(like):
        rows = like.shape[0] if len(like.shape) > 1 else 1
        return jnp.asarray(
            rng.normal(size=like.shape) * (0.7 if rows <= 8 else 1.5 / np.sqrt(rows)),
            dtype,
        )

    def factors(width: int) -> jax.Array:
        lead = (row.gates,) if dropped.per_gate else ()
        return jnp.asarray((rng.random((*lead, batch, width)) < 0.6) / 0.6, dtype)

    params = jax.tree.map(
        normal,
        jax.eval_shape(lambda key: row.init(key, features, units), jax.random.key(0)),
    )
    state = jax.tree.map(
        normal, jax.eval_shape(lambda: row.initial_state(batch, units))
    )
    dropped = DROPOUTS[case.dropout]
    mask = MASKS[case.mask](rng, batch, steps)
    x = jnp.asarray(rng.normal(size=(batch, steps, features)), dtype)
    masks = DropoutMasks(
        factors(features) if dropped.input else None,
        factors(units) if dropped.recurrent else None,
    )
    resets = jnp.asarray(rng.random((batch, steps)) < 0.3) if case.resets else None
    reset_state = jax.tree.map(normal, state) if case.resets else None
    if case.ids:
        x = jnp.asarray(rng.integers(-features, features, (batch, steps)), jnp.int32)
    tokens = None
    if case.tokens:
        x, tokens = (
            normal(np.empty((features, features))),
            jnp.asarray(rng.integers(0, features, (batch, steps)), jnp.int32),
        )
    start = state if case.initial_state else None
    return Arrays(
        params,
        x,
        start,
        masks,
        None if mask is None else jnp.asarray(mask),
        resets,
        reset_state,
        tokens,
    )


def run_case(
    case: Case, arrays: Arrays, backend: str | None, cell: str = "lstm", **options
):
    """Return the pair (outputs, final state) of `unroll` for a case. The batch is the
    first axis of the outputs.
    """
    x = arrays.x if arrays.tokens is None else arrays.x[arrays.tokens]
    x, mask, resets, tokens = (
        None
        if array is None
        else jnp.swapaxes(array, 0, 1)
        if case.time_major
        else array
        for array in (x, arrays.mask, arrays.resets, arrays.tokens)
    )
    options = {"remat": case.remat} | options
    outputs, state = unroll(
        CELLS[cell],
        arrays.params,
        x,
        arrays.state,
        mask=mask,
        resets=resets,
        reset_state=arrays.reset_state,
        dropout=arrays.dropout,
        tokens=tokens,
        backwards=case.backwards,
        return_sequences=case.return_sequences,
        zero_output_for_mask=case.zero_output,
        time_major=case.time_major,
        backend=backend,
        **options,
    )
    return jnp.swapaxes(
        outputs, 0, 1
    ) if case.time_major and case.return_sequences else outputs, state


def weigh(results: Any, seed: int = 1) -> jax.Array:
    """Return the sum of all entries of `results`, each times its own random weight, so
    that errors in two entries do not cancel.
    """
    rng = np.random.default_rng(seed)
    parts = [
        (leaf * rng.normal(size=leaf.shape).astype(leaf.dtype)).sum()
        for leaf in jax.tree.leaves(results)
    ]
    return sum(parts[1:], parts[0])


def differentiate(function: Callable, *args) -> tuple[Any, Any]:
    """Return `function(*args)`, and the gradients of `weigh` of this result with
    respect to every argument, from one compiled program.
    """

    def loss(*args):
        results = function(*args)
        return weigh(results), results

    every = jax.value_and_grad(loss, tuple(range(len(args))), has_aux=True)
    (_, results), gradients = jax.jit(every)(*args)
    return results, gradients


def differentiate_all(
    case: Case,
    sets: list[Arrays],
    backend: str | None,
    cell: str = "lstm",
    by_masks: bool = True,
    **options,
):
    """Return (results of `run_case`, gradients) for each of several sets of arrays of a
    case, all from one compiled program.

    The gradients are those of `weigh` of the results with respect to every float array,
    those of dropout only if `by_masks` is true.
    """

    def loss(floats, whole):
        arrays = whole._replace(**floats)
        results = run_case(case, arrays, backend, cell, **options)
        return weigh(results), results

    every = jax.jit(jax.value_and_grad(loss, has_aux=True))
    by = [
        "params",
        "state",
        "reset_state",
        *(["dropout"] if by_masks else []),
        *([] if case.ids else ["x"]),
    ]
    found = [
        every({name: getattr(arrays, name) for name in by}, arrays) for arrays in sets
    ]
    return [(results, gradients) for (_, results), gradients in found]


def differentiate_case(
    case: Case, arrays: Arrays, backend: str | None, cell: str = "lstm", **options
):
    """Return what `differentiate_all` returns, for one set of arrays."""
    return differentiate_all(case, [arrays], backend, cell, **options)[0]


def compare_with_reference(
    backend: str,
    case: Case,
    dtype: str = "float32",
    cell: str = "lstm",
    tolerance: float = 0,
    arrays: Arrays | None = None,
    **options,
) -> None:
    """Check that the results and gradients of a case on a backend are those of
    `reference`. A tolerance of 0 means that of the dtype.
    """
    with precision(dtype):
        arrays = arrays or make_arrays(case, dtype, cell)
        got, want = (
            differentiate_case(case, arrays, name, cell, **options)
            for name in (backend, "reference")
        )
    assert_close(got, want, tolerance or dtype, f"{case} ")
