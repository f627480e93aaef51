"""Tests of the command line: help, answers, and errors of one line that name a remedy.

Commands run in the process of the tests, except where a new process is needed.
"""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from typing import get_type_hints

import pytest
from command_line import assert_error, positional
from docstring_parser import parse_from_object
from made_texts import TEXT

import lstm_jax
from lstm_jax.lab import cli
from lstm_jax.lab.commands import COMMANDS
from lstm_jax.lab.config import to_json
from lstm_jax.lab.sentiment import config
from lstm_jax.lab.sentiment.command import TrainSentiment
from lstm_jax.lab.sentiment.config import SentimentConfig
from lstm_jax.training.config import TrainConfig

TASKS = [name.removeprefix("train ") for name in COMMANDS if name.startswith("train ")]


def test_help_lists_all_commands(ask):
    for arguments in ([], ["--help"], ["-h"]):
        code, out, err = ask(*arguments)
        assert (code, err) == (0, "")
        for name, command in COMMANDS.items():
            assert f"  {name} " in out
            assert (command.__doc__ or "").splitlines()[0] in out


@pytest.mark.parametrize("group", ["train", "embedding", "export", "data", "run"])
def test_help_of_a_group_lists_its_commands(group, ask):
    code, out, err = listed = ask(group)
    assert (code, err) == (0, "")
    assert out.startswith(
        f"usage: lstm-jax {group} COMMAND [options]; lstm-jax {group} COMMAND "
        "--help lists them\n"
    )
    own = [name for name in COMMANDS if name.split()[0] == group]
    assert [
        line[2:24].strip() for line in out.splitlines() if line.startswith("  ")
    ] == own
    assert ask(group, "--help") == ask(group, "-h") == listed


@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
def test_completion(ask, tmp_path):
    code, script, err = ask("completion", "bash")
    assert (code, err) == (0, "")
    (tmp_path / "a.txt").touch()
    call = (
        'COMP_WORDS=("$@"); COMP_CWORD=$(($#-1)); _tyro_lstm_jax; printf "%s\\n" '
        '"${COMPREPLY[@]}"'
    )
    for words, found in {
        "tr": ["train"],
        "train ": ["-h", "--help", *sorted(TASKS)],
        "train sentiment --epo": ["--epochs"],
        "train sentiment --no-f": ["--no-figures"],
        "train sentiment --padding ": ["pre", "post"],
        "data shard": ["shard", "shard-reviews"],
        "data shard-reviews --lab": ["--label-column"],
        "export o": ["onnx"],
        "generate --mode w": ["window"],
        "predict --file ": ["a.txt"],
    }.items():
        command = [
            "bash",
            "-c",
            f"{script}\n{call}",
            "bash",
            "lstm-jax",
            *words.split(" "),
        ]
        shell = subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, check=True
        )
        assert (shell.stdout.split(), shell.stderr) == (found, ""), words


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
        texts = {
            param.arg_name: param.description
            for kind in part.__mro__[-2::-1]
            for param in parse_from_object(kind).params
        }
        kinds = get_type_hints(part)
        for field in dataclasses.fields(part):
            if dataclasses.is_dataclass(kinds[field.name]):
                parts.append(kinds[field.name])
                continue
            flag = (
                "config"
                if field.name == "config_file"
                else field.name.replace("_", "-")
            )
            assert field.name == positional(name) or f"--{flag}" in out, field.name
            assert "".join(str(texts[field.name]).split()) in squeezed, field.name


