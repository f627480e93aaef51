"""Test of the studies' claims on new seeds: the size of each claimed effect, its
confidence interval, and a verdict on the claim.

    # gensim and statsmodels, for two of the studies
    pip install ".[experiments]"
    # the table, from the results in results/; seconds
    python -m experiments.claims
    # first run what the claims need with five new seeds; hours
    LSTM_JAX_DATA=... python -m experiments.claims --new
    LSTM_JAX_DATA=... python -m experiments.claims --new --study dropout --workers 2

A claim says that a number, called the effect, lies in a certain range. Most effects are
differences of a metric between two settings, such as the test accuracy with input
dropout minus the test accuracy without it. The effect is computed for each seed. The
mean effect over seeds has a 95 % confidence interval by Student's t-distribution, which
assumes that the effects of the seeds are normally distributed. With two seeds, the
interval reaches 12.7 standard errors to each side.

The verdict on a claim is "shown" if the whole interval lies in the claimed range,
"refuted" if no part of it does, and otherwise "open". The claims were made from the
first seeds of each study, so these seeds cannot confirm them. The verdict that counts
is the one from five new seeds. The number of new seeds was fixed before they were run:
there is no verdict until all five have been run. The last column of the table has the
one-sided p-value of the new seeds, adjusted for the number of all claims. Of the claims
with an adjusted p-value below 0.05, at most 5 % are expected to be false (Benjamini &
Hochberg 1995). This holds if the p-values of the claims are independent or positively
dependent. Some claims here share runs, so they are not independent.

The intervals reflect only how much the effect varies with the seed. They do not reflect
the choice of the data, because each study has one data set and one division into
training and test data.
"""

import importlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from bench import add_flags, make_parser
from experiments import study
from experiments.claim_list import CLAIMS, SEEDLESS, Claim, Setting
from experiments.study import Mean, Metrics
from lstm_jax.lab import sweep
from lstm_jax.lab.sweep import stats

HEAD = (
    "| study | claim | first seeds | verdict | new seeds | verdict | adjusted p "
    "|\n| --- | --- | --- | --- | --- | --- | --- |"
)
NEW = 5
"""Number of new seeds with which the claims are tested."""


def _study(name: str) -> study.Study:
    return importlib.import_module(f"experiments.{name}").STUDY


def _seed_field(fields: Mapping[str, Any]) -> str:
    names = [name for name in fields if name.rpartition(".")[2] == "seed"]
    return names[0] if len(names) == 1 else f"{fields['kind']}.train.seed"


def _is_seedless(setting: Setting) -> bool:
    return any(seedless.items() <= setting.items() for seedless in SEEDLESS)


def _seeds(claim: Claim, new: bool) -> range:
    return range(claim.first, claim.first + NEW) if new else range(claim.first)


@cache
def _full(name: str) -> list[tuple[Any, Metrics]]:
    return [
        (config, sweep.flatten(asdict(config)))
        for config in _study(name).presets["full"]
    ]


def configs(claim: Claim, new: bool) -> list[Any]:
    """Return the configs of the runs that a claim needs."""
    found = []
    for setting in claim.of + claim.minus:
        seeds = range(1) if _is_seedless(setting) else _seeds(claim, new)
        for config, fields in _full(claim.study):
            if setting.items() <= fields.items() and fields[_seed_field(fields)] == 0:
                found += [
                    sweep.override(config, {_seed_field(fields): seed})
                    for seed in seeds
                ]
    return found


def effects(claim: Claim, rows: study.Rows, new: bool) -> list[float]:
    """Return the effect of a claim for each seed, in the order of the seeds. A seed is
    left out if one of its runs has no result.
    """

    def by_seed(setting):
        own = (row for row in rows if setting.items() <= row.items())
        values = {
            row[_seed_field(row)]: row[claim.metric]
            if isinstance(claim.metric, str)
            else claim.metric(row)
            for row in own
        }
        return (
            dict.fromkeys(_seeds(claim, new), values[0])
            if values and _is_seedless(setting)
            else values
        )

    of, minus = (
        [by_seed(setting) for setting in settings]
        for settings in (claim.of, claim.minus)
    )
    seeds = [
        seed
        for seed in _seeds(claim, new)
        if all(seed in values for values in of + minus)
    ]
    scale = 100 if claim.unit == "points" else 1
    return [
        scale
        * (
            np.mean([v[seed] for v in of])
            - (np.mean([v[seed] for v in minus]) if minus else 0)
        ).item()
        for seed in seeds
    ]


