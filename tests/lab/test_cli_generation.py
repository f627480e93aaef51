"""Tests of the command line of text generation: training and the commands that read a
trained run.
"""

import json
import os
import shlex

import numpy as np
import pytest
from command_line import assert_error
from command_runs import SIZES
from made_texts import CUT, TEXT, shown

from lstm_jax.lab.generation import task as generation


@pytest.fixture(scope="module")
def run(runs):
    return runs["generation"]


@pytest.fixture(scope="module")
def trained(run):
    return generation.load(run)


def test_train_and_resume(ask, run, runs):
    result = json.loads((run / "result.json").read_text())
    assert_error(
        ask(*runs.command("generation", run)),
        "holds a run; resume it with --resume, or name another folder",
    )
    assert_error(
        ask(*runs.command("generation", run, "--resume", "--seed", "1")),
        "holds a run of another config",
    )
    # with the flags of the run
    code, out, err = ask("train", "generation", "--run", run, "--resume")
    assert (code, err) == (0, "")
    windows = (CUT - 8) // 2
    assert (
        f"1 article, {CUT} characters (18 distinct), {len(TEXT) - CUT} held "
        f"out; {windows} windows every 2"
    ) in " ".join(out.split())
    assert (
        f"held-out text: {result['validation_bits']:.4f} bits a character (epoch 1)\n"
        in out
    )
    # neither wrapped nor read as markup
    assert out.endswith(
        f"next: lstm-jax generate --run {shlex.quote(str(run))} --prompt '...'\n"
    )


def test_generate_streams_what_json_tells(ask, run, trained):
    common = [
        "generate",
        "--run",
        run,
        "--prompt",
        "the ca",
        "--chars",
        60,
        "--seed",
        3,
        "--temperature",
        0.8,
    ]
    pieces = trained.write(trained.encode("the ca"), 60, trained.rules(0.8), seed=3)
    (text,) = trained.texts(pieces, 1)
    assert len(text) == 60
    assert ask(*common) == (0, f"the ca{text}\n", "")
    code, out, err = ask(*common, "--json")
    assert (code, err, out.count("\n")) == (0, "", 1)
    assert json.loads(out) == {
        "sample": 1,
        "seed": 3,
        "temperature": 0.8,
        "prompt": "the ca",
        "text": text,
    }


