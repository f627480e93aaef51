"""Functions that return the results of a run: checksums of the last checkpoints, and
the rows of metrics without times.
"""

from pathlib import Path
from typing import Any

from tests.helpers.read_checkpoints import newest


def final(run: Path) -> dict[str, Any]:
    """Return a dict with one entry for the latest and one for the best checkpoint of a
    run.

    Each entry is a dict of the step number, the checksums of all arrays, and the rows
    of metrics without times.
    """
    return {name: newest(run / "checkpoints" / name) for name in ("latest", "best")}
