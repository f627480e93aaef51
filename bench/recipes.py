"""Training recipes for the Keras examples imdb_lstm and lstm_text_generation, and reports of the results over seeds.

A recipe is the combination of a task, a library that trains it, and the flags of the training. A study is a group of recipes that are
compared with each other.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench import timing
from bench.schema import EPOCH_TIME, HELD_OUT, LOSS, SEEDS, check, make_row, rows_of
from bench.summary import CONFIDENCE, ratio_interval, speedup_text
from lstm_jax.errors import InputError
from lstm_jax.sweep.missing import run_missing

Row = dict[str, Any]
PRINTED = (2.4947, 2.0049, 1.8619, 1.7592, 1.6842, 1.6206, 1.5732, 1.5312, 1.4886, 1.4606)
"""Training losses at epochs 1 to 10 that an existing notebook printed for lstm_text_generation, trained on newspaper articles."""
COMPILED_BFLOAT16 = ("--dtype", "bfloat16", "--backend", "compiled")
STREAM = ("--regime", "stream", "--length", "100")
FAST = ("--learning-rate", "5e-3", "--schedule", "cosine", "--clip-norm", "1")


@dataclass(frozen=True)
class Recipe:
    """Training recipe: a library that trains a task with fixed flags.

    Attributes:
        name: name of the recipe. Within a study (a group of recipes that are compared), no other recipe of the same task has this name.
        task: "sentiment" or "generation".
        peer: library that trains, "ours" or "keras_jax".
        flags: command-line flags of the training, without the seed.
        repeats: default number of runs. In all studies except `EPOCH_TIME`, the runs have different seeds.
    """

    name: str
    task: str
    peer: str
    flags: tuple[str, ...]
    repeats: int = 1

    def arguments(self) -> list[str]:
        """Return the arguments that `python -m` needs to train with this recipe: the module, the task and the flags without the seed."""
        module = "bench.peers.ours_tasks" if self.peer == "ours" else "bench.peers.keras_tasks"
        return [module, self.task, *self.flags]


RECIPES: dict[str, tuple[Recipe, ...]] = {
    SEEDS: (
        Recipe("ours", "sentiment", "ours", ("--epochs", "3"), 5),
        Recipe("ours bfloat16", "sentiment", "ours", ("--epochs", "3", "--dtype", "bfloat16", "--backend", "hoisted"), 5),
        Recipe("ours bfloat16, compiled", "sentiment", "ours", ("--epochs", "3", *COMPILED_BFLOAT16), 5),
        Recipe("keras_jax", "sentiment", "keras_jax", ("--epochs", "3"), 5),
        Recipe("ours held-out", "sentiment", "ours", ("--epochs", "12", "--validation", "0.15", "--patience", "2"), 5),
    ),
    LOSS: (
        Recipe("ours", "generation", "ours", ("--validation", "0"), 3),
        Recipe("keras_jax", "generation", "keras_jax", ()),
    ),
    HELD_OUT: (
        Recipe("windows", "generation", "ours", ()),
        Recipe("windows, bfloat16", "generation", "ours", ("--dtype", "bfloat16", "--backend", "hoisted")),
        Recipe("windows, bfloat16, compiled", "generation", "ours", COMPILED_BFLOAT16, 5),
        Recipe("keras_jax windows", "generation", "keras_jax", ("--validation", "0.1")),
        Recipe("stream", "generation", "ours", (*STREAM, "--epochs", "10")),
        Recipe("stream 60", "generation", "ours", (*STREAM, "--epochs", "60", *FAST)),
        Recipe("stream 150", "generation", "ours", (*STREAM, "--epochs", "150", *FAST)),
        Recipe(
            "stream 120, recurrent dropout 0.1",
            "generation",
            "ours",
            (*STREAM, "--epochs", "120", *FAST, "--recurrent-dropout", "0.1"),
        ),
        Recipe(
            "stream of chunks of 50, 120 epochs, recurrent dropout 0.1",
            "generation",
            "ours",
            ("--regime", "stream", "--length", "50", "--epochs", "120", *FAST, "--recurrent-dropout", "0.1"),
            3,
        ),
    ),
    EPOCH_TIME: (
        Recipe("keras_jax", "sentiment", "keras_jax", ("--epochs", "1", "--warm-up", "--no-evaluation"), 5),
        Recipe("ours", "sentiment", "ours", ("--epochs", "2"), 5),
        Recipe("keras_jax", "generation", "keras_jax", ("--epochs", "1", "--warm-up"), 5),
        Recipe("ours", "generation", "ours", ("--epochs", "2", "--validation", "0"), 5),
    ),
}
"""Dict from the name of each study to its recipes.