def test_the_prompt_is_shown_before_anything_is_drawn(ask, run, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(generation.Sampler, "advance", stop)
    assert ask("generate", "--run", run, "--prompt", "the ca") == (
        130,
        "the ca",
        "interrupted\n",
    )


def test_generate_several(ask, run):
    common = [
        "generate",
        "--run",
        run,
        "--prompt",
        "THE  Mat",
        "--clean",
        "--chars",
        12,
        "--samples",
        3,
    ]
    rows = [json.loads(line) for line in ask(*common, "--json")[1].splitlines()]
    assert [(row["sample"], row["prompt"], len(row["text"])) for row in rows] == [
        (n, "the mat", 12) for n in (1, 2, 3)
    ]
    assert len({row["text"] for row in rows}) == 3
    assert ask(*common)[1] == "".join(
        f"--- {row['sample']}\nthe mat{row['text']}\n" for row in rows
    )
    assert ask(
        "generate", "--run", run, "--prompt", "Abé d", "--unknown", ".", "--chars", 0
    ) == (0, "... d\n", "")


def test_rules_reach_the_draws(ask, run):
    greedy = ask(
        "generate", "--run", run, "--prompt", "a", "--chars", 12, "--temperature", 0
    )
    assert greedy[0] == 0
    for rules in (("--top-k", 1, "--seed", 4), ("--top-p", 1e-6, "--temperature", 3)):
        assert (
            ask("generate", "--run", run, "--prompt", "a", "--chars", 12, *rules)
            == greedy
        )


def test_score_reads_files_text_and_standard_input(ask, run, trained, tmp_path):
    (tmp_path / "a.txt").write_text("the cat ran")
    (tmp_path / "b.csv").write_text('text\n"to the mat."\n\n""\na dog\n')
    text = "the cat ran to the mat. a dog"
    ids = trained.encode(text)
    wanted = {"characters": len(text) - 1, **trained.score(ids).metrics()}
    for asked in (
        [tmp_path / "a.txt", tmp_path / "b.csv"],
        ["--text", text],
        ["--text", text.upper(), "--clean"],
    ):
        code, out, err = ask("score", "--run", run, "--json", *asked)
        assert (code, err, json.loads(out)) == (0, "", wanted)
    assert (
        json.loads(ask("score", "--run", run, "--json", "-", stdin=text.encode())[1])
        == wanted
    )
    for flags, scores in (
        (("--dtype", "int8"), trained.with_products("int8").score(ids)),
        (("--mode", "carried"), trained.score(ids, "carried")),
    ):
        found = json.loads(
            ask("score", "--run", run, "--json", *flags, "--text", text)[1]
        )
        assert found == {"characters": len(text) - 1, **scores.metrics()}
        assert found["loss"] != wanted["loss"]


def test_score_the_held_out_text(ask, run, tmp_path):
    result = json.loads((run / "result.json").read_text())
    code, out, err = ask(
        "score", "--run", run, "--html", tmp_path / "deep" / "page.html"
    )
    loss, bits, perplexity, accuracy = (
        result[f"validation_{name}"]
        for name in ("loss", "bits", "perplexity", "accuracy")
    )
    assert code == 0
    assert out.splitlines() == [
        f"{bits:.4f} bits a character ({loss:.4f} nats, perplexity {perplexity:.3f})",
        f"{len(TEXT) - CUT - 1} characters, {accuracy:.1%} of them were the likeliest",
    ]
    assert bits == pytest.approx(np.log2(perplexity))
    assert err == f"{tmp_path / 'deep' / 'page.html'}\n"
    assert shown(tmp_path / "deep" / "page.html") == [TEXT[CUT:]]


def test_units(ask, run, tmp_path):
    page = tmp_path / "deep" / "page.html"
    code, out, err = ask(
        "units",
        "--run",
        run,
        "--text",
        TEXT,
        "--chars",
        70,
        "--count",
        3,
        "--out",
        page,
    )
    assert (code, out, err) == (0, f"{page}\n", "")
    assert shown(page) == [TEXT[:70]] * 3
    assert ask("units", "--run", run, "--count", 20, "--out", page)[0] == 0
    assert shown(page) == [TEXT[CUT:]] * 8


MIXED = "ein Müller, eine Straße. ".encode() * 20 + "ein Müller ".encode("latin-1") * 9


def test_bytes_of_mixed_encodings(ask, runs, tmp_path):
    (tmp_path / "mixed.txt").write_bytes(MIXED)
    run = tmp_path / "run"
    options = (
        f"--data {tmp_path}/mixed.txt --run {run} --unit byte --clean none "
        f"--zoneout 0.1 --length 8 --step 2 --sample-chars 0 {SIZES}"
    )
    code, out, err = ask("train", "generation", *options.split())
    assert (code, err) == (0, "")
    assert "backend reference" in out  # the only one with zoneout
    count, held_out = len(MIXED), round(0.1 * len(MIXED))
    assert (
        f"{count - held_out} characters (256 distinct), {held_out} held out"
        in " ".join(out.split())
    )
    assert (
        json.loads(ask("score", "--run", run, "--json", tmp_path / "mixed.txt")[1])[
            "characters"
        ]
        == count - 1
    )
    trained = generation.load(run)
    assert trained.encode("Aü").tolist() == [65, 0xC3, 0xBC]
    prompt = "ü".encode() + b"\xfc"  # an argument that is not UTF-8
    drawn = np.concatenate(
        list(
            trained.write(np.frombuffer(prompt, np.uint8), 40, trained.rules(), seed=2)
        ),
        axis=1,
    )[0]
    code, out, err = ask(
        "generate",
        "--run",
        run,
        "--prompt",
        os.fsdecode(prompt),
        "--chars",
        40,
        "--seed",
        2,
    )
    assert (code, err, out) == (
        0,
        "",
        "ü\ufffd" + bytes(drawn.tolist()).decode(errors="replace") + "\n",
    )
