"""Test accuracy of the source's sentiment model over seeds and epochs, this project's and Keras', on the real IMDB.

    LSTM_JAX_DATA=... python -m bench sentiment_accuracy            # about 25 minutes on two cores
    LSTM_JAX_DATA=... python -m bench sentiment_accuracy --report --first-seed 100 --seeds 20

Each seed of each side runs in a fresh process; a seed whose rows are there is skipped.
"""

import argparse
from collections import defaultdict
from typing import Any

import numpy as np

from bench import RESULTS
from bench.seeds import run_missing
from lstm_jax.sweep.rows import read_rows

PATH = RESULTS / "sentiment_accuracy.jsonl"
SIDES = {
    "lstm_jax": ["bench.peers.ours_sentiment", "--epochs", "3"],
    "lstm_jax bfloat16": ["bench.peers.ours_sentiment", "--epochs", "3", "--dtype", "bfloat16"],
    "keras-jax": ["bench.peers.keras_sentiment", "--epochs", "3"],
    "lstm_jax-held-out": ["bench.peers.ours_sentiment", "--epochs", "12", "--validation", "0.15", "--patience", "2"],
}


def summary(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Mean over seeds of the best epoch's test accuracy (of the chosen epoch's where a part was held out), and its spread."""
    best: dict[str, dict[int, float]] = defaultdict(dict)
    for row in rows:
        chosen = row["epoch"] == "best" if row["side"].endswith("held-out") else "test_accuracy" in row
        if chosen:
            best[row["side"]][row["seed"]] = max(best[row["side"]].get(row["seed"], 0), row["test_accuracy"])
    return {
        side: {"mean": float(np.mean(list(v.values()))), "sd": float(np.std(list(v.values()), ddof=1)) if len(v) > 1 else 0.0, "seeds": v}
        for side, v in best.items()
    }


def main() -> None:
    """Measure, or report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", choices=list(SIDES), action="append")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--report", action="store_true")
    options = parser.parse_args()
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    if not options.report:
        run_missing(PATH, {side: SIDES[side] for side in options.side or SIDES}, seeds, "test_accuracy")
    for side, figures in summary([row for row in read_rows(PATH) if row["seed"] in seeds]).items():
        seeds = ", ".join(f"{seed}: {value:.4f}" for seed, value in sorted(figures["seeds"].items()))
        print(f"{side}: {figures['mean']:.4f} (sd {figures['sd']:.4f}; {seeds})")
