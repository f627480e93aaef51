"""Tests that files of runs may contain former names of backends, whereas new calls may
not.
"""

import json
from pathlib import Path

import pytest

from lstm_jax.base.errors import InputError
from lstm_jax.lab.config_files import read_config, to_json
from lstm_jax.lab.names import with_current_names
from lstm_jax.lab.runs.folder import RunFolder, differences
from lstm_jax.lab.sentiment.config import SentimentConfig, SentimentModelConfig
from lstm_jax.recurrence import resolve_backend


def _old(config: SentimentConfig) -> str:
    return to_json(config).replace('"backend": "compiled"', '"backend": "native"')


def test_a_config_with_an_old_name_is_read_and_resumed(tmp_path: Path) -> None:
    config = SentimentConfig(model=SentimentModelConfig(backend="compiled"))
    (tmp_path / "config.json").write_text(_old(config))
    assert '"native"' in (tmp_path / "config.json").read_text()
    assert read_config(tmp_path / "config.json", SentimentConfig) == config
    RunFolder(tmp_path).start(to_json(config), resume=True)
    with pytest.raises(InputError, match="holds a run of another config"):
        RunFolder(tmp_path).start(to_json(SentimentConfig()), resume=True)


def test_an_environment_with_an_old_name_is_the_current_one() -> None:
    assert (
        differences(
            {"backend": "native", "cores": 2}, {"backend": "compiled", "cores": 2}
        )
        == []
    )
    assert differences({"backend": "native"}, {"backend": "hoisted"}) == [
        "backend compiled, now hoisted"
    ]


def test_other_values_stay() -> None:
    for raw in (
        [1],
        None,
        {"backend": ["native"]},
        {"model": [1]},
        {"data": {"unit": "native"}},
        {"model": {"backend": "hoisted"}},
    ):
        assert with_current_names(json.loads(json.dumps(raw))) == raw


def test_new_calls_have_current_names_only() -> None:
    with pytest.raises(
        InputError, match=r"^backend: native; give one of compiled, hoisted, "
    ):
        resolve_backend("native")
