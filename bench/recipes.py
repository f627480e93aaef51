"""Training recipes for the Keras examples imdb_lstm and lstm_text_generation, and
reports of the results over seeds.

A recipe is the combination of a task, a library that trains it, and the flags of the
training. A study is a group of recipes that are compared with each other.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench import groups, timing
from bench.peers import TASKS
from bench.schema import EPOCH_TIME, HELD_OUT, LOSS, SEEDS, Row, Rows
from bench.summary import CONFIDENCE, ratio_interval, speedup_text
from lstm_jax.base.errors import require

PRINTED = (
    2.4947,
    2.0049,
    1.8619,
    1.7592,
    1.6842,
    1.6206,
    1.5732,
    1.5312,
    1.4886,
    1.4606,
)
"""Training losses at epochs 1 to 10 that an existing notebook printed for
lstm_text_generation, trained on newspaper articles."""
COMPILED_BFLOAT16 = "--dtype bfloat16 --backend compiled"
STREAM = "--regime stream --length 100"
FAST = "--learning-rate 5e-3 --schedule cosine --clip-norm 1"


@dataclass(frozen=True)
class Recipe:
    """Training recipe: a library (peer) that trains a task with fixed flags, without
    the seed.

    The name is unique for a task in a study. `repeats` is the default number of runs,
    with other seeds in all studies except `EPOCH_TIME`.
    """

    name: str
    task: str
    peer: str
    flags: str = ""
    repeats: int = 1

    def train(self, *more: str) -> list[Row]:
        """Train with this recipe and more flags in a fresh process, and return the rows
        of the epochs.
        """
        return timing.run_function(
            f"{TASKS[self.peer]}:{self.task}_rows", flags=[*self.flags.split(), *more]
        )


RECIPES: dict[str, tuple[Recipe, ...]] = {
    SEEDS: (
        Recipe("ours", "sentiment", "ours", "--epochs 3", 5),
        Recipe(
            "ours bfloat16, compiled",
            "sentiment",
            "ours",
            f"--epochs 3 {COMPILED_BFLOAT16}",
            5,
        ),
        Recipe("keras_jax", "sentiment", "keras_jax", "--epochs 3", 5),
        Recipe(
            "ours held-out",
            "sentiment",
            "ours",
            "--epochs 12 --validation 0.15 --patience 2",
            5,
        ),
    ),
    LOSS: (
        Recipe("ours", "generation", "ours", "--validation 0", 3),
        Recipe("keras_jax", "generation", "keras_jax"),
    ),
    HELD_OUT: (
        Recipe("windows", "generation", "ours"),
        Recipe(
            "windows, bfloat16, compiled", "generation", "ours", COMPILED_BFLOAT16, 5
        ),
        Recipe("keras_jax windows", "generation", "keras_jax", "--validation 0.1"),
        Recipe("stream", "generation", "ours", f"{STREAM} --epochs 10"),
        Recipe("stream 60", "generation", "ours", f"{STREAM} --epochs 60 {FAST}"),
        Recipe("stream 150", "generation", "ours", f"{STREAM} --epochs 150 {FAST}"),
        Recipe(
            "stream 120, recurrent dropout 0.1",
            "generation",
            "ours",
            f"{STREAM} --epochs 120 {FAST} --recurrent-dropout 0.1",
        ),
        Recipe(
            "stream of chunks of 50, 120 epochs, recurrent dropout 0.1",
            "generation",
            "ours",
            f"--regime stream --length 50 --epochs 120 {FAST} --recurrent-dropout 0.1",
            3,
        ),
    ),
    EPOCH_TIME: (
        Recipe(
            "keras_jax",
            "sentiment",
            "keras_jax",
            "--epochs 1 --warm-up --no-evaluation",
            5,
        ),
        Recipe("ours", "sentiment", "ours", "--epochs 2", 5),
        Recipe("keras_jax", "generation", "keras_jax", "--epochs 1 --warm-up", 5),
        Recipe("ours", "generation", "ours", "--epochs 2 --validation 0", 5),
    ),
}
"""Dict from the name of each study to its recipes.

