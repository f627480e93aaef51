"""Run the fuzzers: `python -m tests.fuzz [flags|files|flips|kills|all] --cases N --seed
S`.

Each case copies a folder with small data and a finished run of each task, and runs one
or a few commands in the copy. For each kind of cases, each fault is listed once, with
the number of cases that have the fault, and with the seed and number of up to three of
these cases. `--only NUMBER` runs a single case again. The exit code is 1 if there is
any fault.
"""

import argparse
import contextlib
import importlib
import os
import queue
import random
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from tests.fuzz.case import Verdict
from tests.fuzz.shell import Shell
from tests.fuzz.world import World, make_world

LONG = {"flags": 3000, "files": 1000, "flips": 500, "kills": 200}
"""Number of cases of each kind in the long run, which is the default."""


class Row(NamedTuple):
    """Case and its verdict."""

    kind: str
    seed: int
    number: int
    verdict: Verdict


def run_cases(
    world: World,
    shells: Sequence[Shell],
    kind: str,
    numbers: Sequence[int],
    seed: int,
    seconds: float = 0,
) -> Iterator[Row]:
    """Run the cases with the given numbers, one at a time in each shell, and yield the
    `Row` of each case as soon as the case has ended.

    The kind, the seed and the number determine a case. After `seconds` (0: no limit),
    no further case is begun.
    """
    module = importlib.import_module(f"tests.fuzz.{kind}")
    free: queue.SimpleQueue[Shell] = queue.SimpleQueue()
    for shell in shells:
        free.put(shell)
    began = time.monotonic()

    def work(number: int) -> Row | None:
        if seconds and time.monotonic() - began > seconds:
            return None
        shell = free.get()
        try:
            return Row(
                kind,
                seed,
                number,
                module.run(random.Random(f"{kind} {seed} {number}"), shell, world),
            )
        finally:
            free.put(shell)

    with ThreadPoolExecutor(len(shells)) as pool:
        for future in as_completed([pool.submit(work, number) for number in numbers]):
            if (row := future.result()) is not None:
                yield row


def native_library() -> Path | None:
    """Return the path of the compiled backend, installed or in the tests' own cache
    folder, or None if it cannot be built.

    XDG_CACHE_HOME of this process is set to the tests' own cache folder.
    """
    from lstm_jax import native
    from lstm_jax.base.errors import InputError

    os.environ["XDG_CACHE_HOME"] = str(
        Path(tempfile.gettempdir()) / f"lstm_jax-tests-{os.getuid()}"
    )
    try:
        if native.why_not():
            native.build()
        return native.loaded_library()
    except InputError:
        return None


def report(console: Console, rows: Sequence[Row]) -> None:
    """Print the faults, the most frequent one first, each with up to three cases that
    have it, then a table of the kinds of cases.
    """
    faults, kinds = defaultdict(list), defaultdict(list)
    for row in sorted(rows, key=lambda row: row[:3]):
        kinds[row.kind].append(row.verdict)
        if row.verdict.fault:
            faults[row.kind, row.verdict.fault].append(row)
    for (kind, fault), members in sorted(
        faults.items(), key=lambda item: -len(item[1])
    ):
        console.print(
            f"\n{len(members)} of {kind}: {escape(fault)}", style="bold", soft_wrap=True
        )
        for row in members[:3]:
            console.print(
                f"  --seed {row.seed} --only {row.number}: {escape(row.verdict.line)}",
                highlight=False,
                soft_wrap=True,
            )
    table = Table(
        "kind",
        "cases",
        "faults",
        "exit 0",
        "exit 2",
        "exit 130",
        "seconds, longest",
        title="fuzz",
    )
    for kind, verdicts in kinds.items():
        codes = [
            sum(verdict.ended == code for verdict in verdicts)
            for code in ("0", "2", "130")
        ]
        counts = len(verdicts), sum(bool(verdict.fault) for verdict in verdicts), *codes
        table.add_row(
            kind,
            *map(str, counts),
            f"{max(verdict.seconds for verdict in verdicts):.1f}",
        )
    console.print(table)


def main() -> int:
    """Run the cases that the command line selects, and return 1 if there is a fault,
    else 0.
    """
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("kind", choices=[*LONG, "all"], nargs="?", default="all")
    parser.add_argument(
        "--cases",
        type=int,
        default=0,
        help="cases of each kind; 0: those of the long run",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--only", type=int, help="the number of one case, run alone and shown in full"
    )
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument(
        "--seconds",
        type=float,
        default=0,
        help="begin no case of a kind after so long; 0: no limit",
    )
    asked = parser.parse_args()
    console, rows = Console(), []
    with contextlib.ExitStack() as stack:
        with console.status(
            "building the compiled backend, training a tiny run of each task"
        ):
            world = stack.enter_context(make_world(native_library()))
        shells = [stack.enter_context(world.shell()) for _ in range(asked.workers)]
        for kind in LONG if asked.kind == "all" else [asked.kind]:
            numbers = (
                range(asked.cases or LONG[kind]) if asked.only is None else [asked.only]
            )
            cases = run_cases(world, shells, kind, numbers, asked.seed, asked.seconds)
            rows += track(
                cases,
                kind,
                len(numbers),
                console=console,
                disable=not console.is_terminal,
            )
    if asked.only is not None:
        for row in rows:
            console.print(
                row.verdict.line,
                row.verdict.ended,
                row.verdict.err,
                markup=False,
                soft_wrap=True,
            )
    report(console, rows)
    return int(any(row.verdict.fault for row in rows))


if __name__ == "__main__":
    sys.exit(main())
