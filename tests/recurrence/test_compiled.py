"""Tests that the C++ code of the backend `compiled` has the results of `reference`, for
sizes around its block sizes.
"""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import Case, compare_with_reference, make_arrays
from compiled_cases import MORE_SIZES, NAMES, SIZES, built, make_case
from tables import Shape, assert_close, precision

from lstm_jax import native
from lstm_jax.cells import CELLS, LSTMParams, LSTMState
from lstm_jax.recurrence import compiled, unroll
from lstm_jax.recurrence.call import Call, Options
from lstm_jax.recurrence.dropout import DropoutMasks

OTHERS, SHAPES = NAMES[1:], (*SIZES, *MORE_SIZES)
PAIRS = [
    *(("lstm", shape) for shape in SHAPES),
    *(
        (OTHERS[(n + turn) % len(OTHERS)], shape)
        for n, shape in enumerate(SHAPES)
        for turn in (0, 5, 10)
    ),
]
CALLS = [(*pair, "float64") for pair in PAIRS]
# in others, rounding errors grow
CALLS += [
    (*pair, "float32")
    for pair in PAIRS
    if pair[0] != "lstm_layernorm" and pair[1].steps <= 20
]


@pytest.mark.slow(keep=5)
@built
@pytest.mark.parametrize(("cell", "shape", "dtype"), CALLS)
def test_values_and_gradients(cell: str, shape: Shape, dtype: str) -> None:
    """Outputs, final state and gradients equal those of `reference`, for two kinds of
    options that depend on the cell and the shape.
    """
    turn = NAMES.index(cell) + SHAPES.index(shape)
    for kind in (turn, turn + 3):
        with precision(dtype):
            case, arrays = make_case(cell, shape, kind, dtype)
        tolerance = 1e-5 if dtype == "float32" else 1e-11
        compare_with_reference(
            "compiled", case, dtype, cell, tolerance, arrays, by_masks=False
        )


@pytest.mark.parametrize("products", [None, "bfloat16"])
def test_a_row_does_not_depend_on_its_batch(products: str | None) -> None:
    """Each row of an LSTM has bit-identical outputs in a batch of few rows, whose
    threads divide the units, and in one of many rows.

    The bits are also the same under `vmap` over x, and if only the last output is
    returned.
    """
    if products and native.why_not_products(products):
        pytest.skip(native.why_not_products(products))
    params, x, state, *_ = make_arrays(Case(Shape(9, 30, 20, 70)))

    def outputs(x, rows=9, **options):
        start = jax.tree.map(lambda leaf: leaf[:rows], state)
        return unroll(
            CELLS["lstm"],
            params,
            x[:rows],
            start,
            backend="compiled",
            compute_dtype=products,
            **options,
        )[0]

    whole = outputs(x)
    for rows in range(1, 5):
        np.testing.assert_array_equal(outputs(x, rows), whole[:rows])
    np.testing.assert_array_equal(outputs(x, return_sequences=False), whole[:, -1])
    np.testing.assert_array_equal(jax.vmap(outputs)(jnp.stack([x, x + 1]))[0], whole)


@pytest.mark.slow(keep=3)
@built
@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize(
    ("batch", "steps", "words", "backwards"),
    [(1, 90, 30, False), (3, 17, 2, True), (40, 5, 7, True), (33, 64, 1, False)],
)
def test_repeated_words(
    cell: str, batch: int, steps: int, words: int, backwards: bool
) -> None:
    """In float64, texts of 1 to 30 different words have the results and gradients of
    `reference`, also with dropout of the inputs.
    """
    for dropout in ("none", "input, per gate"):
        case = Case(
            Shape(batch, steps, words, 5),
            dropout=dropout,
            backwards=backwards,
            tokens=True,
        )
        compare_with_reference("compiled", case, "float64", cell, 1e-11, by_masks=False)


