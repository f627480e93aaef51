"""Tests that compare Newton's method over time with sequential steps, and its parallel
scans with dense linear equations.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import (
    Case,
    compare_with_reference,
    covering_cases,
    make_arrays,
    refused,
    weigh,
)
from hypothesis import given
from hypothesis import strategies as st
from tables import Shape, assert_close, precision

from lstm_jax import CELLS, DropoutMasks, InputError, unroll
from lstm_jax.recurrence import Newton, Solution, parallel, reference, solve_states
from lstm_jax.recurrence.call import Call, Options
from lstm_jax.recurrence.parallel import NEWTON_CELLS, damped_scan, linear_scan


@pytest.fixture(params=["full", "diagonal"])
def jacobian(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run each test with the full Jacobian and with diagonal blocks as the default of
    Newton's method. Return "full" or "diagonal".
    """
    monkeypatch.setattr(
        parallel, "_LARGEST_FULL", 10_000 if request.param == "full" else 0
    )
    return request.param


@pytest.mark.slow(keep=1)
@pytest.mark.parametrize(("turn", "cell"), list(enumerate(NEWTON_CELLS)))
def test_equals_the_reference(jacobian: str, turn: int, cell: str) -> None:
    del jacobian
    for case, double in covering_cases(turn)[turn % 2 :: 2]:
        dtype = "float64" if double else "float32"
        if refused(case, "parallel", dtype, cell=cell):
            continue
        compare_with_reference("parallel", case, dtype, cell)


@pytest.mark.slow(keep=2)
@pytest.mark.parametrize(
    "dropout", ["none", "recurrent, shared", "recurrent, per gate"]
)
@pytest.mark.parametrize("cell", NEWTON_CELLS)
def test_diagonal_blocks_are_those_of_the_full_jacobian(
    x64: None, eager: None, cell: str, dropout: str
) -> None:
    case = Case(Shape(2, 3, 2, 4), mask="gaps", dropout=dropout)
    arrays = make_arrays(case, "float64", cell)
    z = CELLS[cell].project(arrays.params, jnp.swapaxes(arrays.x, 0, 1), None, None)
    start = jnp.stack(arrays.state, axis=-1)
    call = Call(
        arrays.params, z, start, jnp.asarray(arrays.mask).T, arrays.dropout, None
    )
    before = jnp.asarray(np.random.default_rng(1).normal(size=(3, *start.shape)))
    full, blocks = (
        parallel._blocks(CELLS[cell], call, before, kind) for kind in (True, False)
    )
    units, count = start.shape[1:]
    by_unit = full.reshape(3, 2, units, count, units, count)
    assert_close(
        blocks,
        jnp.stack([by_unit[:, :, unit, :, unit, :] for unit in range(units)], axis=2),
        "float64",
    )
    assert jnp.abs(by_unit[:, :, 0, :, 1, :]).max() > 0


def network(
    cell: str, units: int, steps: int, gain: float = 1.0, dtype: str = "float64"
) -> tuple[Any, Any, jax.Array, Any]:
    """Return (cell, params, x, initial state), with normal inputs x (T, 1, 3) and a
    recurrent kernel that is multiplied by `gain`.
    """
    row = CELLS[cell]
    of_params, of_x = jax.random.split(jax.random.key(0))
    params = row.init(of_params, 3, units, dtype)
    params = params._replace(recurrent_kernel=gain * params.recurrent_kernel)
    return (
        row,
        params,
        jax.random.normal(of_x, (steps, 1, 3), dtype),
        row.initial_state(1, units, dtype),
    )


def solved(problem: Any, options: Newton = Newton()) -> Solution:  # noqa: B008
    return solve_states(*problem, time_major=True, options=options)


def by_steps(problem: Any) -> Any:
    """Return the state after each step. The backend `reference` computes the states one
    after the other.
    """
    cell, params, x, state = problem
    return reference.run(
        Options(cell),
        Call(params, x, state, None, DropoutMasks(), None),
        record=lambda before, z, after: after,
    )[0]


def test_iterations(x64: None) -> None:
    """For 400 steps, Newton's method needs at most 10 iterations with the full
    Jacobian; with diagonal blocks it needs more, at most 60.
    """
    problem = network("lstm", 8, 400)
    full, diagonal = (
        solved(problem, Newton(jacobian)) for jacobian in ("full", "diagonal")
    )
    assert 2 <= full.iterations <= 10
    assert full.iterations < diagonal.iterations <= 60
    for solution in (full, diagonal):
        assert solution.residual <= 1024 * np.finfo(np.float64).eps
        assert_close(solution.states, by_steps(problem), "float64")


