"""This project, measured as its peers are: same rows, same protocol, a JSON line an epoch.

python -m bench.peers.ours_sentiment --seed 0 --epochs 3
python -m bench.peers.ours_sentiment --seed 0 --epochs 10 --validation 0.15 --patience 2
"""

import argparse
import json
import tempfile
from pathlib import Path

from lstm_jax.config import DataConfig, SentimentConfig, TrainConfig
from lstm_jax.sharding import use_cpu_cores


def main() -> None:
    """Train and print; with `--validation` a last line has the honest test figures of the best epoch."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--validation", type=float, default=0.0)
    parser.add_argument("--patience", type=int, default=0)
    options = parser.parse_args()
    use_cpu_cores()

    from lstm_jax.tasks import sentiment

    config = SentimentConfig(
        data=DataConfig(validation=options.validation),
        train=TrainConfig(seed=options.seed, epochs=options.epochs, patience=options.patience),
    )
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        result = sentiment.train(config, run, figures=False)
        environment = json.loads((run / "environment.json").read_text())
        final = json.loads((run / "result.json").read_text())
    common = {"peer": "lstm_jax", "version": environment["git"], "backend": environment["backend"], "seed": options.seed}
    common["validation"] = options.validation
    for row in result.rows:
        print(json.dumps(common | row), flush=True)
    if options.validation:
        print(json.dumps(common | {"epoch": "best"} | final), flush=True)


if __name__ == "__main__":
    main()
