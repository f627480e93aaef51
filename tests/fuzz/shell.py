"""Client of the module `server`, which runs command lines one after another, each with
limits of time and memory.
"""

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).parents[2]
MEMORY = 3 * 2**30
"""Resident bytes above which a command is killed. The largest training run of the
fuzzers takes less than 1 GiB."""


BRISK, PATIENT = 12, 120
"""Seconds after which a command is interrupted (SIGINT): one that may take any time,
but must end soon after an interrupt, and one that must end by itself, even on a machine
with other work."""
AGAIN, HANGS = 12, 48
"""Seconds from this interrupt to the next one, and to the end of a command that hangs
and is killed."""


@dataclass(frozen=True)
class Command:
    """Command to run, with its standard streams, its environment and the signals that
    it gets.

    Attributes:
        arguments: arguments of lstm-jax.
        stdin: bytes on standard input.
        stdout: "file" to return standard output, "closed" to close it, or the path of a
            file or device that gets it.
        encoding: encoding of the standard streams.
        signals: signals to send to the command, as pairs (seconds after its start,
            signal number). If there are any, the command is not interrupted when it
            takes long.
    """

    arguments: tuple[str, ...]
    stdin: bytes = b""
    stdout: str = "file"
    encoding: str = "utf-8"
    signals: tuple[tuple[float, int], ...] = ()

    def __str__(self) -> str:
        around = "" if self.stdout == "file" else f" >{self.stdout}"
        around += (
            "" if self.encoding == "utf-8" else f" (PYTHONIOENCODING={self.encoding})"
        )
        return f"lstm-jax {shlex.join(self.arguments)}{around}"


@dataclass(frozen=True)
class Outcome:
    """Result of a command.

    Attributes:
        command: the command.
        code: exit code, or minus the number of the signal that ended the command.
        out: standard output.
        err: standard error.
        ended: "hang" or "memory" if the command was killed for this reason, else "".
        seconds: duration.
        asked: whether the command took so long that it was interrupted.
        outside: refused attempts to change existing files in folders where the command
            may not write, each as the event and the path.
    """

    command: Command
    code: int
    out: str
    err: str
    ended: str
    seconds: float
    asked: bool
    outside: tuple[str, ...]


class Shell:
    """Client that sends commands to a server process, and starts this process when it
    is first needed and whenever it has ended.

    Args:
        environment: environment variables of every command, in addition to those that
            this class passes on or sets itself, such as PATH.
        writable: folders in which every command may write, in addition to the folder in
            which it runs and its folder for temporary files.
    """

    def __init__(self, environment: Mapping[str, str], writable: Sequence[Path] = ()):
        self.environment = {
            name: os.environ[name]
            for name in ("PATH", "LD_LIBRARY_PATH", "CXX")
            if name in os.environ
        } | dict(environment)
        self.environment |= {
            "PYTHONPATH": str(ROOT),
            "JAX_PLATFORMS": "cpu",
            "MPLBACKEND": "agg",
            "OPENBLAS_NUM_THREADS": "1",
        }
        self.writable = tuple(writable)
        self._process: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()

    def run(self, command: Command, folder: Path, seconds: float = PATIENT) -> Outcome:
        """Run a command in `folder`, and return its outcome.

        The files for the standard streams of the command, and its temporary files, are
        in a folder beside `folder`.
        """
        aside = folder.parent / f"{folder.name}.streams"
        aside.mkdir(exist_ok=True)
        names = {
            name: aside / name for name in ("stdin", "stdout", "stderr", "notes", "tmp")
        }
        for name in ("stdout", "stderr", "notes"):
            names[name].write_bytes(b"")
        names["stdin"].write_bytes(command.stdin)
        names["tmp"].mkdir(exist_ok=True)
        stdout = {"file": str(names["stdout"]), "closed": ""}.get(
            command.stdout, command.stdout
        )
        asked = ((seconds, signal.SIGINT), (seconds + AGAIN, signal.SIGINT))
        answer = self._answer(
            {
                "arguments": command.arguments,
                "folder": str(folder),
                "roots": [str(root) for root in (folder, names["tmp"], *self.writable)],
                "notes": str(names["notes"]),
                "streams": [str(names["stdin"]), stdout, str(names["stderr"])],
                "encoding": command.encoding,
                "environment": {"TMPDIR": str(names["tmp"])},
                "signals": command.signals or asked,
                "limit": seconds + HANGS,
                "memory": MEMORY,
            }
        )
        out, err, notes = (
            names[name].read_bytes().decode(errors="replace")
            for name in ("stdout", "stderr", "notes")
        )
        late = not command.signals and answer["seconds"] >= seconds
        return Outcome(
            command,
            answer["code"],
            out,
            err,
            answer["ended"],
            answer["seconds"],
            late,
            tuple(notes.splitlines()),
        )

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        if self._process is None or self._process.poll() is not None:
            words = [sys.executable, "-m", "tests.fuzz.server"]
            pipes = dict.fromkeys(("stdin", "stdout"), subprocess.PIPE)
            self._process = subprocess.Popen(
                words, env=self.environment, cwd=ROOT, start_new_session=True, **pipes
            )
            self._process.stdout.readline()
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(
                f"the fuzzer's server ended with code {self._process.wait()}"
            )
        return json.loads(line)
