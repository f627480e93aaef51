"""Old names of the recurrence backends, in configs and environments on disk."""

from typing import Any

RENAMED = {"native": "compiled"}
"""Old name -> name now."""


def with_current_names(raw: Any) -> Any:
    """Return a config or an environment read from disk with the names that backends have now."""
    if not isinstance(raw, dict):
        return raw
    found = raw.get("backend")
    current = {"backend": RENAMED[found]} if isinstance(found, str) and found in RENAMED else {}
    return raw | current | ({"model": with_current_names(raw["model"])} if "model" in raw else {})
