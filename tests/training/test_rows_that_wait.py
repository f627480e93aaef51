"""Runs in which rows of a table miss steps until they catch up."""

import dataclasses

import numpy as np
import pytest
from tables import BACKENDS
from test_loop import CONFIG, leaf_sums, train, train_until_saved
from test_step import TABLE, tall

from lstm_jax import native
from lstm_jax.base.errors import InputError

pytestmark = [
    pytest.mark.skipif(
        "compiled" not in BACKENDS,
        reason="no C++ compiler to build the compiled step with",
    ),
]


@pytest.mark.slow
def test_where_rows_wait_bits_do_not_depend_on_checkpoints(tmp_path, monkeypatch):
    """Checkpoints every 5 steps, and resuming from one of them, change no bit of a run
    whose table rows take missed steps every 8 steps.

    Epochs have 20 steps. The run is resumed from a checkpoint in which some rows have
    missed steps. Without compiled code, resuming from this checkpoint is an error.
    """
    monkeypatch.setattr("lstm_jax.training.step.CATCH_UP_INTERVAL", 8)
    config = dataclasses.replace(CONFIG, epochs=2)
    train(config, tall(), table=TABLE, checkpoints=tmp_path / "whole")
    config, options = (
        dataclasses.replace(config, checkpoint_steps=5),
        {"table": TABLE, "checkpoints": tmp_path / "cut"},
    )
    *_, (step, state) = train_until_saved(25, config, tall(), **options)
    assert (step, np.asarray(state.behind[TABLE]).max() > 0) == (25, True)
    with (
        native.compiled_code(False),
        pytest.raises(
            InputError,
            match=rf"state\.behind\.{TABLE} of step 25: not in this model or optimiser; "
            "use the config and the compiled code",
        ),
    ):
        train(config, tall(), resume=True, **options)
    train(config, tall(), resume=True, **options)
    assert leaf_sums(tmp_path / "cut") == leaf_sums(tmp_path / "whole")
