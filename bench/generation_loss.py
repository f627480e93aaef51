"""The source's text generation on its articles: training loss by epoch, and held-out bits a character of its and of other recipes.

    LSTM_JAX_DATA=... python -m bench generation_loss            # loss: three seeds, and one of Keras; about 25 minutes on two cores
    LSTM_JAX_DATA=... python -m bench generation_loss --held-out # recipes, a tenth of the text held out; about an hour
    LSTM_JAX_DATA=... python -m bench generation_loss --report

Every recipe has the source's 87,201 parameters: one-hot, LSTM(128), softmax over 33 characters.
"""

import argparse
from collections import defaultdict

from bench import RESULTS
from bench.seeds import run_missing
from lstm_jax.sweep.rows import read_rows

LOSS = RESULTS / "generation_loss.jsonl"
HELD_OUT = RESULTS / "generation_held_out.jsonl"
PRINTED = (2.4947, 2.0049, 1.8619, 1.7592, 1.6842, 1.6206, 1.5732, 1.5312, 1.4886, 1.4606)
"""What the source's notebook printed, epochs 1 to 10."""
OURS, KERAS = "bench.peers.ours_generation", "bench.peers.keras_generation"
STREAM = [OURS, "--regime", "stream"]
FAST = ["--learning-rate", "5e-3", "--schedule", "cosine", "--clip-norm", "1"]
RECIPES = {
    "windows": [OURS],
    "windows, bfloat16": [OURS, "--dtype", "bfloat16"],
    "keras-jax windows": [KERAS, "--validation", "0.1"],
    "stream": [*STREAM, "--length", "100", "--epochs", "10"],
    "stream 60": [*STREAM, "--length", "100", "--epochs", "60", *FAST],
    "stream 150": [*STREAM, "--length", "100", "--epochs", "150", *FAST],
    "stream 120, recurrent dropout 0.1": [*STREAM, "--length", "100", "--epochs", "120", *FAST, "--recurrent-dropout", "0.1"],
}


def report_loss() -> None:
    """A line an epoch: the source's print, and each side's mean and range over seeds."""
    losses: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in read_rows(LOSS):
        losses[row["side"]][row["epoch"]].append(row["train_loss"])
    for epoch, printed in enumerate(PRINTED, 1):
        told = [f"{side} {sum(v[epoch]) / len(v[epoch]):.4f} ({min(v[epoch]):.4f} to {max(v[epoch]):.4f})" for side, v in losses.items()]
        print(f"epoch {epoch}: printed {printed}; {'; '.join(told)}")


def report_held_out() -> None:
    """A line a recipe: bits a character of the held-out text, and what it took."""
    for row in read_rows(HELD_OUT):
        if isinstance(row["epoch"], str):
            took = f", {row['cpu_seconds'] / 60:.1f} CPU minutes, best epoch {row['best_epoch']}" if "cpu_seconds" in row else ""
            print(f"{row['side']}, seed {row['seed']}: {row['bits_window']:.4f} in windows, {row['bits_carried']:.4f} carried{took}")


def main() -> None:
    """Measure what is missing, and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--held-out", action="store_true")
    parser.add_argument("--recipe", choices=list(RECIPES), action="append")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--report", action="store_true")
    options = parser.parse_args()
    if not options.report and options.held_out:
        run_missing(HELD_OUT, {name: RECIPES[name] for name in options.recipe or RECIPES}, range(options.seeds), "train_loss")
    elif not options.report:
        run_missing(LOSS, {"lstm_jax": [OURS, "--validation", "0"]}, range(3), "train_loss")
        run_missing(LOSS, {"keras-jax": [KERAS]}, range(1), "train_loss")
    report_loss()
    report_held_out()