@pytest.mark.parametrize(
    ("cell", "steps", "limit"), [("lstm", 40, 7), ("gru", 250, 250)]
)
def test_k_iterations_make_k_states_exact(
    x64: None, jacobian: Any, cell: str, steps: int, limit: int
) -> None:
    """As many iterations as steps make all states exact, even if rounding errors grow
    by many powers of ten.
    """
    # far from the solution, the later states are far off
    problem = network(cell, 6, steps, gain=8.0)
    solution = solved(problem, Newton(jacobian, limit=limit if limit < steps else None))
    assert_close(
        *(
            jax.tree.map(lambda part: part[:limit], states)
            for states in (solution.states, by_steps(problem))
        ),
        "float64",
    )
    if limit < steps:
        assert solution.iterations == limit
        assert solution.residual > 1e-3


def test_a_large_recurrent_kernel_in_single_precision(jacobian: str) -> None:
    """With a large recurrent kernel in float32, each state of `parallel` is the result
    of a step from the state before it.

    In this case, the Jacobians at the guesses of Newton's method are large.
    """
    del jacobian
    cell, params, x, state = network("gru", 6, 120, gain=20.0, dtype="float32")
    h, _ = unroll(cell, params, x, state, time_major=True, backend="parallel")
    before, z = (
        jnp.concatenate([state.h[None], h[:-1]]),
        cell.project(params, x, None, None),
    )
    after = jax.vmap(lambda h, z: cell.step(params, type(state)(h), z, None, None).h)(
        before, z
    )
    np.testing.assert_allclose(h, after, atol=1e-5)


