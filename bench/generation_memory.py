"""Peak memory of a training run of text generation on tiny Shakespeare, windows of 100 characters every one: 1.1 million of them.

    LSTM_JAX_DATA=... python -m bench generation_memory            # about 5 minutes on two cores
    LSTM_JAX_DATA=... python -m bench generation_memory --report

The command line is run as a user runs it, one epoch; its largest resident size is the kernel's figure (ru_maxrss).
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time

from bench import RESULTS
from lstm_jax.sweep.rows import append_rows, read_rows

PATH = RESULTS / "generation_memory.jsonl"
FLAGS = {"length": 100, "step": 1, "epochs": 1, "batch-size": 256, "clean": "none"}


def main() -> None:
    """Measure, or report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--report", action="store_true")
    options = parser.parse_args()
    if not options.report:
        corpus = os.path.join(os.environ.get("LSTM_JAX_DATA", "data"), "charlm", "tinyshakespeare.txt")
        flags = [word for name, value in FLAGS.items() for word in (f"--{name}", str(value))]
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "lstm_jax.cli", "train", "generation", "--data", corpus, "--run", f"{folder}/run", *flags]
            began = time.perf_counter()
            subprocess.run(command, check=True)
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        append_rows(PATH, {"peer": "lstm_jax", "flags": FLAGS, "peak_mib": peak, "seconds": time.perf_counter() - began})
    for row in read_rows(PATH):
        print(f"{row['flags']}: {row['peak_mib']:.0f} MiB resident at most, {row['seconds']:.0f} s")
