"""Tests of damaged run folders: a file of a run is removed, cut, emptied, replaced by a
folder, or has a flipped bit.

A command then answers as before, or says in one line what is wrong.
"""

import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from command_line import assert_error, questions

from lstm_jax.lab.forecast.task import Forecasting
from lstm_jax.lab.tasks import TASKS

SEALED = {
    task: ("config.json", "data.sha256", *row.config.files)
    for task, row in TASKS.items()
}
LEFT = ("environment.json", "metrics.jsonl", "result.json")
"""Files of a run that do not change what a command answers."""
OTHERS = {"manifest.json", "run.lock", "samples.jsonl"}
"""Files in the folder of a run that are neither in `SEALED` nor in `LEFT`."""


def asking(task: str, run: Path, out: Path) -> list[list[str]]:
    """Return one command line for each kind of command that reads a run of the task.
    The first command is quick.

    For a task that has no list in this function, the result has each command of the
    task that reads a run and needs no other argument. Commands that write files write
    them to the folder `out`.
    """
    commands = {
        "sentiment": [
            "predict --text good",
            "evaluate",
            "embedding neighbours good --min-reviews 1",
            f"embedding plot --out {out}/map.png",
            f"embedding export {out}/vectors.txt --force",
        ],
        "generation": [
            "generate --chars 3",
            "score --text the",
            f"units --text the --out {out}/units.html",
        ],
        "forecast": ["forecast"],
    }
    if find_spec("onnx"):
        commands["sentiment"].append(f"export onnx --file {out}/model.onnx")
    return [
        [*command.split(), "--run", str(run)]
        for command in commands.get(task) or questions(task)
    ]


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 4]) + content[middle + 1 :]


def damaged(path: Path) -> Iterator[str]:
    """Damage a file in several ways, one after the other, and yield the name of each
    damage. At the end, restore the file.
    """
    content = path.read_bytes()
    for kind, after in (
        ("cut", content[: len(content) // 2]),
        ("empty", b""),
        ("flipped", flipped(content)),
    ):
        path.write_bytes(after)
        yield kind
    path.unlink()
    yield "missing"
    path.mkdir()
    yield "folder"
    path.rmdir()
    path.write_bytes(content)


@pytest.mark.slow(keep=["generation"])
@pytest.mark.parametrize("task", TASKS)
def test_damage_of_what_an_answer_depends_on(task, runs, ask, tmp_path):
    run = Path(shutil.copytree(runs[task], tmp_path / "run"))
    commands, resume = asking(task, run, tmp_path), runs.command(task, run, "--resume")
    for name in (*SEALED[task], "manifest.json"):
        for kind in damaged(run / name):
            for command in [*commands, resume] if kind == "flipped" else commands:
                assert_error(ask(*command), name)
    assert ask(*commands[0])[0] == 0


@pytest.mark.slow(keep=1)
@pytest.mark.parametrize("task", TASKS)
def test_damage_of_files_that_nothing_depends_on(task, runs, ask, tmp_path):
    run = Path(shutil.copytree(runs[task], tmp_path / "run"))
    assert {path.name for path in run.iterdir() if path.is_file()} - OTHERS == {
        *SEALED[task],
        *LEFT,
    }
    command = asking(task, run, tmp_path)[0]
    wanted = ask(*command)
    assert wanted[0] == 0
    for name in LEFT:
        for kind in damaged(run / name):
            if kind in ("missing", "cut", "folder"):
                code, out, err = ask(*command)
                assert (code, out) == wanted[:2], (name, kind)
                assert ("has not finished" in err) == (
                    (name, kind) == ("result.json", "missing")
                )


def test_an_edit_that_is_meant(runs, ask, tmp_path):
    run = Path(shutil.copytree(runs["forecast"], tmp_path / "run"))
    wanted = ask("forecast", "--run", run)
    (run / "scale.json").write_text((run / "scale.json").read_text() + "\n")
    assert_error(
        ask("forecast", "--run", run),
        "scale.json: changed",
        f"lstm-jax run accept --run {run}",
    )
    assert ask("run", "accept", "--run", run) == (
        0,
        f"scale.json: changed\n{run}: 1 accepted\n",
        "",
    )
    assert ask("forecast", "--run", run) == wanted
    assert ask("run", "accept", "--run", run) == (
        0,
        f"{run}: as the run wrote it\n",
        "",
    )
    assert_error(
        ask("run", "accept", "--run", tmp_path / "none"),
        "no config.json; name the folder of a run",
    )


@pytest.mark.parametrize("task", TASKS)
def test_a_run_interrupted_before_its_first_checkpoint(task, runs, ask, tmp_path):
    run = Path(shutil.copytree(runs[task], tmp_path / "run"))
    shutil.rmtree(run / "checkpoints")
    for command in asking(task, run, tmp_path):
        assert_error(ask(*command), "checkpoints", "none is there")
    (run / "checkpoints").write_text("x")
    for command in (*asking(task, run, tmp_path), runs.command(task, run, "--resume")):
        assert_error(ask(*command), "checkpoints")


def test_a_folder_that_is_removed_while_it_trains(runs, ask, tmp_path, monkeypatch):
    monkeypatch.setattr(
        Forecasting, "finish", lambda self, folder, *_: shutil.rmtree(folder.path)
    )
    assert_error(
        ask(*runs.command("forecast", tmp_path / "run")),
        "run: removed while it trained",
    )


@pytest.mark.parametrize("task", TASKS)
def test_folders_that_are_none(task, runs, ask, tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(runs[task])
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    for name in ("file", "nowhere", "gone"):
        commands = asking(task, tmp_path / name, tmp_path) + [
            runs.command(task, tmp_path / name)
        ] * (name != "gone")
        for command in commands:
            assert_error(ask(*command), name)
    assert ask(*asking(task, tmp_path / "link", tmp_path)[0])[0] == 0
