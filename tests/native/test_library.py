"""Tests of loading a library: a planted, damaged or writable library is not loaded, is reported in one line, and is built anew."""

import ctypes
import os
import shutil
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from tables import BACKENDS

from lstm_jax.errors import InputError
from lstm_jax.files.writing import default_cache_dir
from lstm_jax.native import compiler as compiler_module
from lstm_jax.native import library, packaged, trust

COMPILER = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
PRODUCTS = 'extern "C" int lstm_jax_has_products(long) { return 1; }\n'
compiler = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, Path]:
    """Return the bytes of a library whose constructor creates a file, and the path of that file (the marker)."""
    folder = tmp_path_factory.mktemp("planted")
    source, made = folder / "planted.cc", folder / "planted.so"
    marker = folder / "it ran"
    source.write_text(
        f'#include <cstdio>\n__attribute__((constructor)) static void run() {{ fclose(fopen("{marker}", "w")); }}\n{PRODUCTS}'
    )
    subprocess.run([str(COMPILER), "-shared", "-fPIC", str(source), "-o", str(made)], check=True)
    return made.read_bytes(), marker


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, planted: tuple[bytes, Path]) -> Path:
    """Return a new path, and make `library` look for the library there.

    The file that the constructor of the planted library creates is removed.
    """
    place = tmp_path / "cache" / "lstm_jax" / "native" / "lstm.so"
    monkeypatch.setattr(library, "library_path", lambda: place)
    monkeypatch.setattr(packaged, "FOLDER", tmp_path / "none")
    monkeypatch.setattr(library, "_register", lambda opened: None)  # it has none of our functions
    planted[1].unlink(missing_ok=True)
    return place


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, planted: tuple[bytes, Path]):
    """Return a function stand_in(script), which makes a shell script take the place of the compiler.

    In the script, $last is the path of the library that the compiler is to write.
    """
    whole = tmp_path / "whole.so"
    whole.write_bytes(planted[0])

    def put(script: str = f"cp {whole} $last") -> None:
        made = tmp_path / "compiler"
        made.write_text(f"#!/bin/sh\nfor last; do :; done\n{script}\n")
        made.chmod(0o755)
        monkeypatch.setenv("CXX", str(made))

    return put