@built
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_gradients_of_equal_tokens_are_summed_at_the_first_step(cell: str) -> None:
    """The C++ code and its twin, which computes gradients by dropout masks, give the
    same gradient with respect to each step's x.
    """
    rng = np.random.default_rng(0)
    params, tokens = (
        CELLS[cell].init(jax.random.key(0), 3, 5),
        jnp.asarray([[4, 2, 4, 4], [1, 1, 3, 1]]),
    )
    x, mask = (
        jnp.asarray(rng.standard_normal((5, 3)), jnp.float32)[tokens],
        jnp.ones((2, 5)),
    )

    def loss(x, mask):
        return (
            unroll(
                CELLS[cell],
                params,
                x,
                dropout=DropoutMasks(None, mask),
                tokens=tokens,
                backend="compiled",
            )[0]
            ** 2
        ).sum()

    d_x = jax.grad(loss)(x, mask)
    np.testing.assert_array_equal(
        d_x.any(-1), [[True, True, False, False], [True, False, True, False]]
    )
    assert_close(jax.grad(loss, (0, 1))(x, mask)[0], d_x, "float32")


@built
def test_repeats_that_do_not_fit_the_cache() -> None:
    """Tokens do not change the gradients, even if the cache has no room for all
    repeated words.

    The text repeats 800 words. With 400 units, the cache of 4 MiB has room for 655
    words.
    """
    rng = np.random.default_rng(0)
    params = CELLS["lstm"].init(jax.random.key(0), 2, 400)
    table, ids = (
        jnp.asarray(rng.standard_normal((800, 2)), jnp.float32),
        jnp.asarray(rng.permutation(np.repeat(np.arange(800), 3))[None]),
    )

    def loss(params, table, tokens):
        return (
            unroll(
                CELLS["lstm"],
                params,
                table[ids] * 0.1,
                tokens=tokens,
                backend="compiled",
            )[0]
            ** 2
        ).sum()

    both = jax.jit(
        lambda *args: [jax.grad(loss, (0, 1))(*args, tokens) for tokens in (ids, None)]
    )
    assert_close(*both(params, table), "float32")


@built
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gates_far_out(dtype: str) -> None:
    """Gates of saturated, tiny, infinite or NaN pre-activations have the values of
    sigmoid and tanh, up to rounding.
    """
    with precision(dtype):
        x = np.concatenate(
            [
                [0.0, 1e-30, 1e-8, 1e-4, 0.3, 1, 10, 50, 100, 1e4, 1e30, np.inf],
                np.linspace(0, 20, 500),
            ]
        )
        x = np.concatenate([x, -x, [np.nan]]).astype(dtype)
        units = len(x)
        params = LSTMParams(
            jnp.zeros((1, 4 * units), dtype),
            jnp.zeros((units, 4 * units), dtype),
            jnp.tile(x, 4),
        )
        call = Call(
            params,
            jnp.zeros((1, 1, 1), dtype),
            LSTMState(*jnp.zeros((2, 1, units), dtype)),
            None,
            DropoutMasks(),
            None,
        )
        _, residuals = compiled.CompiledCell(
            Options(CELLS["lstm"], sequences=False)
        ).forward(True, True, *call)
    gates = np.asarray(residuals.kept, np.float64).reshape(4, units)
    assert np.isnan(gates[:, -1]).all()
    exact, unit = x[:-1].astype(np.longdouble), np.finfo(dtype).eps
    tanh, sigmoid = np.tanh(exact), 1 / (1 + np.exp(-np.maximum(exact, -11_000)))
    errors = np.abs(gates[:, :-1] - np.stack([sigmoid, sigmoid, tanh, sigmoid]))
    assert errors.max() <= 2 * unit
    # small numbers have a small relative error, too
    assert (errors[2] <= 4 * unit * np.abs(tanh) + np.finfo(dtype).tiny / unit).all()


