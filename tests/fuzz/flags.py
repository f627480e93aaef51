"""Fuzzer of command lines: values that are good, odd, extreme or of a wrong type, and
flags that are missing or repeated.
"""

import argparse
import random
import re
import warnings
from dataclasses import dataclass

import tyro

from lstm_jax.lab.commands import COMMANDS
from tests.fuzz.judge import NOTHING, Verdict, run_and_judge
from tests.fuzz.shell import Command, Shell
from tests.fuzz.world import ASK, TRAIN, World

GOOD: dict[str, tuple[str, ...]] = {
    "int": ("0", "1", "2", "3", "4", "5", "7", "8", "12", "16"),
    "float": ("0", "0.1", "0.25", "0.5", "0.9", "1.0", "2"),
    "str": (
        "text",
        "label",
        "movie",
        "time",
        "value",
        "the",
        "good",
        " ",
        "adam",
        "sgd",
        "lion",
        "hoisted",
        "reference",
        "compiled",
    ),
    "path": (
        "reviews",
        "reviews.jsonl",
        "text.txt",
        "lines.txt",
        "series.csv",
        "runs/sentiment",
        "runs/generation",
        "runs/forecast",
        "new",
    ),
}
_OWN = (
    "fifo",
    "link",
    "notes",
    "empty",
    "keep.txt",
    "keep.png",
    "keep.html",
    "tfds",
    "new.txt",
    "deep/new.html",
    "a\nb",
)
_SYSTEM = (
    "/",
    "/dev/null",
    "/dev/full",
    "/dev/zero",
    "/proc/self/mem",
    "/proc/self/environ",
    "/proc/nothing",
    "https://localhost/x",
)
_NAMES = (
    "",
    ".",
    "..",
    "-",
    "~nosuchuser/x",
    "~",
    "a" * 300,
    "x/" * 2500,
    "text.txt/x",
    "\udcff",
    "nowhere",
    "absent",
)
ODD: dict[str, tuple[str, ...]] = {
    "int": (
        "-1",
        *(str(2**n + d) for n in (31, 32, 63, 64) for d in (-1, 0)),
        str(10**30),
        "9" * 5000,
        "1000000",
    ),
    "float": (
        "-0.1",
        "-0.0",
        "nan",
        "inf",
        "-inf",
        "1e400",
        "1e-320",
        "1e300",
        "0.9999999999999999",
        "1e-17",
        str(2**63),
    ),
    "str": (
        "",
        " ",
        "a" * 300,
        "-",
        "~nosuchuser/x",
        "[bold]x[/x]",
        "\x1b[31m",
        "日本",
        "\u2028",
        "\udcff",
        "{}",
        "%s",
        "\t",
        ".",
    ),
    "path": (*_OWN, *_SYSTEM, *_NAMES),
}
WRONG = [
    "",
    "x",
    "1.5",
    "1e3",
    "0x10",
    "1_000",
    "٣",
    "true",
    "None",
    "null",
    "[1]",
    "--",
    "-x",
    "nan",
    "1 2",
    "-1",
]
WORDS = {
    "embedding neighbours": "good film",
    "embedding export": "vectors.txt",
    "runs compare": "runs",
}
BASES = {
    f"train {task}": f"{flags.replace('--epochs 2', '--epochs 1')} --run new-run"
    for task, flags in TRAIN.items()
}
BASES |= {
    "data prepare": "--data reviews --vocabulary frequency --cache-dir cache",
    "demo": "--run new-demo",
    "backends": "",
}
BASES |= {
    "run accept": "--run runs/sentiment",
    "runs": "",
    "runs compare": "--out new.png",
}
RARE = {"demo": 0.1, "backends": 0.3}
"""Weights of commands that are drawn rarely, because they have few flags or take long.

The training commands have the weight 2, and all other commands have the weight 1.
"""
CHANGED = re.compile(
    r"^runs/\w+(/(checkpoints|events|figures|metrics|result|environment|samples|manifest).*)?$"
)
"""Pattern of the paths that a command may change if it resumes a run, or if it is
`lstm-jax run accept`."""
ANYTHING = re.compile("")


@dataclass(frozen=True)
class Flag:
    """Flag of a command.

    Attributes:
        name: name of the flag with its dashes, or "" if its values are positional
            arguments.
        kind: type of its values: a key of `GOOD`, "bool" or "choice".
        choices: values that the flag accepts, if they are listed.
        many: whether the flag takes several values.
    """

    name: str
    kind: str
    choices: tuple[str, ...]
    many: bool


