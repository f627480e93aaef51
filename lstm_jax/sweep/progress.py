"""Progress of a sweep: on a terminal a bar with the time left, and one printed line for each finished item."""

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


@contextlib.contextmanager
def bar(title: str, total: int) -> Iterator[Callable[[str], None]]:
    """Show a progress bar, and yield a function advance(line) that prints the line and moves the bar by one item.

    The bar is shown on a terminal only.

    Args:
        title: label of the bar.
        total: number of items.
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
