"""Tests of `bench accuracy`: the planned runs, the recipes, and the reports of made-up rows and of committed rows.

One test runs the command, which trains a tiny character model on newspaper articles. It is skipped on a machine without the articles.
"""

import math
import os
from pathlib import Path

import pytest
from rows import ROOT, bench, bench_here, read_lines

from bench import accuracy, recipes
from bench.peers import ours_tasks
from bench.report.tables import accuracy_tables
from lstm_jax import InputError
from lstm_jax.config import GenerationConfig

pytestmark = pytest.mark.usefixtures("quick_processes")


def _row(task: str, H: int, seed: int, epoch: int, score: float, seconds: float, peer: str = "ours") -> dict:
    name = "test_accuracy" if task == "sentiment" else "validation_bits"
    known = {"task": task, "peer": peer, "T": 80, "H": H, "seed": seed, "epochs": 2, "epoch": epoch, "seconds": seconds}
    return known | ({"S": 5} if task == "generation" else {}) | {name: score, "examples_per_second": 1000 / seconds}


def test_runs_of_the_grid() -> None:
    epochs = {"sentiment": 3, "generation": 3}
    runs = list(accuracy.runs_of(epochs, accuracy.PRESETS["standard"].axes, ["ours", "keras_jax"], 3, epochs))
    assert len(runs) == 3 * (4 * 4 + 4 * 3 * 4 + 1)  # Keras runs only sentiment, at the sizes of its example
    run = next(run for run in runs if run["peer"] == "keras_jax" and run["seed"] == 1)
    assert (run["T"], run["H"]) == (80, 128)
    assert accuracy.arguments(run) == ["bench.peers.keras_tasks", "sentiment", "--warm-up", "--epochs", "3", "--seed", "1"]
    for ours in (run | {"peer": "ours"}, {"task": "generation", "peer": "ours", "seed": 1, "epochs": 3, "T": 20, "S": 5, "H": 64}):
        module, task, *flags = accuracy.arguments(ours)
        assert (module, task) == ("bench.peers.ours_tasks", ours["task"])
        config = ours_tasks.config_of({"sentiment": ours_tasks.SENTIMENT, "generation": ours_tasks.GENERATION}[task], flags)
        length = config.data.maxlen if task == "sentiment" else config.data.length
        assert (length, config.model.units, config.train.epochs, config.train.seed) == (ours["T"], ours["H"], 3, 1)


def test_summary_by_hand() -> None:
    rows = [_row("sentiment", 32, 0, 1, 0.82, 2.0), _row("sentiment", 32, 0, 2, 0.84, 2.0)]
    rows += [_row("sentiment", 32, 1, 1, 0.83, 2.0), _row("sentiment", 32, 1, 2, 0.80, 2.0)]
    rows += [_row("sentiment", 64, 0, 1, 0.81, 4.0), _row("generation", 32, 0, 1, 3.0, 1.0), _row("generation", 32, 0, 2, 2.5, 1.0)]
    small, large, text = accuracy.summarize(rows)
    assert (small["low"], small["score"], small["high"]) == (0.83, pytest.approx(0.835), 0.84)
    assert [line["seconds_to_target"] for line in (small, large, text)] == pytest.approx([3.0, math.inf, math.nan], nan_ok=True)
    assert (text["score"], text["speed"]) == (2.5, 1000)
    assert [line["front"] for line in (small, large, text)] == [True, False, True]  # the large one is worse and slower


def test_tables_keep_numbers_of_epochs_apart() -> None:
    """Runs of one epoch and runs of two epochs have separate tables. Each table has its own Pareto front.

    The best run of one epoch is on the Pareto front of its table, although the run of two epochs is better at the same speed.
    """
    rows = [_row("generation", 32, seed, 1, 3.0, 2.0) | {"epochs": 1, "git": "abc"} for seed in range(2)]
    rows += [_row("generation", 32, 0, epoch, 2.5, 1.0) | {"git": "abc"} for epoch in (1, 2)]
    rows += [_row("generation", 64, 0, 1, 2.9, 1.0) | {"epochs": 1, "git": "abc"}]
    text = accuracy_tables(rows)
    assert "bits a character, 1 epoch, mean of 1 to 2 seeds; in" in text
    assert "bits a character, 2 epochs, mean of 1 seed; in" in text
    assert "| 32 | 3.0000 (0.5) |" in text
    assert "| 64 | 2.9000* (1) |" in text
    assert "| 32 | 2.5000* (1) |" in text


def test_report(capsys) -> None:
    accuracy.report([_row("sentiment", 32, 0, 1, 0.84, 2.0), _row("sentiment", 64, 0, 1, 0.82, 4.0)])
    printed = capsys.readouterr().out
    assert "0.8400 *" in printed
    assert "not reached" in printed


def test_rows_of_other_cores_are_reported_apart() -> None:
    """`grid_rows` returns only the rows of runs that used the given number of cores.

    The test reads the committed rows of one commit. In these rows, the runs on two cores have the sizes of the Keras example imdb_lstm:
    three runs of this project and three runs of Keras.
    """
    one, both = (accuracy.grid_rows(accuracy.PATH, "aea29158c4a4", cores) for cores in (1, 2))
    assert len(one) == 288
    (ours, keras) = accuracy.summarize(both)
    assert (ours["peer"], keras["peer"]) == ("ours", "keras_jax")
    assert [round(line["score"], 4) for line in (ours, keras)] == [0.8314, 0.8381]


