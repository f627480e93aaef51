"""Progress bar, messages and signals of a training."""

import contextlib
from collections.abc import Iterator
from functools import partial

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from lstm_jax.lab.machine.console import say
from lstm_jax.lab.machine.interrupts import noted_signals
from lstm_jax.training.fit import Watch


@contextlib.contextmanager
def progress(console: Console | None = None) -> Iterator[Watch]:
    """Yield a `Watch` that shows a progress bar and messages on a console, and that
    asks the training to save its state and stop after a SIGINT or SIGTERM.

        with progress() as watch:
            lstm_jax.fit(..., watch=watch)

    A second SIGINT raises `KeyboardInterrupt`. If the console is not a terminal, there
    is no bar.
    """
    console = console or Console()
    tasks: dict[int, TaskID] = {}

    with noted_signals() as asked, progress_bar(console) as bar:

        def steps(epoch, epochs, done, total):
            if epoch not in tasks:
                tasks[epoch] = bar.add_task(f"epoch {epoch}/{epochs}", total=total)
            bar.update(tasks[epoch], completed=done)
            if done == total:
                bar.remove_task(tasks[epoch])

        yield Watch(partial(say, console), steps, lambda: asked.number)


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f} steps/s" if task.speed else "")


def progress_bar(console: Console) -> Progress:
    """Return a progress bar for the steps of an epoch. If the console is not a
    terminal, the bar shows nothing.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeRemainingColumn(),
    )
    return Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    )