def _flag(action: argparse.Action) -> Flag:
    name, shown = "".join(action.option_strings[:1]), str(action.metavar)
    listed = re.search("{(.*)}", shown)
    choices = (
        tuple(choice for choice in listed[1].split(",") if choice != "None")
        if listed
        else ()
    )
    kind = (
        "bool"
        if action.nargs == 0
        else next((kind for kind in GOOD if kind.upper() in shown), "choice")
    )
    if kind == "str" and name in ("--data", "--csv", "--test-data", "--cache-dir"):
        kind = "path"
    return Flag(name, kind, choices, "..." in shown)


def _flags_of(command: type) -> list[Flag]:
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        _help, *actions = tyro.extras.get_parser(command)._actions
    return [_flag(action) for action in actions]


FLAGS = {name: _flags_of(command) for name, command in COMMANDS.items()}


def base(name: str) -> dict[str, list[str]]:
    """Return flags with which a command works quickly on the tiny data: a dict from
    each flag to its values.

    The key "" has the positional arguments.
    """
    known = [
        question
        for questions in ASK.values()
        for question in questions
        if question.startswith(name)
    ]
    line = BASES.get(name, known[0][len(name) :] if known else "")
    if name == "embedding plot":
        line = "--run runs/sentiment --out new.png"
    found: dict[str, list[str]] = {"": WORDS.get(name, "").split()}
    for word in line.split():
        if word.startswith("--"):
            found[word] = []
        elif len(found) > 1:
            found[list(found)[-1]].append(word)
    return found


def draw_value(draw: random.Random, flag: Flag) -> str:
    """Draw a value for a flag: with probability 4/7 a good one, else an odd one or one
    of a wrong type.

    A flag of the kind "choice" whose choices are listed has no odd values. A listed
    choice is drawn instead.
    """
    sort = draw.choices(("good", "odd", "wrong"), (8, 5, 1))[0]
    if sort == "wrong":
        return draw.choice(WRONG)
    if flag.choices and (sort == "good" or flag.kind == "choice"):
        return draw.choice(flag.choices)
    kind = "str" if flag.kind in ("choice", "bool") else flag.kind
    return draw.choice((GOOD if sort == "good" else ODD)[kind])


def draw_arguments(draw: random.Random) -> tuple[str, ...]:
    """Draw a command line, and return its words."""
    name = draw.choices(
        list(FLAGS),
        [RARE.get(name, 2 if name.startswith("train") else 1) for name in FLAGS],
    )[0]
    flags, chosen = FLAGS[name], base(name)
    for flag in draw.sample(
        flags, min(len(flags), draw.choices(range(6), (1, 6, 5, 3, 2, 1))[0])
    ):
        count = draw.choice((1, 1, 2)) if flag.many else 1
        if flag.kind == "bool":
            chosen.pop(flag.name, None)
            chosen[flag.name if draw.random() < 0.7 else f"--no-{flag.name[2:]}"] = []
        else:
            chosen[flag.name] = [draw_value(draw, flag) for _ in range(count)]
    if len(chosen) > 1 and draw.random() < 0.05:
        del chosen[draw.choice(list(chosen)[1:])]
    words = [*name.split(), *chosen.pop("")]
    for flag, values in chosen.items():
        words += (
            [f"{flag}={values[0]}"]
            if len(values) == 1 and values[0].startswith("-")
            else [flag, *values]
        )
    if draw.random() < 0.05:
        words.insert(
            draw.randrange(len(words) + 1),
            draw.choice(("--nonsense", "--", "-h", "--run", "stray", "--resume", "-1")),
        )
    return tuple(words)


def run(draw: random.Random, shell: Shell, world: World) -> Verdict:
    """Draw a command line, run it, and return the verdict.

    If --force is not given, a lost or changed file is a fault, with one exception:
    `lstm-jax run accept`, and a command that resumes a run, may change the files that
    `CHANGED` matches.
    """
    arguments = draw_arguments(draw)
    stdin = draw.choice(
        (
            b"",
            b"",
            b"the cat sat\na good film\n",
            b"\xff\x00\r\n",
            b"the cat sat on the mat. " * 9,
        )
    )
    stdout = draw.choices(("file", "/dev/full", "closed"), (30, 1, 1))[0]
    encoding = draw.choices(("utf-8", "ascii"), (20, 1))[0]
    command = Command(arguments, stdin, stdout, encoding)
    resumes = "--resume" in arguments or arguments[:2] == ("run", "accept")
    may_change = ANYTHING if "--force" in arguments else CHANGED if resumes else NOTHING
    with world.case() as folder:
        outcome, faults = run_and_judge(command, shell, folder, may_change)
    return Verdict.of(command, outcome, faults)
