"""Former names of the recurrence backends, which configs and environment records on disk may still contain."""

from typing import Any

RENAMED = {"native": "compiled"}
"""Dict from the former name of a backend to its current name."""


def with_current_names(raw: Any) -> Any:
    """Return a copy of a config or environment record, read from disk, with former backend names replaced by current ones.

    The field "backend" is replaced, also inside the field "model". If `raw` is not a dict, it is returned unchanged.
    """
    if not isinstance(raw, dict):
        return raw
    found = raw.get("backend")
    current = {"backend": RENAMED[found]} if isinstance(found, str) and found in RENAMED else {}
    return raw | current | ({"model": with_current_names(raw["model"])} if "model" in raw else {})
