"""Progress of a sweep: a bar with the time left on a terminal, one line for each step elsewhere."""

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


@contextlib.contextmanager
def bar(title: str, total: int) -> Iterator[Callable[[str], None]]:
    """Yield advance(line), which prints the line and moves the bar one step.

    Args:
        title: label of the bar.
        total: number of steps.
    """
    console = Console(soft_wrap=True)
    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as display:
        task = display.add_task(title, total=total)

        def advance(line: str) -> None:
            if console.is_terminal:
                display.console.print(line, highlight=False)
            else:
                print(line, flush=True)
            display.advance(task)

        yield advance
