"""Fixtures with the real reviews and with small made-up ones. Tests in this folder use
neither the network nor the user's folders.
"""

import io
import json
import tarfile
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from made_reviews import WORDS, made_rows, members


@pytest.fixture(scope="session")
def imdb(data_dir: Path) -> Path:
    """Return the folder with the real reviews. The test is skipped if they are absent."""
    if not (data_dir / "imdb" / "train.jsonl.xz").is_file():
        pytest.skip(f"no IMDB reviews in {data_dir / 'imdb'}: set LSTM_JAX_DATA")
    return data_dir / "imdb"


@pytest.fixture(autouse=True)
def alone(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refuse network access, set a new home folder, and unset `LSTM_JAX_DATA` and
    `TFDS_DATA_DIR`.
    """
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "cache"))
    monkeypatch.delenv("LSTM_JAX_DATA", raising=False)
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)

    def refuse(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no network in tests")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)


@pytest.fixture
def archive(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes small.tar.gz and returns its path.

    Its arguments are `extra`, tar members without content, and `files`, a dict from
    paths in `aclImdb` to contents. By default, `files` are the small made reviews.
    """

    def write(*extra: tarfile.TarInfo, files: dict[str, bytes] | None = None) -> Path:
        path = tmp_path / "small.tar.gz"
        with tarfile.open(path, "w:gz") as tar:
            for name, content in (members() if files is None else files).items():
                info = tarfile.TarInfo(f"aclImdb/{name}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
            for info in extra:
                tar.addfile(info)
        return path

    return write


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return an extracted `aclImdb` folder with the small made reviews."""
    for name, content in members().items():
        path = tmp_path / "aclImdb" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path / "aclImdb"


@pytest.fixture
def jsonl(tmp_path: Path) -> Path:
    """Return a folder with made reviews in train.jsonl and test.jsonl, and with a word
    index.
    """
    path = tmp_path / "jsonl"
    path.mkdir()
    for split in ("train", "test"):
        (path / f"{split}.jsonl").write_text(
            "".join(json.dumps(row) + "\n" for row in made_rows(split))
        )
    (path / "imdb_word_index.json").write_text(
        json.dumps({word: rank for rank, word in enumerate(WORDS, 1)})
    )
    return path
