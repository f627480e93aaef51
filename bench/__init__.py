"""Benchmarks of this project and other libraries.

A command that measures something appends its results to a file in `bench/results/`, and
reports what that file has.

- A row is one result: a JSON object on one line of a result file. It has the
  measurement of one process or of one training epoch.
- A peer is a library that is measured. This project is one of the peers.
- A candidate is a peer with options, such as a dropout rate. In `bench.compare` and
  `bench.duel`, the word has another meaning: they compare two versions of this project,
  of which one is called the baseline and the other the candidate.
- A workload is the work to be measured (a training step, an evaluation, or a recurrent
  layer alone) together with its sizes.
"""

import argparse
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lstm_jax.base.errors import require

RESULTS = Path(__file__).parent / "results"


def data_file(*names: str) -> str:
    """Return the path of a file in the data folder, which is `$LSTM_JAX_DATA` or, if
    this variable is not set, data/.
    """
    return os.path.join(os.environ.get("LSTM_JAX_DATA", "data"), *names)


def commit() -> str:
    """Return the Git commit of this checkout, with "+" appended if the code of
    `lstm_jax` has uncommitted changes.
    """
    # `run_folder.environment` would start JAX, and JAX's threads forbid a fork
    from lstm_jax.lab.runs import folder as run_folder

    return run_folder.git_commit()


def cpu() -> str:
    """Return a text with the name, the family and the model of the CPU. Result rows
    have this text in the field "cpu".
    """
    from lstm_jax.lab.runs import folder as run_folder

    return run_folder.cpu_name()


def groups(
    rows: Iterable[Mapping[str, Any]], fields: Sequence[str]
) -> dict[tuple, list[Any]]:
    """Return a dict from the values of some fields, None where a field is absent, to
    the rows with these values.
    """
    found = defaultdict(list)
    for row in rows:
        found[tuple(row.get(name) for name in fields)].append(row)
    return dict(found)


def make_parser(
    doc: str | None, results: Path | None = None, of_commits: bool = True
) -> argparse.ArgumentParser:
    """Return an argument parser with a module's docstring; if `results` is given, with
    the flags of the commands that measure (their rows are of commits or not).
    """
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    if results:
        parser.add_argument(
            "--results",
            type=Path,
            default=results,
            help="file of rows, compressed if its name ends in .gz",
        )
        add_flags(parser, bool, report="measure nothing")
    if results and of_commits:
        note = (
            "with --report: commit whose rows are reported; this checkout's, of "
            "breakdown the newest, if not given"
        )
        add_flags(parser, str, commit=note)
    return parser


def add_flags(
    parser: argparse._ActionsContainer, kind: Callable[[str], Any], **helps: str
) -> None:
    """Add a flag to a parser for each name, with its help text. The flags have values
    of the given kind, or no values if it is `bool`.
    """
    how: dict[str, Any] = {"action": "store_true"} if kind is bool else {"type": kind}
    for name, text in helps.items():
        parser.add_argument(f"--{name.replace('_', '-')}", help=text, **how)


LIMITS: dict[str, tuple[Callable[[float], bool], str]] = {
    "rounds turns seeds epochs chars": (lambda value: value >= 1, "give 1 or more"),
    "seconds": (lambda value: value > 0, "give more than 0"),
    "level": (
        lambda value: 0 < value < 1,
        "give a number between 0 and 1, such as 0.05",
    ),
    "least": (lambda value: 0 <= value < float("inf"), "give 0 or more, such as 0.03"),
}
"""Dict from names of flags, separated by blanks, to a condition of their values and the
remedy of an error."""


def read_flags(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Parse the command line of a benchmark command, check the flags that several
    commands share, and return the values of all flags.
    """
    options = parser.parse_args()
    # measured rows would be stored as rows of a commit that did not run
    if commit := getattr(options, "commit", None):
        require(
            options.report,
            "commit",
            commit,
            "give --report too: only the checked-out commit can be measured",
        )
    for names, (valid, remedy) in LIMITS.items():
        for name in names.split():
            value = getattr(options, name, None)
            require(value is None or valid(value), name, value, remedy)
    return options
