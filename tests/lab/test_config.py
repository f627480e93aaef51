"""Tests of configs: bounds, the round trip through JSON, and files that contain no
config.
"""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lstm_jax.base.errors import InputError
from lstm_jax.lab.config import read_config, to_json
from lstm_jax.lab.forecast.config import (
    SeriesConfig,
)
from lstm_jax.lab.generation.config import (
    GenerationConfig,
    GenerationModelConfig,
    SampleConfig,
    TextConfig,
)
from lstm_jax.lab.sentiment.config import (
    DataConfig,
    SentimentConfig,
    SentimentModelConfig,
)
from lstm_jax.lab.tasks import TASKS
from lstm_jax.training.config import TrainConfig

FIELDS = {
    "data": (SentimentConfig, "maxlen", "padding"),
    "model": (GenerationConfig, "layers", "dropout_masks"),
    "train": (GenerationConfig, "batch_size", "schedule"),
    "sample": (GenerationConfig, "sample_chars", ""),
}
"""Dict from the name of a section to the config of a task, a number in the section, and
a choice in it, if there is one."""


def test_the_default_is_the_source_s_model():
    sentiment, generation = SentimentConfig(), GenerationConfig()
    for part, wanted in (
        (
            sentiment.data,
            {"num_words": 20_000, "maxlen": 80, "padding": "pre", "truncating": "pre"},
        ),
        (
            sentiment.model,
            {
                "embed": 128,
                "units": 128,
                "dropout": 0.2,
                "recurrent_dropout": 0.2,
                "mask_zero": False,
            },
        ),
        (
            sentiment.train,
            {"batch_size": 32, "optimizer": "adam", "learning_rate": 1e-3},
        ),
        (
            generation.data,
            {"length": 40, "step": 5, "clean": "source", "regime": "windows"},
        ),
        (generation.model, {"units": 128, "layers": 1, "embed": 0, "dropout": 0.0}),
        (generation.train, {"batch_size": 32, "optimizer": "adam", "epochs": 10}),
    ):
        assert vars(part) == vars(part) | wanted


WORDS = st.text(max_size=20).map(lambda text: text.encode(errors="replace").decode())


@given(
    st.lists(WORDS, max_size=3).map(tuple),
    st.lists(st.just(0.0) | st.floats(1e-6, 1e6), max_size=3).map(tuple),
    st.integers(1, 500),
    st.floats(0, 0.99),
    st.sampled_from(["windows", "stream"]),
)
def test_json_round_trip(tmp_path_factory, paths, temperatures, length, share, regime):
    config = GenerationConfig(
        TextConfig(
            data=paths, length=length, regime=regime, validation=share, unseen="drop"
        ),
        GenerationModelConfig(
            units=length,
            embed=length,
            tied=True,
            dropout=share,
            remat=length if length % 2 else "sqrt",
        ),
        TrainConfig(learning_rate=share + 1e-9, seed=2**32 - 1),
        SampleConfig(
            sample_chars=0, sample_prompt=length, sample_temperatures=temperatures
        ),
    )
    assert read_config_of(config, tmp_path_factory.getbasetemp()) == config


def read_config_of(config, folder):
    (folder / "config.json").write_text(to_json(config))
    return read_config(folder / "config.json", type(config))


@pytest.mark.parametrize("part", FIELDS)
def test_unknown_missing_and_wrong_fields(part, tmp_path):
    kind, number, choice = FIELDS[part]
    path, whole = tmp_path / "config.json", json.loads(to_json(kind()))
    fields = [
        {"colour": "red"},
        {number: "many"},
        {number: -1},
        *([{choice: "sideways"}] if choice else []),
    ]
    cases = [
        whole | {part: value}
        for value in (None, [1], *(whole[part] | field for field in fields))
    ]
    for case in (
        *cases,
        {name: value for name, value in whole.items() if name != part},
    ):
        path.write_text(json.dumps(case))
        with pytest.raises(
            InputError,
            match=r"config\.json: .+; name the folder of a finished or interrupted run",
        ):
            read_config(path, kind)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{",
        b"\xff\xfe",
        b"null",
        b'{"data": {}}',
        b'{"data": {}, "sample": {}}',
        b'{"task": "chess"}',
        b'{"task": ["sentiment"]}',
    ],
)
def test_no_config(content, tmp_path):
    path = tmp_path / "config.json"
    with pytest.raises(
        InputError, match=r"config\.json: No such file or directory; name the folder"
    ):
        read_config(path, SentimentConfig)
    path.write_bytes(content)
    for kind in (SentimentConfig, GenerationConfig):
        with pytest.raises(InputError):
            read_config(path, kind)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("part", "field", "value"),
    [
        (DataConfig, "num_words", 3),
        (DataConfig, "data", b"reviews"),
        (DataConfig, "padding", "sideways"),
        (SentimentModelConfig, "dropout", float("nan")),
        (SentimentModelConfig, "bidirectional", 1),
        (SentimentModelConfig, "cell", ["lstm"]),
        (SentimentModelConfig, "backend", 3),
        (SentimentModelConfig, "remat", 0),
        (SentimentModelConfig, "remat", 2**31),
        (SentimentModelConfig, "remat", np.float64(4)),
        (TrainConfig, "final_learning_rate", 1e-5),
        (TrainConfig, "seed", 2**32),
        (SeriesConfig, "gaps", np.array([True])),
        (TextConfig, "validation", 1.0),
        (TextConfig, "article_resets", True),
        (TextConfig, "data", [3]),
        (GenerationModelConfig, "layers", 0),
        (GenerationModelConfig, "tied", True),
        (SampleConfig, "sample_temperatures", 0.5),
        (SampleConfig, "sample_temperatures", (0.5, 1e-7)),
    ],
)
def test_refused(part, field, value):
    with pytest.raises(InputError, match=f"^{field}: "):
        part(**{field: value})


@pytest.mark.parametrize("task", TASKS)
def test_a_task_has_its_names(task):
    """The config class of a task is in the module with the name of the task, and its
    attribute `task` is this name.

    Its attribute `commands`, which error messages print, contains only names of
    commands that exist.
    """
    kind = TASKS[task].config
    assert kind.task == task == kind.__module__.split(".")[2]
    assert set(kind.commands.split(" or ")) <= TASKS[task].commands().keys()


def test_fields_of_later_versions_leave_stored_configs_equal():
    """A new field with its default value is not written to JSON, so that ids of sweeps
    and configs of resumed runs stay equal.
    """
    for made, section, name, other in (
        (SentimentConfig(), "data", "packed", {"packed": 60}),
        (
            GenerationConfig(),
            "data",
            "article_resets",
            {"article_resets": True, "regime": "stream"},
        ),
    ):
        assert name not in json.loads(to_json(made))[section]
        changed = dataclasses.replace(
            made, data=dataclasses.replace(made.data, **other)
        )
        assert json.loads(to_json(changed))[section][name] == other[name]
