"""The compiled loops: against their JAX twins over odd sizes, with threads of their own, and what building says when it cannot."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tables import BACKENDS, assert_close

from lstm_jax.cells import CELLS, LSTMState
from lstm_jax.dropout import DropoutMasks
from lstm_jax.errors import InputError
from lstm_jax.recurrence import BACKENDS as BACKEND_TABLE
from lstm_jax.recurrence import unroll
from lstm_jax.recurrence.native import library, loops
from lstm_jax.recurrence.trail import backward_twin, forward_twin

built = pytest.mark.skipif("native" not in BACKENDS, reason="no C++ compiler to build the backend with")

# around every border of the blocks: 16 (float32, AVX-512), 8 and 4 lanes, 1, 2 and 4 vectors at a time, 6 rows forward, 6 to 12 backward
SIZES = [(1, 1), (2, 3), (5, 7), (7, 9), (13, 16), (14, 17), (4, 32), (11, 33), (25, 47), (9, 65)]
KINDS = [("none", False, False), ("shared", False, True), ("per gate", True, True), ("none", True, True)]
STEPS = 3

if "native" in BACKENDS:
    library.register()


def _arrays(batch: int, units: int, dtype: str, dropout: str, split: bool, masked: bool):
    rng = np.random.default_rng(batch * 100 + units)

    def normal(*shape: int) -> jax.Array:
        return jnp.asarray(rng.standard_normal(shape), dtype)

    z = normal(STEPS, batch, 4 * units)
    shape = {"shared": (batch, units), "per gate": (4, batch, units)}.get(dropout)
    mask = None if shape is None else jnp.asarray(rng.integers(0, 2, shape) * 2.0, dtype)
    valid = jnp.asarray(rng.integers(0, 2, (STEPS, batch)).astype(bool)) if masked else None
    kernel = normal(units, 4 * units) / units**0.5
    state = LSTMState(normal(batch, units), normal(batch, units))
    d_final = LSTMState(normal(batch, units), normal(batch, units))
    return kernel, tuple(jnp.split(z, 4, axis=-1)) if split else z, state, mask, valid, normal(STEPS, batch, units), d_final


@built
@pytest.mark.parametrize(("batch", "units"), SIZES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_loops_equal_their_twins(batch: int, units: int, dtype: str) -> None:
    tolerance = 2e-6 if dtype == "float32" else 1e-14
    with jax.enable_x64(dtype == "float64"):
        for kind in KINDS:
            dropout, split, _ = kind
            kernel, z, state, mask, valid, d_h, d_final = _arrays(batch, units, dtype, *kind)
            want = jax.jit(forward_twin, static_argnums=(0, 1, 2))(True, True, None, kernel, z, state, mask, valid)
            got = loops._call_forward(True, True, None, kernel, z, state, mask, valid)
            assert_close(got, want, tolerance, dropout)
            for sequences in (False, True):
                part = loops._call_forward(sequences, False, None, kernel, z, state, mask, valid)
                jax.tree.map(np.testing.assert_array_equal, part[:2], (got[0] if sequences else None, got[1]))
            d_h = None if kind == KINDS[batch % len(KINDS)] else d_h
            args = (split, None, kernel, want[2], d_h, d_final, mask, valid)
            assert_close(loops._call_backward(*args), jax.jit(backward_twin, static_argnums=(0, 1))(*args), tolerance, dropout)


@built
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gates_far_out(dtype: str) -> None:
    """Saturated, tiny, infinite and undefined inputs come out as sigmoid and tanh have them."""
    with jax.enable_x64(dtype == "float64"):
        x = np.concatenate([[0.0, 1e-30, 1e-8, 1e-4, 0.3, 1, 10, 50, 100, 1e4, 1e30, np.inf], np.linspace(0, 20, 500)])
        x = np.concatenate([x, -x]).astype(dtype)
        units, zero = len(x), jnp.zeros((1, len(x)), dtype)
        for gate in range(4):
            z = jnp.zeros((1, 1, 4, units), dtype).at[0, 0, gate].set(x).reshape(1, 1, 4 * units)
            kept = loops._call_forward(False, True, None, jnp.zeros((units, 4 * units), dtype), z, LSTMState(zero, zero), None, None)[2]
            got = np.asarray(kept.gates, np.float64).reshape(4, units)[gate]
            exact = x.astype(np.longdouble)
            want = (np.tanh(exact) if gate == 2 else 1 / (1 + np.exp(-np.maximum(exact, -11_000)))).astype(np.float64)
            unit = np.finfo(dtype).eps
            assert np.abs(got - want).max() <= 2 * unit
            assert (np.abs(got - want) <= 4 * unit * np.abs(want) + np.finfo(dtype).tiny * (1 / unit)).all() or gate != 2
        z = jnp.full((1, 1, 4 * 3), np.nan, dtype)
        final = loops._call_forward(False, False, None, jnp.zeros((3, 12), dtype), z, LSTMState(zero[:, :3], zero[:, :3]), None, None)[1]
        assert np.isnan(np.asarray(final.h)).all()


THREADS = """
import hashlib, os, sys
os.sched_getaffinity = lambda _: range(int(sys.argv[1]))
import jax, numpy as np
from lstm_jax import CELLS, LSTMParams, unroll
rng = np.random.default_rng(0)
params = LSTMParams(*(rng.standard_normal(shape).astype("float32") for shape in ((5, 88), (22, 88), (88,))))
x = rng.standard_normal((int(sys.argv[2]), 7, 5)).astype("float32")
run = jax.jit(jax.value_and_grad(lambda params, x: (unroll(CELLS["lstm"], params, x, backend="native")[0] ** 2).sum(), (0, 1)))
for _ in range(20):  # the pool's threads come in any order
    parts = [np.asarray(part).tobytes() for part in jax.tree.leaves(run(params, x))]
    print(hashlib.sha256(b"".join(parts)).hexdigest())
