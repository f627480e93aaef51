"""Text-generation runs in both regimes, from a text file to scores, samples and texts,
compared with an LSTM written in NumPy.
"""

import functools
import json
import os
import shutil
import signal
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from made_runs import timeless
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
    small_config,
    window_of,
)

from lstm_jax.base.errors import InputError, Interrupted
from lstm_jax.lab.config import to_json
from lstm_jax.lab.generation import task as generation
from lstm_jax.lab.generation.config import GenerationConfig
from lstm_jax.lab.generation.sampling import Sampler
from lstm_jax.lab.runs.folder import RunFolder
from lstm_jax.training import fit as loop
from lstm_jax.training.fit import EpochRecord, FitResult

TRAIN = {f"train_{name}" for name in ("loss", "bits", "perplexity", "accuracy")}
REGIMES = pytest.mark.parametrize("regime", ["windows", "stream"])


class Made(NamedTuple):
    """Trained run: its folder, config and result, what a callback saw after each epoch,
    and the run as loaded from its folder.

    For each epoch, `seen` has the record, a copy of the parameters, and the number of
    samples written so far.
    """

    folder: Path
    config: GenerationConfig
    result: FitResult
    seen: list[tuple[EpochRecord, dict[str, np.ndarray], int]]
    trained: generation.Trained


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(TEXT)
    return path


@pytest.fixture(scope="module")
def made(text, tmp_path_factory):
    """Return a function made(regime) that returns a trained run of the regime.

    The first call for a regime trains the run. Later calls return the same run.
    """
    root = tmp_path_factory.mktemp("generation")

    @functools.cache
    def train(regime):
        folder, config, seen = root / regime, small_config(text, regime), []

        def look(record):
            lines = (folder / "samples.jsonl").read_text().count("\n")
            seen.append(
                (
                    record,
                    {name: np.array(array) for name, array in record.params.items()},
                    lines,
                )
            )

        result = generation.train(config, folder, callbacks=[look])
        return Made(folder, config, result, seen, generation.load(folder))

    return train


