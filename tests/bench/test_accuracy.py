"""The accuracy benchmark: its cells, what its report makes of rows, and a cell in earnest where the articles are."""

import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import tyro
from rows import ROOT

from bench import accuracy
from lstm_jax.config import GenerationConfig

pytestmark = pytest.mark.usefixtures("quick_processes")


def _row(task: str, H: int, seed: int, epoch: int, score: float, seconds: float, side: str = "ours") -> dict:
    name = "test_accuracy" if task == "sentiment" else "validation_bits"
    known = {"task": task, "side": side, "T": 80, "H": H, "seed": seed, "epochs": 2, "epoch": epoch, "seconds": seconds}
    return known | ({"S": 5} if task == "generation" else {}) | {name: score, "examples_per_second": 1000 / seconds}


def test_cells_and_who_runs_them() -> None:
    cells = accuracy.cells(["sentiment", "generation"], accuracy.PRESETS["standard"].axes)
    assert len(cells) == 4 * 4 + 4 * 3 * 4
    runs = list(accuracy.wanted(cells, ["ours", "keras_jax"], 3))
    assert len(runs) == 3 * (len(cells) + 1)  # Keras at the source's sizes, and no generation
    cell = next(cell for cell, peer, _ in runs if peer == "keras_jax")
    assert cell.sizes == {"T": 80, "H": 128}
    assert cell.arguments("keras_jax", 1, 3) == ["bench.peers.keras_sentiment", "--warm-up", "--epochs", "3", "--seed", "1"]
    for one in (cell, accuracy.Cell("generation", {"T": 20, "S": 5, "H": 64})):
        module = import_module(f"bench.peers.ours_{one.task}")
        kind = type(module.DEFAULT)
        config = tyro.cli(tyro.conf.OmitArgPrefixes[kind], default=module.DEFAULT, args=one.arguments("ours", 1, 3)[1:])
        length = config.data.maxlen if one.task == "sentiment" else config.data.length
        assert (length, config.model.units, config.train.epochs, config.train.seed) == (one.sizes["T"], one.sizes["H"], 3, 1)


def test_summary_by_hand() -> None:
    rows = [_row("sentiment", 32, 0, 1, 0.82, 2.0), _row("sentiment", 32, 0, 2, 0.84, 2.0)]
    rows += [_row("sentiment", 32, 1, 1, 0.83, 2.0), _row("sentiment", 32, 1, 2, 0.80, 2.0)]
    rows += [_row("sentiment", 64, 0, 1, 0.81, 4.0), _row("generation", 32, 0, 1, 3.0, 1.0), _row("generation", 32, 0, 2, 2.5, 1.0)]
    small, large, text = accuracy.summary(rows)
    assert small["scores"] == [0.84, 0.83]
    assert small["to_accuracy"] == [4.0, 2.0]
    assert large["to_accuracy"] == [float("inf")]
    assert text["scores"] == [2.5]
    assert text["examples_per_second"] == 1000
    assert accuracy.front([small, large, text]) == [small, text]  # the large one is worse and slower


def test_report(capsys) -> None:
    accuracy.report([_row("sentiment", 32, 0, 1, 0.84, 2.0), _row("sentiment", 64, 0, 1, 0.82, 4.0)])
    said = capsys.readouterr().out
    assert "0.8400 *" in said
    assert "not reached" in said


ARTICLES = Path(os.environ.get("LSTM_JAX_DATA", ROOT.parent / "shared" / "data"))


@pytest.mark.skipif(not (ARTICLES / "articles").is_dir(), reason=f"needs the articles in {ARTICLES}")
def test_a_cell(tmp_path: Path) -> None:
    assert GenerationConfig().data.length == accuracy.SOURCE["generation"]["T"]
    path = tmp_path / "rows.jsonl"
    command = [sys.executable, "-m", "bench", "accuracy", "--task", "generation", "--length", "5", "--step", "500", "--units", "4"]
    command += ["--seeds", "1", "--epochs", "2", "--results", str(path)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "LSTM_JAX_DATA": str(ARTICLES)}
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert run.returncode == 0, run.stderr[-3000:]
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(row["epoch"], row["T"], row["S"], row["H"]) for row in rows] == [(1, 5, 500, 4), (2, 5, 500, 4)]
    assert all(row["validation_bits"] > 1 for row in rows)
    again = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert again.stdout == "".join(run.stdout.splitlines(keepends=True)[1:])
    assert len(path.read_text().splitlines()) == 2
