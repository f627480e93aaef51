"""This project's text generation, measured as its peers are; the flags are those of `lstm-jax train generation`.

    python -m bench.peers.ours_generation --validation 0 --seed 0 --epochs 10

prints a JSON line an epoch; and with a validation part a last one: bits a character of the held-out text under the best epoch's weights,
read in windows and with the state carried, and the seconds of processor time that the whole run took.
"""

import json
import resource
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

import tyro

from bench.generation_data import articles
from lstm_jax.commands.common import start_training
from lstm_jax.config import GenerationConfig, SampleConfig, TrainConfig

DEFAULT = GenerationConfig(train=TrainConfig(epochs=10), sample=SampleConfig(sample_chars=0))


def main() -> None:
    """Train and print."""
    config = tyro.cli(tyro.conf.OmitArgPrefixes[GenerationConfig], default=DEFAULT)
    config = replace(config, data=articles(config.data))
    start_training(config.train.devices, config.model)

    from lstm_jax.tasks import generation

    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        result = generation.train(config, run, figures=False)
        used = resource.getrusage(resource.RUSAGE_SELF)
        environment = json.loads((run / "environment.json").read_text())
        trained = generation.load(run)
        held_out = generation.load_corpus(config).validation
    common = {"peer": "lstm_jax", "version": environment["git"], "backend": environment["backend"], "seed": config.train.seed}
    common |= {"validation": config.data.validation}
    for row in result.rows:
        print(json.dumps(common | row), flush=True)
    if len(held_out):
        changed = {
            name: value
            for part, default in ((config.data, DEFAULT.data), (config.model, DEFAULT.model), (config.train, DEFAULT.train))
            for name, value in asdict(part).items()
            if value != asdict(default)[name] and name not in ("data", "seed", "validation")
        }
        row = {"epoch": "best", "best_epoch": result.best_epoch, "config": changed, "cpu_seconds": used.ru_utime + used.ru_stime}
        row |= {"parameters": sum(array.size for array in trained.params.values()), "peak_mib": used.ru_maxrss / 1024}
        row |= {f"bits_{mode}": trained.score(held_out, mode).figures()["bits"] for mode in ("window", "carried")}
        print(json.dumps(common | row), flush=True)


if __name__ == "__main__":
    main()
