"""Benchmark workloads: the training steps of two Keras examples, an evaluation, and a
recurrent layer alone.

A workload is selected by name, optionally with other sizes (batch B, steps T, features
E, hidden size H, vocabulary V, resets R in %, heads N) or a cell: workload("A"),
workload("B:H=64"), workload("recurrence:H=128,T=80,B=32,cell=gru"),
workload("inference:B=8,T=200")

- "A" is a training step of the Keras example imdb_lstm: Embedding(20000, 128),
  LSTM(128, dropout 0.2, recurrent dropout 0.2), Dense(1), on 80 words of each review,
  with batch size 32 and Adam.
- "B" is a training step of the Keras example lstm_text_generation: LSTM(128) on 33
  one-hot characters, Dense(33), on windows of 40 characters with the softmax
  cross-entropy of the next character, batch size 128 and Adam.
- "evaluation" runs the model of A without dropout on the 25,000 IMDB test reviews,
  batch size 512.
- "inference" runs the model of A without dropout on one batch of random reviews, in one
  call; by default one review of 80 words.
- "recurrence" is the forward and backward pass of a recurrent layer alone, from inputs
  x (B, T, E), a zero state and a given cotangent of the outputs h (B, T, H) to h and
  the gradients of the weights and x. "forward" is the forward pass alone, without
  residuals.
- "resets" is like "recurrence", but the state is reset to zeros before R = 3 % of all
  steps, which are drawn at random.
"""

import argparse
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Literal

import numpy as np

from bench import add_flags
from lstm_jax.base.errors import InputError, require
from lstm_jax.lab.config import cell_traits
from lstm_jax.lab.generation import data

STEP = 5
"""Number of characters from the start of one window to the start of the next."""
EVALUATED = 25_000  # IMDB's test reviews
LENGTH, CHARACTERS, CHARS = 40, 33, 400
"""Three numbers of the Keras example lstm_text_generation: characters in a window,
distinct characters, characters of a generated text."""
RATE = 0.2  # of both dropouts of A


Axes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Workload:
    """Work that a benchmark measures, with its sizes: a training step, an evaluation,
    or a recurrent layer alone.

    Attributes:
        name: name that the function `workload` parses, such as "A" or
            "recurrence:H=64".
        kind: training on word ids or on one-hot characters, a sentiment model without
            dropout, or a recurrent layer alone, with and without the backward pass.
        features: number of input features E; V for one-hot characters.
        vocabulary: number of distinct word or character ids V; 0 for a layer alone.
        resets: percentage of the steps of a layer alone before which the state of a
            sequence is reset to zeros.
        heads: number of heads of a cell of `HEADED`.
        one_call: whether an evaluation is one call on one batch of random reviews,
            instead of all IMDB test reviews in batches.
    """

    name: str
    kind: Literal["sentiment", "characters", "evaluation", "recurrence", "forward"]
    batch: int
    length: int
    units: int
    features: int
    vocabulary: int
    cell: str = "lstm"
    resets: int = 0
    heads: int = 1
    one_call: bool = False

    @property
    def gates(self) -> int:
        """Number of gates of the cell. For each gate, the kernel has as many columns as
        the layer has units.
        """
        return GATES.get(self.cell) or self.made.gates

    @property
    def outputs(self) -> int:
        return self.units if self.cell in GATES else self.made.output_size(self.units)

    @property
    def blocks(self) -> int:
        return 1 if self.cell in GATES else self.made.blocks

    @property
    def made(self) -> Any:
        # this imports JAX, which a peer with a cell of `GATES` does not need
        from lstm_jax import cells

        of_heads = self.layer_alone and self.cell in HEADED
        return (
            getattr(cells, self.cell)(self.heads)
            if of_heads
            else cells.CELLS[self.cell]
        )

    @property
    def sees_state(self) -> bool:
        """Whether the cell has a recurrent kernel, that is, a matrix that multiplies
        the previous state.
        """
        return cell_traits(self.cell).has_recurrent_kernel

    @property
    def classes(self) -> int:
        """Number of outputs of the dense layer after the recurrent layer, or 0 if the
        model has no dense layer.
        """
        return self.vocabulary if self.kind == "characters" else int(self.words)

    @property
    def words(self) -> bool:
        return self.kind in ("sentiment", "evaluation")

    @property
    def base(self) -> str:
        """Name without sizes and cell, a key of `WORKLOADS`."""
        return self.name.partition(":")[0]

    @property
    def layer_alone(self) -> bool:
        return self.kind in ("recurrence", "forward")

    @property
    def examples(self) -> int:
        """Number of examples in a step. In the workload "evaluation", one step is the
        evaluation of all test reviews.
        """
        return (
            EVALUATED if self.kind == "evaluation" and not self.one_call else self.batch
        )

    @property
    def tokens(self) -> int:
        return self.examples * self.length

    @property
    def batches(self) -> int:
        """Number of distinct batches. After the last batch, training starts again with
        the first one.
        """
        return {"sentiment": 128, "evaluation": 1}.get(self.kind, 8)

    @property
    def sizes(self) -> dict[str, int]:
        return {letter: getattr(self, LETTERS[letter]) for letter in "BTHEV"}

    @property
    def fields(self) -> dict[str, Any]:
        """Fields of a row of throughput that describe the workload."""
        return {"kind": self.kind, "cell": self.cell} | self.sizes

    @property
    def dropout(self) -> float:
        return RATE if self.kind == "sentiment" else 0.0

    @property
    def recurrent_dropout(self) -> float:
        """Rate of the recurrent dropout, or 0 if the cell has no recurrent kernel."""
        return self.dropout if self.sees_state else 0.0