@REGIMES
def test_rows_and_result(regime, made):
    folder, _, result, seen, trained = made(regime)
    windows = len(range(0, CUT - LENGTH, STEP))
    steps = (
        -(-windows // BATCH)
        if regime == "windows"
        else (CUT - LENGTH) // (LENGTH * BATCH)
    )
    assert [row["step"] for row in result.rows] == [steps, 2 * steps, 3 * steps]
    metrics = {
        f"{part}_{name}"
        for part in ("train", "validation")
        for name in ("loss", "bits", "perplexity", "accuracy")
    }
    held_out = ids_of(TEXT[CUT:])
    for row, (_, params, _) in zip(result.rows, seen, strict=True):
        assert set(row) == metrics | {"epoch", "step", "seconds", "examples_per_second"}
        assert row["train_bits"] == pytest.approx(
            row["train_loss"] / np.log(2), rel=1e-12
        )
        assert row["train_perplexity"] == pytest.approx(
            np.exp(row["train_loss"]), rel=1e-12
        )
        # targets: the character after each window, or every character of a stream
        part = slice(LENGTH - 1, None, STEP) if regime == "windows" else slice(None)
        log_p = log_p_by_hand(params, held_out, window_of(regime))[part]
        targets = np.array(held_out[1:])[part]
        assert row["validation_loss"] == pytest.approx(
            -log_p[np.arange(len(targets)), targets].mean(), rel=1e-5
        )
        assert row["validation_accuracy"] == pytest.approx(
            (log_p.argmax(1) == targets).mean(), abs=1e-6
        )
    assert result.rows[0]["train_loss"] > result.rows[-1]["train_loss"]
    found = json.loads((folder / "result.json").read_text())
    assert found["best_epoch"] == 1 + int(
        np.argmin([row["validation_loss"] for row in result.rows])
    )
    assert found["validation_loss"] == pytest.approx(
        nats_by_hand(trained.params, held_out, window_of(regime)).mean(), rel=1e-5
    )
    assert set(found) == {"best_epoch", "stopped_early", "seconds"} | {
        name for name in metrics if name.startswith("validation")
    }


@REGIMES
def test_samples(regime, made):
    folder, _, _, seen, trained = made(regime)
    rows = generation.read_samples(folder / "samples.jsonl")
    assert [(row["epoch"], row["temperature"]) for row in rows] == [
        (epoch, t) for epoch in (1, 2, 3) for t in (0.0, 1.0)
    ]
    for row in rows:
        assert (row["seed"], row["mode"]) == (
            0,
            "window" if regime == "windows" else "carried",
        )
        assert (len(row["prompt"]), len(row["text"])) == (PROMPT, CHARS)
        assert row["prompt"] in TEXT[:CUT]
    assert len({row["prompt"] for row in rows}) == 3
    for greedy, drawn, (_, params, _) in zip(rows[::2], rows[1::2], seen, strict=True):
        assert greedy["prompt"] == drawn["prompt"]
        assert greedy["text"] != drawn["text"]
        assert ids_of(greedy["text"]) == greedy_by_hand(
            params, ids_of(greedy["prompt"]), CHARS, window_of(regime)
        )
        key = jax.random.split(jax.random.fold_in(jax.random.key(0), drawn["epoch"]))[1]
        sampler = Sampler(
            trained.rebuild, trained.characters.size, drawn["mode"], LENGTH
        )
        prompt = jnp.asarray([ids_of(drawn["prompt"])])
        again = sampler.generate(
            params, jax.random.fold_in(key, 1), prompt, CHARS, trained.rules(1.0)
        )
        assert ids_of(drawn["text"]) == again[0].tolist()


@pytest.mark.slow(keep=1)
@REGIMES
def test_interrupted_and_resumed(regime, made, text, tmp_path, monkeypatch):
    """A resumed run ends with the metrics, parameters and files of an uninterrupted
    run.

    The test interrupts each run after the first epoch. A run that reads streams carries
    a state between steps, and is also interrupted within the second epoch.
    """
    config, run = small_config(text, regime), tmp_path / "run"
    whole = made(regime)
    steps = whole.result.rows[0]["step"]

    def stop(record):
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted, match=f"after step {steps}$"):
        generation.train(config, run, callbacks=[stop])
    assert [row["epoch"] for row in generation.read_samples(run / "samples.jsonl")] == [
        1,
        1,
    ]
    assert not (run / "result.json").exists()
    # as if killed after writing a sample of epoch 2, but before saving its checkpoint
    with (run / "samples.jsonl").open("a") as file:
        file.write(json.dumps({"epoch": 2, "text": "of another try"}) + "\n")

    def one_by_one(start, groups, every):
        ((end, *given),) = groups
        for step in range(start, end):
            if step == 4:
                os.kill(os.getpid(), signal.SIGTERM)
            yield step, step + 1, *given

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
    wanted, found = (
        json.loads((folder / "result.json").read_text())
        for folder in (whole.folder, run)
    )
    assert found | {"seconds": 0} == wanted | {"seconds": 0}


def test_nothing_held_out_and_nothing_drawn(text, tmp_path):
    run = tmp_path / "run"
    result = generation.train(
        small_config(
            text, validation=0.0, sample={"sample_chars": 0}, train={"epochs": 2}
        ),
        run,
    )
    assert all(
        set(row) == {"epoch", "step", "seconds", "examples_per_second"} | TRAIN
        for row in result.rows
    )
    assert json.loads((run / "result.json").read_text()) == {
        "best_epoch": 2,
        "stopped_early": False,
        "seconds": result.seconds,
    }
    assert not (run / "samples.jsonl").exists()
    assert "Surprise, training text" in (run / "figures" / "surprise.html").read_text()
    trained = generation.load(run)
    with pytest.raises(InputError, match=r"^text: none given"):
        trained.read_text()


