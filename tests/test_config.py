"""Configs: bounds, the round trip through JSON, and files that are none."""

import dataclasses
import json
from typing import Literal, get_args, get_origin

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lstm_jax.config import DataConfig, SentimentConfig, SentimentModelConfig, TrainConfig, sentiment_from_json, to_json
from lstm_jax.errors import InputError

PARTS = (DataConfig, SentimentModelConfig, TrainConfig)


def test_the_default_is_the_source_s_model():
    config = SentimentConfig()
    assert (config.data.num_words, config.data.maxlen, config.data.padding, config.data.truncating) == (20_000, 80, "pre", "pre")
    assert (config.model.embed, config.model.units, config.model.dropout, config.model.recurrent_dropout) == (128, 128, 0.2, 0.2)
    assert (config.train.batch_size, config.train.optimizer, config.train.learning_rate) == (32, "adam", 1e-3)
    assert not config.model.mask_zero


@given(st.integers(4, 10**6), st.integers(1, 500), st.floats(0, 0.99), st.text(max_size=20), st.sampled_from(["pre", "post"]))
def test_json_round_trip(tmp_path_factory, num_words, maxlen, share, text, side):
    config = SentimentConfig(
        DataConfig(data=text.encode(errors="replace").decode(), num_words=num_words, maxlen=maxlen, validation=share, padding=side),
        SentimentModelConfig(dropout=share, bidirectional=True),
        TrainConfig(learning_rate=share + 1e-9, seed=2**32 - 1),
    )
    path = tmp_path_factory.getbasetemp() / "config.json"
    path.write_text(to_json(config))
    assert sentiment_from_json(path) == config


@pytest.mark.parametrize("part", ["data", "model", "train"])
def test_unknown_missing_and_wrong_fields(part, tmp_path):
    path = tmp_path / "config.json"
    whole = json.loads(to_json(SentimentConfig()))
    cases = [
        whole | {part: whole[part] | {"colour": "red"}},
        {name: value for name, value in whole.items() if name != part},
        whole | {part: None},
        whole | {part: whole[part] | {{"data": "maxlen", "model": "units", "train": "epochs"}[part]: "many"}},
        whole | {part: whole[part] | {{"data": "maxlen", "model": "units", "train": "epochs"}[part]: 0}},
        whole | {part: whole[part] | {{"data": "padding", "model": "dtype", "train": "schedule"}[part]: "sideways"}},
    ]
    for case in cases:
        path.write_text(json.dumps(case))
        with pytest.raises(InputError, match=r"config\.json: .+; name the folder of a finished or interrupted run"):
            sentiment_from_json(path)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff\xfe", b"null", b'{"data": {}}'])
def test_no_config(content, tmp_path):
    path = tmp_path / "config.json"
    with pytest.raises(InputError, match=r"config\.json: No such file or directory; name the folder"):
        sentiment_from_json(path)
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"config\.json: .+; name the folder"):
        sentiment_from_json(path)


@pytest.mark.parametrize(
    ("part", "field", "value"),
    [
        (DataConfig, "num_words", 3),
        (DataConfig, "maxlen", 0),
        (DataConfig, "validation", 1.0),
        (DataConfig, "validation", -0.1),
        (SentimentModelConfig, "embed", 0),
        (SentimentModelConfig, "units", -1),
        (SentimentModelConfig, "layers", 0),
        (SentimentModelConfig, "dropout", 1.0),
        (SentimentModelConfig, "dropout", float("nan")),
        (SentimentModelConfig, "recurrent_dropout", -0.1),
        (TrainConfig, "epochs", 0),
        (TrainConfig, "batch_size", 0),
        (TrainConfig, "learning_rate", 0.0),
        (TrainConfig, "learning_rate", float("nan")),
        (TrainConfig, "final_learning_rate", -1.0),
        (TrainConfig, "warmup_steps", -1),
        (TrainConfig, "clip_norm", -1.0),
        (TrainConfig, "patience", -1),
        (TrainConfig, "seed", -1),
        (TrainConfig, "seed", 2**32),
        (TrainConfig, "checkpoint_steps", -1),
        (TrainConfig, "devices", -1),
    ],
)
def test_bounds(part, field, value):
    with pytest.raises(InputError, match=f"^{field}: .*{value}; .+"):
        part(**{field: value})


def test_an_exponential_schedule_needs_an_end():
    with pytest.raises(InputError, match="final_learning_rate"):
        TrainConfig(schedule="exponential")
    assert TrainConfig(schedule="exponential", final_learning_rate=1e-5).final_learning_rate == 1e-5


def test_named_choices_are_choices():
    chosen = [(part, f) for part in PARTS for f in dataclasses.fields(part) if get_origin(f.type) is Literal]
    assert len(chosen) == 9
    for part, f in chosen:
        extra = {"final_learning_rate": 1e-9} if f.name == "schedule" else {}
        for choice in get_args(f.type):
            assert getattr(part(**{f.name: choice}, **extra), f.name) == choice
        config = part(**extra)
        object.__setattr__(config, f.name, "sideways")  # past beartype, which only the tests have
        with pytest.raises(InputError, match=f"^{f.name}: sideways; give one of .*{get_args(f.type)[-1]}"):
            config.__post_init__()


def test_frozen():
    for part in (*PARTS, SentimentConfig):
        config = part()
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(config, dataclasses.fields(part)[0].name, None)
