"""An encoder-decoder that learns to add: it reads "535+61" and writes "596". The task
is that of the Keras example addition_rnn.

python examples/seq2seq.py --epochs 20

The example shows these parts of the library:

- Layers that take int ids in place of one-hot vectors.
- A batch of problems that differ in length. The layer gets the length of each problem
  in its argument `lengths`.
- A `Bidirectional` encoder. The final states of its two directions are concatenated and
  become the initial state of the decoder.
- Training with `fit`. The loss ignores the characters after the end of an answer.
- Greedy decoding with `layer.step`. Each step reads the character that the previous
  step has chosen.

In the Keras example, problems are padded with spaces, and each step of the decoder
reads the output of the encoder. Here, each step of the decoder reads the previous
character of the answer. N is the number of problems, S the number of characters of a
padded problem, and A the number of characters of a padded answer.
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
from lstm_jax.lab.runs.reports import progress

SYMBOLS = "0123456789+ ^"
END, START = SYMBOLS.index(" "), SYMBOLS.index("^")
"""Ids of the space that ends and pads an answer, and of the symbol that the decoder
reads first."""


class Problems(NamedTuple):
    """N addition problems and their answers, as ids of characters.

    Attributes:
        ids: problems such as "535+61" (N, S), padded with spaces to S characters.
        lengths: number of characters of each problem without padding (N,).
        answers: answers such as "596" (N, A), padded to A characters. The padding is at
            least one space, which marks the end of the answer.
    """

    ids: np.ndarray
    lengths: np.ndarray
    answers: np.ndarray


def encode(texts: Sequence[str], size: int) -> np.ndarray:
    """Return the ids (N, size) of the characters of N texts. Texts of fewer than `size`
    characters are padded with spaces.
    """
    return np.array(
        [
            [SYMBOLS.index(character) for character in text.ljust(size)]
            for text in texts
        ],
        np.int32,
    )


def decode(ids: Any) -> list[str]:
    """Convert N rows of character ids (N, size) to N texts. A text ends before the
    first space in its row.
    """
    return ["".join(SYMBOLS[n] for n in row).split(" ")[0] for row in np.asarray(ids)]


def make_problems(count: int, digits: int, seed: int = 0) -> Problems:
    """Return random addition problems. No two problems have the same two numbers, not
    even in swapped order.

    Args:
        count: number of problems. If there are not as many different problems, the
            function never returns.
        digits: largest number of digits. Each number in a problem has 1 to `digits`
            digits.
        seed: seed of the random numbers.
    """
    rng = np.random.default_rng(seed)
    pairs: dict[tuple[int, int], None] = {}  # a set in the order of the draws
    while len(pairs) < count:
        a, b = (int(rng.integers(10 ** rng.integers(1, digits + 1))) for _ in range(2))
        if (b, a) not in pairs:
            pairs[a, b] = None
    problems = [f"{a}+{b}" for a, b in pairs]
    lengths = np.array([len(problem) for problem in problems], np.int32)
    return Problems(
        encode(problems, 2 * digits + 1),
        lengths,
        encode([str(a + b) for a, b in pairs], digits + 2),
    )


class Adder(nnx.Module):
    """Encoder-decoder model: a bidirectional LSTM reads a problem, and a second LSTM
    writes the answer.

    The encoder has `units` units in each direction, and the decoder has 2 * units
    units.
    """

    def __init__(self, units: int, rngs: nnx.Rngs):
        count = len(SYMBOLS)
        self.encoder = Bidirectional(count, units, return_state=True, rngs=rngs)
        self.decoder = LSTM(count, 2 * units, return_sequences=True, rngs=rngs)
        self.head = nnx.Linear(2 * units, count, rngs=rngs)

    def read(self, ids: jax.Array, lengths: jax.Array) -> LSTMState:
        """Read N problems with the encoder, and return the initial state of the
        decoder.

        The initial state consists of the arrays h and c, each (N, 2 * units). Each
        array is the concatenation of the final states of the two directions of the
        encoder.

        Args:
            ids: character ids of the problems (N, S).
            lengths: number of characters of each problem (N,).
        """
        _, (ahead, back) = self.encoder(ids, lengths=lengths)
        return jax.tree.map(lambda *parts: jnp.concatenate(parts, axis=-1), ahead, back)

    def __call__(
        self, ids: jax.Array, lengths: jax.Array, answers: jax.Array
    ) -> jax.Array:
        """Return the logits of each character of N answers, for training. Their shape
        is (N, A, number of possible characters).

        The logits of a character depend on the problem and on the correct characters
        that precede it in the answer (teacher forcing).

        Args:
            ids: character ids of the problems (N, S).
            lengths: number of characters of each problem (N,).
            answers: character ids of the correct answers (N, A).
        """
        start = jnp.full_like(answers[:, :1], START)
        before = jnp.concatenate([start, answers[:, :-1]], axis=1)
        return self.head(self.decoder(before, initial_state=self.read(ids, lengths)))


def losses(
    model: Adder, ids: jax.Array, lengths: jax.Array, answers: jax.Array
) -> jax.Array:
    """Return the losses of N problems, an array (N,).

    The loss of a problem is the mean cross-entropy of the characters of its answer. The
    mean includes the space that ends the answer, but not the padding after this space.
    """
    found = optax.softmax_cross_entropy_with_integer_labels(
        model(ids, lengths, answers), answers
    )
    counts = (answers != END).sum(1, keepdims=True) + 1
    return found.mean(1, where=jnp.arange(answers.shape[1])[None] < counts)


@partial(nnx.jit, static_argnames="size")
def solve(model: Adder, ids: jax.Array, lengths: jax.Array, size: int) -> jax.Array:
    """Return the answers of a model to N problems, as an array (N, size) with `size`
    character ids for each answer.

    The characters are chosen one after another. Each one is the likeliest character,
    given the problem and the characters chosen so far.
    """

    def write(carry, _):
        last, state = carry
        h, state = model.decoder.step(last, state)
        last = model.head(h).argmax(-1).astype(ids.dtype)
        return (last, state), last

    start = jnp.full(len(ids), START, ids.dtype)
    _, written = jax.lax.scan(write, (start, model.read(ids, lengths)), length=size)
    return written.T


def answer(model: Adder, problems: Problems) -> list[str]:
    """Return the answers of a model to N problems as a list of N texts, such as "596"."""
    return decode(
        solve(
            model,
            jnp.asarray(problems.ids),
            jnp.asarray(problems.lengths),
            problems.answers.shape[1],
        )
    )


def accuracy(model: Adder, problems: Problems) -> float:
    """Return the share of problems that the model answers exactly right, with no wrong
    character.
    """
    return float(
        np.mean(
            [
                found == right
                for found, right in zip(
                    answer(model, problems), decode(problems.answers), strict=True
                )
            ]
        )
    )


class Result(NamedTuple):
    """Result of `run`: the trained model, the held-out problems, and a list with one
    dict of metrics for each epoch.
    """

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
    """Train a model on nine tenths of some random problems, and measure the accuracy on
    the held-out tenth after each epoch.

    Args:
        units: number of units of the encoder in each direction.
        digits: largest number of digits of a number.
        count: number of problems, at most half of all possible problems. A larger
            number is reduced to this half.
        epochs: number of epochs.
        batch: batch size.
        learning_rate: learning rate at the beginning. It falls to 0 on a cosine
            schedule.
        console: console on which the progress is shown, or None.
    """
    count = min(count, 10**digits * (10**digits + 1) // 4)
    problems = make_problems(count, digits)
    cut = count * 9 // 10
    known, held_out = (
        Problems(*(array[:cut] for array in problems)),
        Problems(*(array[cut:] for array in problems)),
    )
    model = Adder(units, nnx.Rngs(0))
    rate = optax.cosine_decay_schedule(learning_rate, epochs * -(-cut // batch))

    def evaluate(model):
        return {"held_out_accuracy": accuracy(model, held_out)}

    with progress(console or Console(quiet=True)) as watch:
        result = lstm_jax.fit(
            model,
            losses,
            lstm_jax.adam(rate),
            known,
            epochs=epochs,
            batch_size=batch,
            evaluate=evaluate,
            watch=watch,
        )
    return Result(model, held_out, result.rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train a model from the command line, and print its accuracy and some of its
    answers.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--units", type=int, default=128)
    parser.add_argument("--digits", type=int, default=3)
    given = parser.parse_args(arguments)
    if given.epochs < 1:
        parser.error(f"--epochs: {given.epochs}; give 1 or more")
    began = time.perf_counter()
    found = run(given.units, given.digits, epochs=given.epochs, console=Console())
    for row in found.rows[:: max(1, len(found.rows) // 10)]:
        print(
            f"epoch {row['epoch']:>3}: loss {row['train_loss']:.4f}, exact "
            f"answers {row['held_out_accuracy']:.4f}"
        )
    some = Problems(*(array[:8] for array in found.held_out))
    for problem, written, right in zip(
        decode(some.ids), answer(found.model, some), decode(some.answers), strict=True
    ):
        print(f"{problem} = {written}" + ("" if written == right else f", not {right}"))
    last = found.rows[-1]["held_out_accuracy"]
    print(
        f"exact answers of {len(found.held_out.ids):,} held-out problems: "
        f"{last:.4f}, after {time.perf_counter() - began:.0f} s"
    )


if __name__ == "__main__":
    main()
