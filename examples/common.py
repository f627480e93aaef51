"""Comparison of two versions of a model that differ in the recurrence alone, which the examples share."""

import argparse
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax


class Sizes(NamedTuple):
    """Sizes of the model and of a batch; by default those of the Keras example imdb_lstm."""

    vocabulary: int = 20_000
    features: int = 128
    units: int = 128
    length: int = 80
    batch: int = 32


class Comparison(NamedTuple):
    """Losses of each step of two versions, and their time per step."""

    theirs: list[float]
    ours: list[float]
    milliseconds: tuple[float, float]


def batches(sizes: Sizes, count: int = 8) -> list[tuple[jax.Array, jax.Array]]:
    """Return pairs of token ids (B, T), as frequent as words are, and labels (B,), which depend on the ids."""
    rng = np.random.default_rng(0)
    ids = (sizes.vocabulary ** rng.random((count, sizes.batch, sizes.length))).astype(np.int32) - 1
    labels = (ids[:, :, 0] % 2).astype(np.float32)
    return [(jnp.asarray(i), jnp.asarray(y)) for i, y in zip(ids, labels, strict=True)]


def jit_loop(loss: Callable, params: Any) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """Return a function that takes one step of Adam on a batch and returns the loss before it: `jax.jit`, donation and optax."""
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
    """Train two versions by turns, ten steps each, and return the losses and the median time per step of each."""
    given, turn = batches(sizes), 10
    losses: tuple[list[float], list[float]] = ([], [])
    times: tuple[list[float], list[float]] = ([], [])
    for start in range(0, steps, turn):
        for step, found, seconds in zip((theirs, ours), losses, times, strict=True):
            count = min(turn, steps - start)
            began = time.perf_counter()
            values = [step(*given[(start + n) % len(given)]) for n in range(count)]
            jax.block_until_ready(values)
            seconds.append((time.perf_counter() - began) / count)
            found += map(float, values)
    first, second = (1e3 * float(np.median(seconds[1:] or seconds)) for seconds in times)  # the first turn compiles
    return Comparison(*losses, (first, second))


def main(run: Callable[[Sizes, int], Comparison], arguments: Sequence[str] | None = None) -> None:
    """Run an example from the command line, and print the loss and the time per step of both versions."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=100)
    found = run(Sizes(), parser.parse_args(arguments).steps)
    first, second = found.milliseconds
    print(f"loss of the last step: {found.theirs[-1]:.6f} with the library's own recurrence, {found.ours[-1]:.6f} with lstm_jax")
    print(f"milliseconds a step: {first:.2f} and {second:.2f}, a speedup of {first / second:.2f}x")
