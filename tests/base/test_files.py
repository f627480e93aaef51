"""`write_atomically` writes a file as a whole or not at all."""

import errno
import os
import pathlib
import stat

import pytest
from refused import refused

from lstm_jax.base.writing import lock_error, write_atomically


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        ("ünï\n", "ünï\n".encode()),
        (b"\x00\xff", b"\x00\xff"),
        (lambda file: file.write(b"abc"), b"abc"),
        ("", b""),
    ],
)
def test_creates_folders_and_replaces(content, wanted, tmp_path):
    path = tmp_path / "a" / "b" / "file"
    for _ in range(2):
        write_atomically(path, content)
        assert path.read_bytes() == wanted
        assert names(path.parent) == ["file"]


@pytest.mark.parametrize(
    "error", [RuntimeError("boom"), KeyboardInterrupt(), MemoryError()]
)
def test_a_writer_that_raises_leaves_the_old_file(error, tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def half(file):
        file.write(b"ne")
        raise error

    with pytest.raises(type(error)) as raised:
        write_atomically(path, half)
    assert raised.value is error
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("where", ["write", "fsync", "rename"])
def test_a_full_disk(where, tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_text("old")

    def fail(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if where == "fsync":
        monkeypatch.setattr(os, "fsync", fail)
    if where == "rename":
        monkeypatch.setattr(pathlib.Path, "replace", fail)
    refused(
        f"^writing {path}: No space left on device; ",
        write_atomically,
        path,
        fail if where == "write" else "new",
    )
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_a_replaced_file_keeps_its_permissions(tmp_path):
    path = tmp_path / "a"
    write_atomically(path, "old")
    for mode in (0o600, 0o640, 0o444):
        path.chmod(mode)
        write_atomically(path, "new")
        assert stat.S_IMODE(path.stat().st_mode) == mode


def test_a_temporary_file_that_another_process_removes(tmp_path, monkeypatch):
    """`write_atomically` creates a second temporary file if another process, which is
    about to remove the first one, has locked it.
    """
    asked = []

    def taken(file):
        asked.append(file.name)
        return BlockingIOError() if len(asked) == 1 else lock_error(file)

    monkeypatch.setattr("lstm_jax.base.writing.lock_error", taken)
    write_atomically(tmp_path / "a", "text")
    assert (tmp_path / "a").read_text() == "text"
    assert len(set(asked)) == 2


def test_what_cannot_be_a_file(tmp_path):
    (tmp_path / "file").write_text("old")
    (tmp_path / "folder").mkdir()
    for path in (
        tmp_path / "file" / "below",
        tmp_path / "folder",
        tmp_path / ("x" * 300),
    ):
        refused(r"^writing ", write_atomically, path, "new")
    assert names(tmp_path) == ["file", "folder"]
    assert (tmp_path / "file").read_text() == "old"
