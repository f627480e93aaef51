"""This project: 400 characters in one compiled call, with the state carried and in sliding windows, one text and several at once.

python -m bench.peers.ours_drawing --weights model.weights.h5
"""

import argparse
import json
import time
from pathlib import Path

import jax
import numpy as np

from bench.generation_data import CHARACTERS, CHARS, LENGTH
from lstm_jax import convert
from lstm_jax.config import GenerationConfig, GenerationModelConfig
from lstm_jax.models import functional
from lstm_jax.runtime.sharding import make_mesh, use_cpu_cores
from lstm_jax.sampling import Mode, Sampler, make_rules
from lstm_jax.tasks import generation
from lstm_jax.training.run_folder import environment

MODES: tuple[Mode, ...] = ("carried", "window")


def main() -> None:
    """Time each way: the median of nine calls, since a call takes milliseconds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--units", type=int, default=128)
    parser.add_argument("--chars", type=int, default=CHARS)
    parser.add_argument("--samples", type=int, nargs="+", default=[1, 64])
    options = parser.parse_args()
    use_cpu_cores()
    like, rebuild = functional(generation.make_model(GenerationConfig(model=GenerationModelConfig(units=options.units)), CHARACTERS))
    params = convert.generation_from_keras_file(options.weights)
    assert params.keys() == like.keys()
    rules, prompt = make_rules(CHARACTERS), np.random.default_rng(0).integers(0, CHARACTERS, (1, LENGTH))
    prompt = jax.numpy.asarray(prompt, jax.numpy.int32)
    mesh = make_mesh()
    version = environment(mesh)["git"]
    for mode in MODES:
        sampler = Sampler(rebuild, CHARACTERS, mode, LENGTH, mesh)
        for samples in sorted({1, *options.samples}):
            seconds = []
            for _ in range(10):  # the first one compiles
                began = time.perf_counter()
                np.asarray(sampler.generate(params, jax.random.key(0), prompt, options.chars, rules, samples))
                seconds.append(time.perf_counter() - began)
            way = mode if samples == 1 else f"{mode}, {samples} samples"
            row = {
                "peer": "lstm_jax",
                "version": version,
                "way": way,
                "seconds": float(np.median(seconds[1:])),
                "compile_seconds": seconds[0],
            }
            print(json.dumps(row | {"samples": seconds[1:]}), flush=True)


if __name__ == "__main__":
    main()
