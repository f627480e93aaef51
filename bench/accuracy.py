r"""Accuracy of models for sentiment analysis and text generation, for several sequence
lengths, hidden sizes and training recipes.

    LSTM_JAX_DATA=... python -m bench accuracy --preset quick
    # seconds to an accuracy, and to bits
    LSTM_JAX_DATA=... python -m bench accuracy --preset quality \
        --peer ours keras_jax --cores 2
    LSTM_JAX_DATA=... python -m bench accuracy --task sentiment \
        --length 20,40,80,160 --units 32..256 --seeds 3
    LSTM_JAX_DATA=... python -m bench accuracy --task generation --length 20,40 \
        --step 1,3,5 --units 64,128 --epochs 2
    # imdb_lstm, ours and Keras
    LSTM_JAX_DATA=... python -m bench accuracy --study seeds --first-seed 100 --seeds 20
    # lstm_text_generation, training loss by epoch
    LSTM_JAX_DATA=... python -m bench accuracy --study loss
    # lstm_text_generation, bits per character; about an hour
    LSTM_JAX_DATA=... python -m bench accuracy --study held_out
    # seconds per epoch, ours and Keras in turns
    LSTM_JAX_DATA=... python -m bench accuracy --study epoch_time

Without --study, each library of --peer ("ours" is this project) trains models for every
combination of sequence length, hidden size and, for text generation, number of
characters from the start of one window to the start of the next (--step). The tasks:

- "sentiment" trains on the 25,000 training reviews of IMDB as the Keras example
  imdb_lstm does: best test accuracy of all epochs, and the seconds of training until it
  reaches 0.83.
- "generation" trains on the first nine tenths of the text of newspaper articles: lowest
  bits per character of the last tenth.
- "demo" trains the character model of `lstm-jax demo` on Python's documentation: these
  bits, and the seconds until they reach 2.

Each run is a fresh process on `--cores` cores (default: one); other cores have runs of
their own. Results of this commit, machine and number of cores are not measured again. A
study compares recipes, each a library with flags of its training, whatever the commit.
"""

import math
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from queue import Queue

import numpy as np

from bench import (
    RESULTS,
    add_flags,
    commit,
    groups,
    hardware,
    make_parser,
    read_flags,
    recipes,
    timing,
)
from bench.peers import TASKS
from bench.schema import GRID, Row, Rows, rows_of_commit
from bench.summary import print_table
from bench.workloads import Axes, add_size_flags
from lstm_jax.base.errors import require
from lstm_jax.lab.sweep.rows import read_rows

PATH = RESULTS / "accuracy.jsonl"
CORES = 1
"""Default number of cores of a training run without --study."""
TARGETS = {"sentiment": 0.83, "demo": 2.0}
"""Dict from a task to the test accuracy, or bits per character, to which the report
prints the seconds of training."""
REVIEWS = 25_000
"""Number of training reviews of IMDB."""
EXAMPLE_SIZES = {
    "sentiment": {"T": 80, "H": 128},
    "generation": {"T": 40, "S": 5, "H": 128},
    "demo": {"T": 64, "H": 192},
}
"""Dict from each task to the sizes of its example: length T, step S between windows and
hidden size H."""
FLAGS = {"T": "--length", "S": "--step", "H": "--units"}
DEMO = (
    "--clean none --regime stream --unseen drop --learning-rate 4e-3 --schedule "
    "cosine --clip-norm 1 --sample-chars 0"
)
TRAINED = {
    ("ours", "sentiment"): "",
    ("ours", "generation"): "--validation 0.1",
    ("ours", "demo"): f"{DEMO} --quiet --no-figures",
    ("keras_jax", "sentiment"): "--warm-up",
}
"""Dict from (library, task) to further flags of the training. Keras runs only at the
sizes in `EXAMPLE_SIZES`."""


@dataclass(frozen=True)
class Preset:
    """Default sizes (values by task and letter: T length, S step between windows, H
    units), seeds, and epochs by task.
    """

    axes: dict[str, Axes]
    seeds: int
    epochs: dict[str, int]


