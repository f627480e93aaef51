"""Training and sampling of the two Keras examples with this project.

`bench accuracy` and `bench sampling` call these functions in fresh processes. Training
takes the flags of `lstm-jax train`, and yields a row for each epoch. If there is a
validation split, one more row is of the best epoch.
"""

import json
import resource
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import tyro

from bench.peers.task_data import articles
from bench.sampling import method_of
from bench.schema import Row
from bench.workloads import CHARACTERS, LENGTH
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


def sentiment_rows(flags: list[str]) -> Iterator[Row]:
    """Train a sentiment model, and yield a result row for each epoch. The row of the
    best epoch has the test metrics.
    """
    config = config_of(SENTIMENT, flags)
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


def generation_rows(flags: list[str]) -> Iterator[Row]:
    """Train a text generation model, and yield a result row for each epoch.

    The row of the best epoch has the CPU seconds of the run and the bits per character
    of the held-out text, each character predicted from the window of 40 characters
    before it, and with the state carried through the text.
    """
    config = config_of(GENERATION, flags)
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


def sampling_rows(
    weights: str, units: int, chars: int, samples: list[int]
) -> Iterator[Row]:
    """Measure how long it takes to draw characters, and yield a result row for each
    sampling mode and each number of texts.
    """
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
            GenerationConfig(model=GenerationModelConfig(units=units)),
            CHARACTERS,
        )
    )
    params = convert.generation_from_keras_file(weights)
    assert params.keys() == like.keys()
    rules, mesh = make_rules(), make_mesh()
    prompt = jax.numpy.asarray(
        np.random.default_rng(0).integers(0, CHARACTERS, (1, LENGTH)), jax.numpy.int32
    )
    common = {"peer": "ours", "version": environment(mesh)["git"]}
    for mode in ("carried", "window"):
        sampler = Sampler(rebuild, CHARACTERS, mode, LENGTH, mesh)
        for count in sorted({1, *samples}):
            seconds = []
            for _ in range(CALLS):
                began = perf_counter()
                np.asarray(
                    sampler.generate(
                        params, jax.random.key(0), prompt, chars, rules, count
                    )
                )
                seconds.append(perf_counter() - began)
            row = {
                "method": method_of(mode, count),
                "seconds": float(np.median(seconds[1:])),
                "compile_seconds": seconds[0],
                "samples": seconds[1:],
            }
            yield common | row
