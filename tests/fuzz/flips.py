"""Fuzzer of run folders: one bit is flipped, one digit or byte edited, or one file cut
or removed.

A command then answers a question about the run, or resumes the run. The command must
give the result that it gives for the undamaged run, or print one line that says what is
wrong.
"""

import hashlib
import random
import re
from pathlib import Path

from tests.fuzz.case import Verdict
from tests.fuzz.judge import fault_of
from tests.fuzz.mutate import edit_digit, flip_bit, set_byte, truncate
from tests.fuzz.runs import final
from tests.fuzz.shell import Command, Outcome, Shell
from tests.fuzz.world import ASK, TRAIN, World

FREE = re.compile(
    r"^runs/\w+/((events|figures)/|(metrics\.jsonl|samples\.jsonl|result\.json|environment\.json)$)"
)
"""Pattern of the paths of those files of a run that do not influence the answer to any
question."""
DATA = {
    "reviews/*.csv": ASK["sentiment"],
    "cache/*.npz": ASK["sentiment"],
    "text.txt": ASK["generation"],
    "packed.jsonl.xz": ("predict --file packed.jsonl.xz --run runs/sentiment",),
    "text-shards/*": ("tests.fuzz.calls:shards text-shards",),
    "review-shards/*": ("tests.fuzz.calls:shards review-shards",),
}
"""Dict from patterns of data files to the questions about them. If a data file is
damaged, a command must give the same answer or report the damage.

The file with the series of the task "forecast" is not listed. A user may append rows to
this file, and a forecast then begins after the last row.
"""
WRITTEN = ("vectors.txt", "page.html", "model.onnx")
"""Files that questions in `ASK` write, and whose contents are a part of the answer."""


def damage(draw: random.Random, path: Path) -> str:
    """Damage or remove a file, and return a description of the damage. An empty file is
    always removed.
    """
    content = path.read_bytes()
    if not content or draw.random() < 0.07:
        path.unlink()
        return "removed"
    kind = draw.choices((flip_bit, edit_digit, set_byte, truncate), (60, 15, 10, 8))[0]
    path.write_bytes(kind(draw, content))
    return kind.__name__


def answer(outcome: Outcome, folder: Path) -> str:
    """Return the answer of a command to a question about a run, as one string.

    The answer consists of standard output, and of a hash of each file in `WRITTEN` that
    the command wrote. Standard error does not count.
    """
    found = (folder / name for name in WRITTEN if (folder / name).exists())
    return outcome.out + "".join(
        hashlib.sha256(path.read_bytes()).hexdigest() for path in found
    )


_answers: dict[tuple[Path, str], str] = {}


def expected(question: str, shell: Shell, world: World) -> str:
    """Return the answer of the command `question` for the undamaged run; see `answer`.

    Answers are cached, so that each command runs only once.
    """
    if (world.root, question) not in _answers:
        with world.case() as folder:
            outcome = shell.run(_command(question), folder)
            if outcome.code != 0:
                raise RuntimeError(f"lstm-jax {question}: {outcome.err}")
            _answers[world.root, question] = answer(outcome, folder)
    return _answers[world.root, question]


def _command(question: str) -> Command:
    """Return the command of a question, which begins with "module:function" if it is
    not one of lstm-jax.
    """
    first, *rest = question.split()
    return Command(tuple(rest), call=first) if ":" in first else Command((first, *rest))


def run(draw: random.Random, shell: Shell, world: World) -> Verdict:
    """Damage one file of a run or of its data, let a command query or resume the run,
    and return the verdict.

    A file of `DATA` is damaged with probability 0.15. Otherwise a file of a run is
    damaged. In half of these cases, the file is drawn only from the files that neither
    belong to a checkpoint nor match `FREE`. They are so few that they would otherwise
    be damaged rarely.
    """
    task, pattern = (
        draw.choice(list(ASK)),
        draw.choice(list(DATA)) if draw.random() < 0.15 else "",
    )
    resume = not pattern and draw.random() < 0.2
    question = (
        f"train {task} {TRAIN[task]} --run runs/{task} --resume"
        if resume
        else draw.choice(DATA[pattern] if pattern else ASK[task])
    )
    right = (
        final(world.start / "runs" / task)
        if resume
        else expected(question, shell, world)
    )
    with world.case() as folder:
        chosen = [
            path
            for path in folder.glob(pattern or f"runs/{task}/**/*")
            if path.is_file()
        ]
        if not pattern and draw.random() < 0.5:
            chosen = [
                path
                for path in chosen
                if "checkpoints" not in path.parts
                and not FREE.search(str(path.relative_to(folder)))
            ]
        path = draw.choice(sorted(chosen))
        name, how = str(path.relative_to(folder)), damage(draw, path)
        outcome = shell.run(_command(question), folder)
        fault = fault_of(outcome)
        if not fault and outcome.code == 0:
            given = final(folder / "runs" / task) if resume else answer(outcome, folder)
            noted = "warning: " in outcome.err and not resume
            fault = (
                ""
                if given == right or noted
                else (
                    f"silent: {'other bits' if resume else 'another answer'} "
                    f"after a change of {_kind(name)}"
                )
            )
        # `final` reads the checksums of the arrays, and not the arrays
        if resume and not fault and outcome.code == 0:
            read = shell.run(_command(ASK[task][0]), folder)
            whole = read.code == 0 and answer(read, folder) == expected(
                ASK[task][0], shell, world
            )
            fault = fault_of(read) or (
                ""
                if whole
                else f"resumed, but not mended, after a change of {_kind(name)}"
            )
    return Verdict.of(f"{name}, {how}; {_command(question)}", outcome, [fault])


def _kind(name: str) -> str:
    """Return a file's name with hashes and numbers replaced by N, so that alike files
    are grouped.
    """
    return re.sub(r"[0-9a-f]{8,}|\d+", "N", name)
