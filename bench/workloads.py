"""Workloads: the training steps of two Keras examples, an evaluation, and the recurrence alone over a grid of sizes.

    workload("A"), workload("B:H=64"), workload("recurrence:H=128,T=80,B=32,cell=gru"), workload("evaluation")

- A is the Keras example imdb_lstm: Embedding(20000, 128) -> LSTM(128, dropout 0.2, recurrent dropout 0.2) -> Dense(1), on 80 words of a
  review, batch 32, Adam.
- B is the Keras example lstm_text_generation: 33 one-hot characters -> LSTM(128) -> Dense(33), on windows of 40 characters, with the
  softmax cross-entropy of the next character, batch 128, Adam.
- evaluation is the model of A without dropout on the 25,000 IMDB test reviews, in batches of 512. It reads the reviews from
  `$LSTM_JAX_DATA` or the cache.
- recurrence is the recurrent layer alone, from a zero state: inputs x (B, T, E) -> outputs h (B, T, H), and the gradients of kernel,
  recurrent kernel, bias and x for a given cotangent of h.

The sizes are batch B, steps T, features E, hidden size H and vocabulary V. The recurrent cell is an LSTM unless the name of the workload
gives another cell of `lstm_jax.cells`.
"""

import argparse
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal

import numpy as np

from lstm_jax import data
from lstm_jax.cell_names import cell_traits
from lstm_jax.errors import InputError

STEP = 5
"""Number of characters from the start of one window to the start of the next."""
EVALUATED = 25_000
"""Number of IMDB test reviews."""
LENGTH, CHARACTERS, CHARS = 40, 33, 400
"""Numbers in lstm_text_generation: characters of a window, distinct characters, and characters drawn after each epoch."""
RATE = 0.2
"""Both dropout rates of workload A."""


@dataclass(frozen=True)
class Workload:
    """Description of the work of one step.

    Attributes:
        name: name that the function `workload` reads, such as "A" or "recurrence:H=64".
        kind: kind of work.
        batch: batch size B.
        length: number of steps T.
        units: hidden size H.
        features: number of input features E; V if characters are one-hot.
        vocabulary: number of different ids V; 0 for the recurrence.
        cell: name of the recurrent cell.
    """

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
        """Number of gates: the kernel has this many blocks of H columns."""
        if self.cell in GATES:
            return GATES[self.cell]
        from lstm_jax.cells import CELLS  # this imports JAX, which a peer with a cell of `GATES` does not need

        return CELLS[self.cell].gates

    @property
    def sees_state(self) -> bool:
        """Whether the cell has a recurrent kernel, which multiplies the state."""
        return cell_traits(self.cell).has_recurrent_kernel

    @property
    def classes(self) -> int:
        """Number of outputs of the head; 0 if there is no head."""
        return {"sentiment": 1, "characters": self.vocabulary, "evaluation": 1, "recurrence": 0}[self.kind]

    @property
    def words(self) -> bool:
        """Whether the inputs are word ids for an embedding."""
        return self.kind in ("sentiment", "evaluation")

    @property
    def examples(self) -> int:
        """Number of examples in a step; an evaluation of all test reviews counts as one step."""
        return EVALUATED if self.kind == "evaluation" else self.batch

    @property
    def batches(self) -> int:
        """Number of batches that training repeats; for sentiment enough that nearly all words of the vocabulary occur, as in an epoch."""
        return 128 if self.kind == "sentiment" else 8

    @property
    def dropout(self) -> float:
        """Rate of the input dropout."""
        return RATE if self.kind == "sentiment" else 0.0

    @property
    def recurrent_dropout(self) -> float:
        """Rate of the recurrent dropout; 0 for a cell without a recurrent kernel."""
        return self.dropout if self.sees_state else 0.0