def test_starts_without_what_takes_time_to_import():
    """Importing `cli`, showing the help and refusing a flag import no slow package such
    as JAX.

    The answers then come at once, and an interrupt is unlikely to arrive during the
    imports, where it would give a traceback.
    """
    code = (
        "import sys; from lstm_jax.lab import cli; print({'tyro', 'rich', 'numpy', "
        "'jax'} & set(sys.modules)); "
    )
    code += "cli.main(['--help']); cli.main(['evaluate', '--nonsense']); "
    code += (
        "print([m for m in ('jax', 'flax', 'optax', 'orbax', 'matplotlib', "
        "'numpy', 'tensorboard') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60
    )
    assert done.stdout.splitlines()[0] == "set()"
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_reader_that_leaves(tmp_path):
    """If the reader of a pipe leaves, as in `lstm-jax --help | true`, neither a
    traceback nor Python's own message at exit is printed.
    """
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as pipe:
        done = subprocess.run(
            [sys.executable, "-m", "lstm_jax.lab.cli", "--help"],
            stdout=pipe,
            stderr=subprocess.PIPE,
            timeout=60,
        )
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.usefixtures("quick_processes")
def test_a_training_whose_reader_leaves(runs, tmp_path):
    """A training goes on to its end if the reader of its output leaves, as in `lstm-jax
    train ... | head -1`.
    """
    command = [
        sys.executable,
        "-m",
        "lstm_jax.lab.cli",
        *runs.command("forecast", tmp_path / "run", "--epochs", "2"),
    ]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as training:
        assert training.stdout is not None
        assert training.stdout.readline()
        training.stdout.close()
        assert training.wait(timeout=120) == 0
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 2
    assert (tmp_path / "run" / "result.json").is_file()


FILES = {
    "bad.csv": b"text,label\ngood,1\nbad,7\n",
    "one.csv": b"text,label\ngood,1\nfine,1\n",
    "thing.txt": b"x",
    "text.md": TEXT.encode(),
    "short.txt": b"abcdefgh",
    "one.txt": b"a" * 500,
    "unseen.txt": TEXT.encode() + b" x[y]" * 3,
    "latin.txt": "ein Müller, eine Straße. ".encode() * 20
    + "ein Müller ".encode("latin-1") * 9,
    "two.csv": b"one,two\nabc,abc\n",
    "other/config.json": to_json(SentimentConfig()).encode(),
    "name.toml": b"[model]\nunit = 3\n",
    "section.toml": b"units = 3\n",
    "value.toml": b"[train]\nepochs = 0\n",
    "final.toml": b"[train]\nfinal_learning_rate = 1e-5\n",
}
REVIEWS = "train sentiment --vocabulary frequency --run {tmp}/new --data "
TRAIN_TEXT = (
    "train generation --length 8 --epochs 1 --no-figures --run {tmp}/new --data {tmp}/"
)


