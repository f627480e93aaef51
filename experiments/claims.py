"""Table of the claims of the studies, with the size of each effect over seeds and a verdict on whether the seeds are enough to be certain.

    python -m experiments.claims                                # the table, from the results in results/
    python -m experiments.claims --write                        # and write it into docs/studies.md
    LSTM_JAX_DATA=... python -m experiments.claims --seeds 5    # first run what each claim needs with seeds 0 to 4; hours
    LSTM_JAX_DATA=... python -m experiments.claims --seeds 5 --study dropout

A claim compares a metric of two settings of a study, such as the test accuracy with and without input dropout. The difference of the two
metrics is computed for each seed. The mean difference has a 95 % confidence interval by Student's t-distribution, which assumes that the
differences are normally distributed. With two seeds the interval reaches 12.7 standard errors to each side.

There are two kinds of claims. The claim "A is better than B" is certain if the whole interval is above 0. The claim "A and B are equal"
has a margin, and is certain if the whole interval is between minus the margin and the margin. A claim is contradicted if the whole interval
lies outside what the claim allows. In all other cases it is open: more seeds are needed.
"""

import argparse
import importlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from experiments import study
from experiments.claim_list import CLAIMS, Claim
from lstm_jax import sweep
from lstm_jax.errors import InputError, require
from lstm_jax.files.writing import write_atomically
from lstm_jax.sweep import stats
from lstm_jax.sweep.rows import read_rows

PAGE = study.HERE.parent / "docs" / "studies.md"
BEGIN, END = "<!-- claims: begin -->", "<!-- claims: end -->"
"""Lines of the page between which the table stands."""


def _seed_field(fields: Mapping[str, Any]) -> str:
    """Return the name of the field that has the seed. Of the two seeds of the study `scaling`, it is that of the task that is trained."""
    names = [name for name in fields if name.rpartition(".")[2] == "seed"]
    return names[0] if len(names) == 1 else f"{fields['kind']}.train.seed"


def _has(fields: Mapping[str, Any], setting: Mapping[str, Any]) -> bool:
    """Return whether all fields of a setting have the same values in a flat dict of fields."""
    return all(fields.get(name) == value for name, value in setting.items())


def configs(claim: Claim, seeds: int) -> list[Any]:
    """Return the configs of the runs that a claim needs: those of the full study that have one of its settings, with each seed.

    Args:
        claim: claim.
        seeds: number of seeds; the seeds are 0 to seeds - 1.
    """
    found = []
    for config in importlib.import_module(f"experiments.{claim.study}").STUDY.presets["full"]:
        fields = sweep.flatten(asdict(config))
        settings = [setting for setting in (claim.more, claim.less) if setting]
        if any(_has(fields, setting) for setting in settings) and fields[_seed_field(fields)] == 0:
            found += [sweep.override(config, {_seed_field(fields): seed}) for seed in range(seeds)]
    return found


def effects(claim: Claim, rows: study.Rows) -> list[float]:
    """Return the difference between the two settings of a claim for each seed that both have, in the order of the seeds.

    Args:
        claim: claim.
        rows: results of the runs of the claim's study, as `study.finished` returns them.
    """

    def by_seed(setting: Mapping[str, Any]) -> dict[int, float]:
        metric = claim.metric
        selected = [row for row in rows if _has(row, setting)]
        return {row[_seed_field(row)]: row[metric] if isinstance(metric, str) else metric(row) for row in selected}

    more, less = by_seed(claim.more), by_seed(claim.less) if claim.less else None
    scale = 100 if claim.unit == "points" else 1
    seeds = sorted(more if less is None else more.keys() & less.keys())
    return [scale * (more[seed] - (less[seed] if less else 0)) for seed in seeds]


def verdict(claim: Claim, low: float, high: float) -> str:
    """Return "certain", "contradicted" or "open" for a claim, from the 95 % confidence interval (low, high) of its effect."""
    least, most = (0.0, np.inf) if claim.margin is None else (-claim.margin, claim.margin)
    if least < low and high < most:
        return "certain"
    return "contradicted" if high < least or low > most else "open"


def _cells(claim: Claim, values: Sequence[float]) -> tuple[str, str]:
    """Return an effect with its interval and number of seeds, and the verdict, both as text for the table.

    Args:
        claim: claim.
        values: difference between the two settings for each seed. It may be empty.
    """
    if not values:
        return "not run yet", ""
    mean, low, high = stats.t_interval(values)
    if len(values) == 1:
        return f"{mean:+.3g}, one seed", "open"
    return f"{mean:+.3g} ({low:.3g} to {high:.3g}), {len(values)} seeds", verdict(claim, low, high)


def table(results: Path) -> str:
    """Return the table of all claims in Markdown, with one line for each claim.

    A line has the claim, the effect with the seeds that the claim was made with, and the effect with all seeds, each with its interval and
    its verdict. If there are no more seeds than at first, the last two cells are empty. If no run has a claim's settings yet, "not run yet"
    takes the place of the effect.

    Args:
        results: folder of the result files of the studies.
    """
    lines = ["| study | claim | effect at first | | effect with all seeds | |", "| --- | --- | --- | --- | --- | --- |"]
    for claim in CLAIMS:
        values = effects(claim, study.finished(read_rows(results / f"{claim.study}.jsonl")))
        margin = "" if claim.margin is None else f", to within {claim.margin:g}"
        unit = f" ({claim.unit}{margin})" if claim.unit else ""
        cells = [*_cells(claim, values[: claim.first]), *(_cells(claim, values) if len(values) > claim.first else ("", ""))]
        lines.append(" | ".join([f"| {claim.study}", claim.text + unit, *cells]) + " |")
    return "\n".join(lines)


def with_table(text: str, results: Path) -> str:
    """Return the text of a page, with the current table of the claims between the lines `BEGIN` and `END`.

    Args:
        text: text of the page, which must contain both lines.
        results: folder of the result files of the studies.
    """
    before, _, rest = text.partition(BEGIN)
    _, found, after = rest.partition(END)
    require(bool(found), "page", "no lines for the table", f"it needs {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{table(results)}\n\n{END}{after}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, and return the exit code: 0, or 2 for bad input.

    Args:
        arguments: command-line arguments. If None, they are taken from `sys.argv`.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = sorted({claim.study for claim in CLAIMS})
    parser.add_argument("--seeds", type=int, default=0, help="first run what the claims need with this many seeds (default: run nothing)")
    parser.add_argument("--study", choices=names, nargs="*", default=names, help="studies whose claims are run (default: all)")
    parser.add_argument("--workers", type=int, default=1, help="processes at a time; 0 for one a core (default: 1)")
    parser.add_argument("--write", action="store_true", help="write the table into docs/studies.md")
    options = parser.parse_args(arguments)
    try:
        require(options.seeds >= 0, "--seeds", options.seeds, "give 0 or more")
        for name in options.study if options.seeds else ():
            needed = [config for claim in CLAIMS if claim.study == name for config in configs(claim, options.seeds)]
            run = importlib.import_module(f"experiments.{name}").STUDY.run
            sweep.run(run, list(dict.fromkeys(needed)), study.RESULTS / f"{name}.jsonl", "processes", options.workers)
        if options.write:
            write_atomically(PAGE, with_table(PAGE.read_text(), study.RESULTS))
        print(table(study.RESULTS))
    except InputError as error:
        print(f"claims: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
