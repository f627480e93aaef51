"""Folder with a subfolder `start` that is copied for every case of the fuzzers.

The subfolder has tiny data of each kind, a finished run of each task, and files that
stand for a user's own.
"""

import json
import lzma
import math
import os
import random
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lstm_jax.lab.tasks import TASKS
from tests.fuzz.shell import Command, Shell
from tests.helpers.command_line import questions

_TINY = "--units 4 --epochs 2 --batch-size 16 --no-figures"
TRAIN = dict.fromkeys(TASKS, _TINY) | {
    "sentiment": (
        "--data reviews --vocabulary frequency --num-words 60 --maxlen 6 --embed "
        f"4 --cache-dir cache {_TINY}"
    ),
    "generation": (
        "--data text.txt --length 8 --step 4 --sample-chars 4 --sample-prompt 3 "
        f"{_TINY}"
    ),
    "forecast": f"--csv series.csv --context 6 --horizon 3 {_TINY}",
}
"""Dict from each task to the flags of its training run, without --run. The default
`_TINY` suits tasks that need no file of data."""
_QUESTIONS = {
    "sentiment": (
        "evaluate --json --run runs/sentiment",
        "predict --file lines.txt --run runs/sentiment",
        "embedding neighbours good --count 3 --min-reviews 1 --run runs/sentiment",
        "embedding export vectors.txt --run runs/sentiment",
        "export onnx --file model.onnx --run runs/sentiment",
    ),
    "generation": (
        "generate --prompt the --chars 12 --json --run runs/generation",
        "score --json --run runs/generation",
        "score --json --text the.cat --run runs/generation",
        "units --text the.cat --count 2 --out page.html --run runs/generation",
        "export onnx --file model.onnx --run runs/generation",
    ),
    "forecast": (
        "forecast --json --run runs/forecast",
        "forecast --json --csv series.csv --level 0.5 --run runs/forecast",
    ),
}
ASK = {
    task: _QUESTIONS.get(task)
    or tuple(f"{name} --run runs/{task}" for name in questions(task))
    for task in TASKS
}
"""Dict from each task to command lines, called questions, that read its run. The
default is the commands that `questions` returns."""
SENTENCES = (
    "the cat sat on the mat. a dog ran to the red house, and the cat was not there! "
)
HOME = "home"


@dataclass(frozen=True)
class World:
    """Folder that all cases share.

    Each case begins with a copy of the subfolder `start`. The cases use the subfolders
    `cache` and `home` instead of the user's cache folder and home folder.
    """

    root: Path
    environment: dict[str, str]

    @property
    def start(self) -> Path:
        return self.root / "start"

    def shell(self) -> Shell:
        return Shell(self.environment, (self.root / "cache", self.root / HOME))

    @contextmanager
    def case(self) -> Iterator[Path]:
        """Yield a copy of the folder `start`. The copy is removed at the end."""
        with tempfile.TemporaryDirectory(
            dir=self.root, prefix="case-", ignore_cleanup_errors=True
        ) as folder:
            here = Path(folder) / "w"
            shutil.copytree(
                self.start, here, symlinks=True, ignore=shutil.ignore_patterns("fifo")
            )
            os.mkfifo(here / "fifo")
            yield here


@contextmanager
def make_world(library: Path | None = None) -> Iterator[World]:
    """Return a context manager that writes tiny data and trains a run per task in a
    temporary folder, and removes the folder at the end.

    Args:
        library: path of the compiled backend, as `native_library` returns it. It is
            copied into the cache folder inside the temporary folder, because a new
            build would take about twenty seconds. None means that the backend could not
            be built, and nothing is copied.
    """
    with tempfile.TemporaryDirectory(prefix="lstm_jax-fuzz-") as folder:
        root = Path(folder)
        environment = {
            "HOME": str(root / HOME),
            "XDG_CACHE_HOME": str(root / "cache"),
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "true",
            "TF_CPP_MIN_LOG_LEVEL": "1",
            "LC_ALL": "C.UTF-8",
        }
        world = World(root, environment)
        for name in ("start", "cache", HOME):
            (root / name).mkdir()
        if library is not None:
            native = root / "cache" / "lstm_jax" / "native"
            native.mkdir(parents=True, mode=0o700)
            for path in library.parent.glob(f"{library.stem}*"):
                shutil.copy2(path, native)
        write_data(world.start)
        _train(world)
        yield world


def _train(world: World) -> None:
    with world.shell() as shell:
        lines = [
            f"train {task} {flags} --run runs/{task}" for task, flags in TRAIN.items()
        ]
        for line in (
            *lines,
            "data shard text.txt keep.txt --out text-shards",
            "data shard-reviews reviews reviews.jsonl --out review-shards",
        ):
            command = Command(tuple(line.split()))
            outcome = shell.run(command, world.start)
            if outcome.code != 0:
                raise RuntimeError(f"{command}: {outcome.err or outcome.out}")
    shutil.rmtree(world.root / "start.streams")


def write_data(folder: Path) -> None:
    """Write the data (reviews, a text, a series, a file with one review per line) and
    files that stand for a user's own.
    """
    draw = random.Random(7)
    (folder / "reviews").mkdir()
    for split, count in (("train", 64), ("test", 24)):
        (folder / "reviews" / f"{split}.csv").write_text(review_table(draw, count))
    (folder / "reviews.jsonl").write_text(review_lines(draw, 32))
    half = lzma.compress((folder / "reviews.jsonl").read_bytes())
    (folder / "packed.jsonl.xz").write_bytes(half + half)
    (folder / "text.txt").write_text(SENTENCES * 8)
    (folder / "lines.txt").write_text("a good film\nnot a good plot\nbad\n")
    (folder / "series.csv").write_text(series(draw))
    (folder / "notes").mkdir()
    (folder / "empty").mkdir()
    for name in ("keep.txt", "keep.png", "keep.html", "notes/keep.txt"):
        (folder / name).write_text(f"{name}: a user's own, the cat sat on the mat\n")
    (folder / "link").symlink_to("keep.txt")
    (folder / "nowhere").symlink_to("absent/file")


def _reviews(draw: random.Random, count: int) -> Iterator[dict[str, str | int]]:
    """Yield made-up reviews, of which every other one is positive, and four in a row
    are of one movie.
    """
    for number in range(count):
        label = number % 2
        words = [
            "the",
            "film",
            "plot",
            "was",
            "a",
            ("bad", "good")[label],
            ("dull", "fine")[label],
        ]
        text = " ".join(draw.choice(words) for _ in range(draw.randint(3, 9)))
        yield {"text": text, "label": label, "movie": f"m{number // 4}"}


def review_table(draw: random.Random, count: int) -> str:
    """Return made-up reviews as a CSV table."""
    return "".join(
        [
            "text,label\n",
            *("{text},{label}\n".format(**row) for row in _reviews(draw, count)),
        ]
    )


def review_lines(draw: random.Random, count: int) -> str:
    """Return made-up reviews as JSON lines."""
    return "".join(json.dumps(row) + "\n" for row in _reviews(draw, count))


def series(draw: random.Random) -> str:
    """Return a made-up series of 120 hours as a CSV table."""
    return "".join(
        [
            "time,value\n",
            *(
                f"{hour},{math.sin(hour / 5) + draw.gauss(0, 0.1):.4f}\n"
                for hour in range(120)
            ),
        ]
    )
