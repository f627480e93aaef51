"""The examples: with the recurrence of lstm_jax a program of Flax, Equinox or Haiku trains as with the library's own, step by step."""

import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
NEEDS = {"nnx_loop": "flax", "linen_layer": "flax", "equinox_layer": "equinox", "haiku_layer": "haiku"}


def test_all_are_here() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {*NEEDS, "common"}


@pytest.mark.parametrize("name", NEEDS)
def test_losses_are_equal(name: str, monkeypatch: pytest.MonkeyPatch, peer_rules) -> None:
    pytest.importorskip(NEEDS[name], reason=f"{NEEDS[name]} is not installed")
    monkeypatch.syspath_prepend(str(EXAMPLES))
    common = import_module("common")
    try:
        with peer_rules():
            found = import_module(name).run(common.Sizes(50, 6, 5, 7, 4), 12)
    finally:
        for module in (name, "common"):
            sys.modules.pop(module, None)
    np.testing.assert_allclose(found.ours, found.theirs, rtol=1e-5)
    assert found.ours[-1] != found.ours[0]
    assert min(found.milliseconds) > 0
