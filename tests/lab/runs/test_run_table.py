"""Table of training runs: states, best epochs, conditions and order; runs that cannot
be read keep a row each.
"""

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
from command_line import assert_error

import lstm_jax
from lstm_jax.base.errors import InputError
from lstm_jax.lab.config import to_json
from lstm_jax.lab.forecast.config import ForecastConfig, ForecastModelConfig
from lstm_jax.lab.generation.config import GenerationConfig
from lstm_jax.lab.runs.folder import RunFolder
from lstm_jax.lab.runs.table import select, varied
from lstm_jax.lab.sentiment.config import SentimentConfig
from lstm_jax.training.config import TrainConfig

FORECAST = ForecastConfig(model=ForecastModelConfig(units=8))
LOSSES = {
    "forecast/a": [0.5, 0.3, 0.4],
    "forecast/b": [0.2],
    "generation": [None, 2.0],
    "sentiment": [],
}
RESULTS = {
    "forecast/a": {"seconds": 9.5, "test_mae": 3.0},
    "forecast/b": {"seconds": 61},
    "sentiment": {"seconds": 1.0, "test_accuracy": 0.75},
}
CONFIGS = {
    "forecast/a": FORECAST,
    "forecast/b": replace(
        FORECAST,
        model=ForecastModelConfig(units=16, remat=4),
        train=TrainConfig(learning_rate=1.0),
    ),
    "generation": GenerationConfig(),
    "sentiment": SentimentConfig(),
}


@pytest.fixture
def folder(tmp_path):
    for name, config in CONFIGS.items():
        run = RunFolder(tmp_path / "runs" / name)
        run.start(to_json(config), False)
        run.fix_data("0")
        run.seal(())
        epochs = [
            {"epoch": n, "seconds": 2.0, "train_loss": 1.0, "validation_loss": loss}
            for n, loss in enumerate(LOSSES[name], 1)
        ]
        run.metrics.write_text("".join(json.dumps(row) + "\n" for row in epochs))
        if name in RESULTS:
            run.result.write_text(json.dumps(RESULTS[name]))
    (tmp_path / "runs" / "sentiment" / "checkpoints").mkdir()
    shutil.copy(
        tmp_path / "runs" / "sentiment" / "config.json",
        tmp_path / "runs" / "sentiment" / "checkpoints",
    )
    return tmp_path / "runs"


def rows_of(folder):
    return {row["run"].removeprefix(f"{folder}/"): row for row in lstm_jax.runs(folder)}


def test_rows(folder):
    rows = rows_of(folder)
    facts = (
        "task",
        "state",
        "epochs",
        "best_epoch",
        "metric",
        "best",
        "seconds",
        "problem",
    )
    assert {name: tuple(row[fact] for fact in facts) for name, row in rows.items()} == {
        "forecast/a": ("forecast", "finished", 3, 2, "validation_loss", 0.3, 9.5, ""),
        "forecast/b": ("forecast", "finished", 1, 1, "validation_loss", 0.2, 61.0, ""),
        "generation": (
            "generation",
            "interrupted",
            2,
            2,
            "validation_loss",
            2.0,
            4.0,
            "",
        ),
        "sentiment": ("sentiment", "finished", 0, None, "test_accuracy", 0.75, 1.0, ""),
    }
    assert [row["model.units"] for row in rows.values()] == [8, 16, 128, 128]
    assert [row["model.remat"] for row in rows.values()] == [
        "none",
        "4",
        "none",
        "none",
    ]
    assert rows["generation"]["sample.sample_temperatures"] == "0.5 1.0"
    assert rows["sentiment"]["data.packed"] == 0  # a field that config.json leaves out
    columns = list(zip(*(row.values() for row in rows.values()), strict=True))
    assert {tuple(row) for row in rows.values()} == {tuple(rows["sentiment"])}
    assert all(
        len({type(value) for value in column} - {type(None)}) <= 1 for column in columns
    )
    assert [row["run"] for row in lstm_jax.runs(folder / "sentiment", folder)][:2] == [
        str(folder / "sentiment"),
        str(folder / "forecast/a"),
    ]


