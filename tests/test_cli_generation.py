"""Tests of the command line of text generation: training, the commands that read a trained run, and one-line error messages."""

import json
import os
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from command_line import assert_error
from made_texts import SENTENCES, shown

from lstm_jax import cli
from lstm_jax.commands.generation import TrainGeneration
from lstm_jax.config import PRESETS, GenerationConfig, SentimentConfig, to_json
from lstm_jax.tasks import generation

pytestmark = pytest.mark.usefixtures("quick_compiles")

TEXT = " ".join([SENTENCES] * 8)
_SIZES = "--units 8 --length 8 --step 2 --batch-size 8 --learning-rate 0.03 --sample-prompt 6 --no-figures"
SIZES = _SIZES.split()


@pytest.fixture(scope="module")
def run(tmp_path_factory, quick_compiles) -> str:
    """Train a run with `lstm-jax train generation`, and return its folder."""
    root = tmp_path_factory.mktemp("cli")
    (root / "text.txt").write_text(TEXT)
    folder = root / "a long name of a folder that would not fit into a line of eighty characters" / "[bold]run[/x]"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
        options = ["--data", str(root / "text.txt"), "--run", str(folder), "--epochs", "2", "--sample-chars", "10", *SIZES]
        assert cli.main(["train", "generation", *options]) == 0
    return str(folder)


@pytest.fixture(scope="module")
def trained(run) -> generation.Trained:
    return generation.load(Path(run))


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_train_and_resume(ask, run):
    result = json.loads((Path(run) / "result.json").read_text())
    before = contents(Path(run))
    common = ["train", "generation", "--data", Path(run).parents[2] / "text.txt", "--run", run, "--epochs", 2, "--sample-chars", 10, *SIZES]
    assert_error(ask(*common), "holds a run; resume it with --resume, or name another folder")
    assert_error(ask(*common, "--resume", "--seed", 1), "holds a run of another config; give its config to resume it")
    assert contents(Path(run)) == before
    code, out, err = ask(*common, "--resume")
    assert (code, err) == (0, "")
    assert "1 articles, 568 characters (18 distinct), 63 held out; 280 windows every 2" in " ".join(out.split())
    assert f"held-out text: {result['validation_bits']:.4f} bits a character (epoch 2)\n" in out
    assert out.endswith(
        f"run in {run}: lstm-jax generate --run {shlex.quote(str(run))} --prompt '...'\n"
    )  # neither wrapped nor read as markup


def test_a_preset_replaces_the_defaults_of_the_other_flags(ask) -> None:
    preset = PRESETS["generation"]["shakespeare"]
    assert isinstance(preset, GenerationConfig)
    command = cli._parse(
        ["train", "generation", "--preset", "shakespeare", "--data", "text.txt", "--length", "4", "--units", "4", "--sample-chars", "0"]
    )
    assert isinstance(command, TrainGeneration)
    assert command.config == replace(
        preset,
        data=replace(preset.data, data=("text.txt",), length=4),
        model=replace(preset.model, units=4),
        sample=replace(preset.sample, sample_chars=0),
    )
    assert_error(ask("train", "generation", "--preset=best"), "--preset: best; give one of 'none', 'shakespeare'")
    assert_error(ask("train", "generation", "--preset"), "--preset")


# what a run writes


def test_generate_streams_what_json_tells(ask, run, trained):
    common = ["generate", "--run", run, "--prompt", "the ca", "--chars", 60, "--seed", 3, "--temperature", 0.8]
    pieces = trained.write(trained.encode("the ca"), 60, trained.rules(0.8), seed=3)
    (text,) = trained.texts(pieces, 1)
    assert len(text) == 60
    assert ask(*common) == (0, f"the ca{text}\n", "")
    code, out, err = ask(*common, "--json")
    assert (code, err, out.count("\n")) == (0, "", 1)
    assert json.loads(out) == {"sample": 1, "seed": 3, "temperature": 0.8, "prompt": "the ca", "text": text}


