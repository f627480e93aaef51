"""Sentiment run that the command line trains, for tests of commands that read a run."""

import os
from pathlib import Path

import pytest

from lstm_jax import cli

_SIZES = "--vocabulary frequency --num-words 300 --maxlen 20 --embed 8 --units 8 --epochs 1 --batch-size 16 --no-figures"
SIZES = _SIZES.split()


def train_run(reviews: Path, root: Path) -> str:
    """Train a run with `lstm-jax train sentiment` and return its folder."""
    folder = root / "a long name of a folder that would not fit into a line of eighty characters" / "[bold]run[/x]"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
        code = cli.main(["train", "sentiment", "--data", str(reviews), "--cache-dir", str(root / "cache"), "--run", str(folder), *SIZES])
    assert code == 0
    return str(folder)
