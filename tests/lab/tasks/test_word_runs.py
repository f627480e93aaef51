"""Runs of word models: perplexity compared with PyTorch, and the commands that use a run."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from command_line import assert_error

from lstm_jax.lab.generation import scores as text_scores
from lstm_jax.lab.generation import task as generation
from lstm_jax.lab.generation.config import (
    GenerationConfig,
    GenerationModelConfig,
    SampleConfig,
    TextConfig,
)
from lstm_jax.lab.generation.model import CharGenerator
from lstm_jax.lab.generation.task import stream_objective
from lstm_jax.lab.optimizers import make_schedule
from lstm_jax.lab.task import initial_rngs
from lstm_jax.training.config import TrainConfig

LINES = "the cat sat on the mat\na dog ran to the house\n\nthe cat was not there\n" * 20
HELD_OUT = "the dog sat on a zebra\na cat ran to the mat\n"
SIZES = "--unit word --length 5 --batch-size 4 --units 8 --embed 8 --layers 2"
FLAGS = [*SIZES.split(), *"--epochs 2 --sample-chars 5 --no-figures".split()]  # noqa: SIM905


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return a trained run and the folder of its data."""
    root = tmp_path_factory.mktemp("words")
    (root / "train.txt").write_text(LINES)
    (root / "held.txt").write_text(HELD_OUT)
    config = GenerationConfig(
        TextConfig(
            data=(str(root / "train.txt"),),
            validation_data=(str(root / "held.txt"),),
            unit="word",
            clean="none",
            regime="stream",
            length=5,
        ),
        GenerationModelConfig(
            units=8, embed=8, layers=2, step_dropout=0.2, initial_range=0.1
        ),
        TrainConfig(
            epochs=3,
            batch_size=4,
            optimizer="sgd",
            learning_rate=5.0,
            clip_norm=1.0,
            schedule="epochs",
            constant_epochs=2,
            devices=1,
        ),
        SampleConfig(sample_chars=6, sample_prompt=3),
    )
    result = generation.train(config, root / "run")
    return root, config, result, generation.load(root / "run")


def test_perplexity_is_that_of_the_score(made, ask):
    root, _, result, trained = made
    ids = trained.encode(HELD_OUT)
    assert ids.tolist().count(0) == 1
    assert ids.tolist().count(1) == 2
    wanted = trained.score(ids).metrics()["perplexity"]
    assert result.rows[result.best_epoch - 1]["validation_perplexity"] == pytest.approx(
        wanted, rel=1e-5
    )
    assert result.rows[-1]["train_perplexity"] < result.rows[0]["train_perplexity"]
    for source in ([root / "held.txt"], [], ["--text", HELD_OUT]):
        code, out, err = ask("score", "--run", root / "run", *source, "--json")
        row = json.loads(out)
        assert (code, err, row["words"]) == (0, "", len(ids) - 1)
        assert row["perplexity"] == pytest.approx(wanted, rel=1e-5)
    out = ask("score", "--run", root / "run", "--html", root / "page.html")[1]
    assert f"perplexity {wanted:.3f})" in out
    assert f"{len(ids) - 1} words, " in out
    assert "the dog" not in (root / "page.html").read_text()  # each word has its colour


def test_perplexity_by_torch(made):
    torch = pytest.importorskip("torch")
    trained = made[3]
    ids, params = trained.encode(HELD_OUT), trained.params
    recurrent = torch.nn.LSTM(8, 8, 2)
    with torch.no_grad():
        for n in range(2):
            own = {
                name: torch.tensor(params[f"recurrent/{n}/{name}"])
                for name in ("kernel", "recurrent_kernel", "bias")
            }
            getattr(recurrent, f"weight_ih_l{n}").copy_(own["kernel"].T)
            getattr(recurrent, f"weight_hh_l{n}").copy_(own["recurrent_kernel"].T)
            getattr(recurrent, f"bias_ih_l{n}").copy_(own["bias"])
            getattr(recurrent, f"bias_hh_l{n}").zero_()
        h, _ = recurrent(
            torch.tensor(params["embedding/embedding"])[
                torch.tensor(ids[:-1].astype(int))
            ]
        )
        logits = h @ torch.tensor(params["head/kernel"]) + torch.tensor(
            params["head/bias"]
        )
        loss = torch.nn.functional.cross_entropy(
            logits, torch.tensor(ids[1:].astype(int))
        )
    assert trained.score(ids).metrics()["loss"] == pytest.approx(float(loss), rel=1e-5)


def test_scores_of_parts_of_the_logits_are_the_same(made, monkeypatch):
    trained = made[3]
    ids = trained.encode(LINES)
    whole = trained.score(ids)
    monkeypatch.setattr(text_scores, "LOGITS", 40)
    parts = trained.score(ids)
    np.testing.assert_allclose(parts.nats, whole.nats, rtol=2e-6, atol=1e-6)
    assert (parts.correct == whole.correct).all()