def test_a_run_is_not_resumed_on_another_text(made, tmp_path):
    folder = Path(shutil.copytree(made("windows").folder, tmp_path / "run"))
    (tmp_path / "text.txt").write_text(TEXT.replace("cat", "car"))
    config = small_config(tmp_path / "text.txt")
    (folder / "config.json").write_text(to_json(config))
    RunFolder(folder).accept()
    for call in (
        lambda: generation.train(config, folder, resume=True),
        lambda: generation.load(folder).read_text(),
    ):
        with pytest.raises(InputError, match="changed since the run began"):
            call()


@REGIMES
def test_load_and_score(regime, made):
    folder, config, result, _, trained = made(regime)
    assert (trained.config, trained.notes) == (config, ())
    for name, array in result.params.items():
        assert np.asarray(array).tobytes() == trained.params[name].tobytes()
    ids = trained.read_text().ids
    assert ids.tolist() == ids_of(TEXT[CUT:])
    windows = 0 if regime == "stream" else len(ids) // STEP * (LENGTH + 1)
    # bytes of uint8 ids
    assert (
        generation.Generation(
            config, generation.load_corpus(config), trained.mesh
        ).data_bytes()
        == CUT + windows
    )
    wanted = json.loads((folder / "result.json").read_text())
    metrics = trained.score(ids).metrics()
    assert metrics == {
        name: wanted[f"validation_{name}"]
        for name in ("loss", "bits", "perplexity", "accuracy")
    }
    for mode, window in (("window", LENGTH), ("carried", None)):
        assert trained.mode(mode) == mode
        np.testing.assert_allclose(
            trained.score(ids[:40], mode).nats,
            nats_by_hand(trained.params, ids[:40], window),
            rtol=0,
            atol=1e-5,
        )
    assert trained.mode() == ("window" if regime == "windows" else "carried")


def test_damaged_samples(tmp_path):
    for content in (
        b'{"epoch": 1',
        b'{"epocj": 1}',
        b'{"epoch": "1"}',
        b"[1]",
        b"\xff",
    ):
        (tmp_path / "samples.jsonl").write_bytes(content)
        with pytest.raises(
            InputError, match=r"samples .*samples\.jsonl: .*; move the file away"
        ):
            generation.read_samples(tmp_path / "samples.jsonl")
    # characters that end a line of a text, but not of JSON lines
    rows = [{"epoch": 1, "text": "a\u2028b\x85"}] * 2
    (tmp_path / "samples.jsonl").write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8"
    )
    assert generation.read_samples(tmp_path / "samples.jsonl") == rows


@pytest.fixture(scope="module")
def trained(made):
    return made("windows").trained


@pytest.mark.usefixtures("unchecked")
def test_write(trained):
    prompt, rules = trained.encode("the cat "), trained.rules(0.9)
    key = jax.random.key(5)
    sampler = Sampler(trained.rebuild, trained.characters.size, "window", LENGTH)
    whole = sampler.generate(
        trained.params,
        key,
        jnp.broadcast_to(jnp.asarray(prompt, jnp.int32), (3, 8)),
        30,
        rules,
    )
    pieces = list(trained.write(prompt, 30, rules, seed=5, samples=3))
    assert [piece.shape for piece in pieces] == [(3, 25), (3, 5)]
    assert np.concatenate(pieces, axis=1).tolist() == whole.tolist()
    texts = trained.texts(pieces, 3)
    assert [ids_of(text) for text in texts] == whole.tolist()
    assert len(set(texts)) == 3
    assert trained.texts(trained.write(prompt, 0, rules, samples=2), 2) == ["", ""]
    assert trained.texts(trained.write(prompt, 25, rules, seed=6, samples=3), 3) != [
        text[:25] for text in texts
    ]


