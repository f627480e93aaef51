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
    """Lock the folder of the checkpoints of a training against other trainings, until the context ends.

    The folder is created if it does not exist. All processes of a training must use this context manager together. Process 0 holds the
    lock.

    Args:
        folder: folder of the checkpoints.
        parts: names of the subfolders of `folder` that can hold checkpoints.
        resume: whether the subfolders may hold checkpoints of an earlier training. A new training must not add checkpoints to them: only
            the checkpoints with the highest step numbers are kept, so the first checkpoints of the new training would be deleted.

    Raises:
        InputError: if another training uses the folder, if the folder cannot be written, or if a subfolder holds checkpoints and `resume`
            is false.
    """
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
