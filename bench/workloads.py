"""What is timed: the two tasks of the source as whole training steps, and the recurrence alone over a grid of sizes.

    workload("A"), workload("B:H=64"), workload("recurrence:H=128,T=80,B=32,cell=gru"), workload("evaluation")

A: Embedding(20000, 128) -> LSTM(128, dropout 0.2, recurrent dropout 0.2) -> Dense(1), 80 words, batch 32, Adam.
B: 33 one-hot characters -> LSTM(128) -> Dense(33), softmax cross-entropy of the character after 40, batch 128, Adam.
evaluation: A's model, without dropout, on the 25,000 IMDB test reviews in batches of 512; `$LSTM_JAX_DATA` or the cache must have them.
recurrence: x (B, T, E) -> h (B, T, H) from a zero state, and for a given cotangent of h the gradients of kernel, recurrent kernel, bias
and x.

Each with an LSTM, or with another cell of `lstm_jax.cells` where the name gives it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal

import numpy as np

from lstm_jax import data
from lstm_jax.cell_names import cell_traits

STEP = 5
"""Characters from one window's start to the next one's."""
EVALUATED = 25_000
"""Test reviews."""
RATE = 0.2
"""Both dropout rates of A."""


@dataclass(frozen=True)
class Workload:
    """name: as `workload` reads it; the sizes are B, T, H, E (one-hot: V) and V (recurrence: 0)."""

    name: str
    kind: Literal["sentiment", "characters", "evaluation", "recurrence"]
    batch: int
    length: int
    units: int
    features: int
    vocabulary: int
    cell: str = "lstm"

    @property
    def gates(self) -> int:
        """Parts that the kernel's columns hold side by side."""
        if self.cell in GATES:
            return GATES[self.cell]
        from lstm_jax.cells import CELLS  # JAX with it, which peers that know this cell do not need

        return CELLS[self.cell].gates

    @property
    def sees_state(self) -> bool:
        """Whether the gates have a product with the state."""
        return cell_traits()[self.cell].product

    @property
    def classes(self) -> int:
        """Outputs of the head; 0 for none."""
        return {"sentiment": 1, "characters": self.vocabulary, "evaluation": 1, "recurrence": 0}[self.kind]

    @property
    def words(self) -> bool:
        """Whether inputs are ids for an embedding."""
        return self.kind in ("sentiment", "evaluation")

    @property
    def examples(self) -> int:
        """That a step reads; an evaluation counts as one."""
        return EVALUATED if self.kind == "evaluation" else self.batch

    @property
    def batches(self) -> int:
        """Different batches that training goes round: of words so many that, as in an epoch, nearly every word of the table comes."""
        return 128 if self.kind == "sentiment" else 8

    @property
    def dropout(self) -> float:
        """The rate of the input dropout that the workload has."""
        return RATE if self.kind == "sentiment" else 0.0

    @property
    def recurrent_dropout(self) -> float:
        """The rate of its recurrent dropout."""
        return self.dropout if self.sees_state else 0.0


GATES = {"lstm": 4, "gru": 3, "simple_rnn": 1}
"""Of the cells that peers have too."""
WORKLOADS = {
    "A": Workload("A", "sentiment", 32, 80, 128, 128, 20_000),
    "B": Workload("B", "characters", 128, 40, 128, 33, 33),
    "evaluation": Workload("evaluation", "evaluation", 512, 80, 128, 128, 20_000),
    "recurrence": Workload("recurrence", "recurrence", 32, 80, 128, 128, 0),
}
UNITS, LENGTHS, BATCH_SIZES = (32, 64, 128, 256, 512), (20, 80, 320), (1, 32, 128)
LETTERS = {"B": "batch", "T": "length", "H": "units", "E": "features", "V": "vocabulary"}


def workload(name: str) -> Workload:
    """A workload of the table, with other sizes or another cell where the name gives them: "A:B=4,T=5,H=8,E=8,V=30,cell=gru".

    Raises:
        ValueError: if there is no such workload, size or cell.
    """
    base, _, changes = name.partition(":")
    try:
        pairs = dict(part.split("=") for part in changes.split(",") if part)
        cell = pairs.pop("cell", "lstm")
        sizes = {LETTERS[letter]: int(size) for letter, size in pairs.items()}
        found = WORKLOADS[base]
    except (KeyError, ValueError) as error:
        raise ValueError(f"workload {name!r}: give one of {', '.join(WORKLOADS)}, sizes as in recurrence:H=64,T=80,B=32") from error
    if cell not in cell_traits():
        raise ValueError(f"workload {name!r}: give a cell of {', '.join(cell_traits())}")
    if found.kind == "characters" and "vocabulary" in sizes:
        sizes["features"] = sizes["vocabulary"]
    if found.kind == "recurrence" and "units" in sizes:
        sizes = {"features": sizes["units"]} | sizes
    return replace(found, name=name, cell=cell, **sizes)


