"""Tests of `bench accuracy`: the planned runs, the recipes, and the reports of made-up
rows.
"""

import math
import re
from pathlib import Path

import pytest
from rows import printed, read_lines, run_python, write_rows

from bench import accuracy, recipes
from bench.peers import ours_tasks
from bench.report.tables import quality_table
from lstm_jax import InputError

DEFAULTS = {"sentiment": ours_tasks.SENTIMENT, "generation": ours_tasks.GENERATION}


def _row(task, H, seed, epoch, score, seconds):
    name = "test_accuracy" if task == "sentiment" else "validation_bits"
    known = {
        "task": task,
        "peer": "ours",
        "T": 80,
        "H": H,
        "seed": seed,
        "epochs": 2,
        "epoch": epoch,
        "seconds": seconds,
    }
    return known | {name: score, "examples_per_second": 1000 / seconds}


@pytest.fixture
def asked(monkeypatch):
    """Replace the processes by made-up epochs, and return a list that gets the
    functions and the flags of the trainings.
    """
    calls = []

    def call(function, *_, flags):
        calls.append((function, flags))
        seed = int(flags[flags.index("--seed") + 1])
        row = {"peer": "ours", "seed": seed, "seconds": 1.0}
        return [
            row | {"epoch": n, "test_accuracy": 0.8 + n / 100 + seed / 1000}
            for n in (1, 2)
        ]

    monkeypatch.setattr(accuracy.timing, "run_function", call)
    return calls


def test_runs_of_the_grid(asked):
    axes = accuracy.PRESETS["standard"].axes
    epochs = {"sentiment": 3, "generation": 3}
    runs = list(accuracy.runs_of(axes, ["ours", "keras_jax"], 3, epochs))
    # Keras runs only sentiment, at the sizes of its example
    assert len(runs) == 3 * (4 * 4 + 4 * 3 * 4 + 1)
    run = next(run for run in runs if run["peer"] == "keras_jax" and run["seed"] == 1)
    assert (run["T"], run["H"]) == (80, 128)
    text = {"task": "generation", "T": 20, "S": 5, "H": 64}
    for training in (run, run | {"peer": "ours"}, run | {"peer": "ours"} | text):
        accuracy.train(training, 1, 0)
    (keras, flags), *ours = asked
    assert keras == "bench.peers.keras_tasks:sentiment_rows"
    assert flags == ["--warm-up", "--epochs", "3", "--seed", "1"]
    for (function, flags), task, sizes in zip(
        ours, ("sentiment", "generation"), ((80, 128), (20, 64)), strict=True
    ):
        assert function == f"bench.peers.ours_tasks:{task}_rows"
        config = ours_tasks.config_of(DEFAULTS[task], flags)
        length = config.data.maxlen if task == "sentiment" else config.data.length
        assert (length, config.model.units) == sizes
        assert (config.train.epochs, config.train.seed) == (3, 1)


def test_time_to_a_quality_of_the_demo(path, monkeypatch):
    """The rows are those of the run's metrics.jsonl."""

    def process(arguments, *_, **__):
        assert arguments[-4:] == ["--length", "64", "--units", "192"]
        run = Path(arguments[arguments.index("--run") + 1])
        run.mkdir()
        write_rows(
            run / "metrics.jsonl",
            [
                {"epoch": n, "validation_bits": 3.0 - n / 2, "seconds": 2.0}
                for n in (1, 2, 3)
            ],
        )
        return []

    monkeypatch.setattr(accuracy.timing, "run_module", process)
    flags = ["--preset", "quality", "--task", "demo", "--seeds", "1", "--cores", "1"]
    shown = printed("accuracy", *flags, "--results", path)
    assert re.search(
        r"demo +ours +12 +64 +192 +1 +1\.5000 \* .* 4\.0 *$",
        "\n".join(shown),
        re.MULTILINE,
    )
    heads, rows = quality_table(read_lines(path))
    assert [rows[0][heads.index(name)] for name in ("task", "seconds", "best")] == [
        "demo to 2.0",
        "4.0",
        "1.500",
    ]