@pytest.mark.slow(keep=1)
def test_gradients_with_a_large_recurrent_kernel(jacobian: str) -> None:
    """With a large recurrent kernel, the gradients of a loss of only the first four
    steps equal those of `reference`.

    The products of the Jacobians of later steps may overflow. If `parallel` did not
    handle this, these gradients would be NaN.
    """
    del jacobian
    cell, params, x, state = network("gru", 6, 300, gain=20.0, dtype="float32")

    @partial(jax.jit, static_argnums=1)
    def gradients(params: Any, backend: str) -> Any:
        return jax.grad(
            lambda params: unroll(
                cell, params, x, state, time_major=True, backend=backend
            )[0][:4].sum()
        )(params)

    assert_close(gradients(params, "parallel"), gradients(params, "reference"), 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("jacobian", ["full", "diagonal"])
def test_damping_finds_the_same_states(x64: None, jacobian: Any) -> None:
    problem = network("gru", 6, 60, gain=2.0)
    plain, damped = (
        solved(problem, Newton(jacobian, damping, limit=2000)) for damping in (0.0, 0.3)
    )
    assert damped.iterations > plain.iterations
    assert_close(damped.states, plain.states, "float64")
    assert_close(plain.states, by_steps(problem), "float64")


def problem_of(seed: int, size: int, steps: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(steps, 2, size, size)), rng.normal(size=(steps, 2, size))


def dense(a: np.ndarray, row: int) -> np.ndarray:
    """Return the matrix M for which M v = b is the linear recurrence v[t] = a[t] v[t -
    1] + b[t] of one row of the batch.
    """
    steps, size = a.shape[0], a.shape[2]
    whole = np.eye(steps * size)
    for t in range(1, steps):
        whole[t * size : (t + 1) * size, (t - 1) * size : t * size] = -a[t, row]
    return whole


@given(st.integers(0, 99), st.sampled_from([1, 2, 3, 6]), st.booleans())
def test_linear_scan(seed: int, size: int, reverse: bool) -> None:
    with precision("float64"):
        a, b = problem_of(seed, size, 5)
        got = np.asarray(linear_scan(jnp.asarray(a), jnp.asarray(b), reverse))
    turn = slice(None, None, -1 if reverse else 1)
    for row in range(2):
        want = np.linalg.solve(dense(a[turn], row), b[turn, row].ravel()).reshape(
            5, size
        )
        np.testing.assert_allclose(got[turn, row], want, rtol=1e-9, atol=1e-9)


@pytest.mark.slow
@given(
    st.integers(0, 99),
    st.sampled_from([1, 2, 3, 6]),
    st.sampled_from([1e-3, 0.5, 20.0]),
)
def test_damped_scan_minimises_its_sum_of_squares(
    seed: int, size: int, damping: float
) -> None:
    with precision("float64"):
        a, b = problem_of(seed, size, 5)
        got = np.asarray(damped_scan(jnp.asarray(a), jnp.asarray(b), damping))
    for row in range(2):
        m = dense(a, row)
        normal = m.T @ m + damping * np.eye(len(m))
        want = np.linalg.solve(normal, m.T @ b[:, row].ravel())
        np.testing.assert_allclose(got[:, row].ravel(), want, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize(
    "option",
    [{"jacobian": "half"}, {"damping": -1}, {"tolerance": 0}, {"limit": 0}],
    ids=str,
)
def test_wrong_options(unchecked: None, option: dict[str, Any]) -> None:
    with pytest.raises(InputError) as error:
        Newton(**option)
    assert error.value.subject in option


def test_what_solve_states_refuses() -> None:
    cell, params, x, state = network("lstm", 2, 3, dtype="float32")
    zoneout, linear = DropoutMasks(zoneout={"h": jnp.float32(0.1)}), CELLS["min_gru"]
    changes: list[tuple[dict[str, Any], str]] = [
        ({"dropout": zoneout}, "^backend parallel: no zoneout"),
        (
            {
                "cell": linear,
                "params": linear.init(jax.random.key(0), 3, 2),
                "initial_state": None,
            },
            "^backend parallel: no cell min_gru; ",
        ),
    ]
    for change, message in changes:
        with pytest.raises(InputError, match=message):
            solve_states(
                **(
                    {
                        "cell": cell,
                        "params": params,
                        "x": x,
                        "initial_state": state,
                        "time_major": True,
                    }
                    | change
                )
            )


@pytest.mark.slow
def test_axes_and_masks() -> None:
    """`solve_states` reads x as (B, T, F) by default, and returns the states of
    `unroll` for the same lengths and resets.
    """
    cell, params, x, _ = network("gru", 4, 6, dtype="float32")
    rows = jnp.concatenate([jnp.swapaxes(x, 0, 1), jnp.ones((1, 6, 3))])
    options: dict[str, Any] = {
        "lengths": jnp.array([6, 4]),
        "resets": jnp.eye(2, 6, dtype=bool),
    }
    want, final = unroll(cell, params, rows, **options)
    h = solve_states(cell, params, rows, **options).states.h
    assert_close((h[:, -1], h[:, :4]), (final.h, want[:, :4]), "float32")


def test_rows_that_are_not_numbers_or_are_large(jacobian: str) -> None:
    """`parallel` returns NaN where `reference` does if x or the kernel contains a NaN,
    and equal values elsewhere.

    A large initial c in the first row of the batch does not change the results of the
    second row.
    """
    del jacobian
    arrays = make_arrays(Case(Shape(2, 4, 3, 4)))

    def all_of_them(backend: str) -> Any:
        def loss(params, x, c):
            results = unroll(
                CELLS["lstm"], params, x, arrays.state._replace(c=c), backend=backend
            )
            return weigh(results), results

        return jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))

    got, want = all_of_them("parallel"), all_of_them("reference")
    params, x, c = arrays.params, arrays.x, arrays.state.c
    jax.tree.map(
        partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5),
        *(run(params, x.at[0, 2, 1].set(jnp.nan), c) for run in (got, want)),
    )
    found = [program(params, x, c.at[0].set(1e5)) for program in (got, want)]
    second_rows = [(h[1], d_x[1]) for (_, (h, _)), (_, d_x) in found]
    assert_close(*second_rows, "float32")


def test_no_rows() -> None:
    cell, params, _, _ = network("simple_rnn", 2, 3, dtype="float32")
    solution = solve_states(cell, params, jnp.zeros((0, 3, 3)))
    assert (
        solution.states.h.shape,
        int(solution.iterations),
        float(solution.residual),
    ) == ((0, 3, 2), 0, 0.0)
    gradients = jax.grad(
        lambda params: unroll(cell, params, jnp.zeros((0, 3, 3)), backend="parallel")[
            0
        ].sum()
    )(params)
    assert not any(leaf.any() for leaf in gradients)
