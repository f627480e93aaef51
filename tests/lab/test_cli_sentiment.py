"""Tests of the commands that read a sentiment run, and of `data prepare`: what they
print and write.
"""

import codecs
import gzip
import json
import os
import shutil
import sys
import types
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from command_line import assert_error
from tables import BACKENDS

from experiments import best
from lstm_jax.base.errors import InputError
from lstm_jax.lab.config_files import read_config
from lstm_jax.lab.files.padding import pad_ragged
from lstm_jax.lab.presets import PRESETS
from lstm_jax.lab.sentiment import task as sentiment
from lstm_jax.lab.sentiment.config import SentimentConfig
from lstm_jax.lab.sentiment.data import encode_reviews, synthetic_splits
from lstm_jax.lab.sentiment.serving import make_server


@pytest.fixture(scope="module")
def run(runs):
    return runs["sentiment"]


def probabilities(run, texts):
    return sentiment.load(run).probabilities(texts).tolist()


def test_predict(ask, run, tmp_path, monkeypatch):
    lines = [
        b"the film was good",
        b"",
        b"nul\x00byte",
        "ünï \u2028 film [bold]".encode(),
    ]
    found = probabilities(run, lines)
    wanted, note = (
        "".join(f"{p:.6f}\n" for p in found),
        "warning: the run does not know 4 of 9 words\n",
    )
    content = b"\n".join(lines) + b"\n"
    (tmp_path / "texts").write_bytes(content)
    assert ask(
        "predict", "--run", run, "--file", tmp_path / "texts", stdin=b"not to be read\n"
    ) == (0, wanted, note)
    for given in (content, content.replace(b"\n", b"\r\n"), codecs.BOM_UTF8 + content):
        assert ask("predict", "--run", run, stdin=given) == (0, wanted, note)
    code, out, err = ask("predict", "--run", run, "--json", stdin=content)
    assert (code, err) == (0, note)
    rows = [json.loads(line) for line in out.rstrip("\n").split("\n")]
    assert rows == [
        {"probability": round(p, 6), "text": line.decode()}
        for line, p in zip(lines, found, strict=True)
    ]
    texts = [b"the film was not good", b"bad \xff good"]
    out = ask("predict", "--run", run, "--json", "--text", *map(os.fsdecode, texts))[1]
    rows = [
        {"probability": round(p, 6), "text": text.decode(errors="replace")}
        for text, p in zip(texts, probabilities(run, texts), strict=True)
    ]
    assert list(map(json.loads, out.splitlines())) == rows
    for content in ("good film".encode("utf-16"), gzip.compress(b"good film")):
        assert_error(ask("predict", "--run", run, stdin=content), "file -: ")
    assert ask("predict", "--run", run, stdin=b"") == (0, "", "")
    (tmp_path / "texts").write_text("")
    assert ask("predict", "--run", run, "--file", tmp_path / "texts") == (
        0,
        "",
        f"warning: {tmp_path}/texts: no review in it\n",
    )
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(isatty=lambda: True))
    assert_error(
        ask("predict", "--run", run),
        "text: none given; give --text, --file, or reviews on standard input",
    )


@pytest.mark.slow
def test_the_preset_best_is_the_recipe_of_the_study(ask, runs, tmp_path):
    """The preset "best" equals the config of the widest model of the study `best`,
    except that its dtype is float32.

    A small run shows that flags replace values of the preset. The run first trains a
    language model, and removes the checkpoints of the language model at the end. The
    run's probabilities equal those computed from the logits of `make_server`.
    """
    preset = PRESETS["sentiment"]["best"]
    wide = best.choices(best.BASE)[best.WIDE].task
    assert preset == replace(wide, model=replace(wide.model, dtype="float32"))
    small = {
        "data": str(runs.root),
        "cache-dir": str(tmp_path / "cache"),
        "vocabulary": "frequency",
        "num-words": 300,
    }
    small |= {
        "units": 4,
        "embed": 4,
        "packed": 40,
        "maxlen": 20,
        "epochs": 1,
        "lm-epochs": 1,
        "batch-size": 8,
    }
    run = tmp_path / "run"
    flags = [
        "--run",
        run,
        "--no-figures",
        *(f"--{name}={value}" for name, value in small.items()),
    ]
    code, out, err = ask("train", "sentiment", "--preset", "best", *flags)
    assert (code, err) == (0, "")
    assert "language model, 1 epoch\n" in out
    config = read_config(run / "config.json", SentimentConfig)
    assert config.model == replace(preset.model, units=4, embed=4)
    assert (config.data.packed, config.pretraining.lm_epochs) == (40, 1)
    assert not (run / "checkpoints" / "language_model").exists()
    (row,) = [
        json.loads(line)
        for line in (run / "pretraining.jsonl").read_text().splitlines()
    ]
    assert (
        json.loads((run / "result.json").read_text())["pretraining_seconds"]
        == row["seconds"]
        > 0
    )
    assert 4 < row["validation_loss"] < 8
    trained, texts = (
        sentiment.load(run),
        ["the film was good", "the film was not good , it was bad"],
    )
    padded = pad_ragged(*trained.vocabulary.encode_all(texts), 20, "post")
    # padding is skipped, since packed reviews have none
    logits = make_server(trained.model)(padded)
    np.testing.assert_allclose(
        sentiment.probabilities(logits), trained.probabilities(texts), rtol=1e-5
    )