THREADS = """
import hashlib, os, sys, time
from concurrent.futures import ThreadPoolExecutor
cores = 1
os.sched_getaffinity = lambda _: range(cores)
import jax, numpy as np
from lstm_jax import CELLS, LSTMParams, unroll
rng = np.random.default_rng(0)
jax.config.update("jax_disable_most_optimizations", True)
def make(backend):
    return jax.jit(jax.value_and_grad(lambda params, x: (unroll(CELLS["lstm"], params, x, backend=backend)[0] ** 2).sum(), (0, 1)))
def check(batch, units):
    global cores
    shapes = ((units, 4 * units), (units, 4 * units), (4 * units,))
    params = LSTMParams(*(rng.standard_normal(shape).astype("float32") / units**0.5 for shape in shapes))
    x = rng.standard_normal((batch, 7, units)).astype("float32")
    wanted = jax.tree.leaves(make("hoisted")(params, x))
    for cores in (1, 2, 3, 40):
        jax.clear_caches()  # the cores are counted when a program is traced
        run = make("compiled")
        forward = jax.jit(lambda params, x: unroll(CELLS["lstm"], params, x, backend="compiled")[0])
        assert f"threads = {cores} " in run.lower(params, x).as_text()
        for a, b in zip(jax.tree.leaves(run(params, x)), wanted):
            assert np.abs(a - b).max() <= 1e-5 * np.abs(b).max()
        for _ in range(20):  # the pool's threads come in any order
            value, (_, by_x) = run(params, x)
            outputs = np.asarray(forward(params, x))
            print(batch, units, "rows", hashlib.sha256(outputs.tobytes() + np.asarray(by_x).tobytes()).hexdigest())
            parts = [np.asarray(part).tobytes() for part in jax.tree.leaves(run(params, x))]
            print(batch, units, "sums", cores, hashlib.sha256(b"".join(parts)).hexdigest())
        def at_once(number):  # calls that find threads at work, awake or asleep
            time.sleep(number % 8 * 1e-4)
            value, (_, by_x) = run(params, x)
            return hashlib.sha256(np.asarray(forward(params, x)).tobytes() + np.asarray(by_x).tobytes()).hexdigest()
        with ThreadPoolExecutor(4) as callers:
            for found in callers.map(at_once, range(80)):
                print(batch, units, "rows", found)
for batch, units in SIZES:
    check(batch, units)
"""


@pytest.mark.slow
@built
def test_threads_change_nothing() -> None:
    """The number of threads changes no bit of the outputs of a row and of its gradient
    with respect to x.

    The sums over rows, such as the gradients of the parameters, may depend on the
    number of threads. With a fixed number of threads, no bit of these sums changes from
    call to call. The test needs a single CPU device that uses all cores. It therefore
    starts a new process, since this process has two CPU devices.
    """
    sizes = [(1, 22), (3, 22), (26, 22), (3, 260)]
    run = subprocess.run(
        [sys.executable, "-c", f"SIZES = {sizes}\n{THREADS}"],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    lines = run.stdout.splitlines()
    for batch, units in sizes:
        assert (
            len({line for line in lines if line.startswith(f"{batch} {units} rows")})
            == 1
        )
        assert (
            len({line for line in lines if line.startswith(f"{batch} {units} sums")})
            == 4
        )


@built
@pytest.mark.parametrize(
    ("cell", "batch"),
    [("lstm", 2), ("lstm_full_gate_recurrence", 2), ("min_gru", 2), ("min_gru", 1)],
)
def test_no_tracer_is_kept(cell: str, batch: int) -> None:
    params = CELLS[cell].init(jax.random.key(0), 3, 4)
    options = {"resets": jnp.eye(batch, 5, dtype=bool), "backend": "compiled"}
    with jax.checking_leaks():
        gradients = jax.jit(
            jax.grad(
                lambda params: unroll(
                    CELLS[cell], params, jnp.ones((batch, 5, 3)), **options
                )[0].sum()
            )
        )(params)
    assert all(leaf.any() for leaf in gradients)
