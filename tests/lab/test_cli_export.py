"""Tests of the command `export onnx`: an exported run gives in ONNX Runtime the answers
of `predict` or `score`; errors are one line.
"""

import dataclasses
import json
import sys
from itertools import pairwise

import numpy as np
import pytest
from command_line import assert_error

from lstm_jax.base.errors import InputError
from lstm_jax.lab.files.padding import pad_ragged
from lstm_jax.lab.generation import task as generation
from lstm_jax.lab.generation.data import Characters
from lstm_jax.lab.sentiment import task as sentiment
from lstm_jax.lab.sentiment.data import Vocabulary

onnx = pytest.importorskip(
    "onnx", reason="ONNX is not installed: pip install '.[onnx]'"
)
runtime = pytest.importorskip(
    "onnxruntime", reason="ONNX Runtime is not installed: pip install '.[onnx]'"
)

REVIEWS = [
    "the film was good",
    "the film was not good, it was bad " * 3,
    "",
    "unheard words",
    "good " * 40,
]


def read(path):
    """Return a session of ONNX Runtime with an ONNX file, and the metadata of the file."""
    file = runtime.InferenceSession(
        path.read_bytes(), providers=["CPUExecutionProvider"]
    )
    return file, file.get_modelmeta().custom_metadata_map


def close(got, wanted):
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5)


@pytest.mark.slow(keep=["packed"])
@pytest.mark.parametrize("name", ["sentiment", "masked", "packed"])
def test_sentiment_run(name, ask, runs, tmp_path):
    """The exported file, with the vocabulary and the settings in its metadata, gives
    the probabilities that `predict` gives.
    """
    assert (
        ask("export", "onnx", "--run", runs[name], "--file", tmp_path / "model.onnx")[0]
        == 0
    )
    file, metadata = read(tmp_path / "model.onnx")
    vocabulary = Vocabulary.from_json(metadata["vocabulary"].encode())
    values, offsets = vocabulary.encode_all(REVIEWS)
    ids = pad_ragged(
        values,
        offsets,
        int(metadata["maxlen"]),
        metadata["padding"],
        metadata["truncating"],
    )
    wanted = sentiment.load(runs[name]).probabilities(REVIEWS)
    assert np.ptp(wanted) > 1e-3
    close(file.run(None, {"ids": ids.astype(np.int64)})[0], wanted)
    close(
        np.concatenate(
            [file.run(None, {"ids": row[None].astype(np.int64)})[0] for row in ids]
        ),
        wanted,
    )
    if name != "sentiment":  # padding changes nothing
        short = np.array([[*vocabulary.encode(REVIEWS[0])]], np.int64)
        close(file.run(None, {"ids": short})[0], wanted[:1])
    assert metadata["task"] == "sentiment"


@pytest.mark.slow(keep=2)
@pytest.mark.parametrize("name", ["stream", "windows", "bytes"])
def test_text_run(name, ask, runs, tmp_path):
    """The exported file gives each character of a text the same probability as `score`
    in the mode "carried".

    ONNX Runtime runs the file once for each character. Each run reads the states that
    the run before it has returned.
    """
    assert (
        ask("export", "onnx", "--run", runs[name], "--file", tmp_path / "model.onnx")[0]
        == 0
    )
    file, metadata = read(tmp_path / "model.onnx")
    trained = generation.load(runs[name])
    characters = Characters.from_json(metadata["vocabulary"].encode())
    ids = characters.encode("the cat was not there").astype(np.int64)
    names, nats = [value.name for value in file.get_outputs()], []
    states = {
        value.name: np.zeros((1, 1, 8), np.float32)
        for value in file.get_inputs()
        if value.name != "ids"
    }
    for identity, following in pairwise(ids):
        found = dict(
            zip(
                names,
                file.run(None, {"ids": np.array([[identity]])} | states),
                strict=True,
            )
        )
        logits = found.pop("logits")[0, 0].astype(np.float64)
        nats.append(np.log(np.exp(logits).sum()) - logits[following])
        states = {name.removeprefix("new_"): array for name, array in found.items()}
    close(np.array(nats), trained.score(ids.astype(np.int32), "carried").nats)
    mode = "carried" if name == "stream" else "window"
    assert (metadata["task"], metadata["mode"], metadata["length"]) == (
        "generation",
        mode,
        "8",
    )


def test_what_is_printed(ask, runs, tmp_path):
    path = tmp_path / "model.onnx"
    code, out, err = ask(
        "export", "onnx", "--run", runs["sentiment"], "--file", path, "--json"
    )
    assert (code, err) == (0, "")
    assert json.loads(out) == {
        "file": str(path),
        "task": "sentiment",
        "bytes": path.stat().st_size,
        "opset": 17,
        "inputs": {"ids": "int64 (batch, time)"},
        "outputs": {"probability": "float32 (batch,)"},
    }
    sentiment.load(runs["sentiment"]).write_onnx(tmp_path / "again")
    assert path.read_bytes() == (tmp_path / "again").read_bytes()
    # the file is our own: no --force
    code, out, err = ask("export", "onnx", "--run", runs["stream"], "--file", path)
    assert (code, err) == (0, "")
    assert "output new_state/1/h: float32 (1, batch, 8)" in out


def test_models_that_cannot_be_exported(runs, tmp_path):
    path = tmp_path / "model.onnx"
    trained = sentiment.load(runs["sentiment"])
    for name, value in {
        "zoneout": 0.1,
        "zoneout_cell": 0.2,
        "dtype": "bfloat16",
        "cell": "lstm_peephole",
    }.items():
        model = dataclasses.replace(trained.config.model, **{name: value})
        other = dataclasses.replace(
            trained, config=dataclasses.replace(trained.config, model=model)
        )
        with pytest.raises(InputError, match=f"^{name}: {value}; "):
            other.write_onnx(path)
    assert not path.exists()


def test_package_that_is_missing(ask, runs, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    answer = ask(
        "export", "onnx", "--run", runs["sentiment"], "--file", tmp_path / "model.onnx"
    )
    assert_error(answer, "package onnx: ", "; pip install '.[onnx]'")
