"""Tests of the library that `build` compiles for this processor: how it is compiled,
stored and loaded, and the errors.
"""

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest
from tables import BACKENDS

from lstm_jax import CELLS, native, unroll
from lstm_jax.base.errors import InputError
from lstm_jax.base.writing import default_cache_dir
from lstm_jax.native import compiler as compiler_module
from lstm_jax.native import library, packaged
from lstm_jax.recurrence.backends import resolve_backend


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a new path, and make `library` look for the library there. No library is
    installed.
    """
    place = tmp_path / "cache" / "native" / "lstm.so"
    monkeypatch.setattr(library, "library_path", lambda: place)
    monkeypatch.setattr(library, "TARGETS", ())
    monkeypatch.setattr(packaged, "FOLDER", tmp_path / "none")
    monkeypatch.setattr(library, "_LOADED", [])
    return place


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Return a function stand_in(script, code), which makes a shell script take the
    place of the compiler.

    In the script, $last is the path of the library to make, and $whole is a file with
    the bytes `code`.
    """

    def put(script: str, code: bytes = b"") -> None:
        whole, made = tmp_path / "whole.so", tmp_path / "compiler"
        whole.write_bytes(code)
        made.write_text(f"#!/bin/sh\nwhole={whole}\nfor last; do :; done\n{script}\n")
        made.chmod(0o755)
        monkeypatch.setenv("CXX", str(made))

    return put


def test_not_built(path: Path) -> None:
    assert library.why_not() == "not built: run lstm-jax backends --build"
    with pytest.raises(
        InputError, match=r"^native code: not built; run lstm-jax backends --build"
    ):
        library.register()
    with pytest.raises(InputError, match=r"^backend compiled: not built"):
        unroll(
            CELLS["lstm"],
            CELLS["lstm"].init(jax.random.key(0), 2, 3),
            jnp.ones((1, 1, 2)),
            backend="compiled",
        )


def test_a_process_without_compiled_code_says_so_once(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packaged, "levels_here", lambda: ("x86-64-v3", "x86-64-v2"))
    library._warn_if_slow.cache_clear()
    with native.compiled_code(False):
        assert resolve_backend(None).name == "hoisted"
    with pytest.warns(
        UserWarning,
        match="^lstm_jax is slower than it can be: not built; run lstm-jax backends "
        "--build",
    ):
        assert resolve_backend(None).name == "hoisted"
    assert resolve_backend(None).name == "hoisted"


@pytest.mark.parametrize("length", [0, 5, 100])
def test_a_damaged_library_is_built_anew(
    length: int, path: Path, small: bytes, stand_in, ask
) -> None:
    path.parent.mkdir(parents=True)
    path.write_bytes(small[:length])
    assert library.why_not().startswith(
        "the library built for this processor: cannot be loaded ("
    )
    assert library.why_not().endswith(": run lstm-jax backends --build")
    with pytest.raises(
        InputError,
        match=r"^native code: .*cannot be loaded .*; run lstm-jax backends --build",
    ):
        library.register()
    stand_in("cp $whole $last", small)
    assert ask("backends", "--build", "--json")[::2] == (0, "")
    assert library.loaded_library() == path
    stand_in("exit 1")
    assert library.build() == path  # without another compilation
    assert library.describe_library() == "lstm.so, built for this processor"


