"""Library to train, measure and inspect LSTMs in JAX.

A public name or a submodule, such as `lstm_jax.convert`, is imported only when it is first
used, so that `import lstm_jax` and `lstm-jax --help` are fast.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import Any

_MODULES = {
    "LSTM": "layers",
    "GRU": "layers",
    "SimpleRNN": "layers",
    "Recurrent": "layers",
    "Bidirectional": "layers",
    "ClassifierHead": "layers",
    "Embedding": "layers",
    "RecurrentStack": "layers",
    "make_stepper": "layers",
    "CELLS": "cells",
    "Cell": "cells",
    "register_cell": "cells",
    "LSTMParams": "cells",
    "LSTMState": "cells",
    "HiddenState": "cells",
    "DropoutMasks": "recurrence.dropout",
    "unroll": "recurrence",
    "SentimentClassifier": "lab.sentiment.model",
    "CharGenerator": "lab.generation.model",
    "InputError": "base.errors",
    "adam": "training.optimizers",
    "keras_adam": "training.optimizers",
    "make_train_step": "training.make_train_step",
    "fit": "training.fit",
    "Best": "training.fit",
    "Checkpoints": "training.fit",
    "runs": "lab.runs.table",
    "use_cpu_cores": "base.sharding",
    "compiled_code": "native",
}


__all__ = list(_MODULES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("lstm-jax")
        except PackageNotFoundError:  # a checkout that is not installed
            return "unknown"
    if name in _MODULES:
        return getattr(import_module(f"lstm_jax.{_MODULES[name]}"), name)
    if not name.startswith("_") and find_spec(f"lstm_jax.{name}"):
        return import_module(f"lstm_jax.{name}")
    raise AttributeError(f"module lstm_jax has no attribute {name}")


def __dir__() -> list[str]:
    return sorted(_MODULES)
