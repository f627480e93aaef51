"""Functions that return the results of a run: checksums of the last checkpoints, and
the rows of metrics without times.
"""

import json
from pathlib import Path
from typing import Any


def final(run: Path) -> dict[str, Any]:
    """Return a dict with one entry for the latest and one for the best checkpoint of a
    run.

    Each entry is a dict of the step number, the checksums of all arrays, and the rows
    of metrics without times.
    """
    found: dict[str, Any] = {}
    for name in ("latest", "best"):
        folder = run / "checkpoints" / name
        path = max(
            folder.glob("*.manifest.json"),
            key=lambda path: int(path.name.split(".")[0]),
        )
        manifest = json.loads(path.read_text().partition("\n")[2])
        rows = [
            {key: value for key, value in row.items() if "second" not in key}
            for row in manifest["extra"]["rows"]
        ]
        found[name] = {
            "step": manifest["step"],
            "leaves": manifest["leaves"],
            "rows": rows,
        }
    return found
