r"""Script that uses this project to train the model of a Keras example or to sample
text, and prints JSON lines.

    python -m bench.peers.ours_tasks sentiment --seed 0 --epochs 3
    python -m bench.peers.ours_tasks sentiment --seed 0 --epochs 10 \
        --validation 0.15 --patience 2
    python -m bench.peers.ours_tasks generation --validation 0 --seed 0 --epochs 10
    python -m bench.peers.ours_tasks sampling --weights model.weights.h5

`sentiment` (the example imdb_lstm) and `generation` (the example lstm_text_generation)
take the flags of `lstm-jax train`, and print a line for each epoch. If there is a
validation split, they print one more line for the best epoch. For sentiment, that line
has the test metrics. For generation, that line has the CPU seconds of the run and the
bits per character of the held-out text. The bits per character are computed twice. The
first time, each character is predicted from the window of 40 characters before it. The
second time, the state is carried through the text.

`sampling` measures the time to draw characters.
"""

import json
import resource
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import tyro

from bench import add_flags, make_parser
from bench.peers.task_data import articles
from bench.sampling import method_of
from bench.schema import Row
from bench.workloads import CHARACTERS, CHARS, LENGTH
from lstm_jax.lab.commands.common import start_training
from lstm_jax.lab.generation.config import (
    GenerationConfig,
    GenerationModelConfig,
    SampleConfig,
)
from lstm_jax.lab.sentiment.config import DataConfig, SentimentConfig
from lstm_jax.training.config import TrainConfig

SENTIMENT = SentimentConfig(data=DataConfig(validation=0.0))
GENERATION = GenerationConfig(
    train=TrainConfig(epochs=10), sample=SampleConfig(sample_chars=0)
)
CALLS = 10
"""Number of calls of the sampler. The first call compiles and is not counted in the
median time."""


def config_of(default, arguments: list[str]) -> Any:
    """Return a copy of the task config `default`, changed by the flags of `lstm-jax
    train` in the list `arguments`.
    """
    return tyro.cli(
        tyro.conf.OmitArgPrefixes[type(default)], default=default, args=arguments
    )


def _common(run: Path, config) -> Row:
    environment = json.loads((run / "environment.json").read_text())
    row = {
        "peer": "ours",
        "version": environment["git"],
        "backend": environment["backend"],
        "seed": config.train.seed,
    }
    return row | {"validation": config.data.validation}


def sentiment_rows(arguments: list[str]) -> Iterator[Row]:
    """Train a sentiment model, and yield a result row for each epoch."""
    config = config_of(SENTIMENT, arguments)
    start_training(config.train.devices, config.model)
    from lstm_jax.lab.sentiment import task as sentiment

    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        result = sentiment.train(config, run, figures=False)
        common, final = (
            _common(run, config),
            json.loads((run / "result.json").read_text()),
        )
    yield from (common | row for row in result.rows)
    if config.data.validation:
        yield common | {"epoch": "best"} | final


def generation_rows(arguments: list[str]) -> Iterator[Row]:
    """Train a text generation model, and yield a result row for each epoch."""
    config = config_of(GENERATION, arguments)
    config = replace(config, data=articles(config.data))
    start_training(config.train.devices, config.model)
    from lstm_jax.lab.generation import task as generation

    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        result = generation.train(config, run, figures=False)
        used = resource.getrusage(resource.RUSAGE_SELF)
        common, trained = _common(run, config), generation.load(run)
        held_out = generation.load_corpus(config).validation
    yield from (common | row for row in result.rows)
    if len(held_out):
        row = {
            "epoch": "best",
            "best_epoch": result.best_epoch,
            "cpu_seconds": used.ru_utime + used.ru_stime,
        }
        yield (
            common
            | row
            | {"peak_mib": used.ru_maxrss / 1024}
            | {
                f"bits_{mode}": trained.score(held_out, mode).metrics()["bits"]
                for mode in ("window", "carried")
            }
        )


def sampling_rows(arguments: list[str]) -> Iterator[Row]:
    """Measure how long it takes to draw characters, and yield a result row for each
    sampling mode and each number of texts.
    """
    parser = make_parser(None)
    add_flags(parser, Path, weights="weights of a Keras model")
    add_flags(parser, int, units="hidden size", chars="characters to draw")
    parser.add_argument("--samples", type=int, nargs="+", default=[1, 64])
    parser.set_defaults(units=128, chars=CHARS)
    options = parser.parse_args(arguments)

    import jax
    import numpy as np

    from lstm_jax import convert
    from lstm_jax.base.sharding import make_mesh, use_cpu_cores
    from lstm_jax.lab.generation import task as generation
    from lstm_jax.lab.generation.sampling import Sampler, make_rules
    from lstm_jax.lab.runs.folder import environment
    from lstm_jax.training.parts import functional

    use_cpu_cores()
    like, rebuild = functional(
        generation.make_model(
            GenerationConfig(model=GenerationModelConfig(units=options.units)),
            CHARACTERS,
        )
    )
    params = convert.generation_from_keras_file(options.weights)
    assert params.keys() == like.keys()
    rules, mesh = make_rules(), make_mesh()
    prompt = jax.numpy.asarray(
        np.random.default_rng(0).integers(0, CHARACTERS, (1, LENGTH)), jax.numpy.int32
    )
    common = {"peer": "ours", "version": environment(mesh)["git"]}
    for mode in ("carried", "window"):
        sampler = Sampler(rebuild, CHARACTERS, mode, LENGTH, mesh)
        for samples in sorted({1, *options.samples}):
            seconds = []
            for _ in range(CALLS):
                began = perf_counter()
                np.asarray(
                    sampler.generate(
                        params, jax.random.key(0), prompt, options.chars, rules, samples
                    )
                )
                seconds.append(perf_counter() - began)
            row = {
                "method": method_of(mode, samples),
                "seconds": float(np.median(seconds[1:])),
                "compile_seconds": seconds[0],
                "samples": seconds[1:],
            }
            yield common | row


def main() -> None:
    """Run the task that the command line names, and print its result rows as JSON
    lines.
    """
    tasks = {
        "sentiment": sentiment_rows,
        "generation": generation_rows,
        "sampling": sampling_rows,
    }
    parser = make_parser(__doc__)
    parser.add_argument("task", choices=list(tasks))
    for row in tasks[parser.parse_args(sys.argv[1:2]).task](sys.argv[2:]):
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
