"""A bidirectional tagger: a stack of two `Bidirectional` layers that labels each letter of a row.

python examples/tagging.py --steps 1000

The rule of the task: a letter's tag says which of its occurrences in the row it is.

    only    the letter occurs once        first   it occurs again later, and not earlier
    last    it occurred earlier only      middle  it occurred earlier and occurs again later

    a     b      c     a       b     a
    first first  only  middle  last  last

Whether a letter occurs again stands to its right, whether it has occurred stands to its left: the tagger needs both directions. A tagger
that reads from left to right cannot tell `only` from `first`, or `middle` from `last`. `--one-direction` trains one.

Rows have different lengths. The layers get them as `mask`, and the loss and the accuracy count valid letters alone. B is the batch size
and T the length of the longest row.
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import lstm_jax
from lstm_jax import LSTM, Bidirectional, RecurrentStack

TAGS = ("only", "first", "middle", "last")


class Rows(NamedTuple):
    """Rows of letters: ids (B, T), mask (B, T), which is False at padding, and tags (B, T)."""

    ids: np.ndarray
    mask: np.ndarray
    tags: np.ndarray


def tags_of(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return the tags (B, T) by the rule of the task."""
    same = (ids[:, :, None] == ids[:, None, :]) & mask[:, None, :]
    before = np.tril(same, -1).any(2)
    after = np.triu(same, 1).any(2)
    return (2 * before + np.where(before, ~after, after)).astype(np.int32)


def make_rows(count: int, length: int, letters: int, rng: np.random.Generator) -> Rows:
    """Return random rows of 1 to `length` letters. A row draws its letters from a part of the alphabet, so that no tag is rare."""
    lengths = rng.integers(1, length + 1, (count, 1))
    mask = np.arange(length)[None] < lengths
    ids = (rng.integers(letters, size=(count, length)) + rng.integers(letters, size=(count, 1))) // 2
    return Rows(ids.astype(np.int32), mask, tags_of(ids, mask))


class Tagger(nnx.Module):
    """Two recurrent layers and the logits of the tags. With `both` the layers read in both directions, with half the units in each."""

    def __init__(self, letters: int, units: int, both: bool, rngs: nnx.Rngs):
        def layer(features: int) -> LSTM | Bidirectional:
            if both:
                return Bidirectional(features, units // 2, return_sequences=True, rngs=rngs)
            return LSTM(features, units, return_sequences=True, rngs=rngs)

        self.layers = RecurrentStack([layer(letters), layer(units)])
        self.head = nnx.Linear(units, len(TAGS), rngs=rngs)

    def __call__(self, ids: jax.Array, mask: jax.Array) -> jax.Array:
        return self.head(self.layers(ids, mask=mask))


def loss(model: Tagger, ids: jax.Array, mask: jax.Array, tags: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the mean cross-entropy of the valid letters, and the share of them whose likeliest tag is right."""
    logits = model(ids, mask)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, tags)
    return losses.mean(where=mask), (logits.argmax(-1) == tags).mean(where=mask)


class Result(NamedTuple):
    """Losses of the steps, accuracy on new rows, and the accuracy of a tagger that always gives the most frequent tag."""

    losses: np.ndarray
    accuracy: float
    majority: float


def run(
    steps: int = 1000,
    both: bool = True,
    units: int = 128,
    letters: int = 26,
    length: int = 30,
    batch: int = 64,
    learning_rate: float = 1e-2,
) -> Result:
    """Train on random rows, and measure the accuracy per letter on 2,000 others."""
    rng = np.random.default_rng(0)
    rate = optax.cosine_decay_schedule(learning_rate, steps)
    step = lstm_jax.make_train_step(Tagger(letters, units, both, nnx.Rngs(0)), loss, lstm_jax.adam(rate), has_aux=True)
    state, losses = step.init(), []
    for rows in _chunks(steps, batch, length, letters, rng):
        state, (values, _) = step.many(state, *rows)
        losses.append(values)
    new = make_rows(2_000, length, letters, rng)
    _, accuracy = nnx.jit(loss)(step.model(state), *map(jnp.asarray, new))
    majority = np.bincount(new.tags[new.mask]).max() / new.mask.sum()
    return Result(np.concatenate(losses), float(accuracy), float(majority))


def _chunks(steps: int, batch: int, length: int, letters: int, rng: np.random.Generator) -> Iterator[Rows]:
    """Yield the rows of up to 50 steps at a time, with the steps as the first axis."""
    for start in range(0, steps, 50):
        count = min(50, steps - start)
        yield Rows(*(array.reshape(count, batch, length) for array in make_rows(count * batch, length, letters, rng)))


def main(arguments: Sequence[str] | None = None) -> None:
    """Train from the command line, and print loss and accuracy."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--one-direction", action="store_true", help="read from left to right alone")
    given = parser.parse_args(arguments)
    began = time.perf_counter()
    found = run(given.steps, not given.one_direction)
    for number in range(0, given.steps, max(1, given.steps // 10)):
        print(f"step {number:>5}: loss {found.losses[number]:.4f}")
    print(f"accuracy per letter on new rows: {found.accuracy:.4f}; the most frequent tag alone: {found.majority:.4f}")
    print(f"{time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
