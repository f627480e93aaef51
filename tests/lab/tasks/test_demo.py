"""The demo with small models and little data, and the folders that it refuses to write
to.
"""

import io
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from lstm_jax.base.errors import InputError, Interrupted
from lstm_jax.lab import demo
from lstm_jax.lab.generation import task as generation
from lstm_jax.lab.generation.config import GenerationModelConfig
from lstm_jax.lab.sentiment import task as sentiment
from lstm_jax.lab.sentiment.config import SentimentModelConfig
from lstm_jax.training.config import TrainConfig


@pytest.fixture
def few_reviews(monkeypatch):
    monkeypatch.setattr(demo, "TRAIN_REVIEWS", 120)
    monkeypatch.setattr(demo, "TEST_REVIEWS", 40)


@pytest.fixture
def little(few_reviews, monkeypatch):
    train = TrainConfig(epochs=1)
    reviews = replace(demo.SENTIMENT.data, maxlen=10)
    monkeypatch.setattr(
        demo,
        "SENTIMENT",
        replace(
            demo.SENTIMENT,
            data=reviews,
            model=SentimentModelConfig(embed=4, units=4),
            train=train,
        ),
    )
    monkeypatch.setattr(
        demo,
        "GENERATION",
        replace(demo.GENERATION, model=GenerationModelConfig(units=8), train=train),
    )
    monkeypatch.setattr(demo, "CHARS", 30)


def test_the_demo_trains_answers_and_replaces_only_itself(little, tmp_path):
    said = io.StringIO()
    console = Console(file=said, width=300)
    folder = tmp_path / "demo"

    def stop(*_):
        (folder / "sentiment").mkdir(parents=True)
        (folder / "sentiment" / "left.over").write_text(
            "of an earlier demo that was stopped"
        )
        raise Interrupted(3)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "_sentiment", stop)
        with pytest.raises(Interrupted):
            demo.run(folder, 4, console)
    demo.run(folder, 4, console)
    assert not (folder / "sentiment" / "left.over").exists()
    trained = sentiment.load(folder / "sentiment")
    assert trained.config.train.seed == 4
    text = said.getvalue()
    for asked, p in zip(demo.REVIEWS, trained.probabilities(demo.REVIEWS), strict=True):
        assert f"  {p:.3f}  {asked}\n" in text
    assert (
        "accuracy on 40 unseen synthetic reviews: "
        f"{sentiment.evaluate(trained).accuracy:.3f}\n"
    ) in text
    wrote = generation.load(folder / "generation")
    ids = np.concatenate(
        list(wrote.write(wrote.encode(demo.PROMPT), 30, wrote.rules(0.5), seed=4)),
        axis=1,
    )
    assert demo.PROMPT + wrote.characters.decode(ids[0]) in text
    row = generation.read_samples(wrote.run.samples)[0]
    assert row["text"] in text
    assert len(row["text"]) == demo.GENERATION.sample.sample_chars


def test_what_a_demo_did_not_make_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="holds something else; name a new one"):
        demo.run(tmp_path, 0, Console(file=io.StringIO()))
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
