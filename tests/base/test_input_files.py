"""Readers refuse missing files, paths that are no regular files, and files that change
while they are read, with one-line errors.
"""

import os
import resource
import select
import signal
import socket
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from refused import refused

from lstm_jax.base import reading as input_files
from lstm_jax.base.errors import InputError
from lstm_jax.base.writing import locked
from lstm_jax.convert import read_keras_weights, read_torch_file
from lstm_jax.lab.files.reading import read_input
from lstm_jax.lab.forecast.data import read_series
from lstm_jax.lab.generation.data import read_articles
from lstm_jax.lab.sentiment.data import load_reviews
from lstm_jax.lab.sentiment.data.dataset import read_keras_npz

TEXT = "It was the best of times.\n"


# paths that are no regular files


@pytest.fixture
def strange(tmp_path):
    """Return a dict of paths that are no regular files. The key of a path is a part of
    the error message that is expected for it.
    """
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(tmp_path / "socket"))
    return {
        "FIFO": tmp_path / "fifo",
        "socket": tmp_path / "socket",
        "device": Path("/dev/zero"),
        "Is a directory": tmp_path,
    }


def test_only_regular_files_are_opened(strange):
    for kind, path in strange.items():
        refused(
            f"file .*: .*{kind}.*; give a file that can be read",
            read_input,
            path,
        )


def test_a_fifo_is_refused_at_once(tmp_path):
    for names, read in (
        ("a.csv a.jsonl a.jsonl.xz a.tar.gz a.npz", load_reviews),
        ("a.txt a.json", read_articles),
        ("b.npz", read_keras_npz),
        ("b.csv", read_series),
        ("b.safetensors", read_torch_file),
        ("b.weights.h5", read_keras_weights),
    ):
        for name in names.split():
            os.mkfifo(tmp_path / name)
            refused("^.", read, tmp_path / name)


def test_a_fifo_with_a_writer_is_read_to_its_end(tmp_path):
    path = tmp_path / "fifo"
    os.mkfifo(path)
    with ThreadPoolExecutor(1) as pool:
        # so that the writer can begin
        reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        written = pool.submit(path.write_text, TEXT * 9000)
        while not select.select([reader], [], [], 1)[0]:
            pass
        assert read_input(path).decode() == TEXT * 9000
        os.close(reader)
        written.result()


@pytest.mark.parametrize(
    "path", ["~nosuchuser/a.csv", "x" * 300 + ".csv", "a\0b.csv", "none/at/all.csv"]
)
def test_names_of_nothing(path):
    for read in (load_reviews, read_articles, lambda name: read_series(Path(name))):
        refused(r"^[^\n]*$", read, path)


def test_folders_without_permission(tmp_path):
    folder = tmp_path / "closed"
    folder.mkdir()
    (folder / "a.txt").write_text(TEXT)
    folder.chmod(stat.S_IRUSR)
    uid = os.geteuid()
    try:
        if uid == 0:  # root, for whom permissions are not checked
            tmp_path.chmod(0o755)
            os.chown(folder, 65534, 65534)
            os.seteuid(65534)
        refused("Permission denied", read_articles, folder)
    finally:
        os.seteuid(uid)
        folder.chmod(stat.S_IRWXU)


def test_a_file_that_grows_meanwhile(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text(TEXT)

    def read_and_write():
        with input_files.open_input(path) as file, path.open("a") as more:
            file.read()
            more.write(TEXT)

    refused("changed while it was read", read_and_write)


def test_a_lock_on_a_full_disk(tmp_path):
    """`locked` raises `InputError` and removes the lock file if this file cannot be
    written because the disk is full.

    The full disk is simulated by a limit of 0 bytes for the size of files
    (RLIMIT_FSIZE).
    """
    limits, handler = (
        resource.getrlimit(resource.RLIMIT_FSIZE),
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN),
    )
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        with (
            pytest.raises(
                InputError, match=r"^run: lock x.lock: File too large; free some space$"
            ),
            locked(tmp_path / "x.lock", "run"),
        ):
            pass
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert list(tmp_path.iterdir()) == []


def test_no_standard_input(monkeypatch):
    monkeypatch.setattr("sys.stdin", None)
    refused(
        r"^standard input: closed; name a file, or send the text through a pipe$",
        read_input,
        "-",
    )
