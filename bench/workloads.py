"""Workloads: the training steps of two Keras examples, an evaluation, and the recurrence alone over a grid of sizes.

    workload("A"), workload("B:H=64"), workload("recurrence:H=128,T=80,B=32,cell=gru"), workload("evaluation")

A: imdb_lstm: Embedding(20000, 128) -> LSTM(128, dropout 0.2, recurrent dropout 0.2) -> Dense(1), 80 words, batch 32, Adam.
B: lstm_text_generation: 33 one-hot characters -> LSTM(128) -> Dense(33), softmax cross-entropy of the character after 40, batch 128, Adam.
evaluation: the model of A without dropout on the 25,000 IMDB test reviews in batches of 512; needs them in `$LSTM_JAX_DATA` or the cache.
recurrence: x (B, T, E) -> h (B, T, H) from a zero state, and the gradients of kernel, recurrent kernel, bias and x for a given cotangent
of h.

Each has an LSTM, or the cell of `lstm_jax.cells` that its name gives.
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
"""Characters from the start of a window to that of the next."""
EVALUATED = 25_000
"""Number of test reviews."""
LENGTH, CHARACTERS, CHARS = 40, 33, 400
"""Length of a window, distinct characters, and characters drawn after an epoch, of lstm_text_generation."""
RATE = 0.2
"""Both dropout rates of workload A."""


@dataclass(frozen=True)
class Workload:
    """Work of one step; `name` as `workload` reads it, sizes B, T, H, E (one-hot: V) and V (recurrence: 0)."""

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
        """Number of blocks of H columns in the kernel."""
        if self.cell in GATES:
            return GATES[self.cell]
        from lstm_jax.cells import CELLS  # imports JAX, which a peer with a cell of `GATES` does not need

        return CELLS[self.cell].gates

    @property
    def sees_state(self) -> bool:
        """Whether the gates multiply the state."""
        return cell_traits(self.cell).has_recurrent_kernel

    @property
    def classes(self) -> int:
        """Number of outputs of the head; 0 without a head."""
        return {"sentiment": 1, "characters": self.vocabulary, "evaluation": 1, "recurrence": 0}[self.kind]

    @property
    def words(self) -> bool:
        """Whether inputs are ids for an embedding."""
        return self.kind in ("sentiment", "evaluation")

    @property
    def examples(self) -> int:
        """Number of examples of a step; an evaluation is one step."""
        return EVALUATED if self.kind == "evaluation" else self.batch

    @property
    def batches(self) -> int:
        """Number of batches that training repeats: enough for nearly every word of the table to occur, as in an epoch."""
        return 128 if self.kind == "sentiment" else 8

    @property
    def dropout(self) -> float:
        """Rate of the input dropout."""
        return RATE if self.kind == "sentiment" else 0.0

    @property
    def recurrent_dropout(self) -> float:
        """Rate of the recurrent dropout; 0 for a cell whose gates do not multiply the state."""
        return self.dropout if self.sees_state else 0.0


GATES = {"lstm": 4, "gru": 3, "simple_rnn": 1}
"""Blocks of columns of the cells that peers have too."""
WORKLOADS = {
    "A": Workload("A", "sentiment", 32, 80, 128, 128, 20_000),
    "B": Workload("B", "characters", 128, 40, 128, 33, 33),
    "evaluation": Workload("evaluation", "evaluation", 512, 80, 128, 128, 20_000),
    "recurrence": Workload("recurrence", "recurrence", 32, 80, 128, 128, 0),
}
UNITS, LENGTHS, BATCH_SIZES = (32, 64, 128, 256, 512), (20, 80, 320), (1, 32, 128)
LETTERS = {"B": "batch", "T": "length", "H": "units", "E": "features", "V": "vocabulary"}


def workload(name: str) -> Workload:
    """Return a workload of the table, with the sizes and the cell that its name gives: "A:B=4,T=5,H=8,E=8,V=30,cell=gru".

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
    """Return a workload of the grid; E = H."""
    return workload(f"recurrence:H={units},T={length},B={batch}")


def grid(units=UNITS, lengths=LENGTHS, batches=BATCH_SIZES) -> Iterator[Workload]:
    """Yield the workloads of the grid."""
    for cell in product(units, lengths, batches):
        yield recurrence(*cell)


LAYER = "recurrent/0/"


