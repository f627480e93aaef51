"""Language model that initialises a sentiment classifier: its loss, its training, and
runs that train both models.
"""

import json
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from made_reviews import write_csvs
from made_runs import small_config

from lstm_jax.base.errors import InputError, Interrupted
from lstm_jax.base.sharding import make_mesh
from lstm_jax.lab import task as base
from lstm_jax.lab.model import replaced
from lstm_jax.lab.sentiment import pretraining
from lstm_jax.lab.sentiment import task as sentiment
from lstm_jax.lab.sentiment.config import (
    PretrainingConfig,
    SentimentConfig,
    SentimentModelConfig,
)
from lstm_jax.lab.sentiment.model import EMBEDDING
from lstm_jax.lab.sweep import override
from lstm_jax.training import fit as loop
from lstm_jax.training.parts import functional

V, E, H = 7, 3, 4
RNG = np.random.default_rng(0)


def test_sampled_losses_by_hand():
    """The log of the share of a word is subtracted from its score, and the correct word
    counts once.
    """
    table = RNG.normal(size=(V, E)).astype(np.float32)
    bias = RNG.normal(size=V).astype(np.float32)
    vectors = RNG.normal(size=(5, E)).astype(np.float32)
    targets = np.asarray([0, 3, 6, 3, 1])
    share = np.asarray([0.1, 0.2, 0.3, 0.1, 0.1, 0.1, 0.1])
    logits = (
        vectors.astype(np.float64) @ table.T.astype(np.float64) + bias - np.log(share)
    )
    for sample in (np.arange(V), np.asarray([3, 1, 1])):
        want = []
        for row, word in zip(logits, targets, strict=True):
            others = [row[other] for other in sample if other != word]
            want.append(np.log(np.exp([row[word], *others]).sum()) - row[word])
        arrays = (
            vectors,
            targets,
            table,
            bias - np.log(share).astype(np.float32),
            sample,
        )
        np.testing.assert_allclose(
            pretraining.sampled_losses(*map(jnp.asarray, arrays)), want, rtol=1e-5
        )


def test_windows_cover_the_text():
    """Each word except the first is a target once, but words after the last full window
    are left out.

    A text that is shorter than a full window is a window of its own.
    """
    text = np.arange(1, 2 * pretraining.LENGTH + 10)
    windows = pretraining.cut_windows(text)
    assert windows.shape == (2, pretraining.LENGTH + 1)
    assert (
        windows[:, 1:].ravel().tolist() == text[1 : 2 * pretraining.LENGTH + 1].tolist()
    )
    assert windows[1, 0] == windows[0, -1]
    assert pretraining.cut_windows(text[:5]).tolist() == [text[:5].tolist()]


@pytest.fixture
def short(monkeypatch):
    for name, value in {"BATCH": 4, "LENGTH": 8, "SAMPLED": 16}.items():
        monkeypatch.setattr(pretraining, name, value)


@pytest.mark.slow(keep=1)
@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("directions", [1, 2])
def test_it_learns_and_the_classifier_takes_it(directions):
    """The language model learns a text that repeats six words in the same order.

    In such a text, each word determines the next one and the previous one. The
    parameters of the language model then replace those of a classifier, except those of
    its head.
    """
    text = np.tile(np.arange(1, V), 100).astype(np.int32)
    model = SentimentModelConfig(
        embed=E,
        units=H,
        bidirectional=directions == 2,
        recurrent_dropout=0.5,
        zoneout=0.1,
    )
    config = SentimentConfig(model=model, pretraining=PretrainingConfig(20, 0.05, 0.0))
    found = pretraining.pretrain(config, V, text, text[:50], make_mesh(1))
    losses = [row["train_loss"] for row in found.rows]
    assert losses[0] > 0.5
    assert losses[-1] < 0.2
    assert found.rows[-1]["validation_loss"] == pytest.approx(losses[-1], abs=0.1)
    params = functional(sentiment.make_model(config, V)).params
    shared = pretraining.shared_params(params, found.params)
    assert params.keys() - shared.keys() == {"head/kernel", "head/bias"}
    np.testing.assert_array_equal(
        replaced(params, shared)[EMBEDDING], found.params[EMBEDDING]
    )