def _another_user(path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    os.chown(path, 12345, 12345)


def _link(path: Path) -> None:
    whole = path.with_name("elsewhere.so")
    path.rename(whole)
    path.symlink_to(whole)


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir(0o700)


def _edit(at: int, byte: bytes):
    def change(path: Path) -> None:
        content = path.read_bytes()
        place = at % len(content)
        path.write_bytes(content[:place] + byte + content[place + 1 :])

    return change


DAMAGE = {
    "truncated": (lambda path: os.truncate(path, path.stat().st_size // 2), "damaged, or not what was built"),
    "a byte short": (lambda path: os.truncate(path, path.stat().st_size - 1), "damaged, or not what was built"),
    "empty": (lambda path: os.truncate(path, 0), "damaged, or not what was built"),
    "its hash alone": (lambda path: path.write_bytes(path.read_bytes()[-trust.SEAL :]), "damaged, or not what was built"),
    "a changed byte": (_edit(5000, b"\xa5"), "damaged, or not what was built"),
    "a changed hash": (_edit(-1, b"!"), "damaged, or not what was built"),
    "writable by the group": (lambda path: path.chmod(0o620), "it can be written by others"),
    "writable by all": (lambda path: path.chmod(0o606), "it can be written by others"),
    "a folder writable by all": (lambda path: path.parent.chmod(0o777), "its folder can be written by others"),
    "a folder writable by the group, sticky": (lambda path: path.parent.chmod(0o1770), "its folder can be written by others"),
    "another user's": (_another_user, "it belongs to another user"),
    "another user's folder": (lambda path: _another_user(path.parent), "its folder belongs to another user"),
    "a link": (_link, "it is a link"),
    "a pipe": (_pipe, "it is no regular file"),
    "a folder": (_folder, "it is no regular file"),
}


@compiler
@pytest.mark.parametrize("kind", DAMAGE)
def test_what_cannot_be_trusted_is_not_loaded(kind: str, path: Path, planted: tuple[bytes, Path]) -> None:
    code, marker = planted
    trust.write(path, code)
    change, why = DAMAGE[kind]
    change(path)
    assert why in library.why_not()
    assert library.why_not().endswith(": run lstm-jax backends --build")
    assert "\n" not in library.why_not()
    with pytest.raises(InputError, match=rf"^native code: .*{why}; run lstm-jax backends --build"):
        library.register()
    assert not marker.exists()


@compiler
def test_a_planted_library_is_not_loaded(path: Path, planted: tuple[bytes, Path]) -> None:
    """A library without a hash, as a compiler writes it, is not loaded. With a hash, it is loaded and its constructor runs."""
    code, marker = planted
    path.parent.mkdir(parents=True, mode=0o700)
    path.write_bytes(code)
    path.chmod(0o600)
    assert "not what was built" in library.why_not()
    assert not marker.exists()
    trust.write(path, code)  # with a hash, it runs
    assert library.why_not() == ""
    assert marker.exists()


@compiler
@pytest.mark.parametrize("kind", [kind for kind in DAMAGE if kind not in ("a folder", "another user's folder")])
def test_what_cannot_be_trusted_is_built_anew(kind: str, path: Path, planted: tuple[bytes, Path], stand_in, ask) -> None:
    trust.write(path, planted[0])
    DAMAGE[kind][0](path)
    stand_in()
    code, out, err = ask("backends", "--build", "--json")
    assert (code, err) == (0, "")
    assert library.why_not() == ""
    assert stat.S_IMODE(path.parent.stat().st_mode) & 0o022 == 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "backends --build" not in out


@compiler
def test_places_that_cannot_be_used(path: Path, planted: tuple[bytes, Path], stand_in, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a library cannot be written or loaded, the error is one line and no partial file is left.

    The causes are a file system without execution, a folder at the path of the library, a folder of another user, and a file at the path of
    the folder.
    """
    with monkeypatch.context() as patch:
        patch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_flag=os.ST_NOEXEC))
        with pytest.raises(InputError, match=r"^folder .*native: is mounted with noexec; name another folder in XDG_CACHE_HOME"):
            library.build()
    stand_in()
    trust.write(path, planted[0])
    _folder(path)
    with pytest.raises(InputError, match=r"^writing .*lstm\.so: Is a directory; free some space or name another folder"):
        library.build()
    assert [entry.name for entry in path.parent.iterdir()] == ["lstm.so"]
    path.rmdir()
    if os.geteuid() == 0:
        os.chown(path.parent, 12345, 12345)
        with pytest.raises(InputError, match=r"^folder .*native: belongs to another user; name another folder in XDG_CACHE_HOME"):
            library.build()
        assert not list(path.parent.iterdir())
    path.parent.rmdir()
    path.parent.write_text("")
    assert library.why_not().startswith("its folder Not a directory")
    stand_in("exit 3")  # it is not called
    with pytest.raises(InputError, match=r"^writing .*: .*; free some space or name another folder"):
        library.build()


@compiler
@pytest.mark.parametrize("umask", [0, 0o002, 0o277, 0o777])
def test_no_umask_matters(umask: int, path: Path, planted: tuple[bytes, Path], stand_in) -> None:
    """Whatever the umask is, only this user can access the written file and the folders that are created for it."""
    stand_in("cat > /dev/null < /dev/null")
    before = os.umask(umask)
    try:
        trust.write(path, planted[0])
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [stat.S_IMODE(folder.stat().st_mode) for folder in path.parents[:3]] == [0o700] * 3
    assert library.why_not() == ""


@compiler
def test_a_disk_that_is_full(path: Path, planted: tuple[bytes, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """If the disk is full, the existing library stays unchanged."""
    trust.write(path, planted[0])
    before = path.read_bytes()

    def full(file: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(trust.os, "fsync", full)
    with pytest.raises(InputError, match=r"^writing .*: No space left on device; free some space"):
        trust.write(path, b"another")
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


@compiler
def test_a_compiler_that_hangs(path: Path, stand_in, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A compiler that exceeds the time limit is ended with its children, and the message gives the limit."""
    monkeypatch.setattr(compiler_module, "SECONDS", 0.5)
    stand_in(f"sleep 1000 & echo $! > {tmp_path}/child; wait")
    with pytest.raises(InputError, match=r"^compiling with .*: not done after 0\.5 s; name another compiler in CXX"):
        library.build()
    child = int((tmp_path / "child").read_text())
    for _ in range(100):
        state = Path(f"/proc/{child}/stat")
        if not state.exists() or state.read_text().split()[2] == "Z":
            break
        time.sleep(0.05)
    else:
        pytest.fail("the compiler's child goes on")
    assert not list(path.parent.iterdir())


@compiler
@pytest.mark.parametrize(
    "script", ["kill -9 $$", "exit 0", ": > $last", "head -c 3000 whole > $last", "echo disk full, an error >&2; exit 1"]
)
def test_a_compiler_that_makes_no_library(script: str, path: Path, stand_in, tmp_path: Path) -> None:
    """If the compiler makes no valid library, the error is one line, and no file is left.

    The compiler is killed, fails, makes no library, or makes an empty or truncated one.
    """
    stand_in(script.replace("whole", str(tmp_path / "whole.so")))
    with pytest.raises(InputError, match=r"^(compiling with|library made by) .*; name another compiler in CXX$"):
        library.build()
    assert not list(path.parent.iterdir())


@compiler
def test_builds_at_once(path: Path, stand_in) -> None:
    """Several builds at the same time all succeed and leave one library, which can be loaded."""
    stand_in()
    errors = []

    def build() -> None:
        try:
            trust.write(path, library.build().read_bytes()[: -trust.SEAL])
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=build) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    os.close(trust.open_library(path))


@compiler
def test_what_was_checked_is_loaded(path: Path, planted: tuple[bytes, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """If another file takes the library's name between the check and the loading, the checked file is loaded, not the other one."""
    trust.write(path, planted[0])
    load, seen = ctypes.CDLL, []

    def swap(name: str | None):
        if name is None:
            return load(None)
        path.unlink()
        path.write_bytes(b"another")
        seen.append(Path(name).read_bytes()[: -trust.SEAL])
        return load(name)

    monkeypatch.setattr(library.ctypes, "CDLL", swap)
    assert library.why_not() == ""
    assert seen == [planted[0]]


def test_a_library_that_cannot_be_loaded(path: Path) -> None:
    trust.write(path, b"what was built, but is no library")
    assert library.why_not().startswith("cannot be loaded (")
    assert library.why_not().endswith(": run lstm-jax backends --build")


def test_cache_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A relative path in XDG_CACHE_HOME is ignored, because with it, a library in the current folder would be loaded.

    If the user has no home directory, `why_not` and the error of `build` say so.
    """
    monkeypatch.setenv("HOME", str(tmp_path))
    for value in ("", "cache", "./x"):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert default_cache_dir() == tmp_path / ".cache" / "lstm_jax"
    monkeypatch.setattr(packaged, "FOLDER", tmp_path / "none")
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("Could not determine home directory.")))
    assert library.why_not() == "cache folder: this user has no home; name a folder in XDG_CACHE_HOME: run lstm-jax backends --build"
    with pytest.raises(InputError, match="this user has no home"):
        library.build()


def test_sanitizers(monkeypatch: pytest.MonkeyPatch) -> None:
    """LSTM_JAX_SANITIZE adds compiler flags and changes the file name of the library.

    A library that was built without sanitizers is therefore never loaded in place of one with sanitizers. An unknown sanitizer is refused.
    """
    monkeypatch.delenv("LSTM_JAX_SANITIZE", raising=False)  # set where the tests themselves run with sanitizers
    plain = library.library_path()
    monkeypatch.setenv("LSTM_JAX_SANITIZE", "address,undefined")
    assert library.library_path() != plain
    assert "-fsanitize=address,undefined" in library._flags()
    monkeypatch.setenv("LSTM_JAX_SANITIZE", "adress")
    with pytest.raises(InputError, match=r"^LSTM_JAX_SANITIZE: adress; give address or undefined, or both with a comma"):
        library.build()
    assert library.why_not().startswith("LSTM_JAX_SANITIZE: adress; ")


@pytest.mark.skipif("compiled" not in BACKENDS, reason="no C++ compiler to build the backend with")
def test_a_process_loads_what_stands() -> None:
    """A new process loads the library that was installed or built before."""
    command = "from lstm_jax import native; print(native.why_not() or 'loaded')"
    run = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True)
    assert run.stdout == "loaded\n"