def test_builds_at_once(path: Path, small: bytes, stand_in) -> None:
    """Several builds at the same time all succeed and leave one library, in a folder of
    this user alone.
    """
    stand_in("cp $whole $last", small)
    built = []
    threads = [
        threading.Thread(target=lambda: built.append(library.build())) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert built == [path] * 4
    assert list(path.parent.iterdir()) == [path]
    assert path.read_bytes() == small
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize(
    ("script", "complaint"),
    [
        ("kill -9 $$", "compiling with .*: exit code -9"),
        ("exit 3", "compiling with .*: exit code 3"),
        (
            "echo 'x.cc:1: error: no such thing' >&2; exit 1",
            "compiling with .*: x.cc:1: error: no such thing",
        ),
        ("exit 0", "library made by .*: cannot open shared object file: No such file"),
        (": > $last", "library made by .*: file too short"),
        ("printf nonsense > $last", "library made by .*: file too short"),
    ],
)
def test_a_compiler_that_makes_no_library(
    script: str, complaint: str, path: Path, stand_in
) -> None:
    """If the compiler fails or makes no library that can be loaded, the error is one
    line, and no file is left.
    """
    stand_in(script)
    with pytest.raises(
        InputError, match=rf"^{complaint}.*; name another compiler in CXX$"
    ):
        library.build()
    assert not list(path.parent.iterdir())


def test_no_compiler(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(path))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(compiler_module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        InputError,
        match=r"^C\+\+ compiler: none found; install g\+\+ or clang\+\+, or pip "
        r"install",
    ):
        library.build()


def test_folders_that_cannot_be_used(
    path: Path, stand_in, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names a folder in which libraries cannot be loaded, and one that cannot
    be created.
    """
    stand_in("exit 3")  # it is not called
    with monkeypatch.context() as patch:
        patch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_flag=os.ST_NOEXEC))
        with pytest.raises(
            InputError,
            match=r"^folder .*native: is mounted with noexec; name another folder "
            r"in XDG_CACHE_HOME",
        ):
            library.build()
    path.parent.rmdir()
    path.parent.write_text("")
    with pytest.raises(
        InputError,
        match=r"^writing .*: File exists; free some space or name another folder in "
        r"XDG_CACHE_HOME",
    ):
        library.build()


def test_cache_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A relative path in XDG_CACHE_HOME is ignored, because with it, a library in the
    current folder would be loaded.

    If the user has no home directory, `why_not` and the error of `build` say so.
    """
    monkeypatch.setenv("HOME", str(tmp_path))
    for value in ("", "cache", "./x"):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert default_cache_dir() == tmp_path / ".cache" / "lstm_jax"
    monkeypatch.setattr(packaged, "FOLDER", tmp_path / "none")
    monkeypatch.setattr(library, "_LOADED", [])
    monkeypatch.setattr(
        Path,
        "expanduser",
        lambda path: (_ for _ in ()).throw(
            RuntimeError("Could not determine home directory.")
        ),
    )
    assert library.why_not() == (
        "path ~/.cache: no such user, or no home; name a folder in "
        "XDG_CACHE_HOME: run lstm-jax backends --build"
    )
    with pytest.raises(InputError, match="no such user, or no home"):
        library.build()


def test_sanitizers(monkeypatch: pytest.MonkeyPatch) -> None:
    """LSTM_JAX_SANITIZE adds compiler flags and changes the file name of the library.

    A library that was built without sanitizers is therefore never loaded in place of
    one with sanitizers.
    """
    # set where the tests themselves run with sanitizers
    monkeypatch.delenv("LSTM_JAX_SANITIZE", raising=False)
    plain = library.library_path()
    monkeypatch.setenv("LSTM_JAX_SANITIZE", "address,undefined")
    assert library.library_path() != plain
    assert "-fsanitize=address,undefined" in library._flags()


@pytest.mark.skipif(
    "compiled" not in BACKENDS, reason="no C++ compiler to build the backend with"
)
def test_a_process_loads_what_stands() -> None:
    """A new process loads the library that was installed or built before."""
    command = "from lstm_jax import native; print(native.why_not() or 'loaded')"
    run = subprocess.run(
        [sys.executable, "-c", command], capture_output=True, text=True, check=True
    )
    assert run.stdout == "loaded\n"


def test_the_interface_of_xla_is_the_one_that_jaxlib_declares() -> None:
    root = Path(__file__).parents[2]
    try:
        compiler = compiler_module.find_compiler()
    except InputError as error:
        pytest.skip(str(error))
    folders = ("-I", str(root), "-I", jax.ffi.include_dir())
    run = subprocess.run(
        [
            *compiler,
            "-std=c++17",
            "-fsyntax-only",
            *folders,
            str(root / "tests/native/ffi_layout.cc"),
        ],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr


def test_an_installation_compiles_without_other_packages() -> None:
    command = (
        "import sys; sys.path.insert(0, sys.argv[1]); from lstm_jax.native import "
        "packaged; print(packaged.levels_here())"
    )
    run = subprocess.run(
        [sys.executable, "-S", "-c", command, str(Path(__file__).parents[2])],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