@dataclass(frozen=True)
class Arrays:
    """Arrays that every peer is given.

    Attributes:
        weights: float32, named and laid out as in `lstm_jax.convert`, gates i, f, g, o; of a recurrence only those of "recurrent/0/".
        inputs: word or character ids (N, T) of `batches` batches, N examples; of a recurrence x (B, T, E).
        targets: labels (N,), next characters (N,), or the cotangent of h (B, T, H).
        text: the ids from which windows of characters are cut every `STEP`.
    """

    weights: dict[str, np.ndarray]
    inputs: np.ndarray
    targets: np.ndarray
    text: np.ndarray

    def cell(self) -> dict[str, np.ndarray]:
        """Return the weights of the cell: kernel (E, G H), recurrent_kernel (H, G H), bias (G H,) and others; G is 4 for an LSTM."""
        return {name.removeprefix(LAYER): array for name, array in self.weights.items() if name.startswith(LAYER)}


def make_arrays(work: Workload, seed: int = 0) -> Arrays:
    """Return weights distributed as Keras initialises them, but with a bias that differs by gate; deterministic in the seed."""
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
        from bench.peers.task_data import imdb_rows  # reads the reviews with this project; other workloads need neither

        _, _, ids, labels = imdb_rows()
        return Arrays(weights, ids[:, -T:] % V, labels, empty)
    if work.words:
        ids = np.floor(float(V) ** rng.random((count, T))).astype(np.int32)  # log-uniform: frequencies as in Zipf's law
        return Arrays(weights, ids, rng.integers(0, 2, count, dtype=np.int32), empty)
    text = rng.integers(0, V, (count - 1) * STEP + T + 1, dtype=np.int32)
    X, Y = data.windows(text, T, STEP)
    return Arrays(weights, np.ascontiguousarray(X), np.ascontiguousarray(Y), text)


def _shapes(work: Workload) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the parameters of a cell that no peer has; makes no JAX devices, whose number is decided later."""
    import jax

    from lstm_jax.cells import CELLS

    shapes = jax.eval_shape(lambda: CELLS[work.cell].init(jax.random.key(0), work.features, work.units))
    return {name: leaf.shape for name, leaf in shapes._asdict().items()}


def one_hot(ids: np.ndarray, size: int) -> np.ndarray:
    """Return ids (...) as float32 (..., size)."""
    return np.eye(size, dtype=np.float32)[ids]


AXES = {"H": "units", "T": "length", "B": "batch"}
"""Flags of the sizes of a sweep."""


def add_size_flags(parser: argparse.ArgumentParser, names: Iterable[str] = AXES.values()) -> None:
    """Add the flags --units, --length and --batch, or those named."""
    for name in names:
        parser.add_argument(f"--{name}", type=read_sizes, help="sizes, as in 32,64,128 or 32..512")


def given_axes(options: argparse.Namespace) -> dict[str, tuple[int, ...]]:
    """Return the axes that the flags give, by letter."""
    return {letter: values for letter, name in AXES.items() if (values := getattr(options, name))}


def read_workloads(names: Iterable[str], axes: dict[str, tuple[int, ...]], cells: Iterable[str] = ("lstm",)) -> list[Workload]:
    """Return the named workloads at every combination of sizes of the axes, with each cell; an evaluation keeps its sizes.

    Args:
        names: names without sizes are varied, the recurrence over its grid where `axes` lacks an axis.
        axes: sizes by a letter of `LETTERS`.
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
    """Return the workload at these sizes, under its plain name if they are its own; a name that has sizes keeps them."""
    changes = ",".join([f"{letter}={size}" for letter, size in sizes.items()] + [f"cell={cell}"] * (cell != "lstm"))
    try:
        work = workload(name + (f":{changes}" if changes and ":" not in name else ""))
    except ValueError as error:
        raise InputError("workload", name, str(error).partition(": ")[2]) from error
    plain = workload(name.partition(":")[0])
    return plain if name != "recurrence" and replace(work, name=plain.name) == plain else work


def read_sizes(text: str) -> tuple[int, ...]:
    """Read 20,40 or 32..512, in which each size is twice the one before.

    Raises:
        ValueError: for any other text, which argparse reports as a bad value.
    """
    first, dots, last = text.partition("..")
    if not dots:
        return tuple(int(part) for part in text.split(","))
    found = [int(first)]
    while 2 * found[-1] <= int(last):
        found.append(2 * found[-1])
    return tuple(found)
