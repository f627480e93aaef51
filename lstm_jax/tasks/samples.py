"""Texts that a text-generation run draws after each epoch and stores in samples.jsonl."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from lstm_jax import data
from lstm_jax.bounds import MOST
from lstm_jax.config import SampleConfig
from lstm_jax.errors import InputError
from lstm_jax.files.writing import write_atomically
from lstm_jax.sampling import Sampler, make_rules
from lstm_jax.training.callbacks import Callback, EpochRecord


def sample_callback(config: SampleConfig, corpus: data.Corpus, sampler: Sampler, path: Path, console: Console) -> Callback:
    """Return a callback that draws texts after each epoch, prints them, and writes them to the file `path`."""

    def sample(record: EpochRecord) -> None:
        if not (config.sample_chars and config.sample_temperatures):
            return
        rows = []
        for row in _drawn(config, corpus, sampler, record):
            rows.append(row)
            console.print(f"  temperature {row['temperature']:g}: prompt {row['prompt']!r}", highlight=False, markup=False)
            console.print(row["text"], highlight=False, markup=False, soft_wrap=True)
        kept = [row for row in read_samples(path) if row["epoch"] < record.epoch]  # later epochs are trained again
        write_atomically(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in (*kept, *rows)))

    return sample


def _drawn(config: SampleConfig, corpus: data.Corpus, sampler: Sampler, record: EpochRecord) -> Iterator[dict[str, Any]]:
    whole = min(len(corpus.train), MOST)  # of a larger text, the prompt is from the part that int32 can index
    size = min(config.sample_prompt, whole)
    begin_key, draw_key = jax.random.split(jax.random.fold_in(jax.random.key(record.seed), record.epoch))
    begin = int(jax.random.randint(begin_key, (), 0, whole - size + 1))
    prompt = corpus.train[begin : begin + size]
    # sharded parameters are gathered first, because a step for a single text is too small to pay for communication between devices
    params = jax.tree.map(np.asarray, record.params)
    for number, temperature in enumerate(config.sample_temperatures):
        rules = make_rules(temperature=temperature)
        drawn = sampler.generate(params, jax.random.fold_in(draw_key, number), jnp.asarray(prompt)[None], config.sample_chars, rules)
        row = {"epoch": record.epoch, "seed": record.seed, "temperature": temperature, "mode": sampler.mode}
        yield row | {"prompt": corpus.characters.decode(prompt), "text": corpus.characters.decode(np.asarray(drawn[0]))}


def read_samples(path: Path) -> list[dict[str, Any]]:
    """Return the texts that a run has drawn so far, as stored in its file samples.jsonl."""
    if not path.exists():
        return []
    try:
        rows = [json.loads(line) for line in path.read_bytes().split(b"\n") if line]  # a text may contain other line endings (U+2028)
        if not all(isinstance(row, dict) and type(row.get("epoch")) is int for row in rows):
            raise ValueError("a row without its epoch")
        return rows
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"samples {path}", error, "move the file away") from error