"""


@built
@pytest.mark.parametrize("batch", [1, 3, 26])
def test_threads_change_nothing(batch: int) -> None:
    """One CPU device that has all cores: the rows are shared out over its pool, and every bit stays."""
    found = set()
    for threads in (1, 2, 3, 40):
        run = subprocess.run([sys.executable, "-c", THREADS, str(threads), str(batch)], capture_output=True, text=True)
        assert run.returncode == 0, run.stderr[-2000:]
        found |= set(run.stdout.split())
    assert len(found) == 1


@built
def test_second_derivatives() -> None:
    """Gradient of a gradient's norm, against the scan's."""
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        params = CELLS["lstm"].init(jax.random.key(0), 3, 5, dtype=jnp.float64)
        x = jnp.asarray(rng.standard_normal((2, 4, 3)))
        dropout = DropoutMasks(None, jnp.asarray(rng.integers(0, 2, (4, 2, 5)) * 2.0))

        def norm(params, x, backend):
            def loss(params, x):
                return (unroll(CELLS["lstm"], params, x, dropout=dropout, backend=backend)[0] ** 2).sum()

            return sum((part**2).sum() for part in jax.tree.leaves(jax.grad(loss, (0, 1))(params, x)))

        got, want = (jax.grad(norm, (0, 1))(params, x, backend) for backend in ("native", "reference"))
        assert_close(got, want, 1e-11)


def test_not_built(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(library, "library_path", lambda: tmp_path / "none.so")
    library.register.cache_clear()
    assert BACKEND_TABLE["native"].why_not() == "not built: run lstm-jax backends --build"
    with pytest.raises(InputError, match=r"^backend native: not built; run lstm-jax backends --build"):
        library.register()
    with pytest.raises(InputError, match=r"^backend native: not built"):
        unroll(CELLS["lstm"], CELLS["lstm"].init(jax.random.key(0), 2, 3), jnp.ones((1, 1, 2)), backend="native")


def _no_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(library, "library_path", lambda: tmp_path / "native" / "lstm.so")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(library.importlib.util, "find_spec", lambda name: None)


def test_no_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _no_compiler(monkeypatch, tmp_path)
    with pytest.raises(InputError, match=r"^C\+\+ compiler: none found; install g\+\+ or clang\+\+, or pip install"):
        library.build()


@pytest.mark.skipif(os.name != "posix", reason="the stand-in is a shell script")
@pytest.mark.parametrize(
    ("script", "complaint"), [("echo 'x.cc:1: error: no such thing' >&2; exit 1", "no such thing"), ("exit 3", "exit code 3")]
)
def test_a_compiler_that_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str, complaint: str) -> None:
    _no_compiler(monkeypatch, tmp_path)
    compiler = tmp_path / "c++"
    compiler.write_text(f"#!/bin/sh\n{script}\n")
    compiler.chmod(0o755)
    with pytest.raises(InputError, match=rf"^compiling with c\+\+: .*{complaint}; name another compiler in CXX"):
        library.build()
    assert not (tmp_path / "native").exists()  # nothing half made is left


def test_a_library_that_does_not_load_is_not_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _no_compiler(monkeypatch, tmp_path)
    compiler = tmp_path / "c++"
    compiler.write_text('#!/bin/sh\nfor last; do :; done\nprintf nonsense > "$last"\n')
    compiler.chmod(0o755)
    with pytest.raises(InputError, match=r"^library made by c\+\+: .*; name another compiler in CXX"):
        library.build()
    assert not (tmp_path / "native").exists()
