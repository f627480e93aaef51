"""Tests of the C++ libraries that the installation compiles, one for each level of
processors, such as x86-64-v3.

The tests cover which library is chosen for a processor, the error if none can be
loaded, the compilation, and the wheel with the libraries.
"""

import ctypes
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from tables import assert_close

from lstm_jax import CELLS, unroll
from lstm_jax.base.errors import InputError
from lstm_jax.native import compiler, library, packaged

V2 = "Linux x86_64 flags : fpu cx16 lahf_lm popcnt pni sse4_1 sse4_2 ssse3"
V3 = f"{V2} avx avx2 bmi1 bmi2 f16c fma abm movbe xsave"
V4 = f"{V3} avx512f avx512bw avx512cd avx512dq avx512vl"
BF16 = f"{V4} avx512_bf16 avx512_vnni"
ROOT = Path(__file__).parents[2]


def _processor(
    monkeypatch: pytest.MonkeyPatch, text: str, machine: str = "x86_64"
) -> None:
    monkeypatch.setattr(packaged, "processor", lambda: text)
    monkeypatch.setattr(packaged.platform, "machine", lambda: machine)
    monkeypatch.setattr(packaged, "levels_here", packaged.levels_here.__wrapped__)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty folder for installed libraries. The cache has no library, and
    libraries are not registered with XLA.
    """
    place = tmp_path / "lib"
    place.mkdir()
    monkeypatch.setattr(packaged, "FOLDER", place)
    monkeypatch.setattr(
        library, "library_path", lambda: tmp_path / "cache" / "native" / "lstm.so"
    )
    monkeypatch.setattr(library, "TARGETS", ())
    monkeypatch.setattr(library, "_LOADED", [])
    return place


@pytest.mark.parametrize(
    ("text", "machine", "levels"),
    [
        (BF16, "x86_64", ("x86-64-v4-bf16", "x86-64-v4", "x86-64-v3", "x86-64-v2")),
        (V4, "x86_64", ("x86-64-v4", "x86-64-v3", "x86-64-v2")),
        (f"{V3} avx512_bf16", "x86_64", ("x86-64-v3", "x86-64-v2")),
        (V3, "x86_64", ("x86-64-v3", "x86-64-v2")),
        # AVX-512 without FMA is no level
        (V4.replace(" fma", ""), "x86_64", ("x86-64-v2",)),
        (V2, "x86_64", ("x86-64-v2",)),
        (V3.replace(" popcnt", ""), "x86_64", ()),
        ("Linux aarch64 Features : fp asimd evtstrm aes", "aarch64", ("armv8-a",)),
        ("Linux riscv64 rv64imafdc", "riscv64", ()),
    ],
)
def test_levels(
    monkeypatch: pytest.MonkeyPatch, text: str, machine: str, levels: tuple[str, ...]
) -> None:
    _processor(monkeypatch, text, machine)
    assert packaged.levels_here() == levels


def test_which_library_is_used(
    monkeypatch: pytest.MonkeyPatch, folder: Path, small: bytes
) -> None:
    """The library that was built for this processor is used first. If it is damaged,
    the installed one is used, and the message says so.
    """
    _processor(monkeypatch, V3)
    path = folder / packaged.file_name("x86-64-v3")
    path.write_bytes(small)
    assert library.loaded_library() == path
    assert library.why_not() == ""
    assert library.describe_library() == f"{path.name}, installed with lstm_jax"
    built = library.library_path()
    built.parent.mkdir(parents=True)
    built.write_bytes(small[:100])
    assert library.loaded_library() == path  # a process keeps what it has registered
    library._LOADED.clear()
    assert library.why_not() == ""
    begin = (
        f"{path.name}, installed with lstm_jax; the library built for this "
        f"processor: cannot be loaded ({built}: "
    )
    assert library.describe_library().startswith(begin)
    assert library.describe_library().endswith("): run lstm-jax backends --build")
    library._LOADED.clear()
    built.write_bytes(small)
    assert library.loaded_library() == built
    assert library.describe_library() == "lstm.so, built for this processor"


@pytest.mark.parametrize(
    ("content", "targets", "why"),
    [
        (b"", (), "file too short"),
        (None, ("no_function",), "undefined symbol: no_function"),
    ],
)
def test_an_installed_library_that_cannot_be_used(
    monkeypatch: pytest.MonkeyPatch, folder: Path, small: bytes, content, targets, why
) -> None:
    """A library that is damaged, or that XLA refuses, is passed over with the reason,
    and the library of a lower level is used.
    """
    _processor(monkeypatch, V3)
    path, lower = (
        folder / packaged.file_name(level) for level in ("x86-64-v3", "x86-64-v2")
    )
    path.write_bytes(small if content is None else content)
    monkeypatch.setattr(library, "TARGETS", targets)
    damaged = f"the installed {path.name}: cannot be loaded ({path}: {why})"
    assert library.why_not() == f"not built; {damaged}: run lstm-jax backends --build"
    with pytest.raises(
        InputError,
        match=rf"^native code: not built; the installed {path.name}: cannot be",
    ):
        library.register()
    lower.write_bytes(small)
    opened = library._open
    monkeypatch.setattr(
        library,
        "_open",
        lambda path: ctypes.CDLL(str(path)) if path == lower else opened(path),
    )
    assert library.loaded_library() == lower
    assert library.describe_library() == (
        f"{lower.name}, installed with lstm_jax; {damaged}: run lstm-jax "
        "backends --build"
    )


def test_which_feature_the_processor_lacks(
    monkeypatch: pytest.MonkeyPatch, folder: Path, small: bytes
) -> None:
    """If a library cannot multiply in int8 or bfloat16, a message says whether the
    library or the processor is the cause.

    The processor in this test has AVX512-VNNI, which int8 needs, but not AVX512-BF16,
    which bfloat16 needs. For int8, the message says that the user can build a library
    that multiplies in int8. For bfloat16, the message names the instructions that the
    processor lacks.
    """
    _processor(monkeypatch, f"{V4} avx512_vnni")
    monkeypatch.setattr(library, "processor", packaged.processor)
    path = folder / packaged.file_name("x86-64-v4")
    path.write_bytes(small)
    assert library.loaded_library() == path
    monkeypatch.setattr(
        library._LOADED[0].code,
        "lstm_jax_has_products",
        lambda number: 0,
        raising=False,
    )
    assert (
        library.why_not_products("int8")
        == f"{path.name} has no products in int8: run lstm-jax backends --build"
    )
    assert library.why_not_products("bfloat16") == "this processor lacks avx512_bf16"


@pytest.mark.slow(keep=1)
@pytest.mark.parametrize(
    "level", ["x86-64-v2", "x86-64-v3", "x86-64-v4", "x86-64-v4-bf16", "armv8-a"]
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_each_level_equals_the_reference(
    level: str, dtype: str, monkeypatch: pytest.MonkeyPatch, x64: None
) -> None:
    """An LSTM on the installed library of a level has the outputs, states and gradients
    of the reference.

    The rows have different lengths. A level that this processor does not have is
    skipped.
    """
    path = packaged.FOLDER / packaged.file_name(level)
    if level not in packaged.levels_here() or not path.exists():
        pytest.skip(f"no library of {level} for this processor is installed")
    opened = ctypes.CDLL(str(path))
    for name in library.TARGETS:
        jax.ffi.register_ffi_target(
            f"{level} {name}", jax.ffi.pycapsule(getattr(opened, name)), platform="cpu"
        )
    call = jax.ffi.ffi_call
    monkeypatch.setattr(
        jax.ffi,
        "ffi_call",
        lambda name, *args, **more: call(f"{level} {name}", *args, **more),
    )
    params, x = (
        CELLS["lstm"].init(jax.random.key(0), 5, 19, dtype=jnp.dtype(dtype)),
        jax.random.normal(jax.random.key(1), (7, 9, 5), dtype),
    )

    def loss(params, x, backend):
        results = unroll(
            CELLS["lstm"],
            params,
            x,
            lengths=jnp.array([9, 0, 3, 8, 1, 9, 4]),
            backend=backend,
        )
        return sum(jnp.sin(leaf).sum() for leaf in jax.tree.leaves(results)), results

    run = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True), static_argnums=2)
    jax.clear_caches()
    try:
        assert f"{level} lstm_jax_forward" in run.lower(params, x, "compiled").as_text()
        assert_close(
            run(params, x, "compiled"),
            run(params, x, "reference"),
            {"float32": 2e-5, "float64": 1e-12}[dtype],
        )
    finally:
        jax.clear_caches()


def _make_wheel(tmp_path: Path, script: str) -> tuple[zipfile.ZipFile, str]:
    """Build a wheel from a copy of the sources, and return it with the standard error
    of the build.

    The shell script `script` replaces the compiler. In it, $last is the last argument,
    which is the path of the library to make.
    """
    pytest.importorskip(
        "setuptools.command.bdist_wheel",
        reason="setuptools 70 or later is not installed",
    )
    copy = tmp_path / "copy"
    shutil.copytree(
        ROOT / "lstm_jax",
        copy / "lstm_jax",
        ignore=shutil.ignore_patterns("__pycache__", "lib"),
    )
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    stand_in = tmp_path / "compiler"
    stand_in.write_text(f"#!/bin/sh\nfor last; do :; done\n{script}\n")
    stand_in.chmod(0o755)
    made = subprocess.run(
        [sys.executable, "setup.py", "-q", "bdist_wheel", "-d", str(tmp_path / "dist")],
        cwd=copy,
        env=os.environ
        | {
            "CXX": str(stand_in),
            "PYTHONWARNINGS": "ignore",
            "LSTM_JAX_LEVELS": "all",
            "XDG_CACHE_HOME": str(tmp_path),
        },
        capture_output=True,
        text=True,
        check=True,
    )
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    return zipfile.ZipFile(wheel), made.stderr


def test_the_wheel(tmp_path: Path) -> None:
    """The wheel suits all versions of Python. It has a library for each level."""
    wheel, _ = _make_wheel(tmp_path, 'echo "$*" > "$last"')
    assert Path(str(wheel.filename)).name.startswith("lstm_jax-0.2.0-py3-none-linux_")
    libraries = [
        entry
        for entry in wheel.infolist()
        if entry.filename.startswith("lstm_jax/native/lib/")
    ]
    levels = packaged.LEVELS[packaged.platform.machine()]
    assert {Path(entry.filename).name for entry in libraries} == {
        packaged.file_name(level) for level in levels
    }
    for entry in libraries:
        content = wheel.read(entry)
        level = entry.filename[
            len("lstm_jax/native/lib/lstm-") : -len("-0123456789abcdef.so")
        ]
        assert f"-march={level.removesuffix('-bf16')} " in content.decode()
        assert ("-mavx512bf16" in content.decode()) == level.endswith("-bf16")
    assert {"lstm_jax/native/recurrence.cc", "lstm_jax/native/vectors.h"} <= set(
        wheel.namelist()
    )


@pytest.mark.slow
def test_the_wheel_where_the_compiler_fails(tmp_path: Path) -> None:
    """If the compiler fails, the wheel is built without compiled code, and one line
    says why.
    """
    wheel, err = _make_wheel(tmp_path, "echo no disk: an error >&2; exit 1")
    assert Path(str(wheel.filename)).name == "lstm_jax-0.2.0-py3-none-any.whl"
    assert not [name for name in wheel.namelist() if name.endswith(".so")]
    (line,) = [
        line
        for line in err.splitlines()
        if "lstm_jax is installed without compiled code" in line
    ]
    assert "no disk: an error" in line


def test_an_old_compiler(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a compiler does not know the name of a level, it gets flags for the
    instructions of the level instead.

    A level that cannot be compiled in either way is left out. If no level can be
    compiled, the error of the compiler is raised. The compiler of the package ziglang
    uses other names of the levels.
    """
    asked = []

    def compile_library(command: list[str], flags: list[str], made: Path) -> None:
        asked.append(flags[:-1])
        if flags[0].startswith("-march") or "-mavx512f" in flags:
            raise InputError(
                "compiling with c++",
                "bad value for -march",
                "name another compiler in CXX",
            )
        made.write_bytes(b"library")

    monkeypatch.setattr(compiler, "compile_library", compile_library)
    monkeypatch.setattr(compiler, "find_compiler", lambda: ["c++"])
    made = packaged.build_packaged(folder, "x86_64")
    assert [path.name for path in made] == [
        packaged.file_name(level) for level in ("x86-64-v3", "x86-64-v2")
    ]
    assert ["-mcx16", "-msahf", "-mpopcnt", "-msse4.2"] in asked
    assert ["-march=x86-64-v4", "-mavx512bf16", "-mavx512vnni"] in asked
    monkeypatch.setattr(
        compiler, "find_compiler", lambda: ["python", "-m", "ziglang", "c++"]
    )
    for path in made:
        path.unlink()
    with pytest.raises(InputError, match="bad value for -march"):
        packaged.build_packaged(folder, "x86_64")
    assert ["-march=x86_64_v4+avx512bf16+avx512vnni"] in asked


