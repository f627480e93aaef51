"""A server process that imports all modules that commands may need, and then forks a
child process for each command line.

A child does what a fresh process would do, but saves the three seconds that the imports
take. Requests come as JSON lines on standard input, and answers go as JSON lines to
standard output. JAX has created no devices when a child is forked, so each command can
choose its own devices. `python -m tests.fuzz.server` runs the server, and `shell.Shell`
sends requests to it.
"""

import contextlib
import gc
import importlib
import json
import os
import resource
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

POLL = 0.01
FILE_BYTES = 2**30
MODULES = (
    *(f"lstm_jax.lab.{name}" for name in ("demo", "tasks")),
    *(
        f"lstm_jax.lab.inspection.{name}"
        for name in ("embedding_space", "figures", "text_map")
    ),
    *("lstm_jax.lab.cli", "lstm_jax.convert", "lstm_jax.lab.machine.compilation_cache"),
    # the library imports these on use
    *("orbax.checkpoint", "scipy.stats"),
    *(
        "tensorboard.compat.proto.summary_pb2",
        "tensorboard.compat.tensorflow_stub.pywrap_tensorflow",
    ),
)
"""Modules that a command may need."""


def serve() -> dict[str, Any] | None:
    """Fork a child process for each request on standard input, and write an answer that
    says how the child ended.

    The function returns in every process: in a child, it returns the request of this
    child. In the server itself, it returns None when standard input ends.
    """
    requests = os.fdopen(os.dup(0), "rb", buffering=0)
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    answers.write(b'{"ready": true}\n')
    while line := requests.readline():
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            requests.close()
            answers.close()
            return request
        # the driver has left; the next request will not come
        with contextlib.suppress(BrokenPipeError):
            answers.write(json.dumps(_watch(child, request)).encode() + b"\n")
    return None


def _watch(child: int, request: dict[str, Any]) -> dict[str, Any]:
    """Wait until a child has ended, and return the answer to its request.

    The signals in the request are sent to the child at the requested times. The child
    is killed if it exceeds the limit of time or memory.
    """
    began = time.monotonic()
    signals = sorted(request["signals"])
    answer: dict[str, Any] = {"ended": "", "peak": 0}
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        passed = time.monotonic() - began
        if pid:
            answer["code"] = os.waitstatus_to_exitcode(status)
            answer["seconds"] = passed
            with contextlib.suppress(ProcessLookupError, PermissionError):
                # processes that the child has started and left running
                os.killpg(child, signal.SIGKILL)
            return answer
        while signals and passed >= signals[0][0]:
            os.kill(child, signals.pop(0)[1])
        answer["peak"] = max(answer["peak"], _resident(child))
        if passed > request["limit"] or answer["peak"] > request["memory"]:
            answer["ended"] = answer["ended"] or (
                "hang" if passed > request["limit"] else "memory"
            )
            os.kill(child, signal.SIGKILL)
        time.sleep(POLL)


def _resident(process: int) -> int:
    try:
        return (
            int(Path(f"/proc/{process}/statm").read_text().split()[1])
            * resource.getpagesize()
        )
    except (OSError, IndexError, ValueError):
        return 0


def become(request: dict[str, Any]) -> int:
    """Set up this child process as the request describes, run the command of the
    request, and return its exit code.
    """
    os.setpgid(0, 0)
    sys.dont_write_bytecode = True
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.update(request["environment"])
    tempfile.tempdir = None
    os.chdir(request["folder"])
    notes = os.open(request["notes"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    _standard_streams(request)
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES, FILE_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    from tests.fuzz.guard import watch

    watch([Path(root) for root in request["roots"]], notes)
    if request["call"]:
        module, _, name = request["call"].partition(":")
        return getattr(importlib.import_module(module), name)(*request["arguments"])
    from lstm_jax.lab import cli

    return cli.main(request["arguments"])


def _standard_streams(request: dict[str, Any]) -> None:
    for number, path in enumerate(request["streams"]):
        if path:
            os.dup2(
                os.open(path, os.O_WRONLY | os.O_CREAT if number else os.O_RDONLY),
                number,
            )
        else:
            os.close(number)
    encoding = request["encoding"]
    sys.stdin = (
        _stream(0, "r", encoding, "surrogateescape") if request["streams"][0] else None
    )
    sys.stdout = _stream(1, "w", encoding, "strict") if request["streams"][1] else None
    sys.stderr = _stream(2, "w", encoding, "backslashreplace")


def _stream(number: int, mode: str, encoding: str, errors: str) -> Any:
    return open(number, mode, encoding=encoding, errors=errors, closefd=False)


if __name__ == "__main__":
    for name in MODULES:
        importlib.import_module(name)
    gc.freeze()  # children share these pages
    asked = serve()
    sys.exit(0 if asked is None else become(asked))