def verdict(claim: Claim, low: float, high: float) -> str:
    """Return the verdict on a claim from the 95 % confidence interval (low, high) of
    its mean effect.
    """
    if claim.low < low and high < claim.high:
        return "shown"
    return "refuted" if high < claim.low or low > claim.high else "open"


def p_value(claim: Claim, values: Sequence[float]) -> float:
    """Return the p-value of a claim by Student's t-test, or NaN for a single value."""
    from scipy.stats import ttest_1samp

    if len(values) < 2:
        return float("nan")
    ends = ((claim.low, "greater"), (claim.high, "less"))
    tests: list[Any] = [
        ttest_1samp(values, end, alternative=side)
        for end, side in ends
        if isfinite(end)
    ]
    return max(float(test.pvalue) for test in tests)


def _cells(claim: Claim, values: Sequence[float]) -> tuple[str, str]:
    """Return two cells of the table of claims (see `table`): the mean effect with its
    interval and number of seeds, and the verdict.
    """
    if not values:
        return "", ""
    mean = Mean(*stats.t_interval(values))
    seeds = f"{len(values)} seeds" if len(values) > 1 else "one seed"
    return f"{mean:+.3g}, {seeds}", verdict(claim, mean.low, mean.high)


def table(results: Path) -> str:
    """Return the table of all claims in Markdown, with one line for each claim."""
    from scipy.stats import false_discovery_control

    def rows_of(name):
        own, claimed = _study(name), [claim for claim in CLAIMS if claim.study == name]
        needed = [
            config
            for claim in claimed
            for new in (False, True)
            for config in configs(claim, new)
        ]
        return study.finished(
            sweep.existing_rows(own.run, needed, own.rows_path(results))
        )

    rows = {
        name: rows_of(name) for name in dict.fromkeys(claim.study for claim in CLAIMS)
    }
    found = [
        [effects(claim, rows[claim.study], new) for new in (False, True)]
        for claim in CLAIMS
    ]
    p = np.asarray(
        [
            p_value(claim, new) if len(new) == NEW else np.nan
            for claim, (_, new) in zip(CLAIMS, found, strict=True)
        ]
    )
    # a claim without a p-value counts as one that failed
    adjusted = false_discovery_control(np.where(np.isfinite(p), p, 1.0))
    lines = [HEAD]
    for claim, (first, new), own_p in zip(
        CLAIMS, found, np.where(np.isfinite(p), adjusted, np.nan), strict=True
    ):
        later = (
            _cells(claim, new)
            if len(new) in (0, NEW)
            else (f"{len(new)} of {NEW} run", "")
        )
        cells = [
            claim.study,
            claim.text + f" ({claim.unit})" * bool(claim.unit),
            *_cells(claim, first),
            *later,
        ]
        lines.append(
            f"| {' | '.join(cells)} | {f'{own_p:.2g}' if np.isfinite(own_p) else ''} |"
        )
    return "\n".join(lines)


def run(names: Sequence[str], results: Path, workers: int) -> int:
    """Execute, with new seeds (see `configs`), the runs that the claims of some studies
    need, and return the number of failed runs.
    """
    failed = 0
    for name in names:
        study.check_needs(_study(name))
    for name in names:
        needed = [
            config
            for claim in CLAIMS
            if claim.study == name
            for config in configs(claim, new=True)
        ]
        own = _study(name)
        rows = sweep.run(
            own.run,
            needed,
            own.rows_path(results),
            "processes",
            workers,
            retry=True,
            per_job=1,
        )
        failed += sum(row["status"] == sweep.FAILED for row in rows)
    return failed


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, and return the exit code."""
    parser = make_parser(__doc__)
    names = sorted({claim.study for claim in CLAIMS})
    add_flags(parser, bool, new=f"first run what the claims need with {NEW} new seeds")
    parser.add_argument(
        "--study",
        choices=names,
        nargs="+",
        default=names,
        help="studies whose claims are run (default: all)",
    )
    add_flags(parser, int, workers="processes at a time; 0 for one a core (default: 1)")
    parser.set_defaults(workers=1)
    options = parser.parse_args(arguments)

    def call():
        failed = (
            run(options.study, study.RESULTS, options.workers) if options.new else 0
        )
        print(table(study.RESULTS))
        if failed:
            print(
                f"claims: {failed} runs failed, see the result files in "
                f"{study.RESULTS}",
                file=sys.stderr,
            )
        return int(failed > 0)

    return study.command("claims", call)


if __name__ == "__main__":
    sys.exit(main())
