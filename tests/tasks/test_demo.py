"""The demo on shrunken sizes."""

import io
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from lstm_jax.config import GenerationModelConfig, SentimentModelConfig, TrainConfig, to_json
from lstm_jax.errors import InputError
from lstm_jax.tasks import demo, generation, sentiment


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(
        demo,
        "SENTIMENT",
        replace(
            demo.SENTIMENT,
            data=replace(demo.SENTIMENT.data, maxlen=10),
            model=SentimentModelConfig(embed=4, units=4),
            train=TrainConfig(epochs=1),
        ),
    )
    monkeypatch.setattr(demo, "GENERATION", replace(demo.GENERATION, model=GenerationModelConfig(units=8), train=TrainConfig(epochs=1)))
    for task in (sentiment, generation):
        monkeypatch.setattr(task, "draw_figures", lambda *_: None)
    monkeypatch.setattr(demo, "TRAIN_REVIEWS", 120)
    monkeypatch.setattr(demo, "TEST_REVIEWS", 40)
    monkeypatch.setattr(demo, "CHARS", 30)


def test_the_demo_trains_answers_and_replaces_only_itself(small, tmp_path):
    said = io.StringIO()
    console = Console(file=said, width=300)
    folder = tmp_path / "demo"
    (folder / "sentiment").mkdir(parents=True)
    (folder / "sentiment" / "config.json").write_text(to_json(replace(demo.SENTIMENT, train=TrainConfig(seed=3))))
    (folder / "sentiment" / "left.over").write_text("of an earlier demo that was stopped")
    demo.run(folder, 4, console)
    assert not (folder / "sentiment" / "left.over").exists()
    trained = sentiment.load(folder / "sentiment")
    assert trained.config.train.seed == 4
    text = said.getvalue()
    assert text.count("accuracy on 40 unseen synthetic reviews: 0.") == 1
    for asked, p in zip(demo.ASKED, trained.probabilities(demo.ASKED), strict=True):
        assert f"  {p:.3f}  {asked}\n" in text
    wrote = generation.load(folder / "generation")
    ids = np.concatenate(list(wrote.write(wrote.encode(demo.PROMPT), 30, wrote.rules(0.5), seed=4)), axis=1)
    assert demo.PROMPT + wrote.characters.decode(ids[0]) in text
    row = generation.read_samples(wrote.run.samples)[0]
    assert row["text"] in text
    assert len(row["text"]) == demo.GENERATION.sample.sample_chars


def test_a_folder_that_is_no_demo_is_left_alone(small, tmp_path):
    console, foreign = Console(file=io.StringIO()), tmp_path / "run"
    config = replace(demo.SENTIMENT, data=replace(demo.SENTIMENT.data, text_column="synthetic"))
    (foreign / "sentiment" / "notes").mkdir(parents=True)
    for spoil in ("", to_json(config), to_json(demo.GENERATION), "{"):
        (foreign / "sentiment" / "config.json").write_text(spoil)
        with pytest.raises(InputError, match="holds something else; name a new one with --run"):
            demo.run(foreign, 0, console)
        assert (foreign / "sentiment" / "notes").is_dir()
    (foreign / "sentiment" / "config.json").write_text(to_json(demo.SENTIMENT))
    (foreign / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match="holds something else"):
        demo.run(foreign, 0, console)
    assert (foreign / "thesis.tex").exists()
    with pytest.raises(InputError, match="is a file"):
        demo.run(foreign / "thesis.tex", 0, console)
