"""Tests of the command `export onnx`: an exported run gives in ONNX Runtime the answers of `predict` or `score`; errors are one line."""

import dataclasses
import json
import os
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import assert_error
from made_reviews import write_csvs
from made_texts import TEXT

from lstm_jax import cli, data
from lstm_jax.errors import InputError
from lstm_jax.files.writing import MARK
from lstm_jax.tasks import generation, onnx_models, sentiment

onnx = pytest.importorskip("onnx", reason="ONNX is not installed: pip install '.[onnx]'")
runtime = pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed: pip install '.[onnx]'")
pytestmark = pytest.mark.usefixtures("quick_compiles")

REVIEWS = ["the film was good", "the film was not good, it was bad " * 3, "", "unheard words", "good " * 40]
RUNS = {
    "plain": "train sentiment --data {root} --cache-dir {root}/cache --vocabulary frequency --num-words 300 --maxlen 20 --embed 8",
    "masked": "train sentiment --data {root} --cache-dir {root}/cache --vocabulary frequency --maxlen 20 --embed 8 --mask-zero --cell gru"
    " --bidirectional --layers 2",
    "packed": "train sentiment --data {root} --cache-dir {root}/cache --vocabulary frequency --packed 40 --embed 8 --bidirectional"
    " --pooling mean+max",
    "stream": "train generation --data {root}/text.txt --clean none --regime stream --length 8 --sample-chars 0 --layers 2",
    "windows": "train generation --data {root}/text.txt --clean none --length 8 --step 4 --sample-chars 0 --embed 8 --tied",
    "bytes": "train generation --data {root}/text.txt --unit byte --length 8 --step 8 --sample-chars 0",
    "forecast": "train forecast --csv {root}/series.csv --context 6 --horizon 2",
}
REVIEW_RUNS = ["plain", "masked", "packed"]
TEXT_RUNS = ["stream", "windows", "bytes"]


