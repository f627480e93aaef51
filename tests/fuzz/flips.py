"""One bit flipped, one digit edited, one file cut or gone in a run's folder: each answer is as before, or one line says what is wrong."""

import random
import re
import shutil
from pathlib import Path

from tests.fuzz.case import Verdict
from tests.fuzz.judge import fault_of
from tests.fuzz.runs import final
from tests.fuzz.shell import Command, Outcome, Shell
from tests.fuzz.world import ASK, TRAIN, World

FREE = re.compile(r"^(events|figures)/|^(metrics\.jsonl|samples\.jsonl|result\.json|environment\.json)$")
"""Files of a run on which no answer depends."""
WRITTEN = ("vectors.txt", "page.html")
"""Files that the questions write: a part of the answer."""


def flip(draw: random.Random, path: Path) -> str:
    """Damage the file; returns how."""
    content = path.read_bytes()
    digits = [place for place, byte in enumerate(content) if chr(byte).isdigit()]
    how = draw.choices(("bit", "digit", "byte", "cut", "gone"), (60, 15 if digits else 0, 10, 8, 7))[0]
    if how == "gone" or not content:
        path.unlink()
        return "removed"
    place = draw.choice(digits) if how == "digit" else draw.randrange(len(content))
    if how == "cut":
        path.write_bytes(content[:place])
        return f"cut to {place} bytes"
    others = {"bit": [content[place] ^ 1 << draw.randrange(8)], "digit": list(b"0123456789"), "byte": list(range(256))}[how]
    new = draw.choice([byte for byte in others if byte != content[place]])
    path.write_bytes(content[:place] + bytes([new]) + content[place + 1 :])
    return f"byte {place}: {content[place]:#04x} -> {new:#04x}"


def answer(outcome: Outcome, folder: Path) -> str:
    """All that a question answers, without what a run may say of its own state."""
    return outcome.out + "".join((folder / name).read_text() for name in WRITTEN if (folder / name).exists())


_answers: dict[tuple[Path, str], str] = {}


def expected(question: str, shell: Shell, world: World) -> str:
    """The answer of the undamaged run, asked once."""
    if (world.root, question) not in _answers:
        with world.case() as folder:
            outcome = shell.run(Command(tuple(question.split())), folder)
            if outcome.code != 0:
                raise RuntimeError(f"lstm-jax {question}: {outcome.err}")
            _answers[world.root, question] = answer(outcome, folder)
    return _answers[world.root, question]


def run(draw: random.Random, shell: Shell, world: World) -> Verdict:
    """Flip something in one file of one run, then ask it one of its questions, or resume it."""
    task = draw.choice(list(ASK))
    if draw.random() < 0.2:
        return _resumed(draw, task, shell, world)
    question = draw.choice(ASK[task])
    right = expected(question, shell, world)
    with world.case() as folder:
        name, how = _damage(draw, folder / "runs" / task)
        outcome = shell.run(Command(tuple(question.split())), folder)
        given = answer(outcome, folder)
    return Verdict.of(
        f"{name} of runs/{task}, {how}; lstm-jax {question}", outcome, [fault_of(outcome), _silent(outcome, given, right, name)]
    )


def _damage(draw: random.Random, folder: Path) -> tuple[str, str]:
    """Damage one file: half of them not of a checkpoint, which are few."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    few = [path for path in files if "checkpoints" not in path.parts and not FREE.search(str(path.relative_to(folder)))]
    path = draw.choice(few if draw.random() < 0.5 else files)
    return str(path.relative_to(folder)), flip(draw, path)


def _silent(outcome: Outcome, given: str, right: str, name: str) -> str:
    said = "warning: " in outcome.err
    return (
        ""
        if outcome.code != 0 or given == right or said
        else f"silent: another answer after a change of {re.sub('[0-9a-f]{8,}', 'N', name)}"
    )


def _resumed(draw: random.Random, task: str, shell: Shell, world: World) -> Verdict:
    """Resume a damaged finished run: its checkpoint is the undamaged one's, or one line says what is wrong."""
    command = Command(("train", task, *TRAIN[task].split(), "--run", f"runs/{task}", "--resume"))
    right = final(world.start / "runs" / task)
    with world.case() as folder:
        shutil.rmtree(folder / "cache", ignore_errors=True)
        name, how = _damage(draw, folder / "runs" / task)
        outcome = shell.run(command, folder)
        same = outcome.code != 0 or final(folder / "runs" / task) == right
    return Verdict.of(
        f"{name}, {how}; {command}", outcome, [fault_of(outcome), "" if same else f"silent: resumed to other bits after a change of {name}"]
    )