def test_the_next_and_the_previous_word_are_not_read():
    """Output n of the forward direction reads only the first n + 1 words, and output n
    of the backward direction only the last n + 1.
    """
    config = SentimentModelConfig(embed=E, units=H, bidirectional=True)
    made = functional(
        pretraining.WordLanguageModel(config, V, rngs=pretraining.initial_rngs(0))
    )
    ids = jnp.asarray(RNG.integers(0, V, (1, 6)))

    def outputs(ids):
        return [
            (np.asarray(found)[:, 0], targets[:, 0].tolist())
            for found, targets in made.rebuild(made.params)(ids, deterministic=True)
        ]

    (ahead, following), (back, previous) = outputs(ids)
    assert [following, previous] == [ids[0, 1:].tolist(), ids[0, -2::-1].tolist()]
    for place in range(6):
        (changed_ahead, _), (changed_back, _) = outputs(
            ids.at[0, place].set((ids[0, place] + 1) % V)
        )
        assert np.flatnonzero((changed_ahead != ahead).any(1)).tolist() == list(
            range(place, 5)
        )
        assert np.flatnonzero((changed_back != back).any(1)).tolist() == list(
            range(5 - place, 5)
        )


@pytest.fixture
def config(tmp_path, short):
    write_csvs(tmp_path / "reviews", 60, 20)
    made = small_config(tmp_path / "reviews", tmp_path / "cache")
    return override(
        made, {"data.validation": 0.2, "pretraining": PretrainingConfig(2, 0.01, 0.1)}
    )


@pytest.mark.slow
def test_a_run_begins_with_the_language_model(config, tmp_path, monkeypatch):
    """A run first trains the language model, and then the classifier.

    A run that is interrupted and resumed in each of the two trainings ends with the
    same bits as an uninterrupted run.
    """
    begun, trained, own_run = [], [], pretraining.run_epochs

    def keep(*args, **options):
        begun.append(options["resume"])
        trained.append(own_run(*args, **options))
        return trained[-1]

    monkeypatch.setattr(pretraining, "run_epochs", keep)
    whole = sentiment.train(config, tmp_path / "whole", figures=False)
    rows = [
        json.loads(line)
        for line in (tmp_path / "whole" / "pretraining.jsonl").read_text().splitlines()
    ]
    assert [row["train_loss"] for row in rows] == [
        row["train_loss"] for row in trained[0].rows
    ]
    assert rows[1]["validation_loss"] < rows[0]["validation_loss"]

    saved, count = loop._Run.save, [0]

    def interrupted(self, *args):
        saved(self, *args)
        count[0] += 1
        if count[0] in (1, 3):
            raise Interrupted(int(self.state.step), 2)

    monkeypatch.setattr(loop._Run, "save", interrupted)
    monkeypatch.setattr(loop, "SAVE_SECONDS", 0)
    for _ in range(2):
        with pytest.raises(Interrupted):
            sentiment.train(config, tmp_path / "cut", figures=False, resume=True)
    result = sentiment.train(config, tmp_path / "cut", figures=False, resume=True)
    # the language model is not fitted again once the classifier has a checkpoint
    assert begun == [False, True, True]
    assert result.rows[-1]["validation_loss"] == whole.rows[-1]["validation_loss"]
    jax.tree.map(np.testing.assert_array_equal, result.params, whole.params)