@pytest.fixture(scope="module")
def root(tmp_path_factory, quick_compiles) -> Path:
    """Train a run for each name in `RUNS`, in a folder of this name, and return the folder that contains them."""
    root = write_csvs(tmp_path_factory.mktemp("export"), 160, 60)
    (root / "text.txt").write_text(TEXT)
    (root / "series.csv").write_text("time,value\n" + "".join(f"{n},{n % 7 + n / 10}\n" for n in range(90)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
        for name, command in RUNS.items():
            options = f"--run {root}/{name} --units 8 --epochs 1 --batch-size 16 --learning-rate 0.03 --no-figures"
            assert cli.main([*command.format(root=root).split(), *options.split()]) == 0
    return root


def read(path: Path) -> tuple[Any, dict[str, str]]:
    """Return a session of ONNX Runtime with an ONNX file, and the metadata of the file."""
    file = runtime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    return file, file.get_modelmeta().custom_metadata_map


def close(got: np.ndarray, wanted: np.ndarray) -> None:
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5)


@pytest.mark.slow(keep=["packed"])
@pytest.mark.parametrize("name", REVIEW_RUNS)
def test_sentiment_run(name, ask, root, tmp_path):
    """The exported file, with the vocabulary and the settings in its metadata, gives the probabilities that `predict` gives."""
    assert ask("export", "onnx", "--run", root / name, "--file", tmp_path / "model.onnx")[0] == 0
    file, metadata = read(tmp_path / "model.onnx")
    vocabulary = data.Vocabulary.from_json(metadata["vocabulary"].encode())
    values, offsets = vocabulary.encode_all(REVIEWS)
    ids = data.pad_ragged(values, offsets, int(metadata["maxlen"]), metadata["padding"], metadata["truncating"])
    wanted = sentiment.load(root / name).probabilities(REVIEWS)
    assert np.ptp(wanted) > 1e-3
    close(file.run(None, {"ids": ids.astype(np.int64)})[0], wanted)
    close(np.concatenate([file.run(None, {"ids": row[None].astype(np.int64)})[0] for row in ids]), wanted)
    if name != "plain":  # padding changes nothing
        short = np.array([[*vocabulary.encode(REVIEWS[0])]], np.int64)
        close(file.run(None, {"ids": short})[0], wanted[:1])
    assert {metadata[key] for key in ("task", "opset")} == {"sentiment", "17"}


@pytest.mark.parametrize("name", TEXT_RUNS)
def test_text_run(name, ask, root, tmp_path):
    """The exported file gives each character of a text the same probability as `score` in the mode "carried".

    ONNX Runtime runs the file once for each character. Each run reads the states that the run before it has returned.
    """
    assert ask("export", "onnx", "--run", root / name, "--file", tmp_path / "model.onnx")[0] == 0
    file, metadata = read(tmp_path / "model.onnx")
    trained = generation.load(root / name)
    characters = data.Characters.from_json(metadata["vocabulary"].encode())
    ids = characters.encode("the cat was not there").astype(np.int64)
    names, nats = [value.name for value in file.get_outputs()], []
    states = {value.name: np.zeros((1, 1, 8), np.float32) for value in file.get_inputs() if value.name != "ids"}
    for identity, following in pairwise(ids):
        found = dict(zip(names, file.run(None, {"ids": np.array([[identity]])} | states), strict=True))
        logits = found.pop("logits")[0, 0].astype(np.float64)
        nats.append(np.log(np.exp(logits).sum()) - logits[following])
        states = {name.removeprefix("new_"): array for name, array in found.items()}
    close(np.array(nats), trained.score(ids.astype(np.int32), "carried").nats)
    mode = "carried" if name == "stream" else "window"
    assert (metadata["task"], metadata["mode"], metadata["length"]) == ("generation", mode, "8")


def test_what_is_printed(ask, root, tmp_path):
    path = tmp_path / "model.onnx"
    code, out, err = ask("export", "onnx", "--run", root / "plain", "--file", path, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == {
        "file": str(path),
        "task": "sentiment",
        "bytes": path.stat().st_size,
        "opset": 17,
        "inputs": {"ids": "int64 (batch, time)"},
        "outputs": {"probability": "float32 (batch,)"},
    }
    code, out, err = ask("export", "onnx", "--run", root / "stream", "--file", path)  # the file is our own: no --force
    assert (code, err) == (0, "")
    assert "output new_state/1/h: float32 (1, batch, 8)" in out


def test_equal_runs_give_equal_files(root, tmp_path):
    for name in ("a", "b"):
        onnx_models.write_onnx(sentiment.load(root / "plain"), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert MARK.encode() in (tmp_path / "a").read_bytes()[:4096]


def test_files_that_are_not_replaced(ask, root, tmp_path):
    path, command = tmp_path / "model.onnx", ["export", "onnx", "--run", root / "plain", "--file"]
    path.write_text("mine")
    assert_error(ask(*command, path), f"writing {path}: ")
    assert path.read_text() == "mine"
    assert_error(ask(*command, root / "plain" / "config.json", "--force"), "the command reads")
    assert ask(*command, path, "--force")[0] == 0


def test_runs_that_cannot_be_exported(ask, root, tmp_path):
    path = tmp_path / "model.onnx"
    refused = ask("export", "onnx", "--run", root / "forecast", "--file", path)
    assert_error(refused, "task: forecast; name a run of sentiment or generation")
    assert_error(ask("export", "onnx", "--run", tmp_path, "--file", path), "config.json: No such file or directory; name the folder")
    assert_error(ask("export", "onnx", "--run", tmp_path), "--file")
    assert not path.exists()
    trained = sentiment.load(root / "plain")
    wrong = {
        "zoneout: 0.1; ONNX's recurrent operators have no zoneout": {"zoneout": 0.1},
        "zoneout_cell: 0.2; ONNX's recurrent operators have no zoneout": {"zoneout_cell": 0.2},
        "dtype: bfloat16; ONNX's recurrent operators multiply in float32": {"dtype": "bfloat16"},
        "cell: lstm_peephole; ONNX has lstm, gru": {"cell": "lstm_peephole"},
    }
    for message, change in wrong.items():
        model = dataclasses.replace(trained.config.model, **change)
        other = dataclasses.replace(trained, config=dataclasses.replace(trained.config, model=model))
        with pytest.raises(InputError, match=message):
            onnx_models.write_onnx(other, path)
    assert not path.exists()


def test_package_that_is_missing(ask, root, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    answer = ask("export", "onnx", "--run", root / "plain", "--file", tmp_path / "model.onnx")
    assert_error(answer, "package onnx: ", "; pip install '.[onnx]'")
