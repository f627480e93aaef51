"""Text-generation runs in both regimes, from a text file to scores and samples, compared with an LSTM written in NumPy."""

import functools
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from made_texts import (
    BATCH,
    CHARS,
    CUT,
    LENGTH,
    PROMPT,
    STEP,
    TEXT,
    greedy_by_hand,
    ids_of,
    log_p_by_hand,
    nats_by_hand,
    shown,
    small_config,
    window_of,
)

from lstm_jax.config import GenerationConfig, to_json
from lstm_jax.errors import InputError, Interrupted
from lstm_jax.sampling import Sampler
from lstm_jax.tasks import base, generation
from lstm_jax.training import loop
from lstm_jax.training.callbacks import EpochRecord
from lstm_jax.training.loop import FitResult
from lstm_jax.training.run_folder import RunFolder

pytestmark = pytest.mark.usefixtures("quick_compiles")

TRAIN = {f"train_{name}" for name in ("loss", "bits", "perplexity", "accuracy")}
BYTES = ("ab\u2028 c\x85d".encode() + b"\xfc ") * 30
REGIMES = pytest.mark.parametrize("regime", ["windows", "stream"])


class Made(NamedTuple):
    """Trained run: its folder, config and result, what a callback saw after each epoch, and the run as loaded from its folder.

    For each epoch, `seen` has the record, a copy of the parameters, and the number of samples written so far.
    """

    folder: Path
    config: GenerationConfig
    result: FitResult
    seen: list[tuple[EpochRecord, dict[str, np.ndarray], int]]
    trained: generation.Trained


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(TEXT)
    return path


@pytest.fixture(scope="module")
def made(text, tmp_path_factory, quick_compiles) -> Callable[[str], Made]:
    """Return a function made(regime) that returns a trained run of the regime.

    The first call for a regime trains the run. Later calls return the same run.
    """
    root = tmp_path_factory.mktemp("generation")

    @functools.cache
    def train(regime: str) -> Made:
        folder, config, seen = root / regime, small_config(text, regime), []

        def look(record: EpochRecord) -> None:
            lines = (folder / "samples.jsonl").read_text().count("\n")
            seen.append((record, {name: np.array(array) for name, array in record.params.items()}, lines))

        result = generation.train(config, folder, callbacks=[look])
        return Made(folder, config, result, seen, generation.load(folder))

    return train


# training