@pytest.mark.slow
def test_a_signal_after_the_last_step_of_the_language_model(
    config, tmp_path, monkeypatch
):
    """A signal after the last step of the language model ends the run. The resumed run
    trains the classifier only.
    """
    make, asked = pretraining.LanguageModel.evaluation, []

    def interrupting(*args):
        evaluate = make(*args)

        def at_the_end(*found):
            asked.append(1)
            if len(asked) == config.pretraining.lm_epochs:
                signal.raise_signal(signal.SIGINT)
            return evaluate(*found)

        return at_the_end

    monkeypatch.setattr(pretraining.LanguageModel, "evaluation", interrupting)
    epochs = []
    with pytest.raises(Interrupted):
        sentiment.train(
            config, tmp_path / "run", figures=False, callbacks=[epochs.append]
        )
    assert not epochs
    result = sentiment.train(config, tmp_path / "run", figures=False, resume=True)
    assert len(asked) == config.pretraining.lm_epochs
    assert len(result.rows) == config.train.epochs


@pytest.mark.slow
def test_several_devices(config):
    """Training on two devices gives the same parameters and validation loss as training
    on one device.
    """
    text = RNG.integers(1, V, 200).astype(np.int32)
    small = override(
        config, {"model": SentimentModelConfig(embed=4, units=H, bidirectional=True)}
    )
    one, two = (
        pretraining.pretrain(small, V, text, text[:60], make_mesh(devices))
        for devices in (1, 2)
    )
    for name, array in one.params.items():
        np.testing.assert_allclose(
            two.params[name], array, rtol=1e-4, atol=1e-5, err_msg=name
        )
    assert two.rows[-1]["validation_loss"] == pytest.approx(
        one.rows[-1]["validation_loss"], rel=1e-5
    )


@pytest.mark.parametrize(("devices", "wanted"), [(1, 32), (3, 33), (6, 36), (64, 64)])
def test_batch_size(devices, wanted):
    mesh = jax.sharding.Mesh(np.asarray(jax.devices()[:1] * devices), ("data",))
    text = np.ones(pretraining.LENGTH * wanted * 50 + 1, np.int32)
    task = pretraining.LanguageModel(
        SentimentConfig(pretraining=PretrainingConfig(2)), V, text, mesh
    )
    config = task.train_config
    assert (
        task.steps,
        config.batch_size,
        config.epochs,
        config.warmup_steps,
        config.microbatches,
    ) == (100, wanted, 2, 10, 1)


def test_memory(config, monkeypatch):
    """The memory check counts what the language model needs separately from what the
    classifier needs.

    Longer windows of the language model raise only its own needs.
    """
    needed = []
    monkeypatch.setattr(
        base, "require_free", lambda count, mesh, remedy: needed.append((count, remedy))
    )
    task = sentiment.Sentiment(
        override(config, {"model.units": 64}),
        sentiment.encoded_reviews(config),
        make_mesh(1),
    )
    task.check_memory()
    monkeypatch.setattr(pretraining, "LENGTH", 800)
    task.check_memory()
    # the needs of the classifier are unchanged
    assert [count for count, _ in needed][::2] == [needed[0][0]] * 2
    assert needed[3][0] > 2 * needed[1][0]
    assert needed[3][1].endswith(
        "lower --units, or give --microbatches, --remat sqrt or --lm-epochs 0"
    )


@pytest.mark.parametrize(
    ("call", "subject"),
    [
        (
            lambda config: override(config, {"model.layers": 2}),
            "lm_epochs: 2; a language model trains",
        ),
        (
            lambda config: pretraining.pretrain(
                config, V, np.ones(1, np.int32), None, make_mesh(1)
            ),
            "words of the training reviews: 1",
        ),
        (
            lambda config: override(
                config,
                {
                    "data.input": "stream",
                    "data.data": "shards",
                    "data.vocabulary": "frequency",
                },
            ),
            "lm_epochs: 2; a language model needs --input memory",
        ),
    ],
)
def test_errors(call, subject, config):
    with pytest.raises(InputError, match=f"^{subject}"):
        call(config)