All generation recipes train the model of lstm_text_generation: LSTM(128) on one-hot
characters and a softmax over 33 characters, with 87,201 parameters.
"""


def choose(
    study: str, tasks: Sequence[str], names: Sequence[str] | None
) -> list[Recipe]:
    """Return the recipes of a study that have one of the given tasks and one of the
    given names.
    """
    of_study = RECIPES[study]
    unknown = set(names or ()) - {recipe.name for recipe in of_study}
    chosen = [
        recipe
        for recipe in of_study
        if recipe.task in tasks and (names is None or recipe.name in names)
    ]
    require(
        chosen and not unknown,
        "recipe",
        ", ".join(sorted(unknown)) or "none",
        f"give some of {', '.join(recipe.name for recipe in of_study)}",
    )
    return chosen


def run(
    study: str,
    recipes: Sequence[Recipe],
    first: int,
    count: int | None,
    path: Path,
    measure: bool,
) -> None:
    """Train with each recipe of a study, once for each of several seeds, and print the
    report of the study.
    """
    number = "round" if study == EPOCH_TIME else "seed"
    by_name = {(recipe.task, recipe.name): recipe for recipe in recipes}
    runs = sorted(
        (n, place)
        for place, recipe in enumerate(recipes)
        for n in range(count or recipe.repeats)
    )
    items = [
        {"task": recipes[place].task, "recipe": recipes[place].name, number: first + n}
        for n, place in runs
    ]

    def train(item: Row):
        seed = [] if study == EPOCH_TIME else ["--seed", str(item["seed"])]
        rows = by_name[item["task"], item["recipe"]].train(*seed)
        return rows[-1:] if study == EPOCH_TIME else rows

    def describe(rows: Rows):
        name = {SEEDS: "test_accuracy", EPOCH_TIME: "seconds"}.get(study, "train_loss")
        return f"{name} " + ", ".join(f"{row[name]:.4f}" for row in rows if name in row)

    for line in REPORTS[study](
        timing.measure_missing(path, study, items, train, describe, measure)
    ):
        print(line)


def report_seeds(rows: Rows) -> Iterator[str]:
    """Yield the report of the test accuracy over seeds, with one line of text for each
    recipe.
    """
    rows = [
        row
        for row in rows
        if row["epoch"] == "best" or not row["recipe"].endswith("held-out")
    ]
    for (name,), own in groups(rows, ["recipe"]).items():
        scores = {
            seed: max(row["test_accuracy"] for row in run)
            for (seed,), run in groups(own, ["seed"]).items()
        }
        values = list(scores.values())
        deviation = np.std(values, ddof=1) if len(values) > 1 else 0.0
        each = ", ".join(
            f"{seed}: {value:.4f}" for seed, value in sorted(scores.items())
        )
        yield f"{name}: {np.mean(values):.4f} (sd {deviation:.4f}; {each})"


def report_loss(rows: Rows) -> Iterator[str]:
    """Yield the report of the training loss, with one line of text for each epoch."""
    for epoch, printed in enumerate(PRINTED, 1):
        each = []
        for (name,), own in groups(
            (row for row in rows if row["epoch"] == epoch), ["recipe"]
        ).items():
            losses = [row["train_loss"] for row in own]
            each.append(
                f"{name} {np.mean(losses):.4f} ({min(losses):.4f} to {max(losses):.4f})"
            )
        yield f"epoch {epoch}: notebook {printed}; {'; '.join(each)}"


def report_held_out(rows: Rows) -> Iterator[str]:
    """Yield the report of the bits per character of held-out text, with one line of
    text for each training run.
    """
    for row in rows:
        if isinstance(row["epoch"], str):
            cost = ""
            if "cpu_seconds" in row:
                minutes = row["cpu_seconds"] / 60
                cost = f", {minutes:.1f} CPU minutes, best epoch {row['best_epoch']}"
            yield (
                f"{row['recipe']}, seed {row['seed']}: {row['bits_window']:.4f} "
                f"in windows, {row['bits_carried']:.4f} carried{cost}"
            )


def report_epoch_time(rows: Rows) -> Iterator[str]:
    """Yield the report of the duration of an epoch, with one line of text for each task
    and recipe.
    """
    for (task,), of_task in groups(rows, ["task"]).items():
        seconds = {
            name: [row["seconds"] for row in own]
            for (name,), own in groups(of_task, ["recipe"]).items()
        }
        for name, values in seconds.items():
            yield (
                f"{task}, {name}: {', '.join(f'{s:.1f}' for s in sorted(values))} "
                "s an epoch"
            )
        if seconds.keys() == {"keras_jax", "ours"}:
            interval = ratio_interval(seconds["keras_jax"], seconds["ours"])
            yield (
                f"{task}: speedup over keras_jax "
                f"{speedup_text(interval, label=CONFIDENCE)}"
            )


REPORTS: dict[str, Callable[[Rows], Iterator[str]]] = {
    SEEDS: report_seeds,
    LOSS: report_loss,
    HELD_OUT: report_held_out,
    EPOCH_TIME: report_epoch_time,
}
