"""An encoder-decoder that learns to add: "535+61" -> "596". The task is that of the Keras example addition_rnn.

python examples/seq2seq.py --epochs 20

It shows, in the order of the model:

- int ids as inputs of a layer, in place of one-hot vectors;
- problems of different lengths in one batch, with `lengths`;
- a `Bidirectional` encoder, whose two final states are concatenated to the initial state of the decoder;
- training with `fit`, whose loss leaves out what follows the end of an answer;
- greedy decoding with `layer.step`: each step reads the character that the step before it has written.

Keras' example pads the problems with spaces and repeats the encoder's output as the input of each step of the decoder. Here the decoder
reads the answer so far. N is the number of problems, S the length of the longest, and A the number of characters of an answer with its end.
"""

import argparse
import time
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from rich.console import Console

import lstm_jax
from lstm_jax import LSTM, Bidirectional, LSTMState

SYMBOLS = "0123456789+ ^"
END, START = SYMBOLS.index(" "), SYMBOLS.index("^")
"""Ids of the space that ends and pads an answer, and of the symbol that the decoder reads first."""


class Problems(NamedTuple):
    """Problems as ids (N, S), their lengths (N,), and their answers as ids (N, A), which end in at least one space."""

    ids: np.ndarray
    lengths: np.ndarray
    answers: np.ndarray


def encode(texts: Sequence[str], size: int) -> np.ndarray:
    """Return the ids (N, size) of texts that are padded with spaces."""
    return np.array([[SYMBOLS.index(character) for character in text.ljust(size)] for text in texts], np.int32)


def decode(ids: Any) -> list[str]:
    """Return the texts of ids (N, size) up to their first space."""
    return ["".join(SYMBOLS[n] for n in row).split(" ")[0] for row in np.asarray(ids)]


def make_problems(count: int, digits: int, seed: int = 0) -> Problems:
    """Return different problems, each number of which has 1 to `digits` digits; a + b and b + a count as equal."""
    rng = np.random.default_rng(seed)
    pairs: dict[tuple[int, int], None] = {}
    while len(pairs) < count:
        a, b = (int(rng.integers(10 ** rng.integers(1, digits + 1))) for _ in range(2))
        if (b, a) not in pairs:
            pairs[a, b] = None
    problems = [f"{a}+{b}" for a, b in pairs]
    lengths = np.array([len(problem) for problem in problems], np.int32)
    return Problems(encode(problems, 2 * digits + 1), lengths, encode([str(a + b) for a, b in pairs], digits + 2))


class Adder(nnx.Module):
    """Encoder-decoder: a bidirectional LSTM with `units` units in each direction, and an LSTM with twice as many that writes the answer."""

    def __init__(self, units: int, rngs: nnx.Rngs):
        count = len(SYMBOLS)
        self.encoder = Bidirectional(count, units, return_state=True, rngs=rngs)
        self.decoder = LSTM(count, 2 * units, return_sequences=True, rngs=rngs)
        self.head = nnx.Linear(2 * units, count, rngs=rngs)

    def read(self, ids: jax.Array, lengths: jax.Array) -> LSTMState:
        """Return the initial state of the decoder: h and c of the two directions, each concatenated."""
        _, (ahead, back) = self.encoder(ids, lengths=lengths)
        return jax.tree.map(lambda *parts: jnp.concatenate(parts, axis=-1), ahead, back)

    def __call__(self, ids: jax.Array, lengths: jax.Array, answers: jax.Array) -> jax.Array:
        """Return the logits (N, A, symbols) of each character of an answer, given the problem and the characters before it."""
        start = jnp.full_like(answers[:, :1], START)
        before = jnp.concatenate([start, answers[:, :-1]], axis=1)
        return self.head(self.decoder(before, initial_state=self.read(ids, lengths)))

    def solve(self, ids: jax.Array, lengths: jax.Array, size: int) -> jax.Array:
        """Return the answers (N, size), each character of which is the likeliest after the characters before it."""

        def write(carry: tuple[jax.Array, LSTMState], _: None):
            last, state = carry
            h, state = self.decoder.step(last, state)
            last = self.head(h).argmax(-1).astype(ids.dtype)
            return (last, state), last

        start = jnp.full(len(ids), START, ids.dtype)
        _, written = jax.lax.scan(write, (start, self.read(ids, lengths)), length=size)
        return written.T