def test_the_prompt_is_shown_before_anything_is_drawn(ask, run, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(generation.Sampler, "advance", stop)
    assert ask("generate", "--run", run, "--prompt", "the ca") == (130, "the ca", "interrupted\n")


def test_generate_several(ask, run):
    common = ["generate", "--run", run, "--prompt", "THE  Mat", "--clean", "--chars", 12, "--samples", 3]
    rows = [json.loads(line) for line in ask(*common, "--json")[1].splitlines()]
    assert [(row["sample"], row["prompt"], len(row["text"])) for row in rows] == [(n, "the mat", 12) for n in (1, 2, 3)]
    assert len({row["text"] for row in rows}) == 3
    assert ask(*common)[1] == "".join(f"--- {row['sample']}\nthe mat{row['text']}\n" for row in rows)
    assert ask("generate", "--run", run, "--prompt", "Abé d", "--unknown", ".", "--chars", 0) == (0, "... d\n", "")


def test_rules_reach_the_draws(ask, run):
    greedy = ask("generate", "--run", run, "--prompt", "a", "--chars", 12, "--temperature", 0)
    assert greedy[0] == 0
    for rules in (("--top-k", 1, "--seed", 4), ("--top-p", 1e-6, "--temperature", 3)):
        assert ask("generate", "--run", run, "--prompt", "a", "--chars", 12, *rules) == greedy


# scores


def test_score_reads_files_text_and_standard_input(ask, run, trained, tmp_path):
    (tmp_path / "a.txt").write_text("the cat ran")
    (tmp_path / "b.csv").write_text('text\n"to the mat."\n\n""\na dog\n')
    text = "the cat ran to the mat. a dog"
    ids = trained.encode(text)
    wanted = {"characters": len(text) - 1, **trained.score(ids).metrics()}
    for asked in ([tmp_path / "a.txt", tmp_path / "b.csv"], ["--text", text], ["--text", text.upper(), "--clean"]):
        code, out, err = ask("score", "--run", run, "--json", *asked)
        assert (code, err, json.loads(out)) == (0, "", wanted)
    assert json.loads(ask("score", "--run", run, "--json", "-", stdin=text.encode())[1]) == wanted
    for flags, scores in (
        (("--dtype", "int8"), trained.with_products("int8").score(ids)),
        (("--mode", "carried"), trained.score(ids, "carried")),
    ):
        found = json.loads(ask("score", "--run", run, "--json", *flags, "--text", text)[1])
        assert found == {"characters": len(text) - 1, **scores.metrics()}
        assert found["loss"] != wanted["loss"]


def test_score_the_held_out_text(ask, run, tmp_path):
    result = json.loads((Path(run) / "result.json").read_text())
    held_out = TEXT[len(TEXT) - round(0.1 * len(TEXT)) :]
    code, out, err = ask("score", "--run", run, "--html", tmp_path / "deep" / "page.html")
    loss, bits, perplexity, accuracy = (result[f"validation_{name}"] for name in ("loss", "bits", "perplexity", "accuracy"))
    assert code == 0
    assert out.splitlines() == [
        f"{bits:.4f} bits a character ({loss:.4f} nats, perplexity {perplexity:.3f})",
        f"{len(held_out) - 1} characters, {accuracy:.1%} of them were the likeliest",
    ]
    assert bits == pytest.approx(np.log2(perplexity))
    assert err == f"{tmp_path / 'deep' / 'page.html'}\n"
    assert shown(tmp_path / "deep" / "page.html") == [held_out]


def test_units(ask, run, tmp_path):
    page = tmp_path / "deep" / "page.html"
    code, out, err = ask("units", "--run", run, "--text", TEXT, "--chars", 70, "--count", 3, "--out", page)
    assert (code, out, err) == (0, f"{page}\n", "")
    assert shown(page) == [TEXT[:70]] * 3
    assert ask("units", "--run", run, "--count", 20, "--out", page)[0] == 0
    assert shown(page) == [TEXT[len(TEXT) - round(0.1 * len(TEXT)) :]] * 8


# bad input


FILES = {
    "text.md": TEXT.encode(),
    "short.txt": b"abcdefgh",
    "one.txt": b"a" * 500,
    "unseen.txt": TEXT.encode() + b" x[y]" * 3,
    "latin.txt": "ein Müller, eine Straße. ".encode() * 20 + "ein Müller ".encode("latin-1") * 9,
    "two.csv": b"one,two\nabc,abc\n",
}
TRAIN = f"train generation {_SIZES} --epochs 1 --run {{tmp}}/new --data "


@pytest.mark.parametrize(
    ("arguments", "subject"),
    [
        (TRAIN + "{tmp}/short.txt --validation 0", "training part: 8 characters"),
        (TRAIN + "{tmp}/one.txt", "training part: only 'a', 450 times"),
        (
            TRAIN + "{tmp}/unseen.txt --clean none --unseen error --validation 0.06",
            "only the validation part has: 'x', '[', 'y', ']'",
        ),
        (TRAIN + "{tmp}/latin.txt", "latin.txt: byte 0xfc at offset 545 is not UTF-8"),
        (TRAIN + "{tmp}/two.csv", "two.csv: one of ['one', 'two']"),
        (TRAIN + "{tmp}/text.md --regime stream --batch-size 90", "text: 568 characters"),
        (TRAIN + "{tmp}/text.md --length 63", "validation part: 63 characters"),
        (TRAIN + "{tmp}/text.md --cell min_gru --recurrent-dropout 0.5", "the cell min_gru multiplies no state"),
        (TRAIN + "{tmp}/text.md --regime sideways", "--regime: sideways"),
        (TRAIN + "{tmp}/text.md --cell gru --zoneout-cell 0.1", "--zoneout-cell: 0.1; the cell gru has no c"),
        (TRAIN + "{tmp}/text.md --backend hoisted --zoneout 0.1", "backend hoisted: no zoneout"),
        ("generate --run {tmp}/new", "new/config.json: No such file or directory"),
        ("generate --run {tmp}/sentiment", "sentiment: sentiment"),
        ("generate --run {run} --prompt The@Cat", "characters that the run does not know: 'T', '@', 'C'"),
        ("generate --run {run} --samples 2147483647", "memory:"),
        ("generate --run {run} --mode sideways", "--mode: sideways"),
        ("score --run {tmp}/sentiment", "sentiment: sentiment"),
        ("score --run {run} {tmp}/unseen.txt", "characters that the run does not know: 'x', '[', 'y', ']'"),
        ("units --run {run} --text 1984 --clean --out {tmp}/new", "text: 0 characters"),
        ("predict --run {run} --text good", "[bold]run[/x]: generation"),
        ("evaluate --run {run}", "generation"),
    ],
)
def test_errors_are_one_line(arguments, subject, ask, run, tmp_path):
    for name, content in FILES.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "sentiment").mkdir()
    (tmp_path / "sentiment" / "config.json").write_text(to_json(SentimentConfig()))
    before = contents(tmp_path) | contents(Path(run))
    assert_error(ask(*[word.format(tmp=tmp_path, run=run) for word in arguments.split()]), subject)
    assert contents(tmp_path) | contents(Path(run)) == before
    assert not (tmp_path / "new").exists()


