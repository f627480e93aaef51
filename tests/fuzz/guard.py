"""Audit hook for the Python code of a fuzzed command. It forbids the network, and
changes of files outside the command's folders.

Unlike file permissions, the hook is effective for root, too.
"""

import os
import stat
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# event -> pairs: index of an argument that is a path, index of the folder descriptor
# that the path is relative to
PATHS = {
    "os.rename": ((0, 2), (1, 3)),
    "os.remove": ((0, 1),),
    "os.rmdir": ((0, 1),),
    "os.mkdir": ((0, 2),),
    "os.link": ((1, 3),),
    "os.symlink": ((1, 2),),
    "os.chmod": ((0, 2),),
    "os.chown": ((0, 3),),
    "os.utime": ((0, 3),),
    "os.truncate": ((0, None),),
    "shutil.rmtree": ((0, 1),),
}


def watch(roots: Sequence[Path], notes: int) -> None:
    """Install an audit hook that refuses network connections, and changes of files
    outside `roots`.

    The hook sees the opening of a file for writing and the events in `PATHS`. It does
    not see the creation of named pipes, or what compiled libraries (such as HDF5) and
    other processes do. Character devices may be written everywhere.

    A refused change raises PermissionError. A refused connection or look-up of a host
    name raises the OSError "Network is unreachable".

    Args:
        roots: folders in which every change is allowed.
        notes: file descriptor to which a line is written for each refused change of a
            path that exists.
    """
    allowed = tuple(os.path.realpath(root) for root in roots)

    def refuse(event: str, path: str) -> None:
        if os.path.lexists(path):
            os.write(notes, f"{event} {path}\n".encode(errors="surrogateescape"))
        raise PermissionError(13, "Permission denied", path)

    def hook(event: str, arguments: tuple) -> None:
        if event == "open":
            _check_open(arguments, allowed, refuse)
        elif event in PATHS:
            for number, folder in PATHS[event]:
                path = _full(
                    arguments[number],
                    arguments[folder]
                    if folder is not None and folder < len(arguments)
                    else None,
                )
                if path and not _inside(path, allowed):
                    refuse(event, path)
        elif event in ("socket.connect", "socket.getaddrinfo"):
            raise OSError(101, "Network is unreachable")

    sys.addaudithook(hook)


def _check_open(
    arguments: tuple, allowed: tuple[str, ...], refuse: Callable[[str, str], None]
) -> None:
    path, _, flags = arguments
    if (
        not isinstance(path, str | bytes)
        or not isinstance(flags, int)
        or not flags & WRITES
    ):
        return
    full = _full(path, None)
    if not _inside(full, allowed) and not _device(full):
        refuse("open", full)


def _full(path: object, folder: object) -> str:
    if not isinstance(path, str | bytes | os.PathLike):
        return ""
    here = f"/proc/self/fd/{folder}" if isinstance(folder, int) and folder >= 0 else "."
    head, tail = os.path.split(os.path.join(here, os.fsdecode(path)))
    return os.path.join(os.path.realpath(head), tail)


def _inside(path: str, allowed: tuple[str, ...]) -> bool:
    return any(path == root or path.startswith(root + "/") for root in allowed)


def _device(path: str) -> bool:
    """Return whether a path is an existing character device. Writing to a device
    changes no file.
    """
    try:
        return stat.S_ISCHR(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False
