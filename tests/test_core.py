"""The core brings along nothing of the laboratory."""

import subprocess
import sys

PROGRAM = """
import importlib, pkgutil, sys
import flax, jax, optax

before = set(sys.modules)
for room in ("base", "native", "cells", "recurrence", "layers", "training", "convert"):
    package = importlib.import_module(f"lstm_jax.{room}")
    for module in pkgutil.walk_packages(package.__path__, f"lstm_jax.{room}."):
        if not module.name.endswith("keras_layers"):  # it is about layers of Keras
            importlib.import_module(module.name)
print(*{".".join(name.split(".")[:2]) for name in set(sys.modules) - before})
"""
LABORATORY = {
    "grain",
    "keras",
    "lstm_jax.lab",
    "matplotlib",
    "orbax",
    "rich",
    "tensorboard",
    "tensorflow_datasets",
    "tyro",
}


def test_the_core_brings_nothing_of_the_laboratory():
    command = [sys.executable, "-c", PROGRAM]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    names = set(found.stdout.split())
    assert "lstm_jax.training" in names
    assert not LABORATORY & (names | {name.partition(".")[0] for name in names})
