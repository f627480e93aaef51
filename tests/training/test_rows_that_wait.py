"""Runs in which rows of a table miss steps until they catch up: checkpoints, and
resumption with and without compiled code.
"""

import dataclasses

import numpy as np
import pytest
from tables import BACKENDS
from test_loop import CONFIG, leaf_sums, stop_after, train, train_until_saved
from test_step import TABLE, tall

from lstm_jax import native
from lstm_jax.base.errors import InputError
from lstm_jax.training.loop import Interrupted

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
    assert (step, np.asarray(state.behind).max() > 0) == (25, True)
    with (
        native.compiled_code(False),
        pytest.raises(
            InputError,
            match=r"state\.behind of step 25: not zero; .* compiled code: resume .* "
            r"\(turned off",
        ),
    ):
        train(config, tall(), resume=True, **options)
    train(config, tall(), resume=True, **options)
    assert leaf_sums(tmp_path / "cut") == leaf_sums(tmp_path / "whole")


def test_a_run_with_compiled_code_goes_on_without(tmp_path):
    """A run with compiled code, interrupted after an epoch, can be continued without
    it, with the same results up to rounding.

    Dense updates can continue the run, because no row has missed steps at the end of an
    epoch.
    """
    config, options = dataclasses.replace(CONFIG, epochs=2), {"checkpoints": tmp_path}
    whole = train(config, tall(), table=TABLE)
    with pytest.raises(Interrupted):
        train(config, tall(), table=TABLE, callbacks=[stop_after(1)], **options)
    assert "state.behind" in leaf_sums(tmp_path)
    with native.compiled_code(False):
        found = train(config, tall(), table=TABLE, resume=True, **options)
    assert "state.behind" not in leaf_sums(tmp_path)
    assert found.rows[1]["train_loss"] == pytest.approx(
        whole.rows[1]["train_loss"], rel=1e-5
    )
    for name, array in whole.params.items():
        np.testing.assert_allclose(found.params[name], array, atol=2e-6)
