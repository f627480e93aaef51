"""Folders with two checkpoints."""

import shutil
from pathlib import Path

import pytest
from made_checkpoints import make_state


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory) -> Path:
    from lstm_jax.training import checkpoint  # not above: what is imported before the tests are is not checked for types

    folder = tmp_path_factory.mktemp("run") / "checkpoints"
    for step in (7, 12):
        checkpoint.save(folder, step, make_state(step), {"epoch": step, "rate": 0.1})
    return folder


@pytest.fixture
def folder(two_steps, tmp_path) -> Path:
    """Good steps 7 and 12, to be spoilt."""
    return Path(shutil.copytree(two_steps, tmp_path / "copy"))
