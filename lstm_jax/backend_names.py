"""Names of the recurrence backends in configs, which import no JAX, and former names that files on disk may still contain."""

import importlib
from typing import Any

from lstm_jax.errors import require

AUTO = "auto"
"""Stands for the choice of `resolve_backend`."""
RENAMED = {"native": "compiled"}
"""Dict from the former name of a backend to its current name."""


def check_backend(name: Any) -> None:
    """Check the backend of a config; for any but "auto" the table `lstm_jax.recurrence.BACKENDS` is imported, and JAX with it.

    Raises:
        InputError: if it is neither "auto" nor a name in the table.
    """
    if name != AUTO:
        known = importlib.import_module("lstm_jax.recurrence").BACKENDS
        require(isinstance(name, str) and name in known, "backend", name, f"give one of {', '.join((AUTO, *known))}")


def with_current_names(raw: Any) -> Any:
    """Return a copy of a config or environment record, read from disk, with former backend names replaced by current ones.

    The field "backend" is replaced, also inside the field "model". If `raw` is not a dict, it is returned unchanged.
    """
    if not isinstance(raw, dict):
        return raw
    found = raw.get("backend")
    current = {"backend": RENAMED[found]} if isinstance(found, str) and found in RENAMED else {}
    return raw | current | ({"model": with_current_names(raw["model"])} if "model" in raw else {})