PRESETS = {
    "quick": Preset(
        {
            "sentiment": {"T": (80,), "H": (32, 128)},
            "generation": {"T": (40,), "S": (10,), "H": (32, 128)},
        },
        1,
        {"sentiment": 3, "generation": 2},
    ),
    "standard": Preset(
        {
            "sentiment": {"T": (20, 40, 80, 160), "H": (16, 32, 64, 128)},
            "generation": {
                "T": (10, 20, 40, 80),
                "S": (5, 10, 20),
                "H": (16, 32, 64, 128),
            },
        },
        3,
        {"sentiment": 3, "generation": 1},
    ),
    "quality": Preset(
        {
            task: {letter: (size,) for letter, size in EXAMPLE_SIZES[task].items()}
            for task in TARGETS
        },
        3,
        {"sentiment": 3, "demo": 12},
    ),
}
"""Dict from the name of each preset to its sizes, seeds and epochs. The preset
"standard" took about fifty minutes on two cores."""


def runs_of(
    axes: dict[str, Axes], peers: Sequence[str], seeds: int, epochs: dict[str, int]
) -> Iterator[Row]:
    """Yield a training run for every combination of a task with its sizes, a library
    and a seed, as the fields of its result rows.
    """
    for task, own in axes.items():
        for values, peer, seed in product(product(*own.values()), peers, range(seeds)):
            sizes = dict(zip(own, values, strict=True))
            if (peer, task) in TRAINED and (
                peer == "ours" or sizes == EXAMPLE_SIZES[task]
            ):
                yield {
                    "task": task,
                    "peer": peer,
                    "seed": seed,
                    "epochs": epochs[task],
                } | sizes


def train(run: Row, cores: int, first: int) -> list[Row]:
    """Execute a training run on `cores` cores from the core `first` on, and return the
    rows of its epochs.
    """
    peer, task = run["peer"], run["task"]
    flags = f"{TRAINED[peer, task]} --epochs {run['epochs']} --seed {run['seed']}"
    if peer == "ours":
        names = FLAGS | ({"T": "--maxlen"} if task == "sentiment" else {})
        for letter in [letter for letter in names if letter in run]:
            flags += f" {names[letter]} {run[letter]}"
    if task != "demo":
        function = f"{TASKS[peer]}:{task}_rows"
        return timing.run_function(function, cores, first, flags=flags.split())
    with tempfile.TemporaryDirectory() as folder:
        command = f"lstm_jax.lab.cli train generation --run {folder}/run {flags}"
        timing.run_module(command.split(), cores, first=first)
        return list(read_rows(Path(folder, "run", "metrics.jsonl")))