def test_bytes_of_mixed_encodings(ask, tmp_path):
    (tmp_path / "mixed.txt").write_bytes(FILES["latin.txt"])
    run = tmp_path / "run"
    arguments = ["train", "generation", *SIZES, "--epochs", 1, "--sample-chars", 0, "--unit", "byte", "--clean", "none", "--zoneout", 0.1]
    code, out, err = ask(*arguments, "--data", tmp_path / "mixed.txt", "--run", run)
    assert (code, err) == (0, "")
    assert "backend reference" in out  # the only one with zoneout
    count = len(FILES["latin.txt"])
    assert f"{count - round(0.1 * count)} characters (256 distinct), {round(0.1 * count)} held out" in " ".join(out.split())
    assert json.loads(ask("score", "--run", run, "--json", tmp_path / "mixed.txt")[1])["characters"] == count - 1
    trained = generation.load(run)
    prompt = "ü".encode() + b"\xfc"  # an argument that is not UTF-8
    drawn = np.concatenate(list(trained.write(np.frombuffer(prompt, np.uint8), 40, trained.rules(), seed=2)), axis=1)[0]
    code, out, err = ask("generate", "--run", run, "--prompt", os.fsdecode(prompt), "--chars", 40, "--seed", 2)
    assert (code, err, out) == (0, "", "ü\ufffd" + bytes(drawn.tolist()).decode(errors="replace") + "\n")