@pytest.mark.parametrize("prompt", ["", "t", "the red house, and t"])
def test_write_goes_on_from_any_prompt(prompt, trained):
    ids, firsts = trained.encode(prompt), []
    for mode, window in (("window", LENGTH), ("carried", None)):
        drawn = np.concatenate(
            list(trained.write(ids, 12, trained.rules(0.0), mode=mode)), axis=1
        )[0].tolist()
        assert drawn == greedy_by_hand(trained.params, ids, 12, window)
        firsts.append(drawn[0])
    assert firsts[0] == firsts[1] or len(prompt) > LENGTH


def test_encode(trained):
    assert (
        trained.encode("the cat").tolist()
        == trained.encode(b"the cat").tolist()
        == ids_of("the cat")
    )
    assert len(trained.encode("")) == 0
    with pytest.raises(
        InputError, match=r"^characters that the run does not know: 'T', 'C', 'é'; "
    ):
        trained.encode("The Caté T")
    assert trained.encode("The  Cat\n", clean=True).tolist() == ids_of("the cat")
    assert trained.encode("The Caté", unknown="!").tolist() == ids_of("!he !at!")
    assert trained.encode("The Caté", clean=True, unknown="!").tolist() == ids_of(
        "the cat"
    )


V = len(set(TEXT))
NO_IDS = ("the cat", np.array([1, V]), None)
NOT_WRITTEN = {
    "chars": (-1, 2.5, "3"),
    "samples": (0, 1.5, True),
    "seed": (-1, 2**32, 1.5),
    "mode": (None, "stream"),
    "rules": (None,),
    "prompt": NO_IDS,
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("call", "subject"),
    [
        *((lambda run, ids=ids: run.score(ids), "ids: ") for ids in NO_IDS),
        (lambda run: run.score([1]), "text: 1 characters"),
        (lambda run: run.activations([V]), "ids: "),
        (lambda run: run.activations(np.zeros(0, int)), "text: 0 characters"),
        (
            lambda run: generation.draw_units(
                run.characters, np.zeros(1, int), np.zeros((1, 8)), Path("x.html"), 0
            ),
            "count: 0; ",
        ),
        (lambda run: run.score([1, 2], "Carried"), "mode: Carried; "),
        (lambda run: run.encode("the", unknown="#"), "unknown: #; "),
        (
            lambda run: run.encode(b"the \xff"),
            r"characters that the run does not know: '\\udcff'",
        ),
        (lambda run: run.read_text(["a.txt"], "the cat"), "text: given with files"),
        (lambda run: run.read_text(most=-1), "chars: -1"),
        *(
            (
                lambda run, given={name: value}: run.write(
                    **({"prompt": [1], "chars": 3, "rules": run.rules()} | given)
                ),
                f"{name}: ",
            )
            for name, values in NOT_WRITTEN.items()
            for value in values
        ),
    ],
)
def test_errors(call, subject, trained):
    with pytest.raises(InputError, match=f"^{subject}"):
        call(trained)


def test_read_text(trained, tmp_path):
    (tmp_path / "a.txt").write_text("the cat")
    (tmp_path / "b.json").write_text(
        json.dumps(
            [{"body": "a dog", "n": 1}, {"body": "", "n": 2}, {"body": "ran!", "n": 3}]
        )
    )
    paths = [str(tmp_path / name) for name in ("a.txt", "b.json")]
    assert trained.read_text(paths, text_column="body").ids.tolist() == ids_of(
        "the cat a dog ran!"
    )
    assert trained.read_text(paths, most=9).ids.tolist() == ids_of("the cat a")
    assert trained.read_text(text="The Cat", clean=True).ids.tolist() == ids_of(
        "the cat"
    )
    assert trained.read_text(
        text="THE cat", unknown=".", most=5
    ).ids.tolist() == ids_of("... c")
    assert trained.read_text(most=7).ids.tolist() == ids_of(TEXT[CUT:][:7])