def test_evaluate(ask, run):
    result = json.loads((run / "result.json").read_text())
    code, out, err = ask("evaluate", "--run", run, "--json")
    assert (code, err) == (0, "")
    row = json.loads(out)
    assert row == pytest.approx(
        {
            name.removeprefix("test_"): value
            for name, value in result.items()
            if name.startswith("test_")
        }
    )
    code, out, _ = ask("evaluate", "--run", run, "--split", "train")
    assert code == 0
    assert "160" in out
    trained = sentiment.load(run)
    rounded = json.loads(ask("evaluate", "--run", run, "--json", "--dtype", "int8")[1])
    assert rounded == sentiment.evaluate(trained.with_products("int8")).to_row()
    assert 0 < abs(rounded["loss"] - row["loss"]) < 0.02
    (probability,) = trained.with_products("int8").probabilities(["it is good"])
    assert (
        ask("predict", "--run", run, "--dtype", "int8", "--text", "it is good")[1]
        == f"{probability:.6f}\n"
    )


def test_evaluate_from_another_folder(ask, tmp_path, runs, monkeypatch):
    """A relative path of the data is relative to the folder in which the training was
    started.
    """
    monkeypatch.chdir(runs.root)
    assert (
        ask(
            *runs.command("sentiment", tmp_path / "r", "--data", "train.csv", "--quiet")
        )[0]
        == 0
    )
    monkeypatch.chdir(tmp_path)
    assert ask("evaluate", "--run", "r", "--split", "train")[0] == 0


def test_evaluate_refuses_other_data(ask, run, runs):
    """Changed reviews are refused, because they could give another vocabulary, in which
    the run's ids stand for other words.
    """
    table = runs.root / "train.csv"
    before = table.read_bytes()
    try:
        table.write_bytes(before + b"an aardvark of a film,1\r\n")
        assert_error(
            ask("evaluate", "--run", run),
            "changed since the run began; give back the data that its "
            "config.json names",
        )
    finally:
        table.write_bytes(before)
    assert ask("evaluate", "--run", run)[0] == 0
    with pytest.raises(InputError, match="vocabulary of the reviews: not the run's"):
        sentiment.evaluate(
            sentiment.load(run),
            encode_reviews(synthetic_splits(50, 50, seed=1), 300),
        )


def test_neighbours(ask, run):
    trained = sentiment.load(run)
    vocabulary = trained.vocabulary
    # later rows are no words
    good, table = (
        vocabulary.index["good"],
        trained.words.table.astype(np.float64)[: 4 + len(vocabulary.words)],
    )
    cosine = (
        table
        @ table[good]
        / (np.linalg.norm(table, axis=1) * np.linalg.norm(table[good]))
    )
    with np.load(trained.run.words) as file:
        count = file["count"]
    for least, most in ((0, 15), (40, 500)):
        near = [
            n
            for n in np.argsort(-cosine).tolist()
            if n >= 4 and n != good and count[n] >= least
        ][:most]
        code, out, err = ask(
            "embedding",
            "neighbours",
            "--run",
            run,
            "--count",
            most,
            "--min-reviews",
            least,
            "good",
            "bad",
        )
        assert (code, err) == (0, "")
        first, second = out.splitlines()  # a long line stays one
        assert first == "good: " + ", ".join(
            f"{vocabulary.word(n)} {cosine[n]:.2f}" for n in near
        )
        assert second.startswith("bad: ")
    (nearest,) = trained.words.neighbours("good", 1, metric="euclidean", min_reviews=0)
    asked = ask(
        "embedding",
        "neighbours",
        "--run",
        run,
        "--count",
        1,
        "--min-reviews",
        0,
        "--metric",
        "euclidean",
        "good",
        "--json",
    )
    assert json.loads(asked[1]) == {
        "word": "good",
        "neighbours": [[nearest[0], round(nearest[1], 6)]],
    }


