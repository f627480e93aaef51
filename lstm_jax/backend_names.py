"""Check of the backend name in a config, and replacement of former backend names in
stored configs.

Importing this module does not import JAX.
"""

import importlib
from typing import Any

from lstm_jax.errors import check_choice

AUTO = "auto"
"""Backend name in a config that lets `lstm_jax.recurrence.resolve_backend` choose the
backend."""
RENAMED = {"native": "compiled"}
"""Dict from the former name of a backend to its current name."""


def check_backend(name) -> None:
    """Check that a backend name in a config is valid."""
    if name != AUTO:
        known = importlib.import_module("lstm_jax.recurrence").BACKENDS
        check_choice("backend", name, (AUTO, *known))


def with_current_names(raw) -> Any:
    """Return a copy of a dict that was loaded from a JSON file, with former backend
    names replaced by the current names.
    """
    if not isinstance(raw, dict):
        return raw
    found = raw.get("backend")
    current = (
        {"backend": RENAMED[found]}
        if isinstance(found, str) and found in RENAMED
        else {}
    )
    return (
        raw
        | current
        | ({"model": with_current_names(raw["model"])} if "model" in raw else {})
    )
