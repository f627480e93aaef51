"""Tests that the C++ code of the backend `compiled` has the results of its JAX twins and of other backends.

The JAX twin of a C++ function computes the same results in JAX alone. The sizes lie around the block sizes of the C++ code.
"""

import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tables import BACKENDS, assert_close

from lstm_jax.cells import CELLS, LSTMParams, LSTMState
from lstm_jax.dropout import DropoutMasks
from lstm_jax.recurrence import compiled as recurrence
from lstm_jax.recurrence import compiled as compiled_linear, unroll
from lstm_jax.recurrence.compiled_cells import COMPILED_CELLS
from lstm_jax.recurrence.call import Options
from lstm_jax.recurrence.call import Resets

pytestmark = pytest.mark.usefixtures("quick_compiles")
built = pytest.mark.skipif("compiled" not in BACKENDS, reason="no C++ compiler to build the backend with")

# (batch, units, features) around the block sizes of the C++ code: lanes (16, 8, 4), vectors (1, 2 with 12 rows, 3 with 8, 4 with 6), inner
# dimension (128, 256) and rows of a tile (32)
SIZES = [
    (1, 1, 1),
    (2, 3, 17),
    (5, 7, 2),
    (7, 9, 40),
    (13, 16, 16),
    (14, 17, 5),
    (4, 32, 31),
    (11, 33, 70),
    (32, 47, 3),
    (9, 65, 8),
    (24, 100, 105),
    (13, 270, 260),
    (150, 4, 3),
]
KINDS = [
    ("none", "none", False, True),
    ("per gate", "shared", True, False),
    ("ids", "shared", True, False),
    ("shared", "per gate", False, False),
    ("per gate", "per gate", True, True),
]
STEPS = 6


def _arrays(
    batch: int, units: int, features: int, dtype: str, input_kind: str, kind: str, masked: bool, repeated: bool, name: str = "lstm"
):
    """Return random operands of the C++ code: (params, x, state, dropout, valid, tokens, d_h, d_final).

    The C++ code may run another cell in place of the cell `name`. The parameters and the state are then those of the other cell. NumPy
    draws and computes these arrays, so that no program is compiled for them.
    """
    cell = COMPILED_CELLS[CELLS[name]].cell
    rng = np.random.default_rng(batch * 100 + units)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(dtype)

    def mask(kind: str, size: int) -> np.ndarray | None:
        per_gate = (cell.gates, batch, size) if cell.gates > 1 else (batch, size)
        shape = {"shared": (batch, size), "per gate": per_gate}.get(kind)
        return None if shape is None else (rng.integers(0, 2, shape) * 2.0).astype(dtype)

    shapes = jax.eval_shape(lambda key: cell.init(key, features, units), jax.random.key(0))
    params = jax.tree.map(lambda like: normal(*like.shape) / (like.shape[0] if like.ndim == 2 else 1) ** 0.5, shapes)
    if name == "lstm_full_gate_recurrence":  # its C++ code requires zeros where g would depend on the gates
        params.recurrent_kernel[units:, 2 * units : 3 * units] = 0
    ids = rng.integers(-features, features, (STEPS, batch)).astype(np.int32)
    tokens = rng.integers(-1, 3, (STEPS, batch)).astype(np.int32) if repeated else None
    x = ids if input_kind == "ids" else normal(STEPS, batch, features) if tokens is None else normal(4, features)[tokens + 1]
    like = jax.eval_shape(lambda: cell.initial_state(batch, units))
    width = like.h.shape[1]
    dropout = DropoutMasks(mask(input_kind, features), mask(kind, width) if cell.has_recurrent_kernel else None)
    valid = rng.integers(0, 2, (STEPS, batch)).astype(bool) if masked else None
    state, d_final = (jax.tree.map(lambda part: normal(*part.shape), like) for _ in range(2))
    return jax.tree.map(jnp.asarray, (params, x, state, dropout, valid, tokens, normal(STEPS, batch, units), d_final))


def _before(state):
    """Return a reset state that differs from `state`: its arrays with the rows in reverse order, minus 1."""
    return jax.tree.map(lambda part: jnp.asarray(np.asarray(part)[::-1] - 1), state)


