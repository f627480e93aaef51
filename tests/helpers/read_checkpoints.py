"""Content of checkpoints, for comparisons of runs."""

import hashlib
import json
from pathlib import Path
from typing import Any


def steps(folder: Path) -> list[int]:
    return sorted(int(path.stem) for path in folder.glob("*.safetensors"))


def newest(folder: Path) -> dict[str, Any]:
    """Return the step of the newest checkpoint in a folder, the SHA-256 of each of its
    arrays, and its rows of metrics without times.
    """
    from lstm_jax.training import checkpoint

    step = steps(folder)[-1]
    content, damage = checkpoint._read(folder, step)
    assert not damage
    leaves = {
        name: hashlib.sha256(array.tobytes()).hexdigest()
        for name, array in content["arrays"].items()
    }
    rows = [
        {name: value for name, value in row.items() if "second" not in name}
        for row in json.loads(content["extra"])["rows"]
    ]
    return {"step": step, "leaves": leaves, "rows": rows}