def losses(model: Adder, ids: jax.Array, lengths: jax.Array, answers: jax.Array) -> jax.Array:
    """Return the loss of each problem: the mean cross-entropy of the characters of its answer and of the space that ends it."""
    found = optax.softmax_cross_entropy_with_integer_labels(model(ids, lengths, answers), answers)
    counts = (answers != END).sum(1, keepdims=True) + 1
    return found.mean(1, where=jnp.arange(answers.shape[1])[None] < counts)


@partial(nnx.jit, static_argnames="size")
def solve(model: Adder, ids: jax.Array, lengths: jax.Array, size: int) -> jax.Array:
    """Return the answers (N, size) of a model; compiled."""
    return model.solve(ids, lengths, size)


def answer(model: Adder, problems: Problems) -> list[str]:
    """Return the answers of a model as texts."""
    return decode(solve(model, jnp.asarray(problems.ids), jnp.asarray(problems.lengths), problems.answers.shape[1]))


def accuracy(model: Adder, problems: Problems) -> float:
    """Return the share of problems whose answers are right in all characters."""
    return float(np.mean([found == right for found, right in zip(answer(model, problems), decode(problems.answers), strict=True)]))


class Result(NamedTuple):
    """Trained model, held-out problems, and one dict of metrics for each epoch."""

    model: Adder
    held_out: Problems
    rows: list[dict[str, Any]]


def run(
    units: int = 128,
    digits: int = 3,
    count: int = 50_000,
    epochs: int = 20,
    batch: int = 128,
    learning_rate: float = 2e-3,
    console: Console | None = None,
) -> Result:
    """Train on nine tenths of the problems, and measure the accuracy on the others after each epoch.

    There are `count` problems, but at most half of the different ones that exist.
    """
    count = min(count, 10**digits * (10**digits + 1) // 4)
    problems = make_problems(count, digits)
    cut = count * 9 // 10
    known, held_out = Problems(*(array[:cut] for array in problems)), Problems(*(array[cut:] for array in problems))
    model = Adder(units, nnx.Rngs(0))
    rate = optax.cosine_decay_schedule(learning_rate, epochs * -(-cut // batch))

    def evaluate(model: nnx.Module) -> dict[str, float]:
        assert isinstance(model, Adder)
        return {"held_out_accuracy": accuracy(model, held_out)}

    result = lstm_jax.fit(model, losses, lstm_jax.adam(rate), known, epochs=epochs, batch_size=batch, evaluate=evaluate, console=console)
    return Result(model, held_out, result.rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train from the command line, and print the accuracy and some answers."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--units", type=int, default=128)
    parser.add_argument("--digits", type=int, default=3)
    given = parser.parse_args(arguments)
    began = time.perf_counter()
    found = run(given.units, given.digits, epochs=given.epochs, console=Console())
    for row in found.rows[:: max(1, len(found.rows) // 10)]:
        print(f"epoch {row['epoch']:>3}: loss {row['train_loss']:.4f}, exact answers {row['held_out_accuracy']:.4f}")
    some = Problems(*(array[:8] for array in found.held_out))
    for problem, written, right in zip(decode(some.ids), answer(found.model, some), decode(some.answers), strict=True):
        print(f"{problem} = {written}" + ("" if written == right else f", not {right}"))
    last = found.rows[-1]["held_out_accuracy"]
    print(f"exact answers of {len(found.held_out.ids):,} held-out problems: {last:.4f}, after {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
