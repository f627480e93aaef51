"""Tests of the command line: help, answers, and errors of one line that name a remedy.

Commands run in the process of the tests, except where a new process is needed.
"""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import get_type_hints

import pytest
from command_line import assert_error, positional
from docstring_parser import parse_from_object
from made_reviews import write_csvs
from made_sentiment_run import train_run

import lstm_jax
from lstm_jax import cli, config
from lstm_jax.commands import COMMANDS
from lstm_jax.commands.sentiment import TrainSentiment

pytestmark = pytest.mark.usefixtures("quick_compiles")

TASKS = [name.removeprefix("train ") for name in COMMANDS if name.startswith("train ")]


@pytest.fixture(scope="module")
def reviews(tmp_path_factory) -> Path:
    return write_csvs(tmp_path_factory.mktemp("reviews"), 160, 60)


@pytest.fixture(scope="module")
def run(reviews, tmp_path_factory) -> str:
    return train_run(reviews, tmp_path_factory.mktemp("cli"))


# help


def test_help_lists_all_commands(ask):
    for arguments in ([], ["--help"], ["-h"]):
        code, out, err = ask(*arguments)
        assert (code, err) == (0, "")
        for name, command in COMMANDS.items():
            assert f"  {name} " in out
            assert (command.__doc__ or "").splitlines()[0] in out


@pytest.mark.parametrize("group", ["train", "embedding", "export", "data", "run"])
def test_help_of_a_group_lists_its_commands(group, ask):
    listed = ask(group)
    code, out, err = listed
    assert (code, err) == (0, "")
    assert out.startswith(f"usage: lstm-jax {group} COMMAND [options]; lstm-jax {group} COMMAND --help lists them\n")
    own = [name for name in COMMANDS if name.split()[0] == group]
    assert [line[2:24].strip() for line in out.splitlines() if line.startswith("  ")] == own
    assert ask(group, "--help") == ask(group, "-h") == listed


def test_an_error_in_a_variable_is_not_one_of_a_flag(ask, monkeypatch):
    monkeypatch.setenv("LSTM_JAX_CELLS", "no_such_module")
    assert_error(
        ask("train", "generation", "--cell", "mine"), "error: $LSTM_JAX_CELLS: no_such_module: ModuleNotFoundError", "PYTHONPATH=."
    )


@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("tr", ["train"]),
        ("train ", ["-h", "--help", *sorted(TASKS)]),
        ("train sentiment --epo", ["--epochs"]),
        ("train sentiment --no-f", ["--no-figures"]),
        ("train sentiment --padding ", ["pre", "post"]),
        ("data shard", ["shard", "shard-reviews"]),
        ("data shard --wor", ["--workers"]),
        ("data shard-reviews --lab", ["--label-column"]),
        ("generate --mode w", ["window"]),
        ("predict --file ", ["a.txt"]),
        ("embedding neighbours --c", ["--count"]),
    ],
)
def test_completion(ask, words, found, tmp_path):
    (tmp_path / "a.txt").touch()
    code, script, err = ask("completion", "bash")
    assert (code, err) == (0, "")
    call = 'COMP_WORDS=("$@"); COMP_CWORD=$(($#-1)); _tyro_lstm_jax; printf "%s\\n" "${COMPREPLY[@]}"'
    command = ["bash", "-c", f"{script}\n{call}", "bash", "lstm-jax", *words.split(" ")]
    shell = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert shell.stderr == ""
    assert shell.stdout.split() == found


def test_version(ask):
    code, out, _ = ask("--version")
    assert code == 0
    assert out.strip() == lstm_jax.__version__ != "unknown"


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_field_is_a_flag_with_a_help_line(name, ask):
    code, out, err = ask(*name.split(), "--help")
    assert (code, err) == (0, "")
    squeezed = "".join(out.replace("│", "").split())
    parts = [COMMANDS[name]]
    while parts:
        part = parts.pop()
        texts = {param.arg_name: param.description for kind in part.__mro__[-2::-1] for param in parse_from_object(kind).params}
        kinds = get_type_hints(part)
        for field in dataclasses.fields(part):
            if dataclasses.is_dataclass(kinds[field.name]):
                parts.append(kinds[field.name])
                continue
            assert field.name == positional(name) or f"--{field.name.replace('_', '-')}" in out, field.name
            assert "".join(str(texts[field.name]).split()) in squeezed, field.name


