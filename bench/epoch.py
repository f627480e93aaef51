"""Seconds of a training epoch of the source's two tasks on their real data, this project's against Keras' on JAX.

    LSTM_JAX_DATA=... python -m bench epoch sentiment            # 5 pairs, about 8 minutes on two quiet cores
    LSTM_JAX_DATA=... python -m bench epoch generation           # 5 pairs, about 10 minutes
    LSTM_JAX_DATA=... python -m bench epoch sentiment --report

Interleaved fresh processes; compilation and evaluation are not in the epoch's time.
"""

import argparse

from bench import RESULTS, timing
from lstm_jax.sweep.rows import append_rows, read_rows

TASKS = {
    "sentiment": {
        "keras-jax": ["bench.peers.keras_sentiment", "--epochs", "1", "--warm-up", "--no-evaluation"],
        "lstm_jax": ["bench.peers.ours_sentiment", "--epochs", "2"],
    },
    "generation": {
        "keras-jax": ["bench.peers.keras_generation", "--epochs", "1", "--warm-up"],
        "lstm_jax": ["bench.peers.ours_generation", "--epochs", "2", "--validation", "0"],
    },
}


def main() -> None:
    """Measure what is missing of `--pairs`, and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", choices=list(TASKS))
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--report", action="store_true")
    options = parser.parse_args()
    sides, path = TASKS[options.task], RESULTS / f"{options.task}_epoch.jsonl"
    done = {(row["side"], row["pair"]) for row in read_rows(path)}
    for pair in range(0 if options.report else options.pairs):
        for side, module in sides.items():
            if (side, pair) not in done:
                row = timing.run_module(module)[-1]
                append_rows(path, {"side": side, "pair": pair, "cores": timing.CORES, "load": timing.load()} | row)
                print(side, pair, f"{row['seconds']:.1f} s", flush=True)
    times = {side: [row["seconds"] for row in read_rows(path) if row["side"] == side] for side in sides}
    ratio, low, high = timing.ratio_interval(times["keras-jax"], times["lstm_jax"])
    for side, seconds in times.items():
        print(f"{side}: {', '.join(f'{s:.1f}' for s in sorted(seconds))} s an epoch")
    print(f"Keras' epoch takes {ratio:.2f} times as long (95 % interval {low:.2f} to {high:.2f})")