@pytest.mark.parametrize(
    ("arguments", "subject"),
    [
        ("nonsense", "command: nonsense"),
        (
            "train nonsense",
            "command: train nonsense; give one of "
            + ", ".join(f"train {task}" for task in TASKS)
            + "\n",
        ),
        ("export --file x", "command: export; give one of export onnx\n"),
        ("forcast --run x", "command: forcast; did you mean forecast"),
        (
            "neighbours good",
            "command: neighbours good; did you mean embedding neighbours?",
        ),
        ("predict --text good --text bad", "--text: given twice"),
        ("train sentiment --units 3 --units 0", "--units: 0"),
        ("train generation --data", "--data: without a value"),
        ("embedding export", "PATH"),
        ("export onnx --run x", "--file"),
        ("train sentiment --nonsense 3", "--nonsense"),
        ("train sentiment --unit 3", "did you mean --units?"),
        (
            "forecast --horizon 3",
            "--horizon, 3; it is a flag of lstm-jax train forecast",
        ),
        ("train sentiment --units", "--units"),
        ("train sentiment --units many", "--units: many; give a whole number"),
        ("train sentiment --dropout some", "--dropout: some; give a number"),
        (
            "predict runs/sentiment good",
            "lstm-jax predict: runs/sentiment, good; name the flag of each "
            "value, such as --run or --text",
        ),
        (
            "train forecast sales.csv",
            "lstm-jax train forecast: sales.csv; name the flag of each value, "
            "such as --run or --csv",
        ),
        ("backends good", "lstm-jax backends: Unrecognized options: good"),
        ("train sentiment --schedule exponential", "--final-learning-rate: 0.0"),
        ("train sentiment --final-learning-rate 1e-5", "--final-learning-rate: 1e-05"),
        ("train sentiment --remat cbrt", "--remat: cbrt"),
        ("train sentiment --cell gruu", "--cell: gruu"),
        (
            "train sentiment --preset=shakespeare",
            "--preset: shakespeare; give one of 'none', 'best'",
        ),
        ("train generation --preset", "--preset"),
        (
            "train forecast --config {tmp}/name.toml",
            "name.toml: unknown field model.unit; did you mean model.units?",
        ),
        (
            "train forecast --config {tmp}/section.toml",
            "section.toml: unknown field units; did you mean model.units?",
        ),
        (
            "train forecast --config {tmp}/value.toml",
            "value.toml: train.epochs: 0; give 1 or more",
        ),
        (
            "train forecast --config {tmp}/final.toml",
            "final.toml: train.final_learning_rate: 1e-05",
        ),
        (
            "train forecast --config {tmp}/other/config.json",
            "config.json: task sentiment; give a config of forecast",
        ),
        (
            "train forecast --config {tmp}/thing.txt",
            "config {tmp}/thing.txt: Expecting value",
        ),
        ("train forecast --config {tmp}/none.toml", "none.toml: No such file"),
        ("train forecast --config {tmp}/", "Is a directory"),
        ("train forecast --config", "--config"),
        ("evaluate --split nonsense", "--split: nonsense"),
        ("launch -- generate", "command: generate"),
        ("launch -n 0 -- train sentiment", "-n: 0"),
        (REVIEWS + "{tmp}/none.csv", "none.csv: no such file or folder"),
        (REVIEWS + "{tmp}/bad.csv --label-column sign", "column 'sign'"),
        (REVIEWS + "{tmp}/one.csv", "one.csv: 2 positive and 0 negative reviews"),
        (REVIEWS + "{tmp}/thing.txt", "thing.txt: no reviews of a known form"),
        (REVIEWS + "{runs.root} --optimizer nonsense", "optimizer: nonsense"),
        (REVIEWS + "{runs.root} --batch-size 7", "batch_size: 7"),
        (REVIEWS + "{runs.root} --devices 3", "devices: 3"),
        (REVIEWS + "{runs.root} --epochs 2147483647", "epochs: 2147483647"),
        (REVIEWS + "{runs.root} --maxlen 2147483647", "memory:"),
        (REVIEWS + "~nosuchuser/x", "~nosuchuser/x:"),
        (REVIEWS + "{runs.root} --run {tmp}/thing.txt", "thing.txt: File exists"),
        (TRAIN_TEXT + "short.txt --validation 0", "training part: 8 characters"),
        (TRAIN_TEXT + "one.txt", "training part: only 'a', 450 times"),
        (
            TRAIN_TEXT + "unseen.txt --clean none --unseen error --validation 0.06",
            "only the validation part has: 'x', '[', 'y', ']'",
        ),
        (TRAIN_TEXT + "latin.txt", "latin.txt: byte 0xfc at offset 545 is not UTF-8"),
        (TRAIN_TEXT + "two.csv", "two.csv: one of ['one', 'two']"),
        (
            TRAIN_TEXT + "text.md --regime stream --batch-size 120",
            "text: 852 characters",
        ),
        (TRAIN_TEXT + "text.md --length 95", "validation part: 95 characters"),
        (
            TRAIN_TEXT + "text.md --cell min_gru --recurrent-dropout 0.5",
            "the cell min_gru multiplies no state",
        ),
        (
            TRAIN_TEXT + "text.md --cell gru --zoneout-cell 0.1",
            "--zoneout-cell: 0.1; the cell gru has no c",
        ),
        (
            TRAIN_TEXT + "text.md --backend hoisted --zoneout 0.1",
            "backend hoisted: no zoneout",
        ),
        ("predict --run {tmp} --text good", "config.json: No such file or directory"),
        (
            "predict --run {runs[sentiment]} --file {tmp}/none.txt",
            "none.txt: No such file",
        ),
        ("predict --run {runs[generation]} --text good", "generation: generation"),
        ("predict --run {runs[sentiment]} --text=", "text: empty"),
        (
            "evaluate --run {runs[sentiment]} --dtype int4",
            "--dtype: int4; give one of ",
        ),
        ("embedding neighbours --run {runs[sentiment]} gooood", "unknown word: gooood"),
        ("generate --run {tmp}/other", "other/manifest.json: missing"),
        (
            "generate --run {runs[generation]} --prompt The@Cat",
            "characters that the run does not know: 'T', '@', 'C'",
        ),
        ("generate --run {runs[generation]} --samples 2147483647", "memory:"),
        (
            "units --run {runs[generation]} --text 1984 --clean --out {tmp}/new",
            "text: 0 characters",
        ),
        ("export onnx --run {runs[forecast]} --file {tmp}/new", "task: forecast"),
        (
            "export onnx --run {runs[sentiment]} --file "
            "{runs[sentiment]}/config.json --force",
            "the command reads",
        ),
        ("data prepare --data {tmp}/none", "none: no such file or folder"),
        ("demo --run {tmp}", "holds something else"),
    ],
)
def test_errors_are_one_line(arguments, subject, ask, runs, tmp_path):
    if arguments.startswith("export onnx"):
        pytest.importorskip("onnx")
    folder = tmp_path / "files"
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    filled = [word.format(tmp=folder, runs=runs) for word in arguments.split()]
    before = contents(folder) | contents(runs.root)
    assert_error(ask(*filled), subject.format(tmp=folder))
    assert contents(folder) | contents(runs.root) == before