GATES = {"lstm": 4, "gru": 3, "simple_rnn": 1}
"""Dict from the name of a recurrent cell to its number of gates, for the cells that
other libraries have too."""
# made by functions of `lstm_jax.cells` with these names
HEADED = ("slstm", "mlstm", "rg_lru")
WORKLOADS = {
    "A": Workload("A", "sentiment", 32, 80, 128, 128, 20_000),
    "B": Workload("B", "characters", 128, 40, 128, 33, 33),
    "evaluation": Workload("evaluation", "evaluation", 512, 80, 128, 128, 20_000),
    "inference": Workload(
        "inference", "evaluation", 1, 80, 128, 128, 20_000, one_call=True
    ),
    "recurrence": Workload("recurrence", "recurrence", 32, 80, 128, 128, 0),
    "forward": Workload("forward", "forward", 32, 80, 128, 128, 0),
    "resets": Workload("resets", "recurrence", 128, 128, 256, 256, 0, resets=3),
}
UNITS, LENGTHS, BATCH_SIZES = (32, 64, 128, 256, 512), (20, 80, 320), (1, 32, 128)
GRIDS = ("recurrence", "forward")
"""Names of the workloads for which `read_workloads` combines the sizes `UNITS`,
`LENGTHS` and `BATCH_SIZES` if no sizes are given."""
TITLES = {
    "A": "A",
    "B": "B",
    "recurrence": "the recurrence alone",
    "forward": "its forward pass",
    "resets": "the recurrence with resets",
}
"""Titles of the workloads that are measured at several sizes."""
LETTERS = {
    "B": "batch",
    "T": "length",
    "H": "units",
    "E": "features",
    "V": "vocabulary",
    "R": "resets",
    "N": "heads",
}


def workload(name: str) -> Workload:
    """Parse the name of a workload, and return the workload."""
    base, _, changes = name.partition(":")
    try:
        pairs = dict(part.split("=") for part in changes.split(",") if part)
        cell = pairs.pop("cell", "lstm")
        sizes = {LETTERS[letter]: int(size) for letter, size in pairs.items()}
        found = WORKLOADS[base]
    except (KeyError, ValueError) as error:
        raise InputError(
            "workload",
            name,
            f"give one of {', '.join(WORKLOADS)}, sizes as in "
            "recurrence:H=64,T=80,B=32",
        ) from error
    cell_traits(cell)  # complains of an unknown cell
    require(
        cell in HEADED or sizes.get("heads", 1) == 1,
        "heads",
        sizes.get("heads"),
        f"the cell {cell} has none: {', '.join(HEADED)} do",
    )
    if found.kind == "characters" and "vocabulary" in sizes:
        sizes["features"] = sizes["vocabulary"]
    if found.layer_alone and "units" in sizes:
        sizes = {"features": sizes["units"]} | sizes
    return replace(found, name=name, cell=cell, **sizes)


LAYER = "recurrent/0/"
Weights = dict[str, np.ndarray]
"""Arrays by their names, such as weights or gradients."""


@dataclass(frozen=True)
class Arrays:
    """Initial weights and data of a workload. All benchmarked libraries get the same
    arrays.

    Attributes:
        weights: float32 arrays with the names and layouts of `lstm_jax.convert`, gates
            in the order i, f, g, o. Names of the recurrent cell begin with
            "recurrent/0/"; a layer alone has no others.
        inputs: word or character ids (N, T) of N examples; of a layer alone, its inputs
            x (B, T, E).
        targets: label or next character (N,) of each example; of a layer alone, the
            cotangent of the outputs h.
        text: for the kind "characters", ids of a text; the examples are windows that
            start every `STEP` characters. Else None.
        resets: bool (B, T), True where the state of a sequence is reset before a step,
            or None.
    """

    weights: Weights
    inputs: np.ndarray
    targets: np.ndarray
    text: np.ndarray | None = None
    resets: np.ndarray | None = None

    def cell(self) -> Weights:
        """Return a dict of the weights of the recurrent cell, from their names without
        the prefix "recurrent/0/" to their arrays.
        """
        return {
            name.removeprefix(LAYER): array
            for name, array in self.weights.items()
            if name.startswith(LAYER)
        }


def in_layer(cell: Mapping[str, Any]) -> Weights:
    """Return the arrays of a recurrent cell under the names of `Arrays.weights`. This
    function is the inverse of `Arrays.cell`.
    """
    return {LAYER + name: np.asarray(array) for name, array in cell.items()}


