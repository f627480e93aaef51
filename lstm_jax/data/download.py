"""Downloads of files. A downloaded file is checked before it gets its final name."""

import http.client
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import IO

from lstm_jax.errors import InputError
from lstm_jax.files.writing import write_atomically

CHUNK = 1 << 20
TIMEOUT = 30  # seconds without a byte from the server, after which the download fails


def download(url: str, path: Path, check: Callable[[Path], None], remedy: str, on_bytes: Callable[[int, int], None] | None = None) -> None:
    """Download `url` to a temporary name, check the file, then rename it to `path`."""

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
