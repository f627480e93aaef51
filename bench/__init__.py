"""Benchmarks: each measuring command appends rows to its own file in `bench/results/`, and reports are made from the rows.

Terms: a peer is a library that is measured, this project included; a candidate is a peer with options; a workload is a kind of training
step, evaluation or recurrence with its sizes; a row is a JSON object with the result of one process or one epoch.
"""

import argparse
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
"""Folder of the files of rows; each measuring command has one file."""


def commit() -> str:
    """Return the commit of this checkout as it is written to rows, with "+" appended if the code of `lstm_jax` differs from the commit."""
    from lstm_jax.training import run_folder  # not `run_folder.environment`: it starts JAX, and a process with JAX's threads must not fork

    return run_folder._git()


def make_parser(doc: str | None, results: Path, report: bool = True) -> argparse.ArgumentParser:
    """Return a parser with the flags that all measuring commands share.

    Args:
        doc: docstring of the command, which `--help` prints.
        results: default of `--results`, the file of rows of the command.
        report: whether to add the flags `--report` and `--commit`.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=results, help="file of rows, compressed if its name ends in .gz")
    if report:
        parser.add_argument("--report", action="store_true", help="measure nothing")
        parser.add_argument("--commit", help="commit whose rows are reported; this checkout's, of breakdown the newest, if not given")
    return parser