def test_stale_libraries_are_removed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Libraries that were built from other sources are removed. Libraries of the
    present sources are not compiled again.
    """
    (folder / "lstm-x86-64-v2-0123456789abcdef.so").touch()
    compiled = []

    def compile_library(command: list[str], flags: list[str], made: Path) -> None:
        compiled.append(" ".join(flags[:-1]))
        made.write_bytes(b"library")

    monkeypatch.setattr(compiler, "compile_library", compile_library)
    monkeypatch.setattr(compiler, "find_compiler", lambda: ["c++"])
    paths = packaged.build_packaged(folder, "x86_64")
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        packaged.file_name(level) for level in packaged.LEVELS["x86_64"]
    )
    assert sorted(compiled) == [
        "-march=x86-64-v2",
        "-march=x86-64-v3",
        "-march=x86-64-v4",
        "-march=x86-64-v4 -mavx512bf16 -mavx512vnni",
    ]
    assert packaged.build_packaged(folder, "x86_64") == paths
    assert len(compiled) == 4


def test_an_installation_has_one_level(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The highest level of the processor is compiled; another checkout of the same
    sources finds it in the cache folder.
    """
    _processor(monkeypatch, V3)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(
        compiler,
        "compile_library",
        lambda command, flags, made: made.write_bytes(b"library"),
    )
    monkeypatch.setattr(compiler, "loading_error", lambda path: "")
    monkeypatch.setattr(compiler, "find_compiler", lambda: ["c++"])
    assert packaged.build_packaged(folder) == [folder / packaged.file_name("x86-64-v3")]
    monkeypatch.setattr(compiler, "compile_library", None)
    assert [
        path.read_bytes() for path in packaged.build_packaged(tmp_path / "other")
    ] == [b"library"]
    monkeypatch.setattr(compiler, "loading_error", lambda path: "file too short")
    with pytest.raises(TypeError, match="not callable"):
        packaged.build_packaged(tmp_path / "a third")