def make_arrays(work: Workload) -> Arrays:
    """Return random weights and data for a workload, always the same ones."""
    rng = np.random.default_rng(0)
    B, T, H, E, V = work.batch, work.length, work.units, work.features, work.vocabulary

    def uniform(limit: float, *shape: int):
        return rng.uniform(-limit, limit, shape).astype(np.float32)

    G = work.gates * H
    bias = uniform(0.1, G)
    if work.cell == "lstm":
        bias[H : 2 * H] += 1
    kernel, recurrent_kernel = (
        uniform((6 / (E + G)) ** 0.5, E, G),
        (rng.standard_normal((H, G)) / G**0.5).astype(np.float32),
    )
    layer = {"kernel": kernel, "recurrent_kernel": recurrent_kernel, "bias": bias}
    if work.cell == "gru":
        layer["recurrent_bias"] = uniform(0.1, G)
    elif work.cell not in GATES:
        import jax

        shapes = jax.eval_shape(
            lambda: work.made.init(jax.random.key(0), E, H)
        )._asdict()
        layer = {
            name: layer[name][tuple(map(slice, leaf.shape))]
            if name in layer
            else uniform(0.2, *leaf.shape)
            for name, leaf in shapes.items()
        }
    weights = in_layer(layer)
    if work.layer_alone:
        x, cotangent = (
            rng.standard_normal((B, T, size)).astype(np.float32)
            for size in (E, work.outputs)
        )
        return Arrays(
            weights,
            x,
            cotangent,
            resets=rng.random((B, T)) < work.resets / 100 if work.resets else None,
        )
    weights |= {
        "head/kernel": uniform((6 / (H + work.classes)) ** 0.5, H, work.classes),
        "head/bias": uniform(0.1, work.classes),
    }
    count = work.batches * B
    if work.words:
        weights["embedding/embedding"] = uniform(0.05, V, E)
    if work.kind == "evaluation" and not work.one_call:
        # imported here because only this workload needs it
        from bench.peers.task_data import imdb_rows

        _, _, ids, labels = imdb_rows()
        return Arrays(weights, ids[:, -T:] % V, labels)
    if work.words:
        # log-uniform ids have the word frequencies of Zipf's law
        ids = np.floor(float(V) ** rng.random((count, T))).astype(np.int32)
        return Arrays(weights, ids, rng.integers(0, 2, count, dtype=np.int32))
    text = rng.integers(0, V, (count - 1) * STEP + T + 1, dtype=np.int32)
    X, Y = data.windows(text, T, STEP)
    return Arrays(weights, np.ascontiguousarray(X), np.ascontiguousarray(Y), text)


def add_size_flags(
    parser: argparse._ActionsContainer,
    names: Iterable[str] = ("units", "length", "batch"),
) -> None:
    """Add command-line flags to a parser. The value of each flag is a list of sizes,
    such as 32,64,128.
    """
    add_flags(
        parser, read_sizes, **dict.fromkeys(names, "sizes, as in 32,64,128 or 32..512")
    )


def read_workloads(
    names: Iterable[str], axes: Axes, cells: Iterable[str] = ("lstm",)
) -> list[Workload]:
    """Return the named workloads for every combination of the given sizes and recurrent
    cells.
    """
    found = {}
    for name, cell in product(names, cells):
        over = (
            ({"H": UNITS, "T": LENGTHS, "B": BATCH_SIZES} | axes)
            if name in GRIDS
            else {}
            if name == "evaluation"
            else axes
        )
        over = {
            letter: sizes
            for letter, sizes in over.items()
            if letter != "N" or cell in HEADED
        }
        for sizes in product(*over.values()):
            pairs = [
                f"{letter}={size}" for letter, size in zip(over, sizes, strict=True)
            ] + [f"cell={cell}"] * (cell != "lstm")
            work = workload(
                f"{name}:{','.join(pairs)}" if pairs and ":" not in name else name
            )
            plain = WORKLOADS[work.base]
            if name not in GRIDS and replace(work, name=plain.name) == plain:
                work = plain
            found[work.name] = work
    return list(found.values())


def read_sizes(text: str) -> tuple[int, ...]:
    """Parse a list of sizes such as "20,40", or a range such as "32..512", in which
    each size is twice the previous one.
    """
    ends = re.fullmatch(r"(\d+)\.\.(\d+)", text)
    try:
        numbers = [int(part) for part in (ends.groups() if ends else text.split(","))]
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"sizes: {text}; give integers, as in 32,64,128 or 32..512"
        ) from error
    if min(numbers) < 1 or (ends and numbers[0] > numbers[1]):
        raise argparse.ArgumentTypeError(
            f"sizes: {text}; give 1 or more, and the smaller end of a range first"
        )
    return (
        tuple(
            numbers[0] << doublings
            for doublings in range((numbers[1] // numbers[0]).bit_length())
        )
        if ends
        else tuple(numbers)
    )