@REGIMES
def test_rows_and_result(regime, made):
    folder, _, result, seen, trained = made(regime)
    windows = len(range(0, CUT - LENGTH, STEP))
    steps = -(-windows // BATCH) if regime == "windows" else (CUT - LENGTH) // (LENGTH * BATCH)
    assert [row["step"] for row in result.rows] == [steps, 2 * steps, 3 * steps]
    metrics = {f"{part}_{name}" for part in ("train", "validation") for name in ("loss", "bits", "perplexity", "accuracy")}
    held_out = ids_of(TEXT[CUT:])
    for row, (_, params, _) in zip(result.rows, seen, strict=True):
        assert set(row) == metrics | {"epoch", "step", "seconds", "examples_per_second"}
        assert row["train_bits"] == pytest.approx(row["train_loss"] / np.log(2), rel=1e-12)
        assert row["train_perplexity"] == pytest.approx(np.exp(row["train_loss"]), rel=1e-12)
        # targets: the character after each window, or every character of a stream
        part = slice(LENGTH - 1, None, STEP) if regime == "windows" else slice(None)
        log_p = log_p_by_hand(params, held_out, window_of(regime))[part]
        targets = np.array(held_out[1:])[part]
        assert row["validation_loss"] == pytest.approx(-log_p[np.arange(len(targets)), targets].mean(), rel=1e-5)
        assert row["validation_accuracy"] == pytest.approx((log_p.argmax(1) == targets).mean(), abs=1e-6)
    assert result.rows[0]["train_loss"] > result.rows[-1]["train_loss"]
    found = json.loads((folder / "result.json").read_text())
    assert found["best_epoch"] == 1 + int(np.argmin([row["validation_loss"] for row in result.rows]))
    assert found["validation_loss"] == pytest.approx(nats_by_hand(trained.params, held_out, window_of(regime)).mean(), rel=1e-5)
    assert set(found) == {"best_epoch", "stopped_early", "seconds"} | {name for name in metrics if name.startswith("validation")}


@REGIMES
def test_samples(regime, made):
    folder, _, _, seen, trained = made(regime)
    rows = generation.read_samples(folder / "samples.jsonl")
    assert [(row["epoch"], row["temperature"]) for row in rows] == [(epoch, t) for epoch in (1, 2, 3) for t in (0.0, 1.0)]
    for row in rows:
        assert (row["seed"], row["mode"]) == (0, "window" if regime == "windows" else "carried")
        assert (len(row["prompt"]), len(row["text"])) == (PROMPT, CHARS)
        assert row["prompt"] in TEXT[:CUT]
    assert len({row["prompt"] for row in rows}) == 3
    for greedy, drawn, (_, params, _) in zip(rows[::2], rows[1::2], seen, strict=True):
        assert greedy["prompt"] == drawn["prompt"]
        assert greedy["text"] != drawn["text"]
        assert ids_of(greedy["text"]) == greedy_by_hand(params, ids_of(greedy["prompt"]), CHARS, window_of(regime))
        key = jax.random.split(jax.random.fold_in(jax.random.key(0), drawn["epoch"]))[1]
        sampler = Sampler(trained.rebuild, trained.characters.size, drawn["mode"], LENGTH)
        prompt = jnp.asarray([ids_of(drawn["prompt"])])
        again = sampler.generate(params, jax.random.fold_in(key, 1), prompt, CHARS, trained.rules(1.0))
        assert ids_of(drawn["text"]) == again[0].tolist()


def timeless(rows) -> list[dict]:
    return [{name: value for name, value in row.items() if name not in ("seconds", "examples_per_second")} for row in rows]


@pytest.mark.slow(keep=1)
@REGIMES
def test_interrupted_and_resumed(regime, made, text, tmp_path, monkeypatch):
    """A resumed run ends with the metrics, parameters and files of an uninterrupted run.

    The test interrupts each run after the first epoch. A run that reads streams carries a state between steps, and is also interrupted
    within the second epoch.
    """
    config, run = small_config(text, regime), tmp_path / "run"
    whole = made(regime)
    steps = whole.result.rows[0]["step"]

    def stop(record: EpochRecord) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted, match=f"after step {steps}$"):
        generation.train(config, run, callbacks=[stop])
    assert [row["epoch"] for row in generation.read_samples(run / "samples.jsonl")] == [1, 1]
    assert not (run / "result.json").exists()
    with (run / "samples.jsonl").open("a") as file:  # as if killed after writing a sample of epoch 2, but before saving its checkpoint
        file.write(json.dumps({"epoch": 2, "text": "of another try"}) + "\n")

    def one_by_one(start, end, every, most):
        for step in range(start, end):
            if step == 4:
                os.kill(os.getpid(), signal.SIGTERM)
            yield step, step + 1

    if regime == "stream":
        with monkeypatch.context() as patch:
            patch.setattr(loop, "_chunks", one_by_one)
            with pytest.raises(Interrupted, match=f"after step {steps + 5}$"):
                generation.train(config, run, resume=True)
    result = generation.train(config, run, resume=True, figures=False)
    assert timeless(result.rows) == timeless(whole.result.rows)
    for name, array in whole.result.params.items():
        assert np.asarray(array).tobytes() == np.asarray(result.params[name]).tobytes()
    for name in ("samples.jsonl", "characters.json", "data.sha256"):
        assert (run / name).read_bytes() == (whole.folder / name).read_bytes()
    wanted, found = (json.loads((folder / "result.json").read_text()) for folder in (whole.folder, run))
    assert found | {"seconds": 0} == wanted | {"seconds": 0}


