"""Check of the free disk space before a checkpoint is saved, and conversion of file-system errors to `InputError`."""

import contextlib
import errno
import os
import re
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lstm_jax.errors import InputError

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_OS_ERROR = re.compile(r"\[os_error_code='?(\d+)'?\]")
_LARGEST_FILE = 2**31
"""Size in bytes at which tensorstore, which Orbax uses, begins a new file."""


def require_space(folder: Path, leaves: dict[str, Any]) -> None:
    """Check that the arrays in `leaves` can be saved to the folder."""
    size = sum(leaf.nbytes for leaf in leaves.values())
    needed = size + size // 50 + 2**12 * (4 + len(leaves))  # including the metadata of each leaf
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    for code, short in ((errno.ENOSPC, shutil.disk_usage(folder).free < needed), (errno.EFBIG, 0 <= limit < min(needed, _LARGEST_FILE))):
        if short:
            raise OSError(code, os.strerror(code))


@contextlib.contextmanager
def explained(folder: Path) -> Iterator[None]:
    """Convert file-system errors that occur inside the `with` block of this context manager to `InputError`."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        found = _OS_ERROR.search(str(error))
        code: int | None = int(found[1]) if found else getattr(error, "errno", None)
        if code in _NO_SPACE or "No space left" in str(error) or "Disk quota" in str(error):
            raise InputError(f"checkpoint folder {folder}", "no space left", "free some, or name a folder on another disk") from error
        if code == errno.EFBIG:
            raise InputError(
                f"checkpoint folder {folder}", os.strerror(errno.EFBIG), "allow larger files (ulimit -f), or shrink the model"
            ) from error
        if code is not None or isinstance(error, OSError):
            message: object = error if code is None else os.strerror(code)
            raise InputError(f"checkpoint folder {folder}", message, "name a folder that can be written") from error
        raise