def test_an_error_in_a_terminal_names_the_flag(ask, monkeypatch):
    monkeypatch.setattr("tyro._fmtlib._FORCE_ANSI", True)
    assert_error(
        ask("export", "onnx", "--run", "x"), "lstm-jax export onnx: --file missing"
    )


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_blank_command(ask):
    assert_error(ask(" ", "--run"), "command: none")


def test_an_error_in_a_variable_is_not_one_of_a_flag(ask, monkeypatch):
    monkeypatch.setenv("LSTM_JAX_CELLS", "no_such_module")
    assert_error(
        ask("train", "generation", "--cell", "mine"),
        "error: $LSTM_JAX_CELLS no_such_module: No module named",
    )


def test_a_path_in_the_home_folder(ask, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert_error(
        ask("evaluate", "--run=~/none"), f"config {tmp_path}/none/config.json: "
    )
    assert_error(ask("evaluate", "--run=~no-such-user/run"), "path ~no-such-user/run: ")


def test_backends(ask):
    code, out, _ = ask("backends", "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [row["backend"] for row in rows] == list(
        dict.fromkeys(row["backend"] for row in rows)
    )
    assert {"hoisted", "reference"} <= {row["backend"] for row in rows}
    assert all(row["here"] for row in rows)
    code, out, _ = ask("backends")
    assert code == 0
    assert "recurrence backends" in out
    assert "reference" in out


def test_flags_reach_the_config():
    flags = (
        "--bidirectional --merge sum --remat sqrt --optimizer lion --validation "
        "0.1 --resume"
    )
    command = cli._parse(["train", "sentiment", *flags.split()])
    assert isinstance(command, TrainSentiment)
    assert command.resume
    assert command.config == config.SentimentConfig(
        config.DataConfig(validation=0.1),
        config.SentimentModelConfig(bidirectional=True, merge="sum", remat="sqrt"),
        TrainConfig(optimizer="lion"),
    )


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "flags",
    [
        "sentiment --bidirectional --packed 9",
        "generation --preset shakespeare --data a b",
        "forecast --remat 3",
    ],
)
def test_a_printed_config_is_read_again(flags, ask, tmp_path):
    code, out, err = ask(
        "train", *flags.split(), "--print-config", "--run", tmp_path / "run"
    )
    assert (code, err, list(tmp_path.iterdir())) == (0, "", [])
    file = tmp_path / "given.json"
    file.write_text(out)
    # a field that config.json leaves out
    assert json.loads(out)["train"]["microbatches"] == 1
    task, *_ = flags.split()
    configs = [
        cli._parse(["train", *words.split(), "--units", "7"]).config
        for words in (flags, f"{task} --config {file}")
    ]  # pyright: ignore[reportFunctionMemberAccess]
    assert configs[0] == configs[1]


@pytest.mark.usefixtures("unchecked")
def test_a_file_is_between_a_preset_and_the_flags(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "small.toml").write_text(
        'task = "generation"\n[model]\nunits = 5\nlayers = '
        "3\n[sample]\nsample_temperatures = [0]\n"
    )
    flags = "--config=~/small.toml --preset shakespeare --layers 1"
    found = cli._parse(["train", "generation", *flags.split()]).config  # pyright: ignore[reportFunctionMemberAccess]
    assert (
        found.model.units,
        found.model.layers,
        found.model.embed,
        found.train.epochs,
    ) == (5, 1, 64, 12)
    assert found.sample.sample_temperatures == (0,)
