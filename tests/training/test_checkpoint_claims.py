"""A checkpoint folder belongs to one training: a new one needs a folder without
checkpoints, and two cannot use one at the same time.
"""

import dataclasses
import os
import shutil

import pytest
from test_loop import CONFIG, leaf_sums, timeless, train

from lstm_jax.base.errors import InputError
from lstm_jax.training import checkpoint

LONG, SHORT = (
    dataclasses.replace(CONFIG, epochs=2),
    dataclasses.replace(CONFIG, epochs=1, seed=1),
)


def test_a_new_training_needs_a_folder_without_checkpoints(tmp_path):
    """A new training refuses a folder that holds checkpoints of another training.

    Otherwise the older checkpoints, if their steps are higher, would be kept instead of
    the new ones, and a resumption would load them.
    """
    folder = tmp_path / "old"
    first = train(LONG, checkpoints=folder)
    before = leaf_sums(folder)
    message = (
        rf"^checkpoint folder {folder}: holds checkpoints of a training; give "
        r"resume=True to continue it, or name another"
    )
    with pytest.raises(InputError, match=message):
        train(SHORT, checkpoints=folder)
    assert leaf_sums(folder) == before
    assert timeless(train(LONG, checkpoints=folder, resume=True).rows) == timeless(
        first.rows
    )
    shutil.rmtree(folder / "latest")
    # checkpoints in one of the folders are enough
    with pytest.raises(InputError, match=message):
        train(SHORT, checkpoints=folder)
    shutil.rmtree(folder / "best")
    train(SHORT, checkpoints=folder)
    assert (
        checkpoint.steps(folder / "latest") == checkpoint.steps(folder / "best") == [6]
    )


@pytest.mark.parametrize("resume", [False, True])
def test_two_trainings_at_once(resume, tmp_path):
    """A second training is refused if it begins in the folder of a running one.

    The first training then ends with the same metrics as a training alone, and leaves
    no lock file.
    """
    refused = []

    def second(record):
        with pytest.raises(InputError) as error:
            train(SHORT, checkpoints=tmp_path / "new", resume=resume)
        refused.append(str(error.value))

    result = train(LONG, checkpoints=tmp_path / "new", callbacks=[second])
    owner = f"process {os.getpid()} on {os.uname().nodename}"
    assert (
        refused
        == [
            (
                f"checkpoint folder {tmp_path / 'new'}: in use by {owner}; wait "
                "until it ends, or name another folder"
            )
        ]
        * 2
    )
    assert timeless(result.rows) == timeless(train(LONG).rows)
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [
        "best",
        "latest",
    ]


def test_a_folder_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(
        InputError,
        match=rf"^checkpoint folder {tmp_path / 'file'}: File exists; name a folder "
        r"that can be written$",
    ):
        train(SHORT, checkpoints=tmp_path / "file")