All generation recipes train the model of lstm_text_generation: LSTM(128) on one-hot characters and a softmax over 33 characters, with
87,201 parameters.
"""


@dataclass(frozen=True)
class Run:
    """One training run of a recipe, which a fresh process executes.

    Attributes:
        study: name of the study, a key of `RECIPES`.
        recipe: training recipe.
        number: seed of the run. In the study `EPOCH_TIME`, all runs have the default seed, and `number` is the number of the round. In a
            round, each recipe is run once.
    """

    study: str
    recipe: Recipe
    number: int

    def __str__(self) -> str:
        return f"{self.recipe.task} {self.recipe.name}, {'round' if self.study == EPOCH_TIME else 'seed'} {self.number}"

    def measure(self) -> list[Row]:
        """Train with the recipe in a fresh process, and return its result rows: one for each epoch, and one more if data is held out."""
        known = {"recipe": self.recipe.name, "task": self.recipe.task}
        if self.study != EPOCH_TIME:
            rows = timing.run_module([*self.recipe.arguments(), "--seed", str(self.number)])
            return [make_row(self.study, **row | known) for row in rows]
        about = known | {"round": self.number, "cores": timing.CORES, "load": timing.load()}
        return [make_row(self.study, **timing.run_module(self.recipe.arguments())[-1] | about)]


def _number(row: Row) -> int:
    return row["round"] if row["measurement"] == EPOCH_TIME else row["seed"]


def choose(study: str, tasks: Sequence[str], names: Sequence[str] | None) -> list[Recipe]:
    """Return the recipes of a study that have one of the given tasks and one of the given names."""
    of_study = RECIPES[study]
    unknown = set(names or ()) - {recipe.name for recipe in of_study}
    chosen = [recipe for recipe in of_study if recipe.task in tasks and (names is None or recipe.name in names)]
    if unknown or not chosen:
        raise InputError("recipe", ", ".join(sorted(unknown)) or "none", f"give some of {', '.join(r.name for r in of_study)}")
    return chosen


def run(study: str, recipes: Sequence[Recipe], first: int, count: int | None, path: Path, measure: bool) -> None:
    """Train with each recipe of a study, once for each of several seeds, and print the report of the study."""
    numbers = {(recipe.task, recipe.name): range(first, first + (count or recipe.repeats)) for recipe in recipes}
    last = max(map(len, numbers.values()))
    runs = [Run(study, recipe, first + n) for n in range(last) for recipe in recipes]
    wanted = {(r.recipe.task, r.recipe.name, r.number): r for r in runs if r.number in numbers[r.recipe.task, r.recipe.name]}

    def key(row: Row) -> tuple | None:
        return (row["task"], row["recipe"], _number(row)) if row["measurement"] == study else None

    def describe(item: Run, rows: Sequence[Row]) -> str:
        name = {SEEDS: "test_accuracy", EPOCH_TIME: "seconds"}.get(study, "train_loss")
        return f"{item}: {name} " + ", ".join(f"{row[name]:.4f}" for row in rows if name in row)

    if measure:
        run_missing(path, wanted, key, Run.measure, "runs", describe, check)
    rows = [row for row in rows_of(path, study) if key(row) in wanted]
    for line in REPORTS[study](rows):
        print(line)


def accuracy_over_seeds(rows: Iterable[Row]) -> dict[str, dict[int, float]]:
    """Return the test accuracy of each recipe and seed, as nested dicts: name of the recipe -> seed -> test accuracy."""
    best: dict[str, dict[int, float]] = defaultdict(dict)
    for row in rows:
        if row["epoch"] == "best" if row["recipe"].endswith("held-out") else True:
            scores = best[row["recipe"]]
            scores[row["seed"]] = max(scores.get(row["seed"], 0), row["test_accuracy"])
    return dict(best)


def report_seeds(rows: Iterable[Row]) -> list[str]:
    """Return the report of the test accuracy over seeds, with one line of text for each recipe."""
    lines = []
    for name, scores in accuracy_over_seeds(rows).items():
        values = list(scores.values())
        deviation = np.std(values, ddof=1) if len(values) > 1 else 0.0
        each = ", ".join(f"{seed}: {value:.4f}" for seed, value in sorted(scores.items()))
        lines.append(f"{name}: {np.mean(values):.4f} (sd {deviation:.4f}; {each})")
    return lines


def report_loss(rows: Iterable[Row]) -> list[str]:
    """Return the report of the training loss, with one line of text for each epoch."""
    losses: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        losses[row["recipe"]][row["epoch"]].append(row["train_loss"])
    lines = []
    for epoch, printed in enumerate(PRINTED, 1):
        each = [f"{name} {np.mean(v[epoch]):.4f} ({min(v[epoch]):.4f} to {max(v[epoch]):.4f})" for name, v in losses.items() if v[epoch]]
        lines.append(f"epoch {epoch}: notebook {printed}; {'; '.join(each)}")
    return lines


def report_held_out(rows: Iterable[Row]) -> list[str]:
    """Return the report of the bits per character of held-out text, with one line of text for each training run."""
    lines = []
    for row in rows:
        if isinstance(row["epoch"], str):
            cost = f", {row['cpu_seconds'] / 60:.1f} CPU minutes, best epoch {row['best_epoch']}" if "cpu_seconds" in row else ""
            bits = f"{row['bits_window']:.4f} in windows, {row['bits_carried']:.4f} carried"
            lines.append(f"{row['recipe']}, seed {row['seed']}: {bits}{cost}")
    return lines


def report_epoch_time(rows: Iterable[Row]) -> list[str]:
    """Return the report of the duration of an epoch, with one line of text for each task and recipe."""
    times: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        times[row["task"]][row["recipe"]].append(row["seconds"])
    lines = []
    for task, seconds in times.items():
        lines += [f"{task}, {name}: {', '.join(f'{s:.1f}' for s in sorted(values))} s an epoch" for name, values in seconds.items()]
        if seconds.keys() == {"keras_jax", "ours"}:
            interval = ratio_interval(seconds["keras_jax"], seconds["ours"])
            lines.append(f"{task}: speedup over keras_jax {speedup_text(interval, label=CONFIDENCE)}")
    return lines


REPORTS: dict[str, Callable[[Iterable[Row]], list[str]]] = {
    SEEDS: report_seeds,
    LOSS: report_loss,
    HELD_OUT: report_held_out,
    EPOCH_TIME: report_epoch_time,
}