def test_summary_and_report_by_hand(capsys):
    runs = [
        (32, 0, 1, 0.82, 2.0),
        (32, 0, 2, 0.84, 2.0),
        (32, 1, 1, 0.83, 2.0),
        (32, 1, 2, 0.80, 2.0),
        (64, 0, 1, 0.81, 4.0),
    ]
    rows = [_row("sentiment", *run) for run in runs]
    rows += [
        _row("generation", 32, 0, 1, 3.0, 1.0),
        _row("generation", 32, 0, 2, 2.5, 1.0),
    ]
    small, _, text = lines = accuracy.summarize(rows)
    assert (small["low"], small["score"], small["high"]) == (
        0.83,
        pytest.approx(0.835),
        0.84,
    )
    assert [line["seconds_to_target"] for line in lines] == pytest.approx(
        [3.0, math.inf, math.nan], nan_ok=True
    )
    assert (text["score"], text["speed"]) == (2.5, 1000)
    # the large one is worse and slower
    assert [line["front"] for line in lines] == [True, False, True]
    accuracy.report(rows)
    shown = capsys.readouterr().out
    assert "0.8350 *" in shown
    assert "not reached" in shown


def test_recipes():
    for study, of_study in recipes.RECIPES.items():
        names = {(recipe.task, recipe.name) for recipe in of_study}
        assert len(names) == len(of_study), study
        for recipe in of_study:
            if recipe.peer == "ours":
                ours_tasks.config_of(DEFAULTS[recipe.task], recipe.flags.split())
    found = recipes.choose("epoch_time", ["sentiment"], None)
    assert [recipe.name for recipe in found] == ["keras_jax", "ours"]
    for study, names, value in (
        ("held_out", None, "none"),
        ("seeds", ["ours", "fast"], "fast"),
    ):
        with pytest.raises(InputError, match=rf"^recipe: {value}; "):
            recipes.choose(study, ["sentiment"], names)


def test_runs_of_a_recipe_are_measured_once(path, asked, capsys):
    chosen = recipes.choose("seeds", ["sentiment"], ["ours"])
    for _ in range(2):
        recipes.run("seeds", chosen, 3, 2, path, measure=True)
    assert asked == [
        ("bench.peers.ours_tasks:sentiment_rows", ["--epochs", "3", "--seed", seed])
        for seed in "34"
    ]
    lines = capsys.readouterr().out.splitlines()
    assert (
        lines[0] == "task sentiment, recipe ours, seed 3: test_accuracy 0.8130, 0.8230"
    )
    assert lines[-1] == "ours: 0.8235 (sd 0.0007; 3: 0.8230, 4: 0.8240)"
    assert len(read_lines(path)) == 4


HELD_OUT = {"recipe": "ours held-out", "seed": 0, "test_accuracy": 0.8}
STREAM = {
    "recipe": "stream",
    "seed": 0,
    "epoch": "best",
    "bits_window": 2.0,
    "bits_carried": 1.9,
    "cpu_seconds": 90.0,
    "best_epoch": 4,
}
LOSSES = [
    {"recipe": "ours", "epoch": epoch, "train_loss": epoch + float(seed)}
    for epoch in range(1, 11)
    for seed in (0, 1)
]


@pytest.mark.parametrize(
    ("study", "rows", "line"),
    [
        (
            "seeds",
            [
                HELD_OUT | {"epoch": 1, "test_accuracy": 0.9},
                HELD_OUT | {"epoch": "best"},
            ],
            "ours held-out: 0.8000 (sd 0.0000; 0: 0.8000)",
        ),
        (
            "loss",
            LOSSES,
            "epoch 10: notebook 1.4606; ours 10.5000 (10.0000 to 11.0000)",
        ),
        (
            "held_out",
            [STREAM, {"epoch": 1}],
            "stream, seed 0: 2.0000 in windows, 1.9000 carried, 1.5 CPU "
            "minutes, best epoch 4",
        ),
    ],
)
def test_reports_of_recipes_by_hand(study, rows, line):
    assert list(recipes.REPORTS[study](rows))[-1] == line


@pytest.mark.slow
def test_a_cell(path, monkeypatch, data_dir):
    monkeypatch.setenv("LSTM_JAX_DATA", str(data_dir))
    sizes = "--length 5 --step 500 --units 4 --seeds 1 --epochs 2"
    command = f"accuracy --task generation {sizes} --results {path}".split()
    first = run_python(["-m", "bench", *command])
    rows = read_lines(path)
    assert [(row["epoch"], row["T"], row["S"], row["H"]) for row in rows] == [
        (1, 5, 500, 4),
        (2, 5, 500, 4),
    ]
    assert all(row["validation_bits"] > 1 for row in rows)
    assert printed(*command) == first.splitlines()[1:]
    assert read_lines(path) == rows