def recurrence(units: int, length: int, batch: int) -> Workload:
    """A cell of the grid; E = H."""
    return workload(f"recurrence:H={units},T={length},B={batch}")


def grid(units=UNITS, lengths=LENGTHS, batches=BATCH_SIZES) -> Iterator[Workload]:
    """The cells of the grid."""
    for cell in product(units, lengths, batches):
        yield recurrence(*cell)


LAYER = "recurrent/0/"


@dataclass(frozen=True)
class Arrays:
    """What every peer is given.

    weights: float32, named and laid out as in `lstm_jax.convert`, gates i, f, g, o; a recurrence has those of "recurrent/0/" only.
    inputs, targets: words: ids (N, T), labels (N,); characters: ids (N, T) and the next one (N,), cut from `text` every `STEP`;
        N is `batches` batches. Recurrence: x (B, T, E) and the cotangent of h (B, T, H).
    """

    weights: dict[str, np.ndarray]
    inputs: np.ndarray
    targets: np.ndarray
    text: np.ndarray

    def cell(self) -> dict[str, np.ndarray]:
        """The recurrent layer's: kernel (E, G H), recurrent_kernel (H, G H), bias (G H,), and what else the cell has; an LSTM's G is 4."""
        return {name.removeprefix(LAYER): array for name, array in self.weights.items() if name.startswith(LAYER)}


def make_arrays(work: Workload, seed: int = 0) -> Arrays:
    """Weights near Keras' initial ones, but with a bias that tells the gates apart; deterministic in the seed."""
    rng = np.random.default_rng(seed)
    B, T, H, E, V = work.batch, work.length, work.units, work.features, work.vocabulary

    def uniform(limit: float, *shape: int) -> np.ndarray:
        return rng.uniform(-limit, limit, shape).astype(np.float32)

    G = work.gates * H
    bias = uniform(0.1, G)
    if work.cell == "lstm":
        bias[H : 2 * H] += 1
    layer = {
        "kernel": uniform((6 / (E + G)) ** 0.5, E, G),
        "recurrent_kernel": (rng.standard_normal((H, G)) / G**0.5).astype(np.float32),
        "bias": bias,
    }
    if work.cell == "gru":
        layer["recurrent_bias"] = uniform(0.1, G)
    elif work.cell not in GATES:
        layer = {name: layer[name] if name in layer else uniform(0.2, *shape) for name, shape in _shapes(work).items()}
    weights = {LAYER + name: array for name, array in layer.items()}
    empty = np.zeros(0, np.int32)
    if work.kind == "recurrence":
        x, cotangent = (rng.standard_normal((B, T, size)).astype(np.float32) for size in (E, H))
        return Arrays(weights, x, cotangent, empty)
    weights |= {"head/kernel": uniform((6 / (H + work.classes)) ** 0.5, H, work.classes), "head/bias": uniform(0.1, work.classes)}
    count = work.batches * B
    if work.words:
        weights["embedding/embedding"] = uniform(0.05, V, E)
    if work.kind == "evaluation":
        from bench.sentiment_data import imdb_rows  # reads the reviews with this project; other workloads need neither

        _, _, ids, labels = imdb_rows()
        return Arrays(weights, ids[:, -T:] % V, labels, empty)
    if work.words:
        ids = np.floor(float(V) ** rng.random((count, T))).astype(np.int32)  # log-uniform: frequencies as in Zipf's law
        return Arrays(weights, ids, rng.integers(0, 2, count, dtype=np.int32), empty)
    text = rng.integers(0, V, (count - 1) * STEP + T + 1, dtype=np.int32)
    X, Y = data.windows(text, T, STEP)
    return Arrays(weights, np.ascontiguousarray(X), np.ascontiguousarray(Y), text)


def _shapes(work: Workload) -> dict[str, tuple[int, ...]]:
    """Of the parameters of a cell that no peer has. It makes no JAX devices: how many there are is decided later."""
    import jax

    from lstm_jax.cells import CELLS

    shapes = jax.eval_shape(lambda: CELLS[work.cell].init(jax.random.key(0), work.features, work.units))
    return {name: leaf.shape for name, leaf in shapes._asdict().items()}


def one_hot(ids: np.ndarray, size: int) -> np.ndarray:
    """ids (...) -> float32 (..., size)."""
    return np.eye(size, dtype=np.float32)[ids]
