"""Files: a content hash, and a download that is checked before it has its name."""

import hashlib
import http.client
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import IO

from lstm_jax.errors import InputError
from lstm_jax.files.reading import READABLE, open_input, parsing
from lstm_jax.files.writing import write_atomically

CHUNK = 1 << 20
TIMEOUT = 30  # seconds without a byte from the server


def file_digest(path: Path, name: str = "sha256") -> str:
    """Hexadecimal digest of a file's bytes by the hash of that name.

    Raises:
        InputError: if the file cannot be read.
    """
    with parsing(f"file {path}", READABLE), open_input(path) as file:
        return hashlib.file_digest(file, name).hexdigest()


def download(url: str, path: Path, check: Callable[[Path], None], remedy: str, on_bytes: Callable[[int, int], None] | None = None) -> None:
    """Fetch `url` into `path`: to a temporary name first, which `check` sees before it is renamed.

    Args:
        url: http or https address.
        path: where the file goes.
        check: raises InputError if the file is not the wanted one.
        remedy: what to do where there is no network.
        on_bytes: called with (bytes so far, bytes in all or 0) after each mebibyte.

    Raises:
        InputError: without a network, or for a file that fails the check; nothing is left behind.
    """

    def fetch(file: IO[bytes]) -> None:
        try:
            with urllib.request.urlopen(url, timeout=TIMEOUT) as reply:
                total, done = int(reply.headers.get("Content-Length") or 0), 0
                while chunk := reply.read(CHUNK):
                    file.write(chunk)
                    done += len(chunk)
                    if on_bytes:
                        on_bytes(done, total)
        except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
            raise InputError(f"download of {url}", getattr(error, "reason", error), remedy) from error
        file.flush()
        check(Path(file.name))

    write_atomically(path, fetch)
