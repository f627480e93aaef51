"""Progress of a sweep: a bar with the time left on a terminal, a line a step elsewhere."""

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


@contextlib.contextmanager
def bar(what: str, total: int) -> Iterator[Callable[[str], None]]:
    """Show a bar of `total` steps; the context gives advance(line), which prints the line and moves the bar by one step."""
    console = Console(soft_wrap=True)
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as shown:
        task = shown.add_task(what, total=total)

        def advance(line: str) -> None:
            if console.is_terminal:
                shown.console.print(line, highlight=False)
            else:
                print(line, flush=True)
            shown.advance(task)

        yield advance
