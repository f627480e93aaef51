"""Axes of a sweep: sizes as flags, and the workloads over them."""

import argparse
from collections.abc import Iterable
from dataclasses import replace
from itertools import product

from bench.workloads import BATCH_SIZES, LENGTHS, UNITS, Workload, workload
from lstm_jax.errors import InputError

FLAGS = {"H": "units", "T": "length", "B": "batch"}


def add_flags(parser: argparse.ArgumentParser, names: Iterable[str] = FLAGS.values()) -> None:
    """--units, --length, --batch, or those named."""
    for name in names:
        parser.add_argument(f"--{name}", type=sizes, help="sizes, as in 32,64,128 or 32..512")


def given(options: argparse.Namespace) -> dict[str, tuple[int, ...]]:
    """The axes that the flags give, by letter."""
    return {letter: values for letter, name in FLAGS.items() if (values := getattr(options, name))}


def works_of(names: Iterable[str], axes: dict[str, tuple[int, ...]], cells: Iterable[str] = ("lstm",)) -> list[Workload]:
    """The workloads over these axes (letters of `bench.workloads.LETTERS`), those without the axes that do not change it, with each cell.

    Raises:
        InputError: if there is no such workload.
    """
    found = {}
    for name, cell in product(names, cells):
        over = ({"H": UNITS, "T": LENGTHS, "B": BATCH_SIZES} | axes) if name == "recurrence" else {} if name == "evaluation" else axes
        for sizes in product(*over.values()):
            parts = [f"{letter}={size}" for letter, size in zip(over, sizes, strict=True)] + [f"cell={cell}"] * (cell != "lstm")
            changes = ",".join(parts)
            try:
                work = workload(name + (f":{changes}" if changes and ":" not in name else ""))
            except ValueError as error:
                raise InputError("workload", name, str(error).partition(": ")[2]) from error
            # the source's own sizes keep its name
            plain = workload(name.partition(":")[0])
            work = plain if name != "recurrence" and replace(work, name=plain.name) == plain else work
            found[work.name] = work
    return list(found.values())


def sizes(text: str) -> tuple[int, ...]:
    """20,40 or 32..512, each twice the one before.

    Raises:
        ValueError: otherwise, which argparse tells as a bad value.
    """
    first, dots, last = text.partition("..")
    if not dots:
        return tuple(int(part) for part in text.split(","))
    found = [int(first)]
    while 2 * found[-1] <= int(last):
        found.append(2 * found[-1])
    return tuple(found)