def test_samples_and_texts(made, ask):
    root, _, _, trained = made
    row = generation.read_samples(root / "run" / "samples.jsonl")[0]
    assert (row["prompt"] + row["text"]).startswith(row["prompt"])
    assert len(trained.encode(row["prompt"] + row["text"])) == 9
    common = [
        "generate",
        "--run",
        root / "run",
        "--prompt",
        "the zebra",
        "--chars",
        40,
        "--seed",
        1,
    ]
    ids = np.concatenate(
        [*trained.write(trained.encode("the zebra"), 40, trained.rules(), seed=1)],
        axis=1,
    )[0]
    text = f"the <unk>{trained.characters.decode(ids, after=0)}"
    assert trained.encode(text).tolist() == [2, 0, *ids.tolist()]
    assert ask(*common) == (0, f"{text}\n", "")
    assert json.loads(ask(*common, "--json")[1])["text"] == text.removeprefix(
        "the <unk>"
    )
    assert_error(
        ask(*common, "--unknown", "a"), "words that the run does not know are <unk>"
    )


def test_the_command_line_has_defaults_for_words(ask, tmp_path):
    (tmp_path / "text.txt").write_text(LINES)
    config = json.loads(ask("train", "generation", *FLAGS, "--print-config")[1])
    assert (
        config["data"]["clean"],
        config["data"]["regime"],
        config["model"]["tied"],
    ) == ("none", "stream", True)
    code, out, err = ask(
        "train",
        "generation",
        *FLAGS,
        "--data",
        tmp_path / "text.txt",
        "--run",
        tmp_path / "run",
    )
    assert (code, err) == (0, "")
    assert "held-out text: perplexity " in out
    assert "400 words" not in out
    assert_error(
        ask(
            "train",
            "generation",
            *FLAGS,
            "--embed",
            "0",
            "--no-tied",
            "--run",
            tmp_path / "b",
        ),
        "--embed: 0; words need an embedding",
    )
    assert ask("train", "generation", "--run", tmp_path / "run", "--resume")[0] == 0
    for name, steps in (("ptb-small", 20), ("ptb-medium", 35)):
        config = json.loads(
            ask("train", "generation", "--preset", name, "--print-config")[1]
        )
        assert (
            config["data"]["unit"],
            config["data"]["length"],
            config["train"]["learning_rate"],
        ) == ("word", steps, steps)


def test_the_schedule_of_zaremba():
    config = TrainConfig(
        epochs=13, schedule="epochs", learning_rate=20.0, constant_epochs=4
    )
    schedule = make_schedule(config, 13 * 7)
    rates = [float(schedule(step)) for step in range(13 * 7)]
    np.testing.assert_allclose(
        rates,
        np.repeat([20 * 0.5 ** max(0, epoch - 3) for epoch in range(13)], 7),
        rtol=1e-6,
    )


def test_initial_range_and_dropout():
    """Each parameter is uniform, and the loss with dropout differs from step to step
    and from the loss without it.
    """
    model = CharGenerator(
        GenerationModelConfig(
            units=8, embed=8, layers=2, step_dropout=0.5, initial_range=0.1
        ),
        50,
        rngs=initial_rngs(0),
    )
    trained = generation.base.functional(model)
    for name, array in trained.params.items():
        assert 0.05 < np.abs(array).max() <= 0.1, name
    ids, weight = jnp.full((2, 31), 7, jnp.int32), jnp.full(2, 0.5)
    objective = stream_objective(trained.rebuild)
    losses = [
        float(
            objective(
                trained.params, ids, weight, jax.random.key(n), model.initial_state(2)
            )[0]
        )
        for n in (0, 0, 1)
    ]
    assert losses[0] == losses[1] != losses[2]
    h, _ = model.hidden(ids, rngs=jax.random.key(0), deterministic=False)
    kept = np.asarray(h) != 0
    assert 0.4 < kept.mean() < 0.6
    assert (kept[0] != kept[1]).any()  # drawn anew at each step
    assert (np.asarray(model.hidden(ids, deterministic=True)[0]) != 0).all()
    model.head = lambda h: h
    last, _ = model(
        jnp.full((500, 3), 7, jnp.int32),
        last=True,
        rngs=jax.random.key(0),
        deterministic=False,
    )
    assert 0.4 < (np.asarray(last) != 0).mean() < 0.6


def test_equal_words_have_dropout_masks_of_their_own():
    """Loss and gradients are those of the backend `reference`, though a backend may
    multiply the vector of a repeated word only once.
    """
    found = []
    for backend in ("auto", "reference"):
        config = GenerationModelConfig(
            units=8,
            embed=8,
            layers=2,
            step_dropout=0.5,
            initial_range=0.1,
            backend=backend,
        )
        model = CharGenerator(config, 50, rngs=initial_rngs(0))
        params, rebuild = generation.base.functional(model)
        args = (
            jnp.full((2, 31), 7, jnp.int32),
            jnp.full(2, 0.5),
            jax.random.key(0),
            model.initial_state(2),
        )
        found.append(
            jax.jit(jax.value_and_grad(stream_objective(rebuild), has_aux=True))(
                params, *args
            )
        )
    (loss, _), gradient = found[0]
    (want, _), wanted = found[1]
    np.testing.assert_allclose(loss, want, rtol=1e-6)
    for name, array in wanted.items():
        np.testing.assert_allclose(
            gradient[name], array, rtol=1e-5, atol=1e-7, err_msg=name
        )
