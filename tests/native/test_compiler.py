"""Tests of the errors where the compiled backend is not built, and where no compiler can build it."""

import os
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from lstm_jax import CELLS, InputError, unroll
from lstm_jax.native import compiler, library, packaged
from lstm_jax.recurrence import BACKENDS


def test_not_built(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(library, "library_path", lambda: tmp_path / "none.so")
    monkeypatch.setattr(packaged, "FOLDER", tmp_path)
    assert BACKENDS["compiled"].why_not() == "not built: run lstm-jax backends --build"
    with pytest.raises(InputError, match=r"^native code: not built; run lstm-jax backends --build"):
        library.register()
    with pytest.raises(InputError, match=r"^backend compiled: not built"):
        unroll(CELLS["lstm"], CELLS["lstm"].init(jax.random.key(0), 2, 3), jnp.ones((1, 1, 2)), backend="compiled")


def _no_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(library, "library_path", lambda: tmp_path / "native" / "lstm.so")
    monkeypatch.setattr(packaged, "FOLDER", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(compiler.importlib.util, "find_spec", lambda name: None)


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
    stand_in = tmp_path / "c++"
    stand_in.write_text(f"#!/bin/sh\n{script}\n")
    stand_in.chmod(0o755)
    with pytest.raises(InputError, match=rf"^compiling with c\+\+: .*{complaint}; name another compiler in CXX"):
        library.build()
    assert not list((tmp_path / "native").iterdir())  # nothing half made is left


def test_a_library_that_does_not_load_is_not_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _no_compiler(monkeypatch, tmp_path)
    stand_in = tmp_path / "c++"
    stand_in.write_text('#!/bin/sh\nfor last; do :; done\nprintf nonsense > "$last"\n')
    stand_in.chmod(0o755)
    with pytest.raises(InputError, match=r"^library made by c\+\+: .*; name another compiler in CXX"):
        library.build()
    assert not list((tmp_path / "native").iterdir())