def test_starts_without_what_takes_time_to_import():
    """Importing `cli`, showing the help and refusing a flag import no slow package such as JAX.

    The answers then come at once, and an interrupt is unlikely to arrive during the imports, where it would give a traceback.
    """
    code = "import sys; from lstm_jax import cli; print({'tyro', 'rich', 'numpy', 'jax'} & set(sys.modules)); "
    code += "cli.main(['--help']); cli.main(['evaluate', '--nonsense']); "
    code += "print([m for m in ('jax', 'flax', 'optax', 'orbax', 'matplotlib', 'numpy', 'tensorboard') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[0] == "set()"
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_reader_that_leaves(tmp_path):
    """If the reader of a pipe leaves, as in `lstm-jax --help | true`, neither a traceback nor Python's own message at exit is printed."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as pipe:
        done = subprocess.run([sys.executable, "-m", "lstm_jax.cli", "--help"], stdout=pipe, stderr=subprocess.PIPE, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_training_whose_reader_leaves(tmp_path):
    """A training goes on to its end if the reader of its output leaves, as in `lstm-jax train ... | head -1`."""
    run, text = tmp_path / "run", tmp_path / "a.txt"
    text.write_text("the cat sat on the mat. " * 60)
    flags = ["--units", "4", "--epochs", "2", "--length", "8", "--sample-chars", "0", "--no-figures"]
    command = [sys.executable, "-m", "lstm_jax.cli", "train", "generation", "--data", str(text), "--run", str(run), *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as training:
        assert training.stdout is not None
        assert training.stdout.readline()
        training.stdout.close()
        assert training.wait(timeout=120) == 0
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 2
    assert (run / "result.json").is_file()


# errors


@pytest.mark.parametrize(
    ("arguments", "subject"),
    [
        ("nonsense", "command: nonsense"),
        ("train nonsense", "command: train nonsense; give one of " + ", ".join(f"train {task}" for task in TASKS) + "\n"),
        ("export --file x", "command: export --file"),
        ("predict --text good --text bad", "--text: given twice"),
        ("train sentiment --units 3 --units 0", "--units: 0"),
        ("train generation --data", "--data: without a value"),
        ("embedding export", "PATH"),
        ("train sentiment --nonsense 3", "--nonsense"),
        ("train sentiment --unit 3", "did you mean --units?"),
        ("train sentiment --units", "--units"),
        ("train sentiment --units many", "--units:"),
        ("train sentiment --schedule exponential", "--final-learning-rate: 0.0"),
        (
            "train sentiment --final-learning-rate 1e-5",
            "--final-learning-rate: 1e-05",
        ),
        ("train sentiment --remat cbrt", "--remat: cbrt"),
        ("train sentiment --remat 0", "--remat: 0"),
        ("train sentiment --cell gruu", "--cell: gruu"),
        ("evaluate --split nonsense", "--split: nonsense"),
        ("train sentiment --data {tmp}/none.csv", "none.csv: no such file or folder"),
        ("train sentiment --data {tmp}/bad.csv --label-column sign", "column 'sign'"),
        ("train sentiment --data {tmp}/one.csv", "one.csv: 2 positive and 0 negative reviews"),
        ("train sentiment --data {tmp}/thing.txt", "thing.txt: no reviews of a known form"),
        ("train sentiment --data {reviews} --optimizer nonsense", "optimizer: nonsense"),
        ("train sentiment --data {reviews} --batch-size 7", "batch_size: 7"),
        ("train sentiment --data {reviews} --devices 3", "devices: 3"),
        ("train sentiment --data {reviews} --epochs 2147483647", "epochs: 2147483647"),
        ("train sentiment --data {reviews} --maxlen 2147483647", "memory:"),
        ("train sentiment --data {reviews} --data ~nosuchuser/x", "~nosuchuser/x:"),
        ("train sentiment --data {reviews} --run {tmp}/thing.txt", "thing.txt: is a file"),
        ("predict --run {tmp} --text good", "config.json: No such file or directory"),
        ("predict --run {run} --file {tmp}/none.txt", "none.txt: No such file"),
        ("embedding neighbours --run {run} gooood", "unknown word: gooood"),
        ("data prepare --data {tmp}/none", "none: no such file or folder"),
        ("demo --run {tmp}", "holds something else"),
    ],
)
def test_errors_are_one_line(arguments, subject, ask, run, reviews, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "bad.csv").write_text("text,label\ngood,1\nbad,7\n")
    (tmp_path / "one.csv").write_text("text,label\ngood,1\nfine,1\n")
    (tmp_path / "thing.txt").write_text("x")
    before = sorted(path.name for path in tmp_path.iterdir())
    filled = [word.format(tmp=tmp_path, run=run, reviews=reviews) for word in arguments.split()]
    if "--data" in filled and filled[0] == "train":
        filled += ["--vocabulary", "frequency"] + ([] if "--run" in filled else ["--run", str(tmp_path / "new")])
    assert_error(ask(*filled), subject)
    assert {path.name for path in tmp_path.iterdir()} <= {*before, "cache"}


def test_a_path_in_the_home_folder(ask, run, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert ask("evaluate", "--run=~/none")[2].startswith(f"error: config {tmp_path}/none/config.json: ")
    assert ask("evaluate", "--run=~no-such-user/run")[2] == "error: path ~no-such-user/run: no such user, or no home; give the whole path\n"


def test_backends(ask):
    code, out, _ = ask("backends", "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [row["backend"] for row in rows] == list(dict.fromkeys(row["backend"] for row in rows))
    assert {"hoisted", "reference"} <= {row["backend"] for row in rows}
    assert all(row["here"] for row in rows)
    code, out, _ = ask("backends")
    assert code == 0
    assert "recurrence backends" in out
    assert "reference" in out


def test_flags_reach_the_config():
    command = cli._parse(
        [
            *("train", "sentiment", "--bidirectional", "--merge", "sum", "--remat", "sqrt"),
            *("--optimizer", "lion", "--validation", "0.1", "--resume"),
        ]
    )
    assert isinstance(command, TrainSentiment)
    assert command.resume
    assert command.config == config.SentimentConfig(
        config.DataConfig(validation=0.1),
        config.SentimentModelConfig(bidirectional=True, merge="sum", remat="sqrt"),
        config.TrainConfig(optimizer="lion"),
    )