def test_nothing_held_out_and_nothing_drawn(text, tmp_path, monkeypatch):
    monkeypatch.setattr(base, "learning_curves", lambda *_: None)
    run = tmp_path / "run"
    result = generation.train(small_config(text, validation=0.0, sample={"sample_chars": 0}, train={"epochs": 2}), run)
    assert all(set(row) == {"epoch", "step", "seconds", "examples_per_second"} | TRAIN for row in result.rows)
    assert json.loads((run / "result.json").read_text()) == {"best_epoch": 2, "stopped_early": False, "seconds": result.seconds}
    assert not (run / "samples.jsonl").exists()
    assert "Surprise, training text" in (run / "figures" / "surprise.html").read_text()
    trained = generation.load(run)
    with pytest.raises(InputError, match="text: none given, and the run held none out; name files, - for standard input, or --text"):
        trained.read_text()


@pytest.mark.slow
def test_bytes(tmp_path, monkeypatch):
    """A run with byte units reads text that is not UTF-8, and its samples may contain U+2028 and U+0085.

    Python's `str.splitlines` ends a line at these two characters, but they do not end a line of a JSON-lines file.
    """
    monkeypatch.setattr(base, "learning_curves", lambda *_: None)
    (tmp_path / "bytes.txt").write_bytes(BYTES)
    sample = {"sample_prompt": 30, "sample_chars": 2}
    config = small_config(tmp_path / "bytes.txt", unit="byte", clean="none", sample=sample, train={"epochs": 2})
    generation.train(config, tmp_path / "run")
    rows = generation.read_samples(tmp_path / "run" / "samples.jsonl")
    assert [row["epoch"] for row in rows] == [1, 1, 2, 2]
    assert {"\u2028", "\x85", "\ufffd"} <= set(rows[0]["prompt"])
    trained = generation.load(tmp_path / "run")
    assert trained.encode("Aü").tolist() == [65, 0xC3, 0xBC]
    held_out = trained.read_text().ids.tobytes()
    assert BYTES.endswith(held_out)
    assert shown(tmp_path / "run" / "figures" / "surprise.html") == [held_out.decode("latin-1")]


def test_a_run_is_not_resumed_on_another_text(made, tmp_path):
    folder = Path(shutil.copytree(made("windows").folder, tmp_path / "run"))
    (tmp_path / "text.txt").write_text(TEXT.replace("cat", "car"))
    config = small_config(tmp_path / "text.txt")
    (folder / "config.json").write_text(to_json(config))
    RunFolder(folder).accept()
    for call in (lambda: generation.train(config, folder, resume=True), lambda: generation.load(folder).read_text()):
        with pytest.raises(InputError, match="changed since the run began"):
            call()


# a run read back


@REGIMES
def test_load_and_score(regime, made):
    folder, config, result, _, trained = made(regime)
    assert (trained.config, trained.notes) == (config, ())
    for name, array in result.params.items():
        assert np.asarray(array).tobytes() == trained.params[name].tobytes()
    ids = trained.read_text().ids
    assert ids.tolist() == ids_of(TEXT[CUT:])
    windows = 0 if regime == "stream" else len(ids) // STEP * (LENGTH + 1)
    assert generation.Generation(config, generation.load_corpus(config), trained.mesh).data_bytes() == CUT + windows  # bytes of uint8 ids
    wanted = json.loads((folder / "result.json").read_text())
    metrics = trained.score(ids).metrics()
    assert metrics == {name: wanted[f"validation_{name}"] for name in ("loss", "bits", "perplexity", "accuracy")}
    for mode, window in (("window", LENGTH), ("carried", None)):
        assert trained.mode(mode) == mode
        np.testing.assert_allclose(trained.score(ids[:40], mode).nats, nats_by_hand(trained.params, ids[:40], window), rtol=0, atol=1e-5)
    assert trained.mode() == ("window" if regime == "windows" else "carried")
    with pytest.raises(InputError, match="text: 1 characters; give 2 or more"):
        trained.score(ids[:1])


def test_damaged_samples(tmp_path):
    for content in (b'{"epoch": 1', b'{"epocj": 1}', b'{"epoch": "1"}', b"[1]", b"\xff"):
        (tmp_path / "samples.jsonl").write_bytes(content)
        with pytest.raises(InputError, match=r"samples .*samples\.jsonl: .*; move the file away"):
            generation.read_samples(tmp_path / "samples.jsonl")
