"""This project, measured as its peers are: same rows, same protocol, a JSON line an epoch; flags are those of `lstm-jax train sentiment`.

python -m bench.peers.ours_sentiment --seed 0 --epochs 3
python -m bench.peers.ours_sentiment --seed 0 --epochs 10 --validation 0.15 --patience 2
"""

import json
import tempfile
from pathlib import Path

import tyro

from lstm_jax.commands.common import start_training
from lstm_jax.config import DataConfig, SentimentConfig

DEFAULT = SentimentConfig(data=DataConfig(validation=0.0))


def main() -> None:
    """Train and print; with `--validation` a last line has the honest test figures of the best epoch."""
    config = tyro.cli(tyro.conf.OmitArgPrefixes[SentimentConfig], default=DEFAULT)
    start_training(config.train.devices, config.model)

    from lstm_jax.tasks import sentiment

    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        result = sentiment.train(config, run, figures=False)
        environment = json.loads((run / "environment.json").read_text())
        final = json.loads((run / "result.json").read_text())
    common = {"peer": "lstm_jax", "version": environment["git"], "backend": environment["backend"], "seed": config.train.seed}
    common["validation"] = config.data.validation
    for row in result.rows:
        print(json.dumps(common | row), flush=True)
    if config.data.validation:
        print(json.dumps(common | {"epoch": "best"} | final), flush=True)


if __name__ == "__main__":
    main()