def test_export(ask, run, tmp_path):
    trained = sentiment.load(run)
    words = trained.vocabulary.words
    vectors = trained.params["embedding/embedding"][4 : 4 + len(words)]
    for _ in range(2):  # the second time over the first
        code, out, _ = ask(
            "embedding", "export", "--run", run, tmp_path / "vectors.txt"
        )
        assert (code, out) == (
            0,
            f"{len(words):,} vectors in {tmp_path / 'vectors.txt'}\n",
        )
        assert (
            ask(
                "embedding",
                "export",
                "--run",
                run,
                "--format",
                "projector",
                tmp_path / "projector",
            )[0]
            == 0
        )
    head, *lines = (tmp_path / "vectors.txt").read_text().splitlines()
    assert head == f"{len(words)} 8"
    assert [line.split(" ")[0] for line in lines] == list(words)
    assert (
        np.array([line.split(" ")[1:] for line in lines], np.float32).tolist()
        == vectors.tolist()
    )
    names, *rows = [
        line.split("\t")
        for line in (tmp_path / "projector" / "metadata.tsv").read_text().splitlines()
    ]
    assert names == ["word", "reviews", "positive_share"]
    with np.load(run / "words.npz") as file:
        assert [int(row[1]) for row in rows] == file["count"][
            4 : 4 + len(words)
        ].tolist()
        assert [float(row[2]) for row in rows] == pytest.approx(
            file["share"][4 : 4 + len(words)], abs=1e-4
        )


def test_prepare(ask, runs, tmp_path):
    code, out, _ = ask(
        "data",
        "prepare",
        "--data",
        runs.root,
        "--vocabulary",
        "frequency",
        "--cache-dir",
        tmp_path,
    )
    assert code == 0
    assert out.splitlines()[0].startswith("train: 160 reviews, 80 positive, ")
    assert out.splitlines()[1].startswith("test: 60 reviews, 30 positive, ")
    assert len(list(tmp_path.glob("reviews-*.npz"))) == 1


def test_a_damaged_checkpoint_is_warned_of(ask, run, tmp_path):
    folder = Path(shutil.copytree(run, tmp_path / "copy"))
    best = folder / "checkpoints" / "best"
    newest = next(best.glob("*.manifest.json"))
    shutil.copytree(best / newest.name.split(".")[0], best / "99")
    (best / "99.manifest.json").write_text("{}")
    code, out, err = ask("predict", "--run", folder, "--text", "good")
    assert (code, out) == (0, f"{probabilities(run, ['good'])[0]:.6f}\n")
    assert err == (
        "warning: checkpoint of step 99 is damaged (the manifest is damaged); "
        "an older one is used\n"
    )
    (best / "99.manifest.json").unlink()
    code, _, err = ask("predict", "--run", folder, "--text", "good")
    assert (code, err) == (
        0,
        "warning: checkpoint of step 99 is unfinished (it has no manifest); "
        "an older one is used\n",
    )


@pytest.mark.slow
@pytest.mark.skipif(
    "compiled" not in BACKENDS, reason="no C++ compiler to build the compiled step with"
)
def test_a_dense_optimizer_is_said(ask, runs, tmp_path):
    """With SGD, whose steps update the whole embedding, the training command prints a
    line that says this.

    Adam updates only some rows of the embedding, also with clipped gradients, and the
    line is not printed.
    """
    for flag, value, dense in (
        ("--clip-norm", "1", False),
        ("--optimizer", "sgd", True),
    ):
        code, out, _ = ask(*runs.command("sentiment", tmp_path / value, flag, value))
        assert (
            code,
            f"optimizer {value}: {sentiment.DENSE}\n" in out,
            "the whole embedding" in out,
        ) == (0, dense, dense)
