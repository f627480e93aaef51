"""Fixtures that make folders with the checkpoints of steps 7 and 12."""

import shutil
from pathlib import Path

import pytest
from made_checkpoints import make_state


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory) -> Path:
    # imported here, since a module that is imported before the tests is not checked for
    # types
    from lstm_jax.training import checkpoint

    folder = tmp_path_factory.mktemp("run") / "checkpoints"
    for step in (7, 12):
        checkpoint.save(folder, step, make_state(step), {"epoch": step, "rate": 0.1})
    return folder


@pytest.fixture
def folder(two_steps, tmp_path) -> Path:
    """Return a folder with intact checkpoints of steps 7 and 12, which the test may
    damage.
    """
    return Path(shutil.copytree(two_steps, tmp_path / "copy"))