def test_a_running_run(folder):
    run = RunFolder(folder / "generation")
    with run.locked():
        assert rows_of(folder)["generation"]["state"] == "running"
    run.lock.touch()  # left by a killed process
    assert rows_of(folder)["generation"]["state"] == "interrupted"


@pytest.mark.parametrize(
    ("name", "content", "state", "problem"),
    [
        ("config.json", "{", "damaged", "config.json"),
        (
            "config.json",
            '{"task": "sentiment"}',
            "damaged",
            "config.json: not of a run",
        ),
        ("config.json", None, "damaged", "config.json: No such file"),
        ("manifest.json", "{}", "damaged", "manifest.json: damaged"),
        ("data.sha256", "1", "damaged", "data.sha256: changed"),
        ("metrics.jsonl", '{"epoch": 1}\n7\n', "damaged", "metrics.jsonl: "),
        ("result.json", "", "damaged", "result.json"),
        ("manifest.json", None, "damaged", "manifest.json: missing"),
    ],
)
def test_damaged_runs(name, content, state, problem, folder):
    path = folder / "forecast" / "b" / name
    path.unlink()
    if content is not None:
        path.write_text(content)
    rows = rows_of(folder)
    assert len(rows) == len(CONFIGS)
    assert rows["forecast/b"]["state"] == state
    assert problem in rows["forecast/b"]["problem"]
    assert [row["problem"] for name, row in rows.items() if name != "forecast/b"] == [
        ""
    ] * 3


@pytest.mark.parametrize(
    ("config", "state", "task", "problem"),
    [
        ({"model_type": "other"}, "foreign", None, "not of a run"),
        (
            {"task": "own", "data": {}, "model": {"units": 4}, "train": {}},
            "interrupted",
            "own",
            "model.units is unknown",
        ),
        (
            json.loads(to_json(FORECAST)) | {"later": {"field": [1]}},
            "interrupted",
            "forecast",
            "later.field is unknown",
        ),
        (
            {
                name: part
                for name, part in json.loads(to_json(GenerationConfig())).items()
                if name != "task"
            },
            "foreign",
            None,
            "not of a run",
        ),
    ],
)
def test_configs_of_others(config, state, task, problem, folder):
    (folder / "other").mkdir()
    (folder / "other" / "config.json").write_text(json.dumps(config))
    row = rows_of(folder)["other"]
    assert (row["state"], row["task"]) == (state, task)
    assert problem in row["problem"]
    assert len(rows_of(folder)) == len(CONFIGS) + 1


@pytest.mark.parametrize(
    ("where", "sort", "found"),
    [
        ((), "best", ["sentiment", "forecast/b", "forecast/a", "generation"]),
        ((), "units", ["forecast/a", "forecast/b", "generation", "sentiment"]),
        ((), "test-accuracy", ["sentiment", "forecast/a", "forecast/b", "generation"]),
        (["units=16"], "run", ["forecast/b"]),
        (["model.learning_rate=1"], "run", None),
        (["learning-rate=1.0"], "run", ["forecast/b"]),
        (["task=forecast", "state=finished", "units=8"], "run", ["forecast/a"]),
        (["remat=4"], "run", ["forecast/b"]),
        (["mask_zero=false"], "run", ["sentiment"]),
        (["units=3"], "run", []),
        ([f"units={'[' * 5000}"], "run", []),
    ],
)
def test_select(where, sort, found, folder):
    rows = lstm_jax.runs(folder)
    if found is None:
        with pytest.raises(InputError):
            select(rows, where, sort)
    else:
        assert [
            row["run"].removeprefix(f"{folder}/") for row in select(rows, where, sort)
        ] == found


