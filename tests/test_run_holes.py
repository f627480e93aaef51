"""Tests of damaged run folders: a file of a run is removed, cut, emptied, replaced by a folder, or has a flipped bit.

A command then answers as before, or says in one line what is wrong.
"""

import os
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from command_line import assert_error, questions
from made_texts import SENTENCES

from lstm_jax import cli, data
from lstm_jax.config import CONFIGS
from lstm_jax.tasks.forecast import Forecasting

pytestmark = pytest.mark.usefixtures("quick_compiles")

SIZES = ("--units", "4", "--batch-size", "16", "--epochs", "1", "--no-figures")
SEALED = {task: ("config.json", "data.sha256", *kind.files) for task, kind in CONFIGS.items()}
LEFT = ("environment.json", "metrics.jsonl", "result.json")
"""Files of a run that do not change what a command answers."""
OTHERS = {"manifest.json", "run.lock", "samples.jsonl"}
"""Files in the folder of a run that are neither in `SEALED` nor in `LEFT`."""


def train(root: Path, task: str, run: Path, *more: str) -> list[str]:
    """Return the command line of a short training. Tasks that generate their data get no options besides the common ones."""
    options = {
        "sentiment": f"--data {root} --cache-dir {root}/cache --vocabulary frequency --num-words 300 --maxlen 10 --embed 4",
        "generation": f"--data {root}/text.txt --length 8 --sample-chars 3 --sample-prompt 4",
        "forecast": f"--csv {root}/series.csv --context 6 --horizon 2",
    }
    return ["train", task, *options.get(task, "").split(), *SIZES, "--run", str(run), *more]


def asking(task: str, run: Path, out: Path) -> list[list[str]]:
    """Return one command line for each kind of command that reads a run of the task. The first command is quick.

    For a task that has no list in this function, the result has each command of the task that reads a run and needs no other argument.
    Commands that write files write them to the folder `out`.
    """
    words = f"embedding export {out}/vectors.txt --force", f"embedding export {out}/folder --format projector --force"
    commands = {
        "sentiment": [
            "predict --text good",
            "evaluate",
            "embedding neighbours good --min-reviews 1",
            f"embedding plot --out {out}/map.png",
        ],
        "generation": ["generate --chars 3", "score --text the", f"units --text the --out {out}/units.html"],
        "forecast": ["forecast"],
    }
    commands["sentiment"] += words
    if find_spec("onnx"):
        commands["sentiment"].append(f"export onnx --file {out}/model.onnx")
    return [[*command.split(), "--run", str(run)] for command in commands.get(task) or questions(task)]


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Iterator[Path]:
    """Train a run of each task, in a folder named after the task, and return the folder that contains them."""
    root = tmp_path_factory.mktemp("holes")
    for name, split in data.synthetic_splits(80, 20, seed=4).items():
        rows = (f'"{text.decode()}",{label}\n' for text, label in zip(split.texts, split.labels, strict=True))
        (root / f"{name}.csv").write_text("text,label\n" + "".join(rows))
    (root / "text.txt").write_text(" ".join([SENTENCES] * 4))
    (root / "series.csv").write_text("time,value\n" + "".join(f"{n},{n % 7 + n / 10}\n" for n in range(90)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
        for task in CONFIGS:
            assert cli.main(train(root, task, root / task)) == 0
    return root


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 4]) + content[middle + 1 :]


def damaged(path: Path) -> Iterator[str]:
    """Damage a file in several ways, one after the other, and yield the name of each damage. At the end, restore the file."""
    content = path.read_bytes()
    for kind, after in (("cut", content[: len(content) // 2]), ("empty", b""), ("flipped", flipped(content))):
        path.write_bytes(after)
        yield kind
    path.unlink()
    yield "missing"
    path.mkdir()
    yield "folder"
    path.rmdir()
    path.write_bytes(content)


@pytest.mark.slow(keep=["generation"])
@pytest.mark.parametrize("task", CONFIGS)
def test_damage_of_what_an_answer_depends_on(task, root, ask, tmp_path):
    run = Path(shutil.copytree(root / task, tmp_path / "run"))
    commands, resume = asking(task, run, tmp_path), train(root, task, run, "--resume")
    for name in (*SEALED[task], "manifest.json"):
        for kind in damaged(run / name):
            if (name, kind) == ("manifest.json", "missing"):
                continue  # as a run of an older version, see below
            for command in [*commands, resume] if kind == "flipped" else commands:
                assert_error(ask(*command), name)
    assert ask(*commands[0])[0] == 0


@pytest.mark.slow(keep=1)
@pytest.mark.parametrize("task", CONFIGS)
def test_damage_of_files_that_nothing_depends_on(task, root, ask, tmp_path):
    run = Path(shutil.copytree(root / task, tmp_path / "run"))
    assert {path.name for path in run.iterdir() if path.is_file()} - OTHERS == {*SEALED[task], *LEFT}
    command = asking(task, run, tmp_path)[0]
    wanted = ask(*command)
    assert wanted[0] == 0
    for name in LEFT:
        for kind in damaged(run / name):
            if kind in ("missing", "cut", "folder"):
                assert ask(*command) == wanted, (name, kind)
    (run / "manifest.json").unlink()
    code, out, err = ask(*command)
    assert (code, out) == wanted[:2]
    assert err.startswith(f"warning: run {run} has no manifest.json")
    assert err.count("\n") == 1
    assert ask("run", "accept", "--run", run)[0] == 0
    assert ask(*command) == wanted


def test_an_edit_that_is_meant(root, ask, tmp_path):
    run = Path(shutil.copytree(root / "forecast", tmp_path / "run"))
    wanted = ask("forecast", "--run", run)
    (run / "scale.json").write_text((run / "scale.json").read_text() + "\n")
    assert_error(ask("forecast", "--run", run), "scale.json: changed", f"lstm-jax run accept --run {run}")
    assert ask("run", "accept", "--run", run) == (0, f"scale.json: changed\n{run}: 1 accepted\n", "")
    assert ask("forecast", "--run", run) == wanted
    assert ask("run", "accept", "--run", run) == (0, f"{run}: as the run wrote it\n", "")
    assert_error(ask("run", "accept", "--run", tmp_path / "none"), "no config.json; name the folder of a run")


@pytest.mark.parametrize("task", CONFIGS)
def test_a_run_interrupted_before_its_first_checkpoint(task, root, ask, tmp_path):
    run = Path(shutil.copytree(root / task, tmp_path / "run"))
    shutil.rmtree(run / "checkpoints")
    for command in asking(task, run, tmp_path):
        assert_error(ask(*command), "checkpoints", "none is there")
    (run / "checkpoints").write_text("x")
    for command in (*asking(task, run, tmp_path), train(root, task, run, "--resume")):
        assert_error(ask(*command), "checkpoints")


def test_a_folder_that_is_removed_while_it_trains(root, ask, tmp_path, monkeypatch):
    monkeypatch.setattr(Forecasting, "finish", lambda self, folder, *_: shutil.rmtree(folder.path))
    assert_error(ask(*train(root, "forecast", tmp_path / "run")), "run: removed while it trained")


@pytest.mark.parametrize("task", CONFIGS)
def test_folders_that_are_none(task, root, ask, tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(root / task)
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    for name in ("file", "nowhere", "gone"):
        commands = asking(task, tmp_path / name, tmp_path) + [train(root, task, tmp_path / name)] * (name != "gone")
        for command in commands:
            assert_error(ask(*command), name)
    assert ask(*asking(task, tmp_path / "link", tmp_path)[0])[0] == 0