GATES = {"lstm": 4, "gru": 3, "simple_rnn": 1}
"""Number of gates of the cells that other peers have too."""
WORKLOADS = {
    "A": Workload("A", "sentiment", 32, 80, 128, 128, 20_000),
    "B": Workload("B", "characters", 128, 40, 128, 33, 33),
    "evaluation": Workload("evaluation", "evaluation", 512, 80, 128, 128, 20_000),
    "recurrence": Workload("recurrence", "recurrence", 32, 80, 128, 128, 0),
}
UNITS, LENGTHS, BATCH_SIZES = (32, 64, 128, 256, 512), (20, 80, 320), (1, 32, 128)
LETTERS = {"B": "batch", "T": "length", "H": "units", "E": "features", "V": "vocabulary"}


def workload(name: str) -> Workload:
    """Return the workload with the given name.

    Args:
        name: key of `WORKLOADS`, optionally with sizes and a cell, as in "A:B=4,T=5,H=8,E=8,V=30,cell=gru".

    Raises:
        ValueError: if the workload, the letter of a size or the cell does not exist, or if a size is not an integer.
    """
    base, _, changes = name.partition(":")
    try:
        pairs = dict(part.split("=") for part in changes.split(",") if part)
        cell = pairs.pop("cell", "lstm")
        sizes = {LETTERS[letter]: int(size) for letter, size in pairs.items()}
        found = WORKLOADS[base]
    except (KeyError, ValueError) as error:
        raise ValueError(f"workload {name!r}: give one of {', '.join(WORKLOADS)}, sizes as in recurrence:H=64,T=80,B=32") from error
    try:
        cell_traits(cell)
    except InputError as error:
        raise ValueError(f"workload {name!r}: {error}") from error
    if found.kind == "characters" and "vocabulary" in sizes:
        sizes["features"] = sizes["vocabulary"]
    if found.kind == "recurrence" and "units" in sizes:
        sizes = {"features": sizes["units"]} | sizes
    return replace(found, name=name, cell=cell, **sizes)


def recurrence(units: int, length: int, batch: int) -> Workload:
    """Return the workload "recurrence" with the given sizes and as many features as units (E = H)."""
    return workload(f"recurrence:H={units},T={length},B={batch}")


def grid(units=UNITS, lengths=LENGTHS, batches=BATCH_SIZES) -> Iterator[Workload]:
    """Yield the workload "recurrence" at every combination of units, lengths and batch sizes."""
    for cell in product(units, lengths, batches):
        yield recurrence(*cell)


LAYER = "recurrent/0/"


@dataclass(frozen=True)
class Arrays:
    """Weights and data of a workload, which all peers get.

    Attributes:
        weights: float32 arrays with the names and layout of `lstm_jax.convert`, gates in the order i, f, g, o. For the recurrence, only the
            weights of the cell, whose names begin with "recurrent/0/".
        inputs: word or character ids (N, T) of N examples; for the recurrence the inputs x (B, T, E).
        targets: labels (N,) or next characters (N,); for the recurrence the cotangent (B, T, H) of its outputs h.
        text: character ids of the text from which a window is cut every `STEP` characters; empty for other kinds of work.
    """

    weights: dict[str, np.ndarray]
    inputs: np.ndarray
    targets: np.ndarray
    text: np.ndarray

    def cell(self) -> dict[str, np.ndarray]:
        """Return the weights of the cell by name.

        With G gates (4 for an LSTM) these are kernel (E, G * H), recurrent_kernel (H, G * H), bias (G * H,) and, for some cells, others.
        """
        return {name.removeprefix(LAYER): array for name, array in self.weights.items() if name.startswith(LAYER)}


def make_arrays(work: Workload, seed: int = 0) -> Arrays:
    """Return the weights and data of a workload, which depend on the seed alone.

    Kernels and embeddings are drawn as Keras initializes them. Recurrent kernels are normal instead of orthogonal, and biases are random,
    so that an error in the order of the gates changes the results.
    """
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
        from bench.peers.task_data import imdb_rows  # this imports the tasks of this project, which other workloads do not need

        _, _, ids, labels = imdb_rows()
        return Arrays(weights, ids[:, -T:] % V, labels, empty)
    if work.words:
        ids = np.floor(float(V) ** rng.random((count, T))).astype(np.int32)  # log-uniform ids have the word frequencies of Zipf's law
        return Arrays(weights, ids, rng.integers(0, 2, count, dtype=np.int32), empty)
    text = rng.integers(0, V, (count - 1) * STEP + T + 1, dtype=np.int32)
    X, Y = data.windows(text, T, STEP)
    return Arrays(weights, np.ascontiguousarray(X), np.ascontiguousarray(Y), text)


