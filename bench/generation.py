"""Seconds to draw 400 characters from the source's model, this project's against a loop of Keras' `predict`, same weights.

    LSTM_JAX_DATA=... python -m bench sampling            # 5 pairs, about 5 minutes on two quiet cores
    LSTM_JAX_DATA=... python -m bench sampling --report
    LSTM_JAX_DATA=... python -m bench sampling --first-pair 5     # another five, on another machine or version

Interleaved fresh processes, after compilation. Both sides load the weights of one file, which the first process writes.
"""

import argparse
import tempfile
from pathlib import Path

from bench import results, timing

PATH = results.RESULTS / "sampling.jsonl"
SIDES = {"keras-jax": "bench.peers.keras_sampling", "lstm_jax": "bench.peers.ours_sampling"}


def main() -> None:
    """Measure what is missing of `--pairs`, and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--first-pair", type=int, default=0, help="measure and report pairs from this number on")
    parser.add_argument("--report", action="store_true")
    options = parser.parse_args()
    pairs = range(options.first_pair, options.first_pair + options.pairs)
    done = {(row["side"], row["pair"]) for row in results.read(PATH)}
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "model.weights.h5"
        for pair in () if options.report else pairs:
            for side, module in SIDES.items():
                if (side, pair) in done:
                    continue
                for row in timing.run_module([module, "--weights", str(weights)]):
                    results.append(PATH, {"side": side, "pair": pair, "cores": timing.CORES, "load": timing.load()} | row)
                    print(side, pair, row["way"], f"{row['seconds']:.3f} s", flush=True)
    times: dict[str, list[float]] = {}
    for row in results.read(PATH):
        if row["pair"] in pairs:
            times.setdefault(row["way"], []).append(row["seconds"])
    for way in ("carried", "window"):
        ratio, low, high = timing.ratio_interval(times["predict loop"], times[way])
        print(f"{way}: {ratio:.1f} times faster than Keras' predict loop (95 % interval {low:.1f} to {high:.1f})")
        ratio, low, high = timing.ratio_interval(times[f"{way}, 64 samples"], times[way])
        print(f"{way}: 64 samples cost {ratio:.2f} times one (95 % interval {low:.2f} to {high:.2f})")