def test_varied(folder):
    rows = lstm_jax.runs(folder)
    forecasts = [
        "model.remat",
        "model.units",
        "train.epochs",
        "train.learning_rate",
        "train.patience",
        "train.clip_norm",
    ]
    assert sorted(varied(select(rows, ["task=forecast"]))) == sorted(forecasts)
    assert varied(rows[:1]) == []


def test_the_commands_import_no_jax(folder):
    """The commands answer without JAX, also for a run whose config names a backend,
    which a config would check with JAX.
    """
    config = RunFolder(folder / "forecast/a").config
    config.write_text(config.read_text().replace('"auto"', '"hoisted"'))
    RunFolder(folder / "forecast/a").accept()
    code = "import sys; from lstm_jax.lab import cli; "
    code += (
        "print(cli.main(['runs']), cli.main(['runs', 'compare', "
        "'runs/forecast']), 'jax' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=folder.parent,
    )
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [line[:7] for line in lines[:3]] == [
        ["run", "task", "state", "epochs", "best", "time", "backend"],
        [
            "forecast/a",
            "forecast",
            "finished",
            "3/100",
            "validation_loss",
            "0.3",
            "0:00:10",
        ],
        [
            "forecast/b",
            "forecast",
            "finished",
            "1/3",
            "validation_loss",
            "0.2",
            "0:01:01",
        ],
    ]
    assert [
        line
        for line in lines[6:]
        if line[0] in ("best", "model.backend", "model.units", "test_mae", "train.seed")
    ] == [
        ["best", "0.3", "0.2"],
        ["model.backend", "hoisted", "auto"],
        ["model.units", "8", "16"],
        ["test_mae", "3", "-"],
    ]
    assert (lines[-2:], done.stderr) == (
        [["runs_compare.png", "and", "runs_compare.svg"], ["0", "0", "False"]],
        "",
    )
    assert (folder.parent / "runs_compare.svg").is_file()


def test_tables(folder, ask):
    code, out, err = ask(
        "runs", folder, "--csv", "--where", "task=forecast", "--where", "units=16"
    )
    header, line = (line.split(",") for line in out.splitlines())
    assert (code, err, dict(zip(header, line, strict=True))["train.learning_rate"]) == (
        0,
        "",
        "1.0",
    )
    code, out, err = ask("runs", folder, "--json", "--sort", "best")
    assert [json.loads(line)["best"] for line in out.splitlines()] == [
        0.75,
        0.2,
        0.3,
        2.0,
    ]
    assert ask("runs", folder, "--csv", "--where", "units=3") == (
        0,
        ",".join(header) + "\n",
        "",
    )
    (folder / "sentiment" / "data.sha256").write_text("1")
    code, out, err = ask("runs", folder)
    assert (code, len(out.splitlines())) == (0, 5)
    assert err.startswith("warning: file ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "subject"),
    [
        ("runs {tmp}/none", "none: no such file or folder"),
        ("runs {tmp}/empty", "empty: no run in it"),
        ("runs {tmp}/runs --where units", "where: units; give NAME=VALUE"),
        ("runs {tmp}/runs --where unitss=3", "column: unitss; did you mean units?"),
        ("runs {tmp}/runs --sort colour", "column: colour"),
        (
            "runs {tmp}/runs --where unit=16",
            "where: unit=16; no run has it; did you mean units?",
        ),
        ("runs compare", "folders: 0 runs"),
        ("runs compare {tmp}/runs/sentiment", "folders: 1 run"),
        ("runs compare {tmp}/runs --out {tmp}/notes.png", "notes.png: exists"),
        ("runs compare {tmp}/runs --out {tmp}/notes.pdf", "ending '.pdf'"),
    ],
)
def test_errors_are_one_line(arguments, subject, folder, tmp_path, ask):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.png").write_text("mine")
    assert_error(ask(*arguments.format(tmp=tmp_path).split()), subject)
    assert (tmp_path / "notes.png").read_text() == "mine"
