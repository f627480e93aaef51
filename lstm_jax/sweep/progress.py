"""Progress bar that shows the remaining time and prints one line for each finished item."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column
from rich.text import Text


@dataclass
class Tally:
    """Counts of the runs of a sweep: all runs, and those that are running, done and failed.

    The executor updates `running`, and the function `planner.run` updates `done` and `failed`.
    """

    total: int
    running: int = 0
    done: int = 0
    failed: int = 0

    def __str__(self) -> str:
        waiting = self.total - self.running - self.done - self.failed
        return f"{self.running} running, {waiting} waiting, {self.done} done, {self.failed} failed"


class _TallyColumn(ProgressColumn):
    """Column of a progress bar that shows a tally, which is read each time the bar is drawn."""

    def __init__(self, tally: Tally):
        super().__init__(Column(no_wrap=True))
        self.tally = tally

    def render(self, task: Task) -> Text:
        del task
        return Text(str(self.tally))


@contextlib.contextmanager
def bar(title: str, total: int, tally: Tally | None = None) -> Iterator[Callable[[str], None]]:
    """Show a progress bar during a with-statement."""
    console = Console(soft_wrap=True)
    counts = (MofNCompleteColumn(),) if tally is None else (_TallyColumn(tally),)
    columns = (TextColumn(title, markup=False), BarColumn(None), *counts, TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as display:
        task = display.add_task(title, total=total)

        def advance(line: str) -> None:
            if console.is_terminal:
                display.console.print(Text(line))  # brackets in the line are no markup
            else:
                print(line, flush=True)
            display.advance(task)

        yield advance