def _shapes(work: Workload) -> dict[str, tuple[int, ...]]:
    """Return the shape of each parameter of a cell that no other peer has.

    `eval_shape` creates no JAX devices, whose number is chosen later.
    """
    import jax

    from lstm_jax.cells import CELLS

    shapes = jax.eval_shape(lambda: CELLS[work.cell].init(jax.random.key(0), work.features, work.units))
    return {name: leaf.shape for name, leaf in shapes._asdict().items()}


def one_hot(ids: np.ndarray, size: int) -> np.ndarray:
    """Return the one-hot encoding, float32 (..., size), of ids (...)."""
    return np.eye(size, dtype=np.float32)[ids]


AXES = {"H": "units", "T": "length", "B": "batch"}
"""Name of the flag, without dashes, that gives the values of each size."""


def add_size_flags(parser: argparse.ArgumentParser, names: Iterable[str] = AXES.values()) -> None:
    """Add a flag with a list of sizes for each name; by default --units, --length and --batch."""
    for name in names:
        parser.add_argument(f"--{name}", type=read_sizes, help="sizes, as in 32,64,128 or 32..512")


def given_axes(options: argparse.Namespace) -> dict[str, tuple[int, ...]]:
    """Return the values of each size that a flag gives, by letter."""
    return {letter: values for letter, name in AXES.items() if (values := getattr(options, name))}


def read_workloads(names: Iterable[str], axes: dict[str, tuple[int, ...]], cells: Iterable[str] = ("lstm",)) -> list[Workload]:
    """Return the named workloads at every combination of sizes, with each cell.

    Args:
        names: names of workloads. Workloads whose name gives sizes, and evaluations, keep their sizes.
        axes: values of sizes by a letter of `LETTERS`. The recurrence uses its own grid for the letters that `axes` lacks.
        cells: names of cells.

    Raises:
        InputError: if a workload does not exist.
    """
    found = {}
    for name, cell in product(names, cells):
        over = ({"H": UNITS, "T": LENGTHS, "B": BATCH_SIZES} | axes) if name == "recurrence" else {} if name == "evaluation" else axes
        for sizes in product(*over.values()):
            work = _resized(name, dict(zip(over, sizes, strict=True)), cell)
            found[work.name] = work
    return list(found.values())


def _resized(name: str, sizes: dict[str, int], cell: str) -> Workload:
    """Return the named workload with other sizes and another cell.

    A name that gives sizes already is kept unchanged. If the result equals a workload of `WORKLOADS` other than the recurrence, it gets
    that workload's plain name.
    """
    changes = ",".join([f"{letter}={size}" for letter, size in sizes.items()] + [f"cell={cell}"] * (cell != "lstm"))
    try:
        work = workload(name + (f":{changes}" if changes and ":" not in name else ""))
    except ValueError as error:
        raise InputError("workload", name, str(error).partition(": ")[2]) from error
    plain = workload(name.partition(":")[0])
    return plain if name != "recurrence" and replace(work, name=plain.name) == plain else work


def read_sizes(text: str) -> tuple[int, ...]:
    """Return the sizes in a text: a list such as "20,40", or a range such as "32..512", in which each size is twice the one before.

    Raises:
        ValueError: if the text is neither, which argparse reports as a bad value.
    """
    first, dots, last = text.partition("..")
    if not dots:
        return tuple(int(part) for part in text.split(","))
    found = [int(first)]
    while 2 * found[-1] <= int(last):
        found.append(2 * found[-1])
    return tuple(found)
