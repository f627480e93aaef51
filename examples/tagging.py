"""A tagger that gives a tag to each letter of a row, with a stack of two
`Bidirectional` layers.

python examples/tagging.py --steps 1000

The tag of a letter tells whether the same letter occurs earlier and whether it occurs
later in the row:

    tag       occurs earlier   occurs later
    only      no               no
    first     no               yes
    middle    yes              yes
    last      yes              no

A row of six letters and their tags:

    a     b      c     a       b     a
    first first  only  middle  last  last

The tagger must read in both directions. A tagger that reads only from left to right
does not know whether a letter occurs again later. It cannot tell `only` from `first`,
or `middle` from `last`. The flag `--one-direction` trains such a tagger.

Rows have different lengths and are padded. The layers get an array `mask`, which is
False at padding. The loss and the accuracy ignore padding. B is the batch size and T
the length of a padded row.
"""

import argparse
import time
from collections.abc import Sequence
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
    """B rows of letters, padded to T letters, and the correct tags.

    Attributes:
        ids: ids of the letters (B, T).
        mask: bool (B, T), False at padding.
        tags: tag of each letter (B, T), as an index of `TAGS`.
    """

    ids: np.ndarray
    mask: np.ndarray
    tags: np.ndarray


def tags_of(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return an array (B, T) with the correct tag of each letter, as an index into
    `TAGS`.

    The tag tells whether the same letter occurs earlier and whether it occurs later in
    the row.

    Args:
        ids: ids of the letters (B, T) in B rows of T letters.
        mask: bool (B, T), False at padding.
    """
    same = (ids[:, :, None] == ids[:, None, :]) & mask[:, None, :]
    before = np.tril(same, -1).any(2)
    after = np.triu(same, 1).any(2)
    return (2 * before + np.where(before, ~after, after)).astype(np.int32)


def make_rows(count: int, length: int, letters: int, rng: np.random.Generator) -> Rows:
    """Return random rows of letters with their tags.

    The tag of a letter tells whether the same letter occurs earlier and whether it
    occurs later in the row. Each row draws its letters from about half of the alphabet.
    Many letters therefore occur several times in their row, and no tag is rare.

    Args:
        count: number of rows.
        length: largest number of letters of a row. The smallest is 1.
        letters: number of letters of the alphabet.
        rng: random generator.
    """
    lengths = rng.integers(1, length + 1, (count, 1))
    mask = np.arange(length)[None] < lengths
    ids = (
        rng.integers(letters, size=(count, length))
        + rng.integers(letters, size=(count, 1))
    ) // 2
    return Rows(ids.astype(np.int32), mask, tags_of(ids, mask))


class Tagger(nnx.Module):
    """Tagger with two recurrent layers, and a dense layer that computes the logits of
    the tags.

    If `both` is true, each recurrent layer reads in both directions, with units // 2
    units in each. Otherwise, it reads from left to right, with `units` units.
    """

    def __init__(self, letters: int, units: int, both: bool, rngs: nnx.Rngs):
        def layer(features: int) -> LSTM | Bidirectional:
            if both:
                return Bidirectional(
                    features, units // 2, return_sequences=True, rngs=rngs
                )
            return LSTM(features, units, return_sequences=True, rngs=rngs)

        self.layers = RecurrentStack([layer(letters), layer(units)])
        self.head = nnx.Linear(units, len(TAGS), rngs=rngs)

    def __call__(self, ids: jax.Array, mask: jax.Array) -> jax.Array:
        return self.head(self.layers(ids, mask=mask))


def loss(
    model: Tagger, ids: jax.Array, mask: jax.Array, tags: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Return two means over all letters except padding: the cross-entropy, and the
    share of letters whose likeliest tag is correct.

    Args:
        model: tagger.
        ids: ids of the letters (B, T) in B rows of T letters.
        mask: bool (B, T), False at padding.
        tags: correct tag of each letter (B, T), as an index of `TAGS`.
    """
    logits = model(ids, mask)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, tags)
    return losses.mean(where=mask), (logits.argmax(-1) == tags).mean(where=mask)


class Result(NamedTuple):
    """Results of `run`.

    Attributes:
        losses: loss of each training step.
        accuracy: share of the letters of new rows that get the correct tag.
        majority: accuracy of a tagger that gives every letter the most frequent tag.
    """

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
    """Train a tagger on random rows of letters, and measure the share of letters that
    it tags correctly in 2,000 new random rows.

    Args:
        steps: number of training steps.
        both: whether the layers read in both directions. If False, they read from left
            to right.
        units: number of units of each recurrent layer, in all directions together.
        letters: number of letters of the alphabet.
        length: largest number of letters of a row.
        batch: batch size.
        learning_rate: learning rate at the beginning. It falls to 0 on a cosine
            schedule.
    """
    rng = np.random.default_rng(0)
    rate = optax.cosine_decay_schedule(learning_rate, steps)
    step = lstm_jax.make_train_step(
        Tagger(letters, units, both, nnx.Rngs(0)),
        loss,
        lstm_jax.adam(rate),
        has_aux=True,
    )
    state, losses = step.init(), []
    for start in range(0, steps, 50):
        count = min(50, steps - start)
        rows = make_rows(count * batch, length, letters, rng)
        state, (values, _) = step.many(
            state, *(array.reshape(count, batch, length) for array in rows)
        )
        losses.append(values)
    new = make_rows(2_000, length, letters, rng)
    _, accuracy = nnx.jit(loss)(step.model(state), *map(jnp.asarray, new))
    majority = np.bincount(new.tags[new.mask]).max() / new.mask.sum()
    return Result(np.concatenate(losses), float(accuracy), float(majority))


def main(arguments: Sequence[str] | None = None) -> None:
    """Train a tagger from the command line, and print its loss and accuracy."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument(
        "--one-direction", action="store_true", help="read from left to right alone"
    )
    given = parser.parse_args(arguments)
    began = time.perf_counter()
    found = run(given.steps, not given.one_direction)
    for number in range(0, given.steps, max(1, given.steps // 10)):
        print(f"step {number:>5}: loss {found.losses[number]:.4f}")
    print(
        f"accuracy per letter on new rows: {found.accuracy:.4f}; the most "
        f"frequent tag alone: {found.majority:.4f}"
    )
    print(f"{time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
