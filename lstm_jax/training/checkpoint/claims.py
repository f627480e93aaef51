"""Lock that lets only one training at a time use a folder of checkpoints."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from lstm_jax.errors import require
from lstm_jax.files.locks import locked
from lstm_jax.runtime import processes
from lstm_jax.training.checkpoint.disk import explained
from lstm_jax.training.checkpoint.sums import steps

LOCK = "run.lock"


@contextlib.contextmanager
def claimed(folder: Path, parts: Sequence[str], resume: bool) -> Iterator[None]:
    """Lock the folder of the checkpoints of a training against other trainings, until the context ends."""
    with contextlib.ExitStack() as stack:
        with processes.together():
            if processes.first():
                with explained(folder):
                    folder.mkdir(parents=True, exist_ok=True)
                stack.enter_context(locked(folder / LOCK, f"checkpoint folder {folder}"))
                held = any(steps(folder / part) for part in parts)
                remedy = "give resume=True to continue it, or name another folder"
                require(resume or not held, f"checkpoint folder {folder}", "holds checkpoints of a training", remedy)
        yield
