"""No command overwrites a file that it reads or, without --force, a file without the
mark of lstm-jax.

The rule is tested for `check_output` alone and for the commands `score`, `units`,
`embedding plot` and `embedding export`.
"""

import os
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
from command_line import assert_error
from made_texts import SENTENCES
from refused import refused

from lstm_jax.base.writing import MARK, check_output, write_atomically
from lstm_jax.lab.inspection import figures, text_map


@pytest.fixture
def keep(tmp_path):
    path = tmp_path / "keep.txt"
    path.write_text("mine")
    return path


def test_a_file_of_another_s_needs_force(keep):
    refused(
        r"keep.txt: exists, and lstm-jax did not mark it as its own; .* --force",
        check_output,
        keep,
    )
    check_output(keep, force=True)
    keep.write_text(f"<!-- {MARK} -->")
    check_output(keep)


@pytest.mark.parametrize("force", [False, True])
def test_an_input_is_no_output(force, keep, tmp_path, monkeypatch):
    """A file that the command reads is refused as an output, even if another path, a
    linked folder or a hard link leads to it.

    It is also refused if the command reads it as standard input, or reads the folder
    that contains it. A new file in such a folder is accepted, and so is a file with the
    mark of lstm-jax.
    """
    os.link(keep, tmp_path / "hard.txt")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "folder").symlink_to(tmp_path)
    others = (
        tmp_path / "sub" / ".." / "keep.txt",
        tmp_path / "sub" / "folder" / "keep.txt",
        tmp_path / "hard.txt",
    )
    for path in (keep, *others):
        refused("the command reads", check_output, path, ["absent", keep], force)
    refused("the command reads", check_output, keep, [tmp_path], force)
    number = os.dup(0)
    with keep.open() as file:
        os.dup2(file.fileno(), 0)
    try:
        refused("the command reads -", check_output, keep, ["-"], force)
    finally:
        os.dup2(number, 0)
        os.close(number)
    check_output(tmp_path / "new.html", [tmp_path, keep], force)
    (tmp_path / "page.html").write_text(MARK)
    check_output(tmp_path / "page.html", [tmp_path], force)


@pytest.mark.parametrize(
    "kind", ["link", "dangling", "folder", "fifo", "socket", "device"]
)
def test_what_is_no_file_is_refused_and_left(kind, keep, tmp_path, monkeypatch):
    path = tmp_path / "out"
    monkeypatch.chdir(tmp_path)
    match kind:
        case "link":
            path.symlink_to(keep)
        case "dangling":
            path.symlink_to(tmp_path / "nothing")
        case "folder":
            path.mkdir()
        case "fifo":
            os.mkfifo(path)
        case "socket":
            with socket.socket(socket.AF_UNIX) as server:
                server.bind("out")
        case "device":
            path = Path("/dev/null")
    before = os.lstat(path)
    for call in (
        lambda: check_output(path, force=True),
        lambda: write_atomically(path, "new"),
    ):
        refused(f"^writing {path}: Is a", call)
    assert os.lstat(path).st_ino == before.st_ino
    assert keep.read_text() == "mine"
    assert sorted(entry.name for entry in tmp_path.iterdir()) in (
        ["keep.txt"],
        ["keep.txt", "out"],
    )


def test_a_file_that_appears_meanwhile_is_left(tmp_path):
    path = tmp_path / "out"

    def slow(file):
        file.write(b"new")
        path.write_text("mine")

    refused("exists", write_atomically, path, slow, force=False)
    assert path.read_text() == "mine"
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


def test_a_folder_that_cannot_be_is_refused_before_the_work(tmp_path):
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "below" / "page.html"
    refused(r"^writing .*; name ", check_output, path)


def test_pages_and_figures_may_replace_themselves(tmp_path):
    page, png = tmp_path / "page.html", tmp_path / "map.png"
    for _ in range(2):
        text_map.surprise_page("abc", np.ones(2), page, "a", force=False)
        figures.learning_curves([{"epoch": 1, "train_loss": 1.0}], png, "a")
        for path in (page, *figures.figure_paths(png)):
            check_output(path)
    assert page.read_text().startswith("<!doctype html>")


# each command


COMMANDS = [
    ("generation", "score --html {}/out.html", "out.html"),
    ("generation", "units --out {}/out.html", "out.html"),
    ("sentiment", "embedding plot --out {}/out.png", "out.svg"),
    ("sentiment", "embedding export {}/out.txt", "out.txt"),
    ("sentiment", "embedding export --format projector {}/out", "out/metadata.tsv"),
]


@pytest.mark.slow(keep=1)
@pytest.mark.parametrize(("run", "command", "written"), COMMANDS)
def test_no_command_replaces_a_file_without_force(
    run, command, written, ask, runs, tmp_path
):
    words, mine = (
        [*command.format(tmp_path).split(), "--run", runs[run]],
        tmp_path / written,
    )
    mine.parent.mkdir(exist_ok=True)
    mine.write_text(SENTENCES)
    assert_error(ask(*words), f"writing {mine}: ")
    assert mine.read_text() == SENTENCES
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [mine]
    assert ask(*words, "--force")[0] == 0
    assert mine.read_text() != SENTENCES


def test_a_run_s_own_files_and_text_are_no_outputs(ask, runs, tmp_path):
    copy = Path(shutil.copytree(runs["generation"], tmp_path / "run"))
    for path in (
        copy / "config.json",
        copy / "characters.json",
        runs.root / "text.txt",
    ):
        before = path.read_bytes()
        assert_error(
            ask("score", "--run", copy, "--html", path, "--force"),
            f"writing {path}: the command reads ",
        )
        assert path.read_bytes() == before
