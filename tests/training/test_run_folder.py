"""A run's folder is entered as a new one or, on purpose, as the one of the same config."""

import json
import os

import jax
import pytest

from lstm_jax import sharding
from lstm_jax.errors import InputError
from lstm_jax.training.run_folder import RunFolder

CONFIG = '{"units": 8}\n'


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("exists", [False, True])
def test_a_new_or_empty_folder(resume, exists, tmp_path):
    run = RunFolder(tmp_path / "a" / "b")
    if exists:
        run.path.mkdir(parents=True)
    run.start(CONFIG, resume)
    assert run.config.read_text() == CONFIG
    assert [path.name for path in run.path.iterdir()] == ["config.json"]


def test_a_run_is_entered_only_on_purpose_and_with_its_config(tmp_path):
    run = RunFolder(tmp_path / "run")
    run.start(CONFIG, False)
    with pytest.raises(InputError, match="holds a run; go on with it with --resume, or name another folder"):
        run.start(CONFIG, False)
    run.start('{ "units":8 }', True)
    with pytest.raises(InputError, match="holds a run of another config; give its config to resume it"):
        run.start('{"units": 9}', True)
    assert run.config.read_text() == CONFIG


@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_of_something_else_is_left_alone(resume, tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(InputError, match="not empty; name a new folder"):
        RunFolder(tmp_path).start(CONFIG, resume)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(InputError, match="is a file; name a new folder"):
        RunFolder(tmp_path / "thesis.tex").start(CONFIG, resume)


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe\x00", b""])
def test_a_damaged_config(content, tmp_path):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(InputError, match=r"config .*config\.json: .*damaged"):
        RunFolder(tmp_path).start(CONFIG, True)


def test_environment(tmp_path):
    run = RunFolder(tmp_path / "run")
    run.write_environment(sharding.make_mesh(), "hoisted")
    found = json.loads(run.environment.read_text())
    assert found["backend"] == "hoisted"
    assert found["versions"]["jax"] == jax.__version__
    assert found["cores"] == len(os.sched_getaffinity(0))
    assert len(found["devices"]) == jax.device_count()
    assert found["devices"][0].startswith(jax.default_backend())
    assert set(found) >= {"python", "git", "platform", "cpu", "hosts", "xla_flags", "matmul_precision"}


def test_environment_without_git_or_proc(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    run = RunFolder(tmp_path / "run")
    run.write_environment(sharding.make_mesh(1), "reference")
    assert json.loads(run.environment.read_text())["git"] == ""


def test_data_that_changed_is_noticed(tmp_path):
    run = RunFolder(tmp_path / "run")
    run.fix_data("abc")
    run.fix_data("abc")
    with pytest.raises(InputError, match="changed since the run began"):
        run.fix_data("abd")
    assert run.data.read_text() == "abc\n"