def test_recipes() -> None:
    """The recipes of a study have different names within each task, and unknown recipes are refused.

    The module `ours_tasks` can parse the flags of each recipe of this project.
    """
    for study, of_study in recipes.RECIPES.items():
        assert len({(recipe.task, recipe.name) for recipe in of_study}) == len(of_study), study
        for recipe in of_study:
            module, task, *flags = recipe.arguments()
            assert module == f"bench.peers.{'ours' if recipe.peer == 'ours' else 'keras'}_tasks"
            if recipe.peer == "ours":
                ours_tasks.config_of({"sentiment": ours_tasks.SENTIMENT, "generation": ours_tasks.GENERATION}[task], flags)
    assert [recipe.name for recipe in recipes.choose("epoch_time", ["sentiment"], None)] == ["keras_jax", "ours"]
    with pytest.raises(InputError, match=r"^recipe: none; give some of windows, "):
        recipes.choose("held_out", ["sentiment"], None)
    with pytest.raises(InputError, match=r"^recipe: fast; give some of "):
        recipes.choose("seeds", ["sentiment"], ["ours", "fast"])


def test_runs_of_a_recipe_are_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Each seed is run in a process of its own, and a seed that has rows is not run again.

    The report covers the requested seeds, here the seeds 3 and 4.
    """
    path, asked = tmp_path / "rows.jsonl", []

    def process(arguments: list[str]) -> list[dict]:
        asked.append(arguments)
        seed = int(arguments[-1])
        return [{"peer": "ours", "seed": seed, "epoch": n, "test_accuracy": 0.8 + n / 100 + seed / 1000, "seconds": 1.0} for n in (1, 2)]

    monkeypatch.setattr(recipes.timing, "run_module", process)
    (ours,) = recipes.choose("seeds", ["sentiment"], ["ours"])
    for _ in range(2):
        recipes.run("seeds", [ours], 3, 2, path, measure=True)
    assert asked == [["bench.peers.ours_tasks", "sentiment", "--epochs", "3", "--seed", str(seed)] for seed in (3, 4)]
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "task sentiment, recipe ours, seed 3: test_accuracy 0.8130, 0.8230"
    assert lines[-1] == "ours: 0.8235 (sd 0.0007; 3: 0.8230, 4: 0.8240)"
    assert len(path.read_text().splitlines()) == 4


def test_reports_of_recipes_by_hand() -> None:
    held_out = {"recipe": "ours held-out", "seed": 0, "test_accuracy": 0.9}
    rows = [held_out | {"epoch": 1}, held_out | {"epoch": "best", "test_accuracy": 0.8}]
    assert recipes.report_seeds(rows) == ["ours held-out: 0.8000 (sd 0.0000; 0: 0.8000)"]
    times = {"keras_jax": (3.0, 3.0, 3.0), "ours": (1.0, 1.0, 1.0)}
    rows = [{"task": "generation", "recipe": name, "seconds": s} for name, seconds in times.items() for s in seconds]
    lines = recipes.report_epoch_time(rows)
    assert lines[-1] == "generation: speedup over keras_jax 3.00x (95 % confidence interval 3.00 to 3.00)"
    rows = [{"recipe": "ours", "epoch": epoch, "train_loss": 1.0 + seed} for epoch in range(1, 11) for seed in (0, 1)]
    assert recipes.report_loss(rows)[0] == "epoch 1: notebook 2.4947; ours 1.5000 (1.0000 to 2.0000)"
    row = {"recipe": "stream", "seed": 0, "epoch": "best", "bits_window": 2.0, "bits_carried": 1.9, "cpu_seconds": 90.0, "best_epoch": 4}
    (line,) = recipes.report_held_out([row, {"epoch": 1}])
    assert line == "stream, seed 0: 2.0000 in windows, 1.9000 carried, 1.5 CPU minutes, best epoch 4"


def test_committed_studies() -> None:
    """The committed rows give the numbers in the documentation.

    The numbers are the speedups of an epoch over Keras, and the mean accuracy of 20 seeds that were chosen in advance.
    """
    run = bench_here("accuracy", "--study", "epoch_time", "--report")
    assert "sentiment: speedup over keras_jax 2.20x (95 % confidence interval 2.1" in run.stdout
    assert "generation: speedup over keras_jax 3.39x (95 % confidence interval 3.2" in run.stdout
    run = bench_here("accuracy", "--study", "seeds", "--first-seed", "100", "--seeds", "20", "--report")
    assert run.stdout.startswith("ours: 0.8362 (sd 0.0041; 100: 0.8314, ")


ARTICLES = Path(os.environ.get("LSTM_JAX_DATA", ROOT.parent / "shared" / "data"))


@pytest.mark.slow
@pytest.mark.skipif(not (ARTICLES / "articles").is_dir(), reason=f"needs the articles in {ARTICLES}")
def test_a_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert GenerationConfig().data.length == accuracy.EXAMPLE_SIZES["generation"]["T"]
    path = tmp_path / "rows.jsonl"
    monkeypatch.setenv("LSTM_JAX_DATA", str(ARTICLES))
    command = ["accuracy", "--task", "generation", "--length", "5", "--step", "500", "--units", "4"]
    command += ["--seeds", "1", "--epochs", "2", "--results", str(path)]
    run = bench(*command)
    assert run.returncode == 0, run.stderr[-3000:]
    rows = read_lines(path)
    assert [(row["epoch"], row["T"], row["S"], row["H"]) for row in rows] == [(1, 5, 500, 4), (2, 5, 500, 4)]
    assert all(row["validation_bits"] > 1 for row in rows)
    again = bench_here(*command)
    assert again.stdout == "".join(run.stdout.splitlines(keepends=True)[1:])
    assert len(path.read_text().splitlines()) == 2