@pytest.mark.slow(keep=4)
@built
@pytest.mark.parametrize(("batch", "units", "features"), SIZES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_calls_equal_their_twins(batch: int, units: int, features: int, dtype: str) -> None:
    tolerance = "float32" if dtype == "float32" else 1e-13
    turn = SIZES.index((batch, units, features)) + (dtype == "float64")
    with jax.enable_x64(dtype == "float64"):
        for kind in (KINDS[turn % 5], KINDS[(turn + 2) % 5]):
            params, x, state, dropout, valid, tokens, d_h, d_final = _arrays(batch, units, features, dtype, *kind)
            if kind != KINDS[turn % 5]:  # the code leaves out products of a tile of rows whose h is all zeros
                state = state._replace(h=jnp.asarray(np.where(np.arange(batch)[:, None] < 64, 0, state.h), dtype))
            at = jnp.asarray(np.random.default_rng(turn).random((STEPS, batch)) < 0.4)
            resets = Resets(at, _before(state)) if (turn + kind[2]) % 2 else None
            args = (params, x, state, valid, dropout, resets, tokens)
            operation = recurrence.CompiledLSTM(Options(CELLS["lstm"]))
            want = jax.jit(partial(operation.plain_forward, True))(*args)
            got = jax.jit(partial(operation.forward, True))(*args)
            assert_close(got, want, tolerance, str(kind))
            for sequences in (False, True):
                part, _ = jax.jit(partial(recurrence.CompiledLSTM(Options(CELLS["lstm"], sequences=sequences)).forward, False))(*args)
                jax.tree.map(np.testing.assert_array_equal, part, (got[0][0] if sequences else None, got[0][1]))
            wanted = (True, kind[0] != "ids", True, None, DropoutMasks(), None if resets is None else Resets(None, True), None)
            cotangents = (None if kind == KINDS[turn % 5] else d_h, d_final)
            ours, twin = (jax.jit(partial(run, wanted)) for run in (operation.backward, operation.plain_backward))
            back = (args, want[1], cotangents)
            assert_close(ours(*back), twin(*back), tolerance, str(kind))


@pytest.mark.slow(keep=["0-sizes0-gru]", "0-sizes0-lstm_peephole", "1-sizes1-lstm_layernorm", "1-sizes1-min_lstm", "2-sizes2-lstm_full"])
@built
@pytest.mark.parametrize("cell", [cell.name for cell in COMPILED_CELLS])
@pytest.mark.parametrize(("turn", "sizes"), list(enumerate([(5, 7, 2), (13, 270, 131), (33, 17, 70)])))
def test_other_cells_equal_their_twins(cell: str, turn: int, sizes: tuple[int, int, int]) -> None:
    """Outputs, states, residuals and all gradients of the C++ code equal those of its JAX twin in float64.

    Each cell is called twice. In the first call there are resets, and the gradient comes back from all outputs and from the final state. In
    the second call there are no resets, the initial state is zero, and the gradient comes back from the final state alone.
    """
    batch, units, features = sizes
    turn += list(COMPILED_CELLS).index(CELLS[cell])
    with jax.enable_x64(True):
        for more, kind in ((True, KINDS[turn % 5]), (False, KINDS[(turn + 2) % 5])):
            params, x, state, dropout, valid, tokens, d_h, d_final = _arrays(batch, units, features, "float64", *kind, cell)
            at = jnp.asarray(np.random.default_rng(turn).random((STEPS, batch)) < 0.4)
            resets = Resets(at, _before(state)) if more else None
            state = state if more else jax.tree.map(jnp.zeros_like, state)
            args = (params, x, state, valid, dropout, resets, tokens)
            operation = recurrence.CompiledCell(Options(CELLS[cell]))
            got, want = (jax.jit(partial(run, True))(*args) for run in (operation.forward, operation.plain_forward))
            assert_close(got, want, 1e-13, str(kind))
            by_inputs = (kind[0] != "ids", jax.tree.map(lambda part: True, state), None, DropoutMasks())
            by_resets = None if resets is None else Resets(None, jax.tree.map(lambda part: True, state))
            wanted = (jax.tree.map(lambda part: True, params), *by_inputs, by_resets, None)
            back = (args, want[1], (d_h if more else None, d_final))
            ours, twin = (jax.jit(partial(run, wanted)) for run in (operation.backward, operation.plain_backward))
            assert_close(ours(*back), twin(*back), 1e-12, str(kind))


@pytest.mark.slow(keep=3)
@built
@pytest.mark.parametrize("sizes", [(1, 1, 1), (6, 5, 7), (40, 3, 700), (3, 70, 131)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_linear_steps_equal_their_twins(sizes: tuple[int, int, int], dtype: str) -> None:
    """The C++ code of `LinearSteps` equals its JAX twin, also for sizes that occupy two threads and several blocks of units per thread."""
    with jax.enable_x64(dtype == "float64"):
        rng = np.random.default_rng(sizes[0])
        a, b, d_h = (jnp.asarray(rng.uniform(-1, 1, sizes), dtype) for _ in range(3))
        start, operation = jnp.asarray(rng.standard_normal(sizes[1:]), dtype), compiled_linear.LinearSteps()
        for starts in (None, jnp.asarray(rng.random(sizes[:2]) < 0.3)):
            args = (a, b, start, starts)
            got, want = operation.forward(True, *args), operation.plain_forward(True, *args)
            assert_close(got, want, dtype)
            back = (True, True, True, None), args, want[1], d_h
            assert_close(operation.backward(*back), operation.plain_backward(*back), dtype)


@pytest.mark.slow(keep=1)
@built
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_long_sequences_in_chunks(cell: str) -> None:
    """Gradients equal those of `reference` if a sequence is read in several chunks of steps, the last of which is not full."""
    rng = np.random.default_rng(0)
    params = CELLS[cell].init(jax.random.key(0), 3, 5)
    for batch, steps in ((1, 150), (3, 50), (40, 5), (100, 3)):
        x = jnp.asarray(rng.standard_normal((batch, steps, 3)), jnp.float32)

        def loss(params, x, backend):
            return (unroll(CELLS[cell], params, x, backend=backend)[0] ** 2).sum()

        got, want = (jax.jit(jax.grad(loss, (0, 1)), static_argnums=2)(params, x, backend) for backend in ("compiled", "reference"))
        assert_close(got, want, "float32")


@built
@pytest.mark.parametrize(
    ("batch", "steps", "dropped", "backwards"), [(1, 90, False, False), (3, 17, True, True), (40, 5, False, True), (33, 64, True, False)]
)
def test_repeated_words(batch: int, steps: int, dropped: bool, backwards: bool) -> None:
    """In float64, tokens change neither the loss nor the gradients with respect to the parameters and the table of word vectors.

    One compiled program reads many texts, which consist of 1 to 30 different words.
    """
    rng = np.random.default_rng(batch)
    words = 30
    cell = CELLS["gru" if batch % 2 and dropped else "lstm"]
    with jax.enable_x64(True):
        params = cell.init(jax.random.key(0), 3, 5, dtype=jnp.float64)

        def loss(params, table, ids, mask, tokens):
            dropout = DropoutMasks(mask) if dropped else None
            outputs = unroll(cell, params, table[ids], dropout=dropout, tokens=tokens, backwards=backwards, backend="compiled")[0]
            return (outputs**2).sum()

        gradients = jax.value_and_grad(loss, (0, 1))
        both = jax.jit(lambda *args: [gradients(*args, tokens) for tokens in (args[2], None)])
        for distinct in (1, 2, 3, 7, words):
            for _ in range(4):
                table, ids = jnp.asarray(rng.standard_normal((words, 3))), jnp.asarray(rng.integers(0, distinct, (batch, steps)))
                mask = jnp.asarray(rng.integers(0, 2, (cell.gates, batch, 3)) * 2.0)
                assert_close(*both(params, table, ids, mask), 1e-11)


@built
def test_repeats_that_do_not_fit_the_cache() -> None:
    """Tokens do not change the gradients, even if the cache has no room for all repeated words.

    The text repeats 800 words. With 400 units, the cache of 4 MiB has room for 655 words.
    """
    rng = np.random.default_rng(0)
    params = CELLS["lstm"].init(jax.random.key(0), 2, 400)
    table, ids = jnp.asarray(rng.standard_normal((800, 2)), jnp.float32), jnp.asarray(rng.permutation(np.repeat(np.arange(800), 3))[None])

    def loss(params, table, tokens):
        return (unroll(CELLS["lstm"], params, table[ids] * 0.1, tokens=tokens, backend="compiled")[0] ** 2).sum()

    both = jax.jit(lambda *args: [jax.grad(loss, (0, 1))(*args, tokens) for tokens in (ids, None)])
    assert_close(*both(params, table), "float32")


@built
def test_ids_that_are_not_there() -> None:
    """As in the backend `hoisted`, a negative id counts from the end, and within `jit` an id that is out of range gives NaN."""
    params = CELLS["lstm"].init(jax.random.key(0), 4, 3)
    for ids in ([[0, -1, 3]], [[1, 4, 2]], [[-5, 0, 1]]):
        x = jnp.asarray(ids)
        run = jax.jit(lambda x, backend: unroll(CELLS["lstm"], params, x, backend=backend)[0], static_argnums=1)
        outputs = [np.asarray(run(x, backend)) for backend in ("compiled", "hoisted")]
        np.testing.assert_allclose(*outputs, atol=1e-6)


@built
@pytest.mark.parametrize("cell", ["lstm", "lstm_full_gate_recurrence"])
def test_gradients_by_masks(cell: str) -> None:
    """Gradients with respect to params, x and dropout masks, all of which the JAX twin computes here, equal those of `reference`."""
    rng = np.random.default_rng(0)
    params = CELLS[cell].init(jax.random.key(0), 3, 5)
    x = jnp.asarray(rng.standard_normal((2, 4, 3)), jnp.float32)
    masks = DropoutMasks(jnp.asarray(rng.random((4, 2, 3)), jnp.float32), jnp.asarray(rng.random((2, 5)), jnp.float32))

    def loss(params, x, masks, backend):
        return (unroll(CELLS[cell], params, x, dropout=masks, backend=backend)[0] ** 2).sum()

    got, want = (jax.grad(loss, (0, 1, 2))(params, x, masks, backend) for backend in ("compiled", "reference"))
    assert_close(got, want, "float32")


@built
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gates_far_out(dtype: str) -> None:
    """Gates of saturated, tiny, infinite or NaN pre-activations have the values of sigmoid and tanh, up to rounding."""
    with jax.enable_x64(dtype == "float64"):
        x = np.concatenate([[0.0, 1e-30, 1e-8, 1e-4, 0.3, 1, 10, 50, 100, 1e4, 1e30, np.inf], np.linspace(0, 20, 500)])
        x = np.concatenate([x, -x]).astype(dtype)
        units = len(x)

        def gates(bias: jax.Array, units: int) -> np.ndarray:
            params = LSTMParams(jnp.zeros((1, 4 * units), dtype), jnp.zeros((units, 4 * units), dtype), bias)
            state = LSTMState(*jnp.zeros((2, 1, units), dtype))
            x = jnp.zeros((1, 1, 1), dtype)
            kept = recurrence.CompiledLSTM(Options(CELLS["lstm"], sequences=False)).forward(
                True, params, x, state, None, DropoutMasks(), None, None
            )[1]
            return np.asarray(kept.gates, np.float64).reshape(4, units)

        for gate in range(4):
            got = gates(jnp.zeros((4, units), dtype).at[gate].set(x).reshape(4 * units), units)[gate]
            exact = x.astype(np.longdouble)
            want = (np.tanh(exact) if gate == 2 else 1 / (1 + np.exp(-np.maximum(exact, -11_000)))).astype(np.float64)
            unit = np.finfo(dtype).eps
            assert np.abs(got - want).max() <= 2 * unit
            if gate == 2:  # tanh of a small number has a small relative error, too
                assert (np.abs(got - want) <= 4 * unit * np.abs(want) + np.finfo(dtype).tiny / unit).all()
        assert np.isnan(gates(jnp.full(12, np.nan, dtype), 3)).all()


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
    """The number of threads changes no bit of the outputs of a row and of its gradient with respect to x.

    The sums over rows, such as the gradients of the parameters, may depend on the number of threads. With a fixed number of threads, no bit
    of these sums changes from call to call. The test needs a single CPU device that uses all cores. It therefore starts a new process,
    since this process has two CPU devices.
    """
    sizes = [(1, 22), (3, 22), (26, 22), (3, 260)]
    run = subprocess.run([sys.executable, "-c", f"SIZES = {sizes}\n{THREADS}"], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    lines = run.stdout.splitlines()
    for batch, units in sizes:
        assert len({line for line in lines if line.startswith(f"{batch} {units} rows")}) == 1
        assert len({line for line in lines if line.startswith(f"{batch} {units} sums")}) == 4


@pytest.mark.slow(keep=1)
@built
@pytest.mark.parametrize("cell", ["lstm", "lstm_full_gate_recurrence"])
def test_second_derivatives(cell: str) -> None:
    """The gradient of the squared norm of the gradients equals that of the backend `reference`."""
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        params = CELLS[cell].init(jax.random.key(0), 3, 5, dtype=jnp.float64)
        x = jnp.asarray(rng.standard_normal((2, 4, 3)))
        dropout = DropoutMasks(None, jnp.asarray(rng.integers(0, 2, (4, 2, 5)) * 2.0))

        def norm(params, x, backend):
            def loss(params, x):
                return (unroll(CELLS[cell], params, x, dropout=dropout, backend=backend)[0] ** 2).sum()

            return sum((part**2).sum() for part in jax.tree.leaves(jax.grad(loss, (0, 1))(params, x)))

        got, want = (jax.grad(norm, (0, 1))(params, x, backend) for backend in ("compiled", "reference"))
        assert_close(got, want, 1e-11)


@built
@pytest.mark.parametrize(("cell", "batch"), [("lstm", 2), ("lstm_full_gate_recurrence", 2), ("min_gru", 2), ("min_gru", 1)])
def test_no_tracer_is_kept(cell: str, batch: int) -> None:
    params = CELLS[cell].init(jax.random.key(0), 3, 4)
    options = {"resets": jnp.eye(batch, 5, dtype=bool), "backend": "compiled"}
    with jax.checking_leaks():
        gradients = jax.jit(jax.grad(lambda params: unroll(CELLS[cell], params, jnp.ones((batch, 5, 3)), **options)[0].sum()))(params)
    assert all(leaf.any() for leaf in gradients)
