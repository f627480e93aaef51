"""Progress bar that shows the remaining time and prints one line for each finished item."""

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


@contextlib.contextmanager
def bar(title: str, total: int) -> Iterator[Callable[[str], None]]:
    """Show a progress bar during a with-statement.

    If the output is not a terminal, lines are printed but no bar is shown.

    Args:
        title: label of the bar.
        total: number of items.

    Yields:
        A function that takes a line, prints it, and advances the bar by one item.
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
