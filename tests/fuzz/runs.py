"""Return the result of a run: the sums of its last checkpoints and its rows, without times."""

import json
from pathlib import Path
from typing import Any


def steps(folder: Path) -> list[int]:
    """Steps with a manifest in a folder of checkpoints, ascending."""
    return sorted(int(path.name.split(".")[0]) for path in folder.glob("*.manifest.json")) if folder.is_dir() else []


def final(run: Path) -> dict[str, Any]:
    """Step, sums of all arrays of the last checkpoint and of the best one, rows."""
    found: dict[str, Any] = {}
    for name in ("latest", "best"):
        folder = run / "checkpoints" / name
        content = (folder / f"{steps(folder)[-1]}.manifest.json").read_text().partition("\n")[2]
        manifest = json.loads(content)
        rows = [{key: value for key, value in row.items() if "second" not in key} for row in manifest["extra"]["rows"]]
        found[name] = {"step": manifest["step"], "leaves": manifest["leaves"], "rows": rows}
    return found