def sweep(runs: Iterable[Row], path: Path, sha: str, cores: int) -> None:
    """Execute the training runs that have no results yet, and append their results to a
    file.
    """
    free = Queue[int]()
    for number in range(len(os.sched_getaffinity(0)) // cores):
        free.put(number * cores)

    def measure(run: Row):
        first = free.get()
        try:
            rows = train(run, cores, first)
        finally:
            free.put(first)
        return [row for row in rows if isinstance(row["epoch"], int)]

    def describe(rows: Rows):
        scores = (row.get("test_accuracy", row.get("validation_bits")) for row in rows)
        return ", ".join(f"{score:.4f}" for score in scores)

    about = {"git": sha, "cores": cores, "machine": hardware.machine_id()}
    items = [run | about for run in runs]
    timing.measure_missing(path, GRID, items, measure, describe, workers=free.qsize())


def grid_rows(path: Path, sha: str, cores: int = CORES) -> list[Row]:
    """Return the result rows of the accuracy training runs of commit `sha` in the file
    `path`.
    """
    return [row for row in rows_of_commit(path, GRID, git=sha) if row["cores"] == cores]


def summarize(rows: Rows) -> list[Row]:
    """Return the metrics over seeds of each combination of task, peer, number of epochs
    and sizes.

    "front" tells whether it is on the Pareto front of score and examples per second
    among those of its task and number of epochs.
    """
    names, lines = ("task", "peer", "epochs", *FLAGS), []
    for key, own in groups(rows, names).items():
        line = dict(zip(names, key, strict=True))
        runs = list(groups(own, ["seed"]).values())
        metric, best = (
            ("test_accuracy", max)
            if line["task"] == "sentiment"
            else ("validation_bits", min)
        )
        scores = [best(row[metric] for row in run) for run in runs]
        speeds = [
            row.get("examples_per_second") or REVIEWS / row["seconds"] for row in own
        ]
        reached = [math.nan]
        if line["task"] in TARGETS:
            reached = [seconds_to(run) for run in runs]
        line |= {
            "seeds": len(runs),
            "score": float(np.mean(scores)),
            "low": min(scores),
            "high": max(scores),
            "speed": float(np.median(speeds)),
            "epoch_seconds": float(np.median([row["seconds"] for row in own])),
            "seconds_to_target": float(np.median(reached)),
        }
        lines.append(line)

    def better_and_faster(line: Row, other: Row):
        sign = 1 if line["task"] == "sentiment" else -1
        alike = (line["task"], line["epochs"]) == (other["task"], other["epochs"])
        return (
            alike
            and sign * other["score"] >= sign * line["score"]
            and other["speed"] > line["speed"]
        )

    return [
        line | {"front": not any(better_and_faster(line, other) for other in lines)}
        for line in lines
    ]


def seconds_to(epochs: Rows) -> float:
    """Return the training time in seconds up to the end of the first epoch that reaches
    the target of `TARGETS`.
    """
    spent = 0.0
    for row in sorted(epochs, key=lambda row: row["epoch"]):
        spent += row["seconds"]
        if (
            row.get("test_accuracy", 0) >= TARGETS["sentiment"]
            or row.get("validation_bits", math.inf) <= TARGETS["demo"]
        ):
            return spent
    return math.inf


def report(rows: Rows) -> None:
    """Print a table with the score and the speed for each combination of task, library,
    number of epochs and sizes.
    """
    table = []
    names = ("task", "peer", "epochs", *FLAGS)
    lines = summarize(rows)
    for line in sorted(lines, key=lambda line: [line[name] or 0 for name in names]):
        seconds = line["seconds_to_target"]
        to_target = "not reached" if math.isinf(seconds) else f"{seconds:.1f}"
        table.append(
            (
                *("" if line[name] is None else str(line[name]) for name in names),
                str(line["seeds"]),
                f"{line['score']:.4f}{' *' if line['front'] else '  '}",
                f"{line['low']:.4f} to {line['high']:.4f}",
                f"{line['speed']:,.0f}",
                f"{line['epoch_seconds']:.1f}",
                "" if math.isnan(seconds) else to_target,
            )
        )
    print_table(
        (
            *names,
            "seeds",
            "score",
            "range",
            "ex./s",
            "s/epoch",
            "s to target",
        ),
        table,
    )
    print(
        "score: mean over seeds of the best epoch's test accuracy (sentiment) "
        "or held-out bits a character (generation)"
    )
    print(
        "s to target: seconds of training, without compilation and evaluation, to",
        TARGETS,
    )
    print(
        "*: Pareto front, no other cell of the task and its epochs is both "
        "better and faster"
    )


def main() -> None:
    """Execute the training runs that have no results yet, unless `--report` is given,
    and print the report.
    """
    parser = make_parser(__doc__, PATH)
    parser.add_argument("--study", choices=[GRID, *recipes.RECIPES], default=GRID)
    parser.add_argument(
        "--task", nargs="+", choices=EXAMPLE_SIZES, default=list(EXAMPLE_SIZES)
    )
    add_flags(parser, int, seeds="number of seeds, or of rounds of epoch_time")
    grid = parser.add_argument_group("grid")
    grid.add_argument("--preset", choices=PRESETS, default="quick")
    grid.add_argument("--peer", nargs="+", choices=TASKS, default=["ours"])
    add_size_flags(grid, ("length", "step", "units"))
    add_flags(grid, int, epochs="epochs of a run; the preset's if not given")
    add_flags(grid, int, cores="cores of a run; the other cores have runs of their own")
    other = parser.add_argument_group("other studies")
    other.add_argument(
        "--recipe", nargs="+", help="names of recipes; all of the study if not given"
    )
    add_flags(other, int, first_seed="first seed, or round of epoch_time")
    parser.set_defaults(cores=CORES, first_seed=0)
    options = read_flags(parser)
    if options.study != GRID:
        chosen = recipes.choose(options.study, options.task, options.recipe)
        recipes.run(
            options.study,
            chosen,
            options.first_seed,
            options.seeds,
            options.results,
            not options.report,
        )
        return
    available = len(os.sched_getaffinity(0))
    require(
        1 <= options.cores <= available or options.report,
        "cores",
        options.cores,
        f"give 1 to {available}",
    )
    preset, sha = PRESETS[options.preset], options.commit or commit()
    if not options.report:
        given = {
            letter: getattr(options, flag.strip("-")) for letter, flag in FLAGS.items()
        }
        axes = {
            task: {letter: given[letter] or sizes for letter, sizes in own.items()}
            for task, own in preset.axes.items()
            if task in options.task
        }
        epochs = {
            task: options.epochs or planned for task, planned in preset.epochs.items()
        }
        sweep(
            runs_of(axes, options.peer, options.seeds or preset.seeds, epochs),
            options.results,
            sha,
            options.cores,
        )
    report(grid_rows(options.results, sha, options.cores))
