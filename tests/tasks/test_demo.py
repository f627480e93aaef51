"""The demo on shrunken sizes."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from lstm_jax.config import SentimentModelConfig, TrainConfig, to_json
from lstm_jax.errors import InputError
from lstm_jax.tasks import demo, sentiment


@pytest.fixture
def small(monkeypatch):
    config = replace(
        demo.CONFIG, data=replace(demo.CONFIG.data, maxlen=10), model=SentimentModelConfig(embed=4, units=4), train=TrainConfig(epochs=1)
    )
    monkeypatch.setattr(demo, "CONFIG", config)
    monkeypatch.setattr(sentiment, "draw_figures", lambda *_: None)
    monkeypatch.setattr(demo, "TRAIN_REVIEWS", 120)
    monkeypatch.setattr(demo, "TEST_REVIEWS", 40)


def test_the_demo_trains_answers_and_replaces_only_itself(small, tmp_path):
    said = io.StringIO()
    console = Console(file=said, width=300)
    folder = tmp_path / "demo"
    folder.mkdir()
    (folder / "config.json").write_text(to_json(replace(demo.CONFIG, train=TrainConfig(seed=3))))
    (folder / "left.over").write_text("of an earlier demo")
    demo.run(folder, 4, console)
    assert not (folder / "left.over").exists()
    trained = sentiment.load(folder)
    assert trained.config.train.seed == 4
    text = said.getvalue()
    assert text.count("accuracy on 40 unseen synthetic reviews: 0.") == 1
    for asked, p in zip(demo.ASKED, trained.probabilities(demo.ASKED), strict=True):
        assert f"  {p:.3f}  {asked}\n" in text

    foreign = tmp_path / "run"
    config = replace(demo.CONFIG, data=replace(demo.CONFIG.data, text_column="synthetic"))
    (foreign / "notes").mkdir(parents=True)
    for spoil in ("", to_json(config), "{"):
        (foreign / "config.json").write_text(spoil)
        with pytest.raises(InputError, match="holds something else; name a new one with --run"):
            demo.run(foreign, 0, console)
        assert (foreign / "notes").is_dir()
    with pytest.raises(InputError, match="is a file"):
        demo.run(foreign / "config.json", 0, console)
