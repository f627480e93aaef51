"""Benchmarks: commands that measure append rows to `bench/results/`, one file a command; reports are drawn from the rows."""

import argparse
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
"""Files of rows, one a command."""


def commit() -> str:
    """Return this checkout's commit as the rows have it, + if its code differs."""
    from lstm_jax.training import run_folder  # `environment` would start JAX, and a process with its threads must not fork

    return run_folder._git()


def make_parser(doc: str | None, results: Path, report: bool = True) -> argparse.ArgumentParser:
    """Return a parser with the flags that every measuring command has.

    Args:
        doc: docstring of the command.
        results: its file of rows.
        report: whether to add `--report` and `--commit`.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=results, help="file of rows, compressed if its name ends in .gz")
    if report:
        parser.add_argument("--report", action="store_true", help="measure nothing")
        parser.add_argument("--commit", help="commit whose rows are reported; this checkout's, of breakdown the newest, if not given")
    return parser
