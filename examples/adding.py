"""Study in 25 lines: how well do three cells learn to add two marked numbers, in
sequences of two lengths, with two seeds each?

    python examples/adding.py

The seeds of one cell and length train together, as one program under `vmap`. Each run
appends its row to adding.jsonl, and a second call runs only what is missing. The figure
adding.png shows the mean squared error of the last 20 updates. Guessing 1 has an error
of 1/6.
"""

from dataclasses import dataclass

import jax
from flax import nnx

from lstm_jax import Recurrent, adam, make_train_step
from lstm_jax.lab import sweep


@dataclass(frozen=True)
class Config:
    """Cell, length of the sequences, and seed of one run."""

    cell: str = "lstm"
    length: int = 50
    seed: int = 0


def make_batches(key, length):
    """Return 1,000 batches of 64 sequences (1000, 64, length, 2) of numbers and marks,
    and the sums of the two marked numbers.
    """
    of_values, of_marks = jax.random.split(key)
    values, marks = (
        jax.random.uniform(of_values, (1000, 64, length)),
        jax.random.randint(of_marks, (2, 1000, 64), 0, length // 2),
    )
    marked = sum(
        jax.nn.one_hot(marks[half] + half * (length // 2), length) for half in (0, 1)
    )
    return jax.numpy.stack([values, marked], -1), (values * marked).sum(-1)


def run(config):
    """Train one cell, and return its error, as an array of JAX, which runs together
    need.
    """
    rngs = nnx.Rngs(config.seed)
    model = nnx.Sequential(
        Recurrent(2, 32, cell=config.cell, rngs=rngs), nnx.Linear(32, 1, rngs=rngs)
    )
    step = make_train_step(
        model, lambda model, x, y: ((model(x)[:, 0] - y) ** 2).mean(), adam(1e-2)
    )
    errors = step.many(
        step.init(), *make_batches(jax.random.key(config.seed), config.length)
    )[1]
    return {"error": errors[-20:].mean()}


if __name__ == "__main__":
    configs = sweep.grid(
        Config(), cell=["lstm", "gru", "simple_rnn"], length=[50, 100], seed=[0, 1]
    )
    rows = sweep.run(run, configs, "adding.jsonl", together="seed")
    summary = sweep.summarise(
        rows, by=("cell", "length"), over="seed", bounds={"error": (0, float("inf"))}
    )
    sweep.plot(summary, x="length", hue="cell").savefig("adding.png")
