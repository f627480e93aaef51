"""Run the fuzzers: `python -m tests.fuzz [flags|files|kills|all] --cases N --seed S`.

Each case copies a folder with small data and a finished run of each task, and runs one
or a few commands in the copy. Each fault is listed once, with the number of cases that
have it and up to three of these cases. `--only NUMBER` runs a single case again. The
exit code is 1 if there is any fault.
"""

import argparse
import contextlib
import importlib
import os
import queue
import random
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from tests.fuzz.judge import Verdict
from tests.fuzz.shell import Shell
from tests.fuzz.world import World, make_world

LONG = {"flags": 3000, "files": 1500, "kills": 200}
"""Number of cases of each kind in the long run, which is the default."""


def run_cases(
    world: World, shells: Sequence[Shell], kind: str, numbers: Sequence[int], seed: int
) -> Iterator[tuple[int, Verdict]]:
    """Run the cases with the given numbers, one at a time in each shell, and yield the
    number and the verdict of each case as soon as it has ended.

    The kind, the seed and the number determine a case.
    """
    module = importlib.import_module(f"tests.fuzz.{kind}")
    free: queue.SimpleQueue[Shell] = queue.SimpleQueue()
    for shell in shells:
        free.put(shell)

    def work(number: int) -> tuple[int, Verdict]:
        draw = random.Random(f"{kind} {seed} {number}")
        shell = free.get()
        try:
            return number, module.run(draw, shell, world)
        finally:
            free.put(shell)

    with ThreadPoolExecutor(len(shells)) as pool:
        for future in as_completed([pool.submit(work, number) for number in numbers]):
            yield future.result()


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


def report(kind: str, seed: int, rows: Sequence[tuple[int, Verdict]]) -> bool:
    """Print the faults of the cases of one kind, the most frequent one first, and
    return whether there is any.
    """
    faults = defaultdict(list)
    for number, verdict in sorted(rows, key=lambda row: row[0]):
        if verdict.fault:
            faults[verdict.fault].append((number, verdict))
    for fault, members in sorted(faults.items(), key=lambda item: -len(item[1])):
        print(f"\n{len(members)} of {kind}: {fault}")
        for number, verdict in members[:3]:
            print(f"  {kind} --seed {seed} --only {number}: {verdict.line}")
    codes = Counter(verdict.ended for _, verdict in rows)
    ended = ", ".join(f"{count} with exit code {code}" for code, count in codes.items())
    longest = max(verdict.seconds for _, verdict in rows)
    print(f"{kind}: {len(faults)} faults; {ended}; at most {longest:.1f} s", flush=True)
    return bool(faults)


def main() -> int:
    """Run the cases that the command line selects, and return 1 if there is a fault,
    else 0.
    """
    summary = (__doc__ or "").split("\n\n")[0]
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=summary)
    parser.add_argument("kind", choices=[*LONG, "all"], nargs="?", default="all")
    parser.add_argument("--cases", type=int, help="cases of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="one case, run alone, shown in full")
    parser.add_argument("--workers", type=int, default=2)
    asked = parser.parse_args()

    found = False
    with contextlib.ExitStack() as stack:
        world = stack.enter_context(make_world(native_library()))
        shells = [stack.enter_context(world.shell()) for _ in range(asked.workers)]
        for kind in LONG if asked.kind == "all" else [asked.kind]:
            numbers = range(asked.cases or LONG[kind])
            if asked.only is not None:
                numbers = [asked.only]
            rows = list(run_cases(world, shells, kind, numbers, asked.seed))
            if asked.only is not None:
                print(rows[0][1].line, rows[0][1].ended, rows[0][1].err)
            found |= report(kind, asked.seed, rows)
    return int(found)


if __name__ == "__main__":
    sys.exit(main())
