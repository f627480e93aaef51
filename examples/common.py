"""Functions that compare two versions of a model. Several examples use them.

The versions differ only in the library that runs the LSTM. The version "theirs" uses a
library such as Flax, and the version "ours" uses lstm_jax.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax


class Sizes(NamedTuple):
    """Sizes of the model and of a batch. The defaults are those of the Keras example
    imdb_lstm.

    Attributes:
        vocabulary: number of distinct token ids.
        features: size of the embedding vectors.
        units: hidden size of the LSTM.
        length: number of tokens in a sequence.
        batch: number of sequences in a batch.
    """

    vocabulary: int = 20_000
    features: int = 128
    units: int = 128
    length: int = 80
    batch: int = 32


class Comparison(NamedTuple):
    """Result of a comparison of two versions of a model: the losses of all training
    steps, and the time per step.

    Attributes:
        theirs: losses of the version that runs the LSTM with another library.
        ours: losses of the version that runs the LSTM with lstm_jax.
        milliseconds: pair of median times per step, first of `theirs`, then of `ours`.
    """

    theirs: list[float]
    ours: list[float]
    milliseconds: tuple[float, float]


def batches(sizes: Sizes, count: int = 8) -> list[tuple[jax.Array, jax.Array]]:
    """Return random batches for a classifier: pairs of token ids (B, T) and labels
    (B,), with batch size B and sequence length T.

    The ids are distributed roughly as words in a text are: small ids are frequent, and
    large ids are rare. The label of a sequence is 1 if its first id is odd, else 0.

    Args:
        sizes: sizes of the model and of a batch.
        count: number of batches.
    """
    rng = np.random.default_rng(0)
    ids = (sizes.vocabulary ** rng.random((count, sizes.batch, sizes.length))).astype(
        np.int32
    ) - 1
    labels = (ids[:, :, 0] % 2).astype(np.float32)
    return [(jnp.asarray(i), jnp.asarray(y)) for i, y in zip(ids, labels, strict=True)]


def jit_loop(
    loss: Callable, params: Any
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """Return a function step(ids, labels) that takes one training step on a batch, and
    returns the loss before the step.

    A step is one step of Adam, compiled by `jax.jit`. The parameters and the state of
    Adam are kept between the calls.

    Args:
        loss: loss(params, ids, labels) returns the mean loss of a batch.
        params: pytree of the initial parameters. It is copied.
    """
    optimizer = optax.adam(1e-3)
    state = jax.tree.map(jnp.copy, (params, optimizer.init(params)))

    @jax.jit(donate_argnums=0)
    def step(state, ids, labels):
        params, moments = state
        value, gradient = jax.value_and_grad(loss)(params, ids, labels)
        updates, moments = optimizer.update(gradient, moments)
        return (optax.apply_updates(params, updates), moments), value

    def call(ids, labels):
        nonlocal state
        state, value = step(state, ids, labels)
        return value

    return call


def compare(theirs: Callable, ours: Callable, sizes: Sizes, steps: int) -> Comparison:
    """Train two versions of a model in turns of ten steps each, and return their losses
    and their median times per step.

    The medians leave out the first turn, because it includes the compilation. If there
    is only one turn, they are computed from it.

    Args:
        theirs: theirs(ids, labels) takes one training step with the LSTM of another
            library, and returns the loss.
        ours: ours(ids, labels) takes one training step with the LSTM of lstm_jax, and
            returns the loss.
        sizes: sizes of the model and of a batch.
        steps: number of training steps of each version.
    """
    given, turn = batches(sizes), 10
    losses, times = ([], []), ([], [])
    for start in range(0, steps, turn):
        for step, found, seconds in zip((theirs, ours), losses, times, strict=True):
            count = min(turn, steps - start)
            began = time.perf_counter()
            values = [step(*given[(start + n) % len(given)]) for n in range(count)]
            jax.block_until_ready(values)
            seconds.append((time.perf_counter() - began) / count)
            found += map(float, values)
    # the first turn compiles
    first, second = (
        1e3 * float(np.median(seconds[1:] or seconds)) for seconds in times
    )
    return Comparison(*losses, (first, second))


def main(
    run: Callable[[Sizes, int], Comparison], arguments: Sequence[str] | None = None
) -> None:
    """Run an example from the command line, and print the last loss and the time per
    step of its model without and with lstm_jax.

    Args:
        run: run(sizes, steps) trains the model without and with lstm_jax, for `steps`
            steps each, and returns the comparison.
        arguments: command-line arguments. If None, they are taken from `sys.argv`.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=100)
    found = run(Sizes(), parser.parse_args(arguments).steps)
    first, second = found.milliseconds
    print(
        f"loss of the last step: {found.theirs[-1]:.6f} with the library's "
        f"own recurrence, {found.ours[-1]:.6f} with lstm_jax"
    )
    print(
        f"milliseconds a step: {first:.2f} and {second:.2f}, a speedup of "
        f"{first / second:.2f}x"
    )
