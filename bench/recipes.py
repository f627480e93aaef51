"""Studies of the two Keras examples imdb_lstm and lstm_text_generation: training recipes, repeated over seeds or rounds, and reports."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench import timing
from bench.schema import EPOCH_TIME, HELD_OUT, LOSS, SEEDS, check, make_row, rows_of
from lstm_jax.errors import InputError
from lstm_jax.sweep import stats
from lstm_jax.sweep.missing import run_missing

Row = dict[str, Any]
PRINTED = (2.4947, 2.0049, 1.8619, 1.7592, 1.6842, 1.6206, 1.5732, 1.5312, 1.4886, 1.4606)
"""Training losses of epochs 1 to 10 that a notebook printed when it ran lstm_text_generation on the articles."""
STREAM = ("--regime", "stream", "--length", "100")
FAST = ("--learning-rate", "5e-3", "--schedule", "cosine", "--clip-norm", "1")


@dataclass(frozen=True)
class Recipe:
    """Training of one peer with fixed flags.

    Attributes:
        name: name of the recipe, unique within the study and task.
        task: "sentiment" or "generation".
        peer: "ours" or "keras_jax".
        flags: flags of the task, without the seed.
        repeats: default number of seeds or rounds.
    """

    name: str
    task: str
    peer: str
    flags: tuple[str, ...]
    repeats: int = 1

    def arguments(self) -> list[str]:
        """Return the arguments of `python -m` that run the recipe, without the seed."""
        module = "bench.peers.ours_tasks" if self.peer == "ours" else "bench.peers.keras_tasks"
        return [module, self.task, *self.flags]


RECIPES: dict[str, tuple[Recipe, ...]] = {
    SEEDS: (
        Recipe("ours", "sentiment", "ours", ("--epochs", "3"), 5),
        Recipe("ours bfloat16", "sentiment", "ours", ("--epochs", "3", "--dtype", "bfloat16"), 5),
        Recipe("keras_jax", "sentiment", "keras_jax", ("--epochs", "3"), 5),
        Recipe("ours held-out", "sentiment", "ours", ("--epochs", "12", "--validation", "0.15", "--patience", "2"), 5),
    ),
    LOSS: (
        Recipe("ours", "generation", "ours", ("--validation", "0"), 3),
        Recipe("keras_jax", "generation", "keras_jax", ()),
    ),
    HELD_OUT: (
        Recipe("windows", "generation", "ours", ()),
        Recipe("windows, bfloat16", "generation", "ours", ("--dtype", "bfloat16")),
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
    ),
    EPOCH_TIME: (
        Recipe("keras_jax", "sentiment", "keras_jax", ("--epochs", "1", "--warm-up", "--no-evaluation"), 5),
        Recipe("ours", "sentiment", "ours", ("--epochs", "2"), 5),
        Recipe("keras_jax", "generation", "keras_jax", ("--epochs", "1", "--warm-up"), 5),
        Recipe("ours", "generation", "ours", ("--epochs", "2", "--validation", "0"), 5),
    ),
}
"""Recipes by study. All generation recipes train the model of lstm_text_generation, which has 87,201 parameters: one-hot characters,
LSTM(128), softmax over 33 characters."""


@dataclass(frozen=True)
class Run:
    """One run of a recipe in a fresh process; `number` is its seed, or in the study `EPOCH_TIME` its round."""

    study: str
    recipe: Recipe
    number: int

    def __str__(self) -> str:
        return f"{self.recipe.task} {self.recipe.name}, {'round' if self.study == EPOCH_TIME else 'seed'} {self.number}"

    def measure(self) -> list[Row]:
        """Run the recipe in a fresh process and return its rows; `EPOCH_TIME` keeps the last row only, after the epoch that compiles."""
        known = {"recipe": self.recipe.name, "task": self.recipe.task}
        if self.study != EPOCH_TIME:
            rows = timing.run_module([*self.recipe.arguments(), "--seed", str(self.number)])
            return [make_row(self.study, **row | known) for row in rows]
        about = known | {"round": self.number, "cores": timing.CORES, "load": timing.load()}
        return [make_row(self.study, **timing.run_module(self.recipe.arguments())[-1] | about)]


def _number(row: Row) -> int:
    return row["round"] if row["measurement"] == EPOCH_TIME else row["seed"]


def choose(study: str, tasks: Sequence[str], names: Sequence[str] | None) -> list[Recipe]:
    """Return the recipes of a study whose task and name were asked for.

    Args:
        study: key of `RECIPES`.
        tasks: tasks to keep.
        names: names of recipes to keep. If None, all names are kept.

    Raises:
        InputError: if the study has no recipe with one of the names, or if no recipe is left.
    """
    of_study = RECIPES[study]
    unknown = set(names or ()) - {recipe.name for recipe in of_study}
    chosen = [recipe for recipe in of_study if recipe.task in tasks and (names is None or recipe.name in names)]
    if unknown or not chosen:
        raise InputError("recipe", ", ".join(sorted(unknown)) or "none", f"give some of {', '.join(r.name for r in of_study)}")
    return chosen


def run(study: str, recipes: Sequence[Recipe], first: int, count: int | None, path: Path, measure: bool) -> None:
    """Measure the runs of some recipes that have no rows yet, and print the report of the study.

    Args:
        study: key of `RECIPES`.
        recipes: recipes of the study.
        first: number of the first seed or round.
        count: number of seeds or rounds. If None, each recipe has its own number, `Recipe.repeats`.
        path: file of rows.
        measure: whether to measure; if False, the rows that exist are reported.
    """
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
    """Return the test accuracy by recipe and seed.

    A recipe without a validation split counts the highest test accuracy of its epochs; a recipe with one counts the test accuracy of the
    epoch that the validation split chose.
    """
    best: dict[str, dict[int, float]] = defaultdict(dict)
    for row in rows:
        if row["epoch"] == "best" if row["recipe"].endswith("held-out") else True:
            scores = best[row["recipe"]]
            scores[row["seed"]] = max(scores.get(row["seed"], 0), row["test_accuracy"])
    return dict(best)


def report_seeds(rows: Iterable[Row]) -> list[str]:
    """Return a line for each recipe with the mean, the standard deviation and the values of its test accuracy over seeds."""
    lines = []
    for name, scores in accuracy_over_seeds(rows).items():
        values = list(scores.values())
        deviation = np.std(values, ddof=1) if len(values) > 1 else 0.0
        each = ", ".join(f"{seed}: {value:.4f}" for seed, value in sorted(scores.items()))
        lines.append(f"{name}: {np.mean(values):.4f} (sd {deviation:.4f}; {each})")
    return lines


def report_loss(rows: Iterable[Row]) -> list[str]:
    """Return a line for each epoch with the training loss that the notebook printed, and the mean and range of each recipe over seeds."""
    losses: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        losses[row["recipe"]][row["epoch"]].append(row["train_loss"])
    lines = []
    for epoch, printed in enumerate(PRINTED, 1):
        each = [f"{name} {np.mean(v[epoch]):.4f} ({min(v[epoch]):.4f} to {max(v[epoch]):.4f})" for name, v in losses.items() if v[epoch]]
        lines.append(f"epoch {epoch}: notebook {printed}; {'; '.join(each)}")
    return lines


def report_held_out(rows: Iterable[Row]) -> list[str]:
    """Return a line for each run with the bits per character of the held-out text and, where it is known, the processor time."""
    lines = []
    for row in rows:
        if isinstance(row["epoch"], str):
            cost = f", {row['cpu_seconds'] / 60:.1f} CPU minutes, best epoch {row['best_epoch']}" if "cpu_seconds" in row else ""
            bits = f"{row['bits_window']:.4f} in windows, {row['bits_carried']:.4f} carried"
            lines.append(f"{row['recipe']}, seed {row['seed']}: {bits}{cost}")
    return lines


def report_epoch_time(rows: Iterable[Row]) -> list[str]:
    """Return lines for each task: the seconds of an epoch of each recipe, and our speedup over Keras if both were measured."""
    times: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        times[row["task"]][row["recipe"]].append(row["seconds"])
    lines = []
    for task, seconds in times.items():
        lines += [f"{task}, {name}: {', '.join(f'{s:.1f}' for s in sorted(values))} s an epoch" for name, values in seconds.items()]
        if seconds.keys() == {"keras_jax", "ours"}:
            interval = stats.ratio_interval(seconds["keras_jax"], seconds["ours"])
            lines.append("{}: speedup over keras_jax {:.2f}x (95 % confidence interval {:.2f} to {:.2f})".format(task, *interval))
    return lines


REPORTS: dict[str, Callable[[Iterable[Row]], list[str]]] = {
    SEEDS: report_seeds,
    LOSS: report_loss,
    HELD_OUT: report_held_out,
    EPOCH_TIME: report_epoch_time,
}
