"""Functions that find the faults of a command. Similar faults have the same
description, so that they can be grouped.
"""

import hashlib
import os
import re
import signal
import stat
from collections.abc import Iterable
from pathlib import Path

from lstm_jax.base.errors import RESTART
from tests.fuzz.shell import BRISK, Command, Outcome, Shell

NOTHING = re.compile("(?!)")
"""Pattern that matches no path."""
_FRAME = re.compile(r'File "[^"]*?(lstm_jax[/.][^"]*)", line (\d+), in (\S+)')
_ERROR = re.compile(
    r"^([A-Za-z_][\w.]*(?:Error|Exception|Interrupt|Exit|Warning|Full|Empty|Stop\w*)\b[^:\n]*):?(.*)$",
    flags=re.MULTILINE,
)
_NUMBERS = re.compile(r"(?<![\w.])-?(?:nan|inf)(?![\w.])", flags=re.IGNORECASE)
_LEFT = re.compile(r"\.tmp$|orbax-checkpoint-tmp|\.tmp\.|run\.lock$")


def fault_of(outcome: Outcome) -> str:
    """Return a description of the fault in how a command ended, or "" if there is none.

    A command may end with exit code 0, with exit code 2 and a single line that begins
    with "error:" (beside warnings), with exit code 130 after an interrupt, or with exit
    code 75 if a training run has saved its state after a SIGTERM. A signal that was
    sent to the command may also end it. A traceback is a fault, except one of an
    interrupt outside the project's code. Further faults are a limit of time or memory
    that was exceeded, and a refused attempt to rename, replace or remove a file outside
    the folders of the command.
    """
    if outcome.ended:
        return {
            "hang": "hang: ignores two interrupts",
            "memory": "memory: grows without bound",
        }[outcome.ended]
    if (
        "Traceback (most recent call last)" in outcome.err
        or "Exception ignored" in outcome.err
    ):
        raised = _raised(outcome.err)
        # an interrupt while Python itself starts or ends is nothing that a command can
        # catch
        return (
            ""
            if raised.startswith("KeyboardInterrupt in outside of the project")
            else f"traceback: {raised}"
        )
    sent = {number for _, number in outcome.command.signals} | (
        {signal.SIGINT} if outcome.asked else set()
    )
    if outcome.code < 0 and -outcome.code not in sent:
        return f"crash: signal {-outcome.code}"
    if replaced := [
        note
        for note in outcome.outside
        if note.split()[0] in ("os.rename", "os.remove", "os.rmdir", "shutil.rmtree")
    ]:
        return f"writes outside its folder: {replaced[0]}"
    return _code_fault(outcome)


def _code_fault(outcome: Outcome) -> str:
    lines = [
        line for line in outcome.err.splitlines() if not line.startswith("warning: ")
    ]
    if outcome.code == 2:
        good = len(lines) == 1 and lines[0].startswith("error: ")
        return (
            ""
            if good
            else (
                "error that is not one line: "
                f"{_shape(lines[0] if lines else 'nothing')}"
            )
        )
    if outcome.code == RESTART:
        asked = signal.SIGTERM in {number for _, number in outcome.command.signals}
        # without a saved state if no step has been taken
        told = asked and "interrupted" in outcome.err
        return "" if told else f"exit code {RESTART} without a SIGTERM and its message"
    if outcome.code == 130:
        asked = outcome.asked or bool(outcome.command.signals)
        return "" if asked else "exit code 130 without an interrupt"
    # a signal that was sent to it: Python is on its way out, or has only begun
    if outcome.code <= 0:
        return ""
    return f"exit code {outcome.code}: {_shape(lines[-1] if lines else 'nothing')}"


def run_and_judge(
    command: Command, shell: Shell, folder: Path, may_change: re.Pattern[str] = NOTHING
) -> tuple[Outcome, list[str]]:
    """Run a command that may take any time, and return its outcome and its faults, each
    "" if there is none.

    Beside those of `fault_of`, a fault is a file that is lost or changed, unless
    `may_change` matches its path, a temporary file that is left, and a nan or an
    infinity that a command prints without an error.
    """
    before = snapshot(folder)
    outcome = shell.run(command, folder, BRISK)
    after = snapshot(folder)
    changed = (
        path
        for path, content in before.items()
        if after.get(path) != content and not may_change.search(path)
    )
    faults = [
        fault_of(outcome),
        *(f"{'replaces' if path in after else 'removes'} {path}" for path in changed),
    ]
    if outcome.code in (0, 2):
        faults.append(left_behind(set(after) - set(before)))
    found = _NUMBERS.search(outcome.out)
    if (
        found
        and outcome.code == 0
        and not outcome.asked
        and command.arguments[0] in ("forecast", "predict", "score")
    ):
        faults.append(f"silent: {found[0]} with exit code 0")
    return outcome, faults


def _raised(text: str) -> str:
    """Return a description of the last traceback in `text`: type of the exception, last
    frame in the project's code, shortened message.
    """
    frames, errors = _FRAME.findall(text), _ERROR.findall(text)
    where = f"{frames[-1][0]}, {frames[-1][2]}" if frames else "outside of the project"
    kind, message = errors[-1] if errors else ("?", "")
    return f"{kind.strip()} in {where}: {_shape(message)}"


def _shape(message: str) -> str:
    """Return the beginning of a message, with placeholders for numbers, paths and
    quoted words, which differ from case to case.
    """
    return re.sub(r"\d+", "N", re.sub(r"'[^']*'|/\S+", "...", message)).strip()[:80]


def snapshot(folder: Path) -> dict[str, str]:
    """Return a dict from the path of each entry below a folder to its type or, for a
    file, the hash of its content.
    """
    found = {}
    for here, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(here) / name
            found[str(path.relative_to(folder))] = _content(path)
    return found


def _content(path: Path) -> str:
    mode = path.lstat().st_mode
    if stat.S_ISLNK(mode):
        return f"link to {path.readlink()}"
    if stat.S_ISDIR(mode):
        return "folder"
    return (
        hashlib.sha256(path.read_bytes()).hexdigest()
        if stat.S_ISREG(mode)
        else f"special file {stat.S_IFMT(mode):o}"
    )


def left_behind(after: Iterable[str]) -> str:
    """Return a fault with the name of the first temporary file among the paths, else
    "".
    """
    return next(
        (
            (
                "leaves a temporary file: "
                f"{_shape(re.sub('[0-9a-f]{8}', 'N', Path(path).name))}"
            )
            for path in after
            if _LEFT.search(path)
        ),
        "",
    )
