"""Sides of a measurement over seeds: each seed of each side in a fresh process, what is there already skipped."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from bench import timing
from lstm_jax.sweep.rows import append_rows, read_rows


def run_missing(path: Path, sides: Mapping[str, Sequence[str]], seeds: Iterable[int], show: str) -> None:
    """Run `python -m` with each side's arguments and `--seed`, and append its rows, with the side's name, to `path`.

    Args:
        show: the figure of a row to print.
    """
    done = {(row["side"], row["seed"]) for row in read_rows(path)}
    for seed in seeds:
        for side, module in sides.items():
            if (side, seed) in done:
                continue
            rows = timing.run_module([*module, "--seed", str(seed)])
            for row in rows:
                append_rows(path, {"side": side, **row})
            print(side, seed, [row.get(show) for row in rows], flush=True)
